//! The generated gRPC service: each method hands its message on and wraps what comes back.

use tonic::{Request, Response, Status};

use crate::{
    bank::Guard,
    error::Result,
    proto::{
        self,
        gene_bank_server::{GeneBank, GeneBankServer},
    },
    wire,
};

use super::{
    budget,
    download::{self, Download},
    state::State,
    status::status,
};

/// The service under its name in health checks.
pub(super) type Service = GeneBankServer<State>;

/// What the sender of a call may see.
fn guard<'a, T>(state: &'a State, request: &Request<T>) -> Result<Guard<'a>, Status> {
    state.guard(request.metadata().as_ref()).map_err(status)
}

#[tonic::async_trait]
impl GeneBank for State {
    async fn list_genes(
        &self,
        request: Request<proto::ListGenesRequest>,
    ) -> Result<Response<proto::ListGenesResponse>, Status> {
        let guard = guard(self, &request)?;
        let proto::ListGenesRequest {} = request.into_inner();
        let genes = self.bank.genes(guard).await.map_err(status)?;
        let genes = genes.into_iter().map(wire::gene::to_proto).collect();
        Ok(Response::new(proto::ListGenesResponse { genes }))
    }

    async fn get_gene(
        &self,
        request: Request<proto::GetGeneRequest>,
    ) -> Result<Response<proto::Gene>, Status> {
        let guard = guard(self, &request)?;
        let proto::GetGeneRequest { gene } = request.into_inner();
        let admitted = guard.admit(&gene).map_err(status)?;
        self.bank.gene(&admitted).await.map(wire::gene::to_proto).map(Response::new).map_err(status)
    }

    async fn plan_model(
        &self,
        request: Request<proto::PlanModelRequest>,
    ) -> Result<Response<proto::PlanModelResponse>, Status> {
        let guard = guard(self, &request)?;
        budget::answer(&self.bank, guard, request.into_inner()).await.map(Response::new).map_err(status)
    }

    type InitModelStream = Download;

    async fn init_model(
        &self,
        request: Request<proto::InitModelRequest>,
    ) -> Result<Response<Download>, Status> {
        let guard = guard(self, &request)?;
        download::init_model(self, guard, request.into_inner()).await.map(Response::new).map_err(status)
    }

    type DownloadModelStream = Download;

    async fn download_model(
        &self,
        request: Request<proto::DownloadModelRequest>,
    ) -> Result<Response<Download>, Status> {
        let guard = guard(self, &request)?;
        download::download_model(self, guard, request.into_inner()).await.map(Response::new).map_err(status)
    }
}

//! The gRPC service: decode, ask the bank, encode.

use tonic::{Request, Response, Status};

use crate::{
    bank::{Guard, ModelRequest},
    error::Result,
    proto::{
        self,
        gene_bank_server::{GeneBank, GeneBankServer},
    },
    wire::{self, request::Part},
};

use super::{
    budget,
    download::{self, Download},
    state::State,
    status::status,
};

/// The service under its name in health checks.
pub(super) type Service = GeneBankServer<Handlers>;

/// The handlers and what they share.
#[derive(Debug, Clone)]
pub(super) struct Handlers {
    state: State,
}

impl Handlers {
    pub(super) const fn new(state: State) -> Self {
        Self { state }
    }

    fn guard<T>(&self, request: &Request<T>) -> Result<Guard<'_>, Status> {
        self.state.guard(request.metadata().as_ref()).map_err(status)
    }
}

#[tonic::async_trait]
impl GeneBank for Handlers {
    async fn list_genes(
        &self,
        request: Request<proto::ListGenesRequest>,
    ) -> Result<Response<proto::ListGenesResponse>, Status> {
        let guard = self.guard(&request)?;
        let proto::ListGenesRequest {} = request.into_inner();
        let genes = self.state.bank.genes(guard).into_iter().map(wire::gene::to_proto).collect();
        Ok(Response::new(proto::ListGenesResponse { genes }))
    }

    async fn get_gene(
        &self,
        request: Request<proto::GetGeneRequest>,
    ) -> Result<Response<proto::Gene>, Status> {
        let guard = self.guard(&request)?;
        let proto::GetGeneRequest { gene } = request.into_inner();
        let admitted = guard.admit(&gene).map_err(status)?;
        self.state.bank.gene(&admitted).map(wire::gene::to_proto).map(Response::new).map_err(status)
    }

    async fn plan_model(
        &self,
        request: Request<proto::PlanModelRequest>,
    ) -> Result<Response<proto::PlanModelResponse>, Status> {
        let guard = self.guard(&request)?;
        budget::answer(&self.state.bank, guard, request.into_inner()).await.map(Response::new).map_err(status)
    }

    type InitModelStream = download::Download;

    async fn init_model(
        &self,
        request: Request<proto::InitModelRequest>,
    ) -> Result<Response<Self::InitModelStream>, Status> {
        let guard = self.guard(&request)?;
        let (request, part) = wire::request::from_proto(request.into_inner()).map_err(status)?;
        self.stream(guard, &request, part).await
    }

    type DownloadModelStream = download::Download;

    async fn download_model(
        &self,
        request: Request<proto::DownloadModelRequest>,
    ) -> Result<Response<Self::DownloadModelStream>, Status> {
        let guard = self.guard(&request)?;
        let (request, part) = wire::request::rest_from_proto(request.into_inner()).map_err(status)?;
        self.stream(guard, &request, part).await
    }
}

impl Handlers {
    async fn stream(
        &self,
        guard: Guard<'_>,
        request: &ModelRequest,
        part: Part,
    ) -> Result<Response<Download>, Status> {
        let admitted = guard.admit(&request.gene).map_err(status)?;
        let quote = self.state.bank.plan(&admitted, request).map_err(status)?;
        let delivery = self.state.bank.deliver(&quote).await.map_err(status)?;
        Ok(Response::new(download::start(quote, delivery, part, self.state.digests.clone())))
    }
}

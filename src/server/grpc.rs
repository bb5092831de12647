//! The gRPC service: decode, ask the bank, encode.

use std::sync::Arc;

use axum::{Router, middleware};
use tonic::{Request, Response, Status, metadata::MetadataValue, service::Routes};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{
    bank::{Bank, ModelRequest},
    error::{Error, Result},
    proto::{
        self,
        gene_bank_server::{GeneBank, GeneBankServer},
    },
    wire::{self, request::Part},
};

use super::{
    auth::{Access, Guard},
    budget,
    deadline::deadline,
    digests::Digests,
    download::{self, Download},
    frame,
    status::status,
    web,
};

/// The service under its name in health checks.
pub(super) type Service = GeneBankServer<Handlers>;

/// State of the handlers.
#[derive(Debug, Clone)]
pub(super) struct Handlers {
    bank: Arc<Bank>,
    digests: Digests,
    access: Arc<Access>,
}

impl Handlers {
    fn guard<T>(&self, request: &Request<T>) -> Result<Guard<'_>, Status> {
        let given = request.metadata().get("authorization").map(MetadataValue::as_encoded_bytes);
        self.access.guard(given).map_err(status)
    }
}

/// The service with health and reflection, plain and for browsers; a call's own deadline holds for each.
pub(super) fn routes(
    bank: Arc<Bank>,
    digests: Digests,
    access: Arc<Access>,
    health: HealthServer<impl Health>,
) -> Result<Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::invalid("protocol", error.to_string()))?;
    let handlers = Handlers { bank, digests, access: access.clone() };
    let generated = Service::new(handlers.clone()).max_decoding_message_size(proto::MAX_REQUEST_BYTES);
    let routes = Routes::new(generated.clone()).add_service(health).add_service(reflection).prepare();
    let framed = frame::routes(handlers, generated);
    let share = middleware::from_fn_with_state(access, web::share);
    let routes = routes.into_axum_router().merge(framed).layer(middleware::from_fn(deadline));
    Ok(routes.layer(middleware::from_fn(web::translate)).layer(share))
}

#[tonic::async_trait]
impl GeneBank for Handlers {
    async fn list_genes(
        &self,
        request: Request<proto::ListGenesRequest>,
    ) -> Result<Response<proto::ListGenesResponse>, Status> {
        let guard = self.guard(&request)?;
        let proto::ListGenesRequest {} = request.into_inner();
        let seen = self.bank.genes().into_iter().filter(|gene| guard.sees(&gene.name));
        let genes = seen.map(wire::gene::to_proto).collect();
        Ok(Response::new(proto::ListGenesResponse { genes }))
    }

    async fn get_gene(
        &self,
        request: Request<proto::GetGeneRequest>,
    ) -> Result<Response<proto::Gene>, Status> {
        let guard = self.guard(&request)?;
        let proto::GetGeneRequest { gene } = request.into_inner();
        guard.admit(self.bank.named(&gene)).map_err(status)?;
        self.bank.gene(&gene).map(wire::gene::to_proto).map(Response::new).map_err(status)
    }

    async fn plan_model(
        &self,
        request: Request<proto::PlanModelRequest>,
    ) -> Result<Response<proto::PlanModelResponse>, Status> {
        let guard = self.guard(&request)?;
        budget::answer(&self.bank, guard, request.into_inner()).await.map(Response::new).map_err(status)
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
        guard.admit(self.bank.named(&request.gene)).map_err(status)?;
        let quote = self.bank.plan(request).map_err(status)?;
        let delivery = self.bank.deliver(&quote).await.map_err(status)?;
        Ok(Response::new(download::start(quote, delivery, part, self.digests.clone())))
    }
}

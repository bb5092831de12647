//! Every route of the port: files and JSON, the Hub protocol, gRPC, and the answer where no route matches.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::header,
    middleware,
    response::{IntoResponse as _, Response},
    routing::get,
};
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{
    error::{Error, Result},
    proto,
};

use super::{
    auth::Origins,
    budget,
    deadline::deadline,
    frame,
    grpc::Service,
    http,
    hub::{self, Hub},
    models,
    request::{not_found, with_one_host, without_body},
    state::State,
    status::Problem,
    web,
};

/// All routes over one state.
///
/// # Errors
/// [`Error::Invalid`] where the reflection service refuses the compiled protocol.
pub(super) fn all(state: State, origins: Arc<Origins>, health: HealthServer<impl Health>) -> Result<Router> {
    let grpc = grpc(state.clone(), origins, health)?;
    let hub = hub::router(Hub::new(state.clone()));
    let all = plain(state).merge(hub).merge(grpc).fallback(unknown);
    Ok(all.layer(middleware::from_fn(with_one_host)))
}

/// Files, JSON and what monitoring asks for.
fn plain(state: State) -> Router {
    Router::new()
        .route("/v1/genes", get(http::genes))
        .route("/v1/models/{gene}/{file}", get(models::model))
        .route("/v1/plan", get(budget::get))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(http::ready))
        .route("/metrics", get(http::metrics))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn(without_body))
        .with_state(state)
}

/// The service with health and reflection, for plain calls and for browsers. The deadline of a call holds for each.
fn grpc(state: State, origins: Arc<Origins>, health: HealthServer<impl Health>) -> Result<Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::invalid("protocol", error.to_string()))?;
    let generated = Service::new(state.clone()).max_decoding_message_size(proto::MAX_REQUEST_BYTES);
    let routes = Routes::new(generated.clone()).add_service(health).add_service(reflection).prepare();
    let framed = frame::routes(state, generated);
    let share = middleware::from_fn_with_state(origins, web::share);
    let routes = routes.into_axum_router().merge(framed).layer(middleware::from_fn(deadline));
    Ok(routes.layer(middleware::from_fn(web::translate)).layer(share))
}

/// The answer in the protocol that the request seems to speak.
async fn unknown(request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("no such method").into_http::<Body>();
    }
    if hub::speaks_of(request.uri().path()) {
        return hub::unknown(request.uri().path());
    }
    Problem::from(not_found("path", request.uri().path(), "/v1/genes, /v1/models/{gene}/{file}, /v1/plan"))
        .into_response()
}

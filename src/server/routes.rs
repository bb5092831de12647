//! Every route of the port: files and JSON, the Hub protocol, gRPC, and the answer where no route matches.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    http::{Version, header},
    middleware,
    response::{AppendHeaders, IntoResponse as _, Response},
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
    bodies, budget,
    deadline::deadline,
    frame,
    grpc::Service,
    http,
    hub::{self, Hub},
    listen::{Full, Routers},
    models,
    open_calls::{OpenCalls, open_call},
    request::{not_found, with_one_host, without_body},
    state::State,
    status::{Problem, status},
    web,
};

/// Longest message of a health or reflection call, bytes: it holds one name.
const MAX_NAME_BYTES: usize = 64 << 10;

/// The services that come with tonic, and what limits them.
pub(super) struct Services<H> {
    pub(super) health: HealthServer<H>,
    pub(super) open_calls: OpenCalls,
}

/// All routes over one state, and those of a connection beyond the limit.
///
/// # Errors
/// [`Error::Invalid`] where the reflection service refuses the compiled protocol.
pub(super) fn all<H: Health>(state: State, origins: Arc<Origins>, services: Services<H>) -> Result<Routers> {
    let health = services.health.clone().max_decoding_message_size(MAX_NAME_BYTES);
    let spare = Router::new()
        .merge(monitoring().with_state(state.clone()))
        .route_service("/grpc.health.v1.Health/Check", health)
        .fallback(full);
    let grpc = grpc(state.clone(), origins, services)?;
    let hub = hub::router(Hub::new(state.clone()));
    let all = plain(state).merge(hub).merge(grpc).fallback(unknown).layer(middleware::from_fn(with_one_host));
    Ok(Routers { all, spare: spare.layer(middleware::from_fn(with_one_host)) })
}

/// What monitoring asks for.
fn monitoring() -> Router<State> {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(http::ready))
        .route("/metrics", get(http::metrics))
}

/// Files, JSON and what monitoring asks for.
fn plain(state: State) -> Router {
    monitoring()
        .route("/v1/genes", get(http::genes))
        .route("/v1/models/{gene}/{file}", get(models::model))
        .route("/v1/plan", get(budget::get))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn(without_body))
        .with_state(state)
}

/// The service with health and reflection, for plain calls and for browsers. The deadline of a call holds for each.
fn grpc<H: Health>(state: State, origins: Arc<Origins>, services: Services<H>) -> Result<Router> {
    let Services { health, open_calls } = services;
    let health = health.max_decoding_message_size(MAX_NAME_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::invalid("protocol", error.to_string()))?
        .max_decoding_message_size(MAX_NAME_BYTES);
    let open = Router::new()
        .route_service("/grpc.reflection.v1.ServerReflection/{*method}", reflection)
        .route_service("/grpc.health.v1.Health/Watch", health.clone())
        .layer(middleware::from_fn_with_state(open_calls, open_call));
    let generated = Service::new(state.clone()).max_decoding_message_size(proto::MAX_REQUEST_BYTES);
    let most = frame::PREFIX_BYTES + proto::MAX_REQUEST_BYTES;
    let one_message = middleware::from_fn_with_state((state.bodies.clone(), most), bodies::one_message);
    let routes = Routes::new(generated.clone()).add_service(health).prepare().into_axum_router();
    let routes = routes
        .merge(frame::routes(state, generated))
        .layer(middleware::from_fn(frame::blame_caller))
        .layer(one_message)
        .merge(open)
        .layer(middleware::from_fn(deadline))
        .layer(middleware::from_fn(web::translate))
        .layer(middleware::from_fn_with_state(origins, web::share));
    Ok(routes)
}

/// The answer on a connection beyond the limit of connections.
async fn full(Extension(Full(limit)): Extension<Full>, request: Request) -> Response {
    let error = Error::Overloaded { what: "connections", limit, retry_after_s: 1 };
    if is_grpc(&request) {
        return status(error).into_http();
    }
    // The next attempt needs another connection. HTTP/2 has no such header.
    let close = (request.version() <= Version::HTTP_11).then_some((header::CONNECTION, "close"));
    (AppendHeaders(close), Problem::from(error)).into_response()
}

fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The answer in the protocol that the request seems to speak.
async fn unknown(request: Request) -> Response {
    if is_grpc(&request) {
        return tonic::Status::unimplemented("no such method").into_http::<Body>();
    }
    if hub::speaks_of(request.uri().path()) {
        return hub::unknown(request.uri().path());
    }
    Problem::from(not_found("path", request.uri().path(), "/v1/genes, /v1/models/{gene}/{file}, /v1/plan"))
        .into_response()
}

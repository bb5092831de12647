//! The Hugging Face Hub protocol: stock clients with `HF_ENDPOINT` set get any model.
//!
//! A repository is a request ([`crate::bank::repository`]). Its commit and the entity tag of its weights come from the
//! request's identity, so no HEAD waits for weights. Lists of files give the SHA-256 of weights and git's object id of
//! small files, for clients that verify a download. There are no redirects, and there is no Xet.

mod account;
mod catalog;
mod info;
mod place;
mod resolve;
mod snapshot;
mod state;
mod tree;

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use crate::error::Error;

use super::{
    request::{short, without_body},
    status::{HubProblem, Problem},
};

pub(super) use state::Hub;

/// Longest request id that is sent back, bytes.
const MAX_REQUEST_ID_BYTES: usize = 256;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Hub clients send this one instead.
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");

/// The routes of the protocol.
pub(super) fn router(hub: Hub) -> Router {
    Router::new()
        .route("/{owner}/{name}/resolve/{revision}/{*path}", get(resolve::file))
        .route("/api/whoami-v2", get(account::whoami))
        .route("/api/models", get(catalog::list))
        .route("/api/models/{owner}/{name}", get(info::model))
        .route("/api/models/{owner}/{name}/revision/{revision}", get(info::model))
        .route("/api/models/{owner}/{name}/refs", get(info::refs))
        .route("/api/models/{owner}/{name}/commits/{revision}", get(info::commits))
        .route("/api/models/{owner}/{name}/tree/{revision}", get(tree::list))
        .route("/api/models/{owner}/{name}/tree/{revision}/{*path}", get(tree::list))
        .route("/api/models/{owner}/{name}/safetensors-metadata/{*path}", get(info::header))
        .layer(middleware::from_fn(without_body))
        .route("/api/models/{owner}/{name}/paths-info/{revision}", post(tree::paths))
        .method_not_allowed_fallback(async || HubProblem::from(Problem::method_not_allowed()))
        .layer(middleware::from_fn(request_id))
        .with_state(hub)
}

/// Sends the id of a request back. Clients print it in their errors.
async fn request_id(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let id = headers.get(&REQUEST_ID).or_else(|| headers.get(&TRACE_ID)).cloned();
    let id: Option<HeaderValue> = id.filter(|id| id.len() <= MAX_REQUEST_ID_BYTES);
    tracing::debug!(method = %request.method(), path = request.uri().path(), ?id, "hub");
    let mut response = next.run(request).await;
    response.headers_mut().extend(id.map(|id| (REQUEST_ID, id)));
    response
}

/// Whether a path without a route belongs to this protocol: other kinds of repositories, or no owner.
pub(super) fn speaks_of(path: &str) -> bool {
    ["/api/models/", "/api/datasets/", "/api/spaces/"].iter().any(|start| path.starts_with(start))
        || path.contains("/resolve/")
}

/// The answer for such a path.
pub(super) fn unknown(path: &str) -> Response {
    let reason = "there are models of the owner \"genebank\" only".to_owned();
    HubProblem::from(Error::NoRepository { name: short(path), reason }).into_response()
}

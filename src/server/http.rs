//! The HTTP interface: genes as JSON, models as files.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State as Extract, rejection::QueryRejection},
    http::{HeaderMap, Method, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bank::{Bank, GeneSummary, ModelSummary, Quote},
    error::{Error, Result},
    wire::query::{self, FileDigests, ModelQuery, Wanted},
};

use super::{
    auth::Access,
    budget,
    digests::Digests,
    file::{self, Content, Facts},
    hub::{self, Hub},
    request::{authorization, short, without_body},
    status::Problem,
};

/// What the handlers share.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) bank: Arc<Bank>,
    /// Digests of files.
    pub(super) digests: Digests,
    /// Which genes are private.
    pub(super) access: Arc<Access>,
    /// Cancelled once the server is to end.
    pub(super) stop: CancellationToken,
}

/// Every route of the port.
pub(super) fn router(state: State, grpc: Router) -> Router {
    let hub = hub::router(Hub::new(state.bank.clone(), state.digests.clone(), state.access.clone()));
    Router::new()
        .route("/v1/genes", get(genes))
        .route("/v1/models/{gene}/{file}", get(model))
        .route("/v1/plan", get(budget::get))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn(without_body))
        .with_state(state)
        .merge(hub)
        .merge(grpc)
        .fallback(unknown)
}

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

async fn ready(Extract(state): Extract<State>) -> (StatusCode, &'static str) {
    if state.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// What monitoring reads (the text format of Prometheus).
async fn metrics(Extract(state): Extract<State>) -> impl IntoResponse {
    let name = "genebank_renders_total";
    let help = "Models rendered since the start, those of the cache not counted.";
    let text = format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n", state.bank.rendered());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn genes(
    Extract(state): Extract<State>,
    headers: HeaderMap,
) -> Result<Json<Vec<GeneSummary>>, Problem> {
    let (guard, mut genes) = (state.access.guard(authorization(&headers))?, state.bank.genes());
    genes.retain(|gene| guard.sees(&gene.name));
    Ok(Json(genes))
}

async fn model(
    Extract(state): Extract<State>,
    Path((gene, file)): Path<(String, String)>,
    query: Result<Query<ModelQuery>, QueryRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Error::invalid("query", rejection.body_text()))?;
    state.access.guard(authorization(&headers))?.admit(state.bank.named(&gene))?;
    let (request, wanted) = query::parse(&gene, &file, &query)?;
    let quote = state.bank.plan(&request)?;
    match wanted {
        Wanted::File => {}
        Wanted::Summary => return Ok(Json(ModelSummary::of(&quote)).into_response()),
        Wanted::Digests => return Ok(Json(digests(&state, &quote).await?).into_response()),
    }
    let etag = file::etag(quote.blueprint.identity, &format!("/v1/models/{gene}/{file}"));
    let etag = file::quoted(&etag);
    let facts = Facts { etag, size: quote.size_bytes(), content_type: file::BINARY };
    let content = async { state.bank.fetch(&quote).await.map(Content::Model) };
    file::answer(&method, &headers, facts, content).await
}

async fn digests(state: &State, quote: &Quote) -> Result<FileDigests> {
    let artifact = state.bank.fetch(quote).await?;
    Ok(FileDigests {
        identity: artifact.identity().to_string(),
        manifest: state.digests.manifest(&artifact).await?,
        sha256: state.digests.sha256(&artifact).await?,
        size_bytes: artifact.size_bytes(),
    })
}

fn not_found(what: &'static str, name: &str, known: &str) -> Error {
    Error::NotFound { what, name: short(name), known: known.to_owned() }
}

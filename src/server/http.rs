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
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    bank::{Bank, GeneSummary, ModelRequest, ModelSummary, Plan, repository},
    error::{Error, Result},
    gene::{Head, Size, Start, Target},
};

use super::{
    auth::Access,
    digests::Digests,
    file::{self, Content, Facts},
    hub::{self, Hub},
    plan,
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
        .route("/v1/plan", get(plan::get))
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelQuery {
    dtype: Option<String>,
    layout: Option<String>,
    rule: Option<String>,
    #[serde(default)]
    allow_untrained_width: bool,
    digest: Option<String>,
    summary: Option<String>,
    image_size: Option<u64>,
    patch_size: Option<u64>,
    /// A JSON array of strings: a label may hold any character.
    labels: Option<String>,
    head_seed: Option<u64>,
    method: Option<String>,
    #[serde(default)]
    method_seed: u64,
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
    let plan = state.bank.plan(&request(&gene, &file, &query)?)?;
    if flag("summary", query.summary.as_deref())? {
        return Ok(Json(ModelSummary::of(&plan)).into_response());
    }
    if flag("digest", query.digest.as_deref())? {
        return Ok(digest(&state, &plan).await?);
    }
    let etag = file::etag(plan.blueprint.identity, &format!("/v1/models/{gene}/{file}"));
    let etag = file::quoted(&etag);
    let facts = Facts { etag, size: plan.size_bytes(), content_type: file::BINARY };
    let content = async { state.bank.fetch(&plan).await.map(Content::Model) };
    file::answer(&method, &headers, facts, content).await
}

/// `d{depth}-w{width}.safetensors` and the query as a request.
fn request(gene: &str, file: &str, query: &ModelQuery) -> Result<ModelRequest> {
    let ModelQuery { dtype, rule, allow_untrained_width, layout, digest: _, summary: _, .. } = query;
    let (depth, width) = file
        .strip_suffix(".safetensors")
        .and_then(repository::sizes)
        .ok_or_else(|| not_found("file", file, "d{depth}-w{width}.safetensors with numbers up to 2^64"))?;
    let size = Size {
        depth: Some(depth),
        width: Some(width),
        rule: rule.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        dtype: dtype.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        allow_untrained_width: *allow_untrained_width,
    };
    let ModelQuery { image_size, patch_size, labels, head_seed, method, method_seed, .. } = query;
    let head = head(labels.as_deref(), *head_seed)?;
    let target = Target { image_size: *image_size, patch_size: *patch_size, head };
    let method = method.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let start = Start { method, seed: *method_seed };
    let layout = layout.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    Ok(ModelRequest { gene: gene.to_owned(), size, target, start, layout, tune: None })
}

/// Other classes, where the query names them.
fn head(labels: Option<&str>, seed: Option<u64>) -> Result<Option<Head>> {
    let Some(labels) = labels else {
        let alone = seed.map(|_| Error::invalid("head_seed", "it draws rows of labels; give labels too"));
        return alone.map_or(Ok(None), Err);
    };
    let labels = serde_json::from_str(labels).map_err(|error| {
        let reason =
            format!("use a JSON array of strings, percent-encoded, for example [\"a\",\"b\"]: {error}");
        Error::invalid("labels", reason)
    })?;
    Ok(Some(Head { labels, seed: seed.unwrap_or(0) }))
}

/// Whether the query has the flag called `name`.
fn flag(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None => Ok(false),
        Some("" | "true") => Ok(true),
        Some(other) => Err(Error::invalid(name, format!("\"{}\" is not a value of a flag", short(other)))),
    }
}

async fn digest(state: &State, plan: &Plan) -> Result<Response> {
    let artifact = state.bank.fetch(plan).await?;
    let answer = json!({
        "identity": artifact.identity().to_string(),
        "manifest": state.digests.manifest(&artifact).await?,
        "sha256": state.digests.sha256(&artifact).await?,
        "size_bytes": artifact.size_bytes(),
    });
    Ok(Json(answer).into_response())
}

fn not_found(what: &'static str, name: &str, known: &str) -> Error {
    Error::NotFound { what, name: short(name), known: known.to_owned() }
}

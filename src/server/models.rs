//! `GET /v1/models/{gene}/{file}`: one model, as a file, by its summary, or by its digests.

use axum::{
    Json,
    extract::{Path, Query, State as Extract, rejection::QueryRejection},
    http::{HeaderMap, Method},
    response::{IntoResponse as _, Response},
};

use crate::{
    bank::{ModelSummary, Quote},
    error::{Error, Result},
    wire::query::{self, FileDigests, ModelQuery, Wanted},
};

use super::{
    file::{self, Content, Facts},
    state::State,
    status::Problem,
};

pub(super) async fn model(
    Extract(state): Extract<State>,
    Path((gene, file)): Path<(String, String)>,
    query: Result<Query<ModelQuery>, QueryRejection>,
    (method, headers): (Method, HeaderMap),
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Error::invalid("query", rejection.body_text()))?;
    let admitted = state.guard(&headers)?.admit(&gene)?;
    let (request, wanted) = query::parse(&gene, &file, &query)?;
    state.bank.read(&admitted, &request.start).await?;
    let quote = state.bank.plan(&admitted, &request)?;
    Ok(match wanted {
        Wanted::Summary => Json(ModelSummary::of(&quote)).into_response(),
        Wanted::Digests => Json(digests(&state, &quote).await?).into_response(),
        Wanted::File => {
            content(&state, &quote, &format!("/v1/models/{gene}/{file}"), &method, &headers).await?
        }
    })
}

/// The digests of the file of `quote`.
async fn digests(state: &State, quote: &Quote) -> Result<FileDigests> {
    let artifact = state.bank.fetch(quote).await?;
    Ok(FileDigests {
        identity: artifact.identity().to_string(),
        manifest: state.digests.manifest(&artifact).await?,
        sha256: state.digests.sha256(&artifact).await?,
        size_bytes: artifact.size_bytes(),
    })
}

/// The bytes of `quote`, or the part of them that a client asks for.
async fn content(
    state: &State,
    quote: &Quote,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let etag = file::quoted(&file::etag(quote.blueprint.identity, path));
    let facts = Facts { etag, size: quote.size_bytes(), content_type: file::BINARY };
    let content = async { state.bank.fetch(quote).await.map(Content::Model) };
    file::answer(method, headers, facts, content).await
}

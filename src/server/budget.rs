//! Which sizes fit a budget, over gRPC and HTTP: decode, ask the bank, encode.

use axum::{
    Json,
    extract::{Query, State as Extract, rejection::QueryRejection},
    http::HeaderMap,
};
use serde::Deserialize;

use crate::{
    bank::{Bank, Budget, Choices, Guard, budget::DEFAULT_CHOICES},
    error::{Error, Result},
    proto, wire,
};

use super::{state::State, status::Problem};

/// Answers a call.
pub(super) async fn answer(
    bank: &Bank,
    guard: Guard<'_>,
    message: proto::PlanModelRequest,
) -> Result<proto::PlanModelResponse> {
    let (gene, budget, limit) = wire::budget::from_proto(message)?;
    bank.choose(&guard.admit(&gene)?, budget, limit).await.map(wire::budget::choices_to_proto)
}

/// A budget of latency needs a table of measurements, which only gRPC has room for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetQuery {
    #[serde(default)]
    gene: String,
    max_parameters: Option<u64>,
    max_macs: Option<u64>,
    max_bytes: Option<u64>,
    max_memory_bytes: Option<u64>,
    batch: Option<u32>,
    dtype: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/plan`.
pub(super) async fn get(
    Extract(state): Extract<State>,
    query: Result<Query<BudgetQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Choices>, Problem> {
    let Query(query) = query.map_err(|rejection| Error::invalid("query", rejection.body_text()))?;
    let BudgetQuery { gene, max_parameters, max_macs, max_bytes, max_memory_bytes, batch, dtype, limit } =
        query;
    let admitted = state.guard(&headers)?.admit(&gene)?;
    let budget = Budget {
        parameters: max_parameters,
        macs: max_macs,
        bytes: max_bytes,
        memory: max_memory_bytes,
        latency: None,
        batch: batch.unwrap_or(1),
        dtype: dtype.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
    };
    Ok(Json(state.bank.choose(&admitted, budget, limit.unwrap_or(DEFAULT_CHOICES)).await?))
}

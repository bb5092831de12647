//! Budgets over gRPC and HTTP: decode, ask the bank, encode.

use axum::{
    Json,
    extract::{Query, State as Extract, rejection::QueryRejection},
    http::HeaderMap,
};
use serde::Deserialize;

use crate::{
    bank::{
        Bank, Budget, Choice, Choices, Cost, Latency, LatencyBudget, LatencyTable, Reach,
        budget::DEFAULT_CHOICES,
    },
    error::{Error, Result},
    gene::Forecast,
    proto,
};

use super::{auth::Guard, convert, http::State, request::authorization, status::Problem};

/// Answers a call.
pub(super) async fn answer(
    bank: &Bank,
    guard: Guard<'_>,
    message: proto::PlanModelRequest,
) -> Result<proto::PlanModelResponse> {
    let (gene, budget, limit) = request(message)?;
    guard.admit(bank.named(&gene))?;
    bank.choose(&gene, budget, limit).await.map(response)
}

/// What a call asks for: gene, budget and number of sizes.
fn request(message: proto::PlanModelRequest) -> Result<(String, Budget, usize)> {
    let proto::PlanModelRequest {
        gene,
        max_parameters,
        max_macs,
        max_bytes,
        max_memory_bytes,
        max_milliseconds,
        latencies,
        batch,
        dtype,
        limit,
    } = message;
    let latency = match (max_milliseconds, latencies.is_empty()) {
        (None, true) => None,
        (Some(_), true) => return Err(Error::invalid("max_milliseconds", "needs latencies")),
        (None, false) => return Err(Error::invalid("latencies", "need max_milliseconds")),
        (Some(milliseconds), false) => {
            let table = LatencyTable::new(latencies.into_iter().map(row).collect())?;
            Some(LatencyBudget { milliseconds, table })
        }
    };
    let budget = Budget {
        parameters: max_parameters,
        macs: max_macs,
        bytes: max_bytes,
        memory: max_memory_bytes,
        latency,
        batch: batch.max(1),
        dtype: convert::element_type(dtype)?,
    };
    Ok((gene, budget, if limit == 0 { DEFAULT_CHOICES } else { limit as usize }))
}

fn row(message: proto::Latency) -> Latency {
    let proto::Latency { depth, width, batch, milliseconds } = message;
    Latency { depth, width, batch: batch.max(1), milliseconds }
}

fn response(choices: Choices) -> proto::PlanModelResponse {
    let Choices { gene, sizes, reach } = choices;
    let edge = |Reach { width, depth }| proto::Reach { width, depth };
    proto::PlanModelResponse {
        gene,
        sizes: sizes.into_iter().map(choice).collect(),
        reach: reach.into_iter().map(edge).collect(),
    }
}

fn choice(choice: Choice) -> proto::SizeChoice {
    let Choice { depth, width, cost, milliseconds, forecast, warning } = choice;
    let Cost { parameters, macs, size_bytes, memory_bytes } = cost;
    let forecast = forecast.map(|Forecast { accuracy, low, high, measured, extrapolated }| proto::Forecast {
        accuracy,
        low,
        high,
        measured,
        extrapolated,
    });
    proto::SizeChoice {
        depth,
        width,
        parameters,
        macs,
        size_bytes,
        memory_bytes,
        milliseconds,
        forecast,
        warning: warning.unwrap_or_default(),
    }
}

/// A latency budget needs a table, which a query has no room for: it is gRPC's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanQuery {
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
    query: Result<Query<PlanQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Choices>, Problem> {
    let Query(query) = query.map_err(|rejection| Error::invalid("query", rejection.body_text()))?;
    let PlanQuery { gene, max_parameters, max_macs, max_bytes, max_memory_bytes, batch, dtype, limit } =
        query;
    state.access.guard(authorization(&headers))?.admit(state.bank.named(&gene))?;
    let budget = Budget {
        parameters: max_parameters,
        macs: max_macs,
        bytes: max_bytes,
        memory: max_memory_bytes,
        latency: None,
        batch: batch.unwrap_or(1),
        dtype: dtype.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
    };
    Ok(Json(state.bank.choose(&gene, budget, limit.unwrap_or(DEFAULT_CHOICES)).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_numbers_are_the_defaults() {
        let message = proto::PlanModelRequest { max_macs: Some(7), ..Default::default() };
        let (gene, budget, limit) = request(message).unwrap();
        assert_eq!((gene.as_str(), limit), ("", DEFAULT_CHOICES));
        assert_eq!(budget, Budget { macs: Some(7), ..Budget::default() });
    }

    #[test]
    fn a_time_needs_latencies_and_they_need_a_time() {
        let latency = proto::Latency { depth: 2, width: 24, batch: 0, milliseconds: 1.5 };
        let with = |max_milliseconds, latencies| proto::PlanModelRequest {
            max_milliseconds,
            latencies,
            ..Default::default()
        };
        request(with(Some(2.0), vec![])).unwrap_err();
        request(with(None, vec![latency])).unwrap_err();
        request(with(Some(2.0), vec![latency, latency])).unwrap_err();
        let (_, budget, _) = request(with(Some(2.0), vec![latency])).unwrap();
        assert_eq!(budget.latency.unwrap().table.milliseconds(2, 24, 1), Some(1.5));
    }
}

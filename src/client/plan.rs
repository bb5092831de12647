//! Budgets: which sizes a server would choose.

use super::Client;
use crate::{
    bank::{Budget, Choice, Choices, Cost, Latency, Reach},
    error::{Error, Result},
    gene::Forecast,
    proto,
};

impl Client {
    /// The best sizes of the gene called `gene` (empty: the server's default one) within `budget`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn plan_model(&self, gene: &str, budget: &Budget, limit: usize) -> Result<Choices> {
        let answer = self.service.clone().plan_model(self.request(message(gene, budget, limit)?)).await;
        answer.map(|answer| choices(answer.into_inner())).map_err(|status| self.remote(&status))
    }
}

/// A request as a message.
fn message(gene: &str, budget: &Budget, limit: usize) -> Result<proto::PlanModelRequest> {
    let Budget { parameters, macs, bytes, memory, latency, batch, dtype } = budget;
    let row = |row: &Latency| {
        let Latency { depth, width, batch, milliseconds } = *row;
        proto::Latency { depth, width, batch, milliseconds }
    };
    // On the wire 0 means that nothing was said.
    if *batch == 0 || limit == 0 {
        return Err(Error::invalid("batch, limit", "0 is below 1"));
    }
    Ok(proto::PlanModelRequest {
        gene: gene.to_owned(),
        max_parameters: *parameters,
        max_macs: *macs,
        max_bytes: *bytes,
        max_memory_bytes: *memory,
        max_milliseconds: latency.as_ref().map(|latency| latency.milliseconds),
        latencies: latency.iter().flat_map(|latency| latency.table.rows().iter().map(row)).collect(),
        batch: *batch,
        dtype: super::convert::element_type(*dtype).into(),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    })
}

fn choices(message: proto::PlanModelResponse) -> Choices {
    let proto::PlanModelResponse { gene, sizes, reach } = message;
    let edge = |proto::Reach { width, depth }| Reach { width, depth };
    Choices {
        gene,
        sizes: sizes.into_iter().map(choice).collect(),
        reach: reach.into_iter().map(edge).collect(),
    }
}

fn choice(message: proto::SizeChoice) -> Choice {
    let proto::SizeChoice {
        depth,
        width,
        parameters,
        macs,
        size_bytes,
        memory_bytes,
        milliseconds,
        forecast,
        warning,
    } = message;
    let forecast = forecast.map(|proto::Forecast { accuracy, low, high, measured, extrapolated }| Forecast {
        accuracy,
        low,
        high,
        measured,
        extrapolated,
    });
    Choice {
        depth,
        width,
        cost: Cost { parameters, macs, size_bytes, memory_bytes },
        milliseconds,
        forecast,
        warning: (!warning.is_empty()).then_some(warning),
    }
}

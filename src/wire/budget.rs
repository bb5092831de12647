//! `PlanModelRequest` and [`Budget`]; `PlanModelResponse` and [`Choices`].

use crate::{
    bank::{
        Budget, Choice, Choices, Cost, Latency, LatencyBudget, LatencyTable, Reach, budget::DEFAULT_CHOICES,
    },
    error::{Error, Result},
    gene::Forecast,
    proto,
};

use super::choice::{dtype_from_proto, dtype_to_proto};

/// A budget for the gene called `gene` as a message that asks for at most `limit` sizes.
///
/// # Errors
/// [`Error::Invalid`] where `limit` or the batch is 0, which would mean the default.
pub(crate) fn to_proto(gene: &str, budget: &Budget, limit: usize) -> Result<proto::PlanModelRequest> {
    let Budget { parameters, macs, bytes, memory, latency, batch, dtype } = budget;
    if *batch == 0 || limit == 0 {
        return Err(Error::invalid("batch, limit", "0 is below 1"));
    }
    let rows = latency.iter().flat_map(|latency| latency.table.rows().iter().copied().map(latency_to_proto));
    Ok(proto::PlanModelRequest {
        gene: gene.to_owned(),
        max_parameters: *parameters,
        max_macs: *macs,
        max_bytes: *bytes,
        max_memory_bytes: *memory,
        max_milliseconds: latency.as_ref().map(|latency| latency.milliseconds),
        latencies: rows.collect(),
        batch: *batch,
        dtype: dtype_to_proto(*dtype).into(),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    })
}

/// What a message asks for: gene, budget and number of sizes.
///
/// # Errors
/// [`Error::Invalid`] for an unknown element type, for a time without latencies and latencies without a time; those of
/// [`LatencyTable::new`].
pub(crate) fn from_proto(message: proto::PlanModelRequest) -> Result<(String, Budget, usize)> {
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
            let table = LatencyTable::new(latencies.into_iter().map(latency_from_proto).collect())?;
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
        dtype: dtype_from_proto(dtype)?,
    };
    Ok((gene, budget, if limit == 0 { DEFAULT_CHOICES } else { limit as usize }))
}

const fn latency_to_proto(row: Latency) -> proto::Latency {
    let Latency { depth, width, batch, milliseconds } = row;
    proto::Latency { depth, width, batch, milliseconds }
}

fn latency_from_proto(message: proto::Latency) -> Latency {
    let proto::Latency { depth, width, batch, milliseconds } = message;
    Latency { depth, width, batch: batch.max(1), milliseconds }
}

/// The sizes that a budget buys as a message.
pub(crate) fn choices_to_proto(choices: Choices) -> proto::PlanModelResponse {
    let Choices { gene, sizes, reach } = choices;
    proto::PlanModelResponse {
        gene,
        sizes: sizes.into_iter().map(choice_to_proto).collect(),
        reach: reach.into_iter().map(reach_to_proto).collect(),
    }
}

/// The sizes that a message names.
pub(crate) fn choices_from_proto(message: proto::PlanModelResponse) -> Choices {
    let proto::PlanModelResponse { gene, sizes, reach } = message;
    Choices {
        gene,
        sizes: sizes.into_iter().map(choice_from_proto).collect(),
        reach: reach.into_iter().map(reach_from_proto).collect(),
    }
}

fn choice_to_proto(choice: Choice) -> proto::SizeChoice {
    let Choice { depth, width, cost, milliseconds, forecast, warning } = choice;
    let Cost { parameters, macs, size_bytes, memory_bytes } = cost;
    proto::SizeChoice {
        depth,
        width,
        parameters,
        macs,
        size_bytes,
        memory_bytes,
        milliseconds,
        forecast: forecast.map(forecast_to_proto),
        warning: warning.unwrap_or_default(),
    }
}

fn choice_from_proto(message: proto::SizeChoice) -> Choice {
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
    Choice {
        depth,
        width,
        cost: Cost { parameters, macs, size_bytes, memory_bytes },
        milliseconds,
        forecast: forecast.map(forecast_from_proto),
        warning: (!warning.is_empty()).then_some(warning),
    }
}

const fn forecast_to_proto(forecast: Forecast) -> proto::Forecast {
    let Forecast { value, low, high, measured } = forecast;
    proto::Forecast { value, low, high, measured }
}

const fn forecast_from_proto(forecast: proto::Forecast) -> Forecast {
    let proto::Forecast { value, low, high, measured } = forecast;
    Forecast { value, low, high, measured }
}

const fn reach_to_proto(reach: Reach) -> proto::Reach {
    let Reach { width, depth } = reach;
    proto::Reach { width, depth }
}

const fn reach_from_proto(reach: proto::Reach) -> Reach {
    let proto::Reach { width, depth } = reach;
    Reach { width, depth }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::{btree_map, vec},
        option,
        prelude::*,
        sample::select,
    };

    use strum::VariantArray as _;

    use super::*;
    use crate::tensor::Dtype;

    fn latencies() -> impl Strategy<Value = LatencyBudget> {
        // A table has one row for each size, and no number that is 0.
        let rows = btree_map([1..=u32::MAX, 1..=u32::MAX, 1..=u32::MAX], 1e-3..1e6, 1..8);
        (any::<f64>(), rows).prop_map(|(milliseconds, rows)| {
            let row = |([depth, width, batch], milliseconds): ([u32; 3], f64)| Latency {
                depth,
                width,
                batch,
                milliseconds,
            };
            LatencyBudget {
                milliseconds,
                table: LatencyTable::new(rows.into_iter().map(row).collect()).unwrap(),
            }
        })
    }

    fn choices() -> impl Strategy<Value = Choice> {
        let cost = any::<[u64; 4]>().prop_map(|[parameters, macs, size_bytes, memory_bytes]| Cost {
            parameters,
            macs,
            size_bytes,
            memory_bytes,
        });
        let forecast = any::<([f64; 3], bool)>().prop_map(|([value, low, high], measured)| Forecast {
            value,
            low,
            high,
            measured,
        });
        let warning = option::of(".+");
        (any::<[u32; 2]>(), cost, any::<Option<f64>>(), option::of(forecast), warning).prop_map(
            |([depth, width], cost, milliseconds, forecast, warning)| Choice {
                depth,
                width,
                cost,
                milliseconds,
                forecast,
                warning,
            },
        )
    }

    proptest! {
        #[test]
        fn a_budget_comes_back(
            gene in any::<String>(),
            [parameters, macs, bytes, memory] in any::<[Option<u64>; 4]>(),
            latency in option::of(latencies()),
            batch in 1..=u32::MAX,
            dtype in select(Dtype::VARIANTS.to_vec()),
            limit in 1..=u32::MAX as usize,
        ) {
            let budget = Budget { parameters, macs, bytes, memory, latency, batch, dtype };
            let message = to_proto(&gene, &budget, limit).unwrap();
            prop_assert_eq!(from_proto(message).unwrap(), (gene, budget, limit));
        }

        #[test]
        fn choices_come_back(
            gene in any::<String>(),
            sizes in vec(choices(), 0..4),
            reach in vec(any::<[u32; 2]>(), 0..4),
        ) {
            let reach = reach.into_iter().map(|[width, depth]| Reach { width, depth }).collect();
            let choices = Choices { gene, sizes, reach };
            prop_assert_eq!(choices_from_proto(choices_to_proto(choices.clone())), choices);
        }
    }

    #[test]
    fn absent_numbers_are_the_defaults() {
        let message = proto::PlanModelRequest { max_macs: Some(7), ..Default::default() };
        let (gene, budget, limit) = from_proto(message).unwrap();
        assert_eq!((gene.as_str(), limit), ("", DEFAULT_CHOICES));
        assert_eq!(budget, Budget { macs: Some(7), ..Budget::default() });
        to_proto("", &Budget { batch: 0, ..Budget::default() }, 1).unwrap_err();
        to_proto("", &Budget::default(), 0).unwrap_err();
    }

    #[test]
    fn a_time_needs_latencies_and_they_need_a_time() {
        let latency = proto::Latency { depth: 2, width: 24, batch: 0, milliseconds: 1.5 };
        let with = |max_milliseconds, latencies| proto::PlanModelRequest {
            max_milliseconds,
            latencies,
            ..Default::default()
        };
        from_proto(with(Some(2.0), vec![])).unwrap_err();
        from_proto(with(None, vec![latency])).unwrap_err();
        from_proto(with(Some(2.0), vec![latency, latency])).unwrap_err();
        let (_, budget, _) = from_proto(with(Some(2.0), vec![latency])).unwrap();
        assert_eq!(budget.latency.unwrap().table.milliseconds(2, 24, 1), Some(1.5));
    }
}

//! Finds the best sizes of a gene within a budget.

use std::cmp::Ordering;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    gene::{Forecast, Forecasts, Learngene},
    nn::Size,
    tensor::Dtype,
};

use super::{
    Admitted, Bank,
    cost::{self, Cost},
    latency::LatencyTable,
};

/// Number of choices of a request that names none.
pub const DEFAULT_CHOICES: usize = 5;
/// Most choices of a request. The length of each file has to be computed.
pub const MAX_CHOICES: usize = 100;

/// What a model may cost. At least one number must be given.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Most parameters.
    pub parameters: Option<u64>,
    /// Most multiply-accumulate operations of one forward pass on one image.
    pub macs: Option<u64>,
    /// Longest file in bytes.
    pub bytes: Option<u64>,
    /// Most memory of one forward pass on one batch in f32, in bytes: [`cost::memory_bytes`].
    pub memory: Option<u64>,
    /// Most time of one forward pass on one batch.
    pub latency: Option<LatencyBudget>,
    /// Number of images in the batch for which memory and latency are meant.
    pub batch: u32,
    /// Element type of the file.
    pub dtype: Dtype,
}

/// Most time of one forward pass, on the machine where a table was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyBudget {
    /// Most milliseconds.
    pub milliseconds: f64,
    /// What was measured on it.
    pub table: LatencyTable,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            parameters: None,
            macs: None,
            bytes: None,
            memory: None,
            latency: None,
            batch: 1,
            dtype: Dtype::F32,
        }
    }
}

/// A size within the budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// Transformer blocks.
    pub depth: u32,
    /// Embedding dimension.
    pub width: u32,
    /// What it costs.
    #[serde(flatten)]
    pub cost: Cost,
    /// Time of one forward pass on one batch by the table. `None` without a table.
    pub milliseconds: Option<f64>,
    /// The accuracy to expect before tuning. `None` outside of what was measured for the gene.
    pub forecast: Option<Forecast>,
    /// Why there is no forecast, if there is none.
    pub warning: Option<String>,
}

/// The greatest depth within the budget at one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Embedding dimension.
    pub width: u32,
    /// Transformer blocks.
    pub depth: u32,
}

/// What a budget buys.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choices {
    /// Name of the gene.
    pub gene: String,
    /// The best size first, then the next.
    pub sizes: Vec<Choice>,
    /// The edge of the budget, from narrow to wide. A width is absent if no depth of it is within the budget.
    pub reach: Vec<Reach>,
}

impl Bank {
    /// The best sizes of the admitted gene within `budget`, at most `limit`: see [`choose`].
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown gene; those of [`choose`].
    pub async fn choose(&self, admitted: &Admitted<'_>, budget: Budget, limit: usize) -> Result<Choices> {
        let (registry, gene) = (self.registry.clone(), admitted.gene().to_owned());
        super::blocking::blocking(move || choose(&*registry.get(&gene)?, &budget, limit)).await
    }
}

/// A size within the budget, before the costly parts of a [`Choice`] are computed.
struct Candidate {
    size: Size,
    parameters: u64,
    macs: u64,
    forecast: Option<Forecast>,
    milliseconds: Option<f64>,
}

/// The best sizes of `gene` within `budget`, at most `limit`.
///
/// The size with the best forecast comes first; of equal ones, the size with fewer multiply-accumulate operations.
/// Sizes without a forecast come last and say why, the size with the most parameters first.
///
/// # Errors
/// [`Error::Invalid`] for a budget without a number or with an impossible one; [`Error::OutOfRange`] if not even the
/// smallest size is within it, with the value of that size.
pub fn choose(gene: &Learngene, budget: &Budget, limit: usize) -> Result<Choices> {
    let search = Search { gene, budget };
    search.check(limit)?;
    let meta = gene.meta();
    let forecasts = Forecasts::of(&meta.quality, meta.metric);
    let (mut candidates, mut reach, mut covered) = (Vec::new(), Vec::new(), false);
    for width in search.widths() {
        let mut deepest = None;
        for depth in search.depths(width)? {
            let milliseconds = match &budget.latency {
                None => None,
                Some(latency) => match latency.table.milliseconds(depth, width, budget.batch) {
                    None => continue,
                    slow if slow > Some(latency.milliseconds) => {
                        covered = true;
                        continue;
                    }
                    within => within,
                },
            };
            let config = meta.config.resized(depth, width)?;
            candidates.push(Candidate {
                size: Size { width, depth },
                parameters: config.schema().parameters(),
                macs: config.macs(),
                forecast: forecasts.as_ref().and_then(|forecasts| forecasts.at(depth, width)),
                milliseconds,
            });
            deepest = Some(depth);
        }
        reach.extend(deepest.map(|depth| Reach { width: width as u32, depth: depth as u32 }));
    }
    if candidates.is_empty() {
        return Err(search.too_slow(covered));
    }
    candidates.sort_by(better);
    candidates.truncate(limit);
    let sizes = candidates.into_iter().map(|candidate| search.choice(candidate, forecasts.as_ref()));
    Ok(Choices { gene: meta.name.clone(), sizes: sizes.collect::<Result<_>>()?, reach })
}

/// `Less` if `a` is the better choice.
fn better(a: &Candidate, b: &Candidate) -> Ordering {
    let by_value = match (a.forecast, b.forecast) {
        (Some(x), Some(y)) => y.value.total_cmp(&x.value),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => b.parameters.cmp(&a.parameters),
    };
    by_value.then(a.macs.cmp(&b.macs))
}

/// A cost that can be limited. It grows with depth and with width.
#[derive(Debug, Clone, Copy)]
enum Measure {
    Parameters,
    Macs,
    Memory,
    Bytes,
}

impl Measure {
    /// Name of its limit in requests.
    const fn name(self) -> &'static str {
        match self {
            Self::Parameters => "max_parameters",
            Self::Macs => "max_macs",
            Self::Memory => "max_memory_bytes",
            Self::Bytes => "max_bytes",
        }
    }
}

/// A gene and a budget.
struct Search<'a> {
    gene: &'a Learngene,
    budget: &'a Budget,
}

impl Search<'_> {
    /// Trained widths, from narrow to wide.
    fn widths(&self) -> Vec<usize> {
        let mut widths = self.gene.meta().trained_widths.clone();
        widths.sort_unstable();
        widths.dedup();
        widths
    }

    /// The limits that the budget gives.
    fn limits(&self) -> impl Iterator<Item = (Measure, u64)> {
        let Budget { parameters, macs, bytes, memory, latency: _, batch: _, dtype: _ } = self.budget;
        let all = [
            (Measure::Parameters, parameters),
            (Measure::Macs, macs),
            (Measure::Memory, memory),
            (Measure::Bytes, bytes),
        ];
        all.into_iter().filter_map(|(measure, most)| Some((measure, (*most)?)))
    }

    fn value(&self, measure: Measure, size: Size) -> Result<u64> {
        let config = self.gene.meta().config.resized(size.depth, size.width)?;
        Ok(match measure {
            Measure::Parameters => config.schema().parameters(),
            Measure::Macs => config.macs(),
            Measure::Memory => cost::memory_bytes(&config, self.budget.batch),
            Measure::Bytes => cost::size_bytes(self.gene, size, self.budget.dtype)?,
        })
    }

    /// Checks that the budget gives a limit, and that the smallest size is within it.
    fn check(&self, limit: usize) -> Result<()> {
        let (meta, budget) = (self.gene.meta(), self.budget);
        let of = || format!("gene \"{}\"", meta.name);
        if !(1..=MAX_CHOICES).contains(&limit) {
            let (of, found) = ("this service".to_owned(), limit as u64);
            return Err(Error::OutOfRange { what: "limit", found, of, limit: format!("1..={MAX_CHOICES}") });
        }
        if !(1..=cost::MAX_BATCH).contains(&budget.batch) {
            let (of, found) = ("this service".to_owned(), u64::from(budget.batch));
            let limit = format!("1..={}", cost::MAX_BATCH);
            return Err(Error::OutOfRange { what: "batch", found, of, limit });
        }
        match &budget.latency {
            None if self.limits().next().is_none() => {
                let reason = "give at least one of parameters, macs, bytes, memory and latency";
                return Err(Error::invalid("budget", reason));
            }
            // In this form NaN fails too.
            Some(latency) if !(latency.milliseconds.is_finite() && latency.milliseconds > 0.0) => {
                let reason = format!("{} is no time above 0", latency.milliseconds);
                return Err(Error::invalid("max_milliseconds", reason));
            }
            Some(_) | None => {}
        }
        // Every measure grows with depth and with width, so no other size can be within the limit.
        let smallest = Size { width: self.widths()[0], depth: meta.depth_range[0] };
        for (measure, found) in self.limits() {
            let (what, least) = (measure.name(), self.value(measure, smallest)?);
            if least > found {
                let Size { width, depth } = smallest;
                let limit = format!("its smallest size, depth {depth} width {width}, has {least}");
                return Err(Error::OutOfRange { what, found, of: of(), limit });
            }
        }
        Ok(())
    }

    /// Depths of `width` within all limits but latency. Every measure grows with depth, so bisection finds the last
    /// one.
    fn depths(&self, width: usize) -> Result<std::ops::RangeInclusive<usize>> {
        let within = |depth: usize| -> Result<bool> {
            for (measure, most) in self.limits() {
                if self.value(measure, Size { width, depth })? > most {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let [least, greatest] = self.gene.meta().depth_range;
        let (mut inside, mut outside) = (least - 1, greatest + 1);
        while outside - inside > 1 {
            let middle = usize::midpoint(inside, outside);
            if within(middle)? {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        Ok(least..=inside)
    }

    /// The error if no size is left. `covered` says that the table covers a size within the other limits.
    fn too_slow(&self, covered: bool) -> Error {
        let Some(latency) = &self.budget.latency else {
            return Error::invalid("budget", "no size is within it");
        };
        let (meta, batch) = (self.gene.meta(), self.budget.batch);
        let [least, greatest] = meta.depth_range;
        if !covered {
            let reason = format!(
                "no rows of batch {batch} enclose a size of gene \"{}\" (depths {least}..={greatest}, widths \
                 {:?}) that is within the other budgets",
                meta.name,
                self.widths()
            );
            return Error::invalid("latency table", reason);
        }
        let time = |depth: usize, width: usize| latency.table.milliseconds(depth, width, batch);
        let sizes = self.widths().into_iter().flat_map(|w| (least..=greatest).map(move |d| [d, w]));
        let known = sizes.filter_map(|[depth, width]| Some((time(depth, width)?, depth, width)));
        let fastest = known.min_by(|a, b| a.0.total_cmp(&b.0));
        let reason = fastest.map_or_else(String::new, |(time, depth, width)| {
            format!(
                "{} ms is below every size of gene \"{}\" that is within the other budgets; the fastest of all, \
                 depth {depth} width {width}, has {time} ms",
                latency.milliseconds, meta.name
            )
        });
        Error::invalid("max_milliseconds", reason)
    }

    fn choice(&self, candidate: Candidate, forecasts: Option<&Forecasts>) -> Result<Choice> {
        let Candidate { size, forecast, milliseconds, .. } = candidate;
        let Size { width, depth } = size;
        let warning = match forecasts {
            None => Some("nothing of this gene was measured: larger models come first".to_owned()),
            Some(forecasts) => forecasts.unmeasured(depth, width),
        };
        Ok(Choice {
            depth: depth as u32,
            width: width as u32,
            cost: Cost::of(self.gene, size, self.budget.dtype, self.budget.batch)?,
            milliseconds,
            forecast,
            warning,
        })
    }
}

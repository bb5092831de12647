//! `genebank plan`: chooses the best depth and width within a budget.

use std::path::Path;

use crate::{
    bank::{
        Budget, Choice, Choices, GeneSummary, LatencyBudget, LatencyTable, Registry,
        budget::{self},
    },
    blueprint::Metric,
    cli::{args, config, map, output},
    client::Transport,
    error::{Error, Result},
    gene::Forecast,
    tensor::codec,
};

pub(in crate::cli) fn run(options: &args::Plan) -> Result<()> {
    // Refuse a plot in another format before computing anything.
    options.plot.as_deref().map_or(Ok(()), check_plot)?;
    let budget = budget_of(options)?;
    let (choices, gene) = match &options.server {
        Some(url) => super::small_runtime()?.block_on(remote(url, options, &budget))?,
        None => embedded(options, &budget)?,
    };
    if options.gene.is_none() {
        output::talk(format_args!("gene {} (the default)", choices.gene));
    }
    if let Some(latency) = &budget.latency {
        let untimed = untimed(&gene, &latency.table, options.batch);
        if !untimed.is_empty() {
            let widths = output::list(&untimed);
            output::talk(format_args!(
                "note: left out, because the latency table has no row of them for batches of {}: widths {widths}",
                options.batch
            ));
        }
    }
    for choice in &choices.sizes {
        if let Some(warning) = &choice.warning {
            output::talk(format_args!("warning: {}: {warning}", size(choice)));
        }
    }
    if let Some(path) = &options.plot {
        let svg = map::draw(&gene, &choices, &labels(options))?;
        codec::write_atomic(path, [svg.as_bytes()])?;
        output::talk(format_args!("wrote {}", path.display()));
    }
    if options.json {
        return output::json(&choices);
    }
    let metric = gene.metric.unwrap_or_default();
    let titles = ["SIZE", metric.title(), "INTERVAL", "BASIS", "PARAMETERS", "MACS", "BYTES", "MEMORY", "MS"];
    let mut rows = vec![titles.map(ToOwned::to_owned).to_vec()];
    rows.extend(choices.sizes.iter().map(|choice| row(choice, metric)));
    if budget.latency.is_none() {
        for row in &mut rows {
            row.truncate(titles.len() - 1);
        }
    }
    output::table(&rows)
}

/// Widths of the gene without a row for the batch.
fn untimed(gene: &GeneSummary, table: &LatencyTable, batch: u32) -> Vec<u32> {
    let timed = |width: &u32| table.rows().iter().any(|row| (row.width, row.batch) == (*width, batch));
    gene.trained_widths.iter().copied().filter(|width| !timed(width)).collect()
}

fn check_plot(path: &Path) -> Result<()> {
    if path.extension().is_some_and(|extension| extension == "svg") {
        return Ok(());
    }
    let reason = format!("{} does not end in .svg, the one format that is written", path.display());
    Err(Error::invalid("--plot", reason))
}

fn budget_of(options: &args::Plan) -> Result<Budget> {
    let latency = match (options.latency, &options.latency_table) {
        (Some(milliseconds), Some(path)) => {
            Some(LatencyBudget { milliseconds, table: LatencyTable::open(path)? })
        }
        // The parser accepts the two flags only together.
        _ => None,
    };
    Ok(Budget {
        parameters: options.parameters,
        macs: options.macs,
        bytes: options.bytes,
        memory: options.memory,
        latency,
        batch: options.batch,
        dtype: options.dtype,
    })
}

async fn remote(url: &str, options: &args::Plan, budget: &Budget) -> Result<(Choices, GeneSummary)> {
    let client = config::connect(url, Transport::default()).await?;
    let gene = options.gene.as_deref().unwrap_or_default();
    let choices = client.plan_model(gene, budget, options.limit).await?;
    let genes = client.genes().await?;
    let gone = || Error::NotFound { what: "gene", name: choices.gene.clone(), known: String::new() };
    let gene = genes.into_iter().find(|gene| gene.name == choices.gene).ok_or_else(gone)?;
    Ok((choices, gene))
}

fn embedded(options: &args::Plan, budget: &Budget) -> Result<(Choices, GeneSummary)> {
    let registry = Registry::open(config::models(&options.models).as_deref(), None)?;
    let gene = registry.get(options.gene.as_deref().unwrap_or_default())?;
    let summary = registry.summary(&gene.meta().name)?;
    Ok((budget::choose(&gene, budget, options.limit)?, summary))
}

/// The limits in words.
fn labels(options: &args::Plan) -> String {
    let limits = [
        options.parameters.map(|most| format!("parameters ≤ {}", grouped(most))),
        options.macs.map(|most| format!("MACs ≤ {}", grouped(most))),
        options.bytes.map(|most| format!("file ≤ {} bytes", grouped(most))),
        options.memory.map(|most| format!("memory ≤ {} bytes", grouped(most))),
        options.latency.map(|most| format!("latency ≤ {most} ms")),
    ];
    limits.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A number with commas as thousands separators.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma = |(i, digit): (usize, char)| {
        let first = i > 0 && (digits.len() - i).is_multiple_of(3);
        first.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(comma).collect()
}

fn size(choice: &Choice) -> String {
    format!("d{}-w{}", choice.depth, choice.width)
}

fn row(choice: &Choice, metric: Metric) -> Vec<String> {
    let (quality, interval, basis) = match &choice.forecast {
        None => ("-".to_owned(), "-".to_owned(), "not measured"),
        Some(forecast) => {
            let basis = if forecast.measured { "measured" } else { "interpolated" };
            (metric.show(forecast.value), interval(forecast, metric), basis)
        }
    };
    vec![
        size(choice),
        quality,
        interval,
        basis.to_owned(),
        choice.cost.parameters.to_string(),
        choice.cost.macs.to_string(),
        choice.cost.size_bytes.to_string(),
        choice.cost.memory_bytes.to_string(),
        choice.milliseconds.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}")),
    ]
}

fn interval(forecast: &Forecast, metric: Metric) -> String {
    let ends = [forecast.low, forecast.high];
    if !forecast.is_bounded() {
        return "unknown".to_owned();
    }
    // The unit is written once.
    let [low, high] = ends.map(|end| metric.show(end));
    let unit = high.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    format!("{}..{high}", low.strip_suffix(unit).unwrap_or(&low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (25_000_000, "25,000,000")] {
            assert_eq!(grouped(number), text);
        }
    }
}

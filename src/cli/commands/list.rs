//! `genebank list`: lists the genes.

use crate::{
    bank::{GeneSummary, Registry},
    cli::{args, config, output},
    client::Transport,
    error::Result,
};

pub(in crate::cli) fn run(options: &args::List) -> Result<()> {
    let genes = match &options.server {
        Some(url) => super::small_runtime()?
            .block_on(async { config::connect(url, Transport::default()).await?.genes().await })?,
        None => embedded(options)?,
    };
    if options.json {
        return output::json(&genes);
    }
    let titles = ["GENE", "TRAINED", "STAGES", "DEPTHS", "WIDTHS", "GIVES", "QUALITY", "BYTES"];
    let mut rows = vec![titles.map(ToOwned::to_owned).to_vec()];
    rows.extend(genes.iter().map(row));
    output::table(&rows)
}

fn embedded(options: &args::List) -> Result<Vec<GeneSummary>> {
    let registry = Registry::open(config::models(&options.models).as_deref(), None)?;
    registry.iter().map(|meta| registry.summary(&meta.name)).collect()
}

fn row(gene: &GeneSummary) -> Vec<String> {
    let gives = match gene.dimension {
        0 => format!("{} classes", gene.labels.len()),
        dimension => format!("vectors of {dimension}"),
    };
    vec![
        gene.name.clone(),
        format!("d{}-w{}", gene.trained_depth, gene.trained_width),
        output::list(&gene.stages),
        format!("{}..={}", gene.min_depth, gene.max_depth),
        output::list(&gene.trained_widths),
        gives,
        output::quality(gene.metric, gene.trained_quality()),
        gene.size_bytes.to_string(),
    ]
}

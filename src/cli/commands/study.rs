//! `genebank study`: the table and plot of a gene, by one command.

use std::path::Path;

use crate::{
    cli::{args, config, output, progress::Watch},
    error::Result,
    gene::Learngene,
    study::{Plan, Study, store_quality},
    tensor::device,
    train::{Recipe, run::Model},
};

use super::train::open_data;

pub(in crate::cli) fn run(options: &args::Study) -> Result<()> {
    let mut plan = Plan::open(&options.plan)?;
    let folder = options.plan.parent().unwrap_or(Path::new("."));
    plan.scratch_recipe = folder.join(&plan.scratch_recipe);
    plan.ancestor = folder.join(&plan.ancestor);
    let path = config::models(&options.models).join(format!("{}.safetensors", plan.gene));
    let gene = Learngene::open(&path)?;
    let study = Study {
        gene: &gene,
        ancestor: &Model::open(&plan.ancestor)?,
        data: &open_data(&Recipe::open(&plan.scratch_recipe)?.data, &options.run)?,
        plan: &plan,
        output: &options.output,
        cache: &options.cache,
        threads: config::threads(&options.run)?,
        device: &device::open(&options.run.device)?,
    };
    let watch = Watch::new();
    let cancel = watch.cancel();
    let rows = study.run(&cancel, &mut |label, report| match report {
        Some(report) => watch.report(report),
        None => watch.line(label.to_owned()),
    })?;
    if options.store_quality {
        store_quality(&path, &gene, &rows)?;
    }
    let table = options.output.join("table.md");
    output::line(std::fs::read_to_string(&table).map_err(crate::error::Error::io(&table))?.trim_end())
}

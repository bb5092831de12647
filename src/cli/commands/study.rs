//! `genebank study`: measures a gene's models, and writes the table and the plot.

use std::collections::BTreeMap;

use crate::{
    cli::{args, config, output, progress::Watch},
    data::data_root,
    error::{Error, Result},
    gene::Learngene,
    study::{Measured, Plan, Study, store_quality},
    tensor::device,
};

use super::subject::ancestor;

pub(in crate::cli) fn run(options: &args::Study) -> Result<()> {
    let plan = Plan::open(&options.plan)?;
    // A study may write measurements into its gene, so it needs a folder.
    let folder = config::models(&options.models).unwrap_or_else(|| "models".into());
    let path = |name: &str| folder.join(format!("{name}.safetensors"));
    let open = |name: &str| Ok((name.to_owned(), Learngene::open(&path(name))?));
    let genes: BTreeMap<_, _> = plan.genes().into_iter().map(open).collect::<Result<_>>()?;
    let reference = ancestor(&plan.ancestor)?;
    let data = Measured::open(&plan.data, &data_root(options.run.data.as_deref())?, reference.tokenizer())?;
    let study = Study {
        genes: &genes,
        ancestor: &reference,
        data: &data,
        plan: &plan,
        output: &options.output,
        cache: &options.cache,
        threads: config::threads(&options.run)?,
        device: &device::open(&options.run.device)?,
    };
    if options.list {
        for (cell, finished) in study.list()? {
            output::line(format_args!("{cell} {}", if finished { "finished" } else { "open" }))?;
        }
        return Ok(());
    }
    let watch = Watch::new();
    let cancel = watch.cancel();
    let rows = study.run(&cancel, &mut |label, report| match report {
        Some(report) => watch.report(report),
        None => watch.line(label.to_owned()),
    })?;
    if options.store_quality {
        let items = study.data.test_items() as u64;
        store_quality(&path(&plan.gene), &genes[&plan.gene], &rows, items)?;
    }
    let table = options.output.join("table.md");
    output::line(std::fs::read_to_string(&table).map_err(Error::io(&table))?.trim_end())
}

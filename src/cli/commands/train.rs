//! `genebank train`, `learn` and `finetune`: train from a recipe or a few flags, and write the result to a file.

use std::path::{Path, PathBuf};

use crate::{
    cli::{args, config, progress::Watch},
    data::{self, DatasetPair, data_root},
    error::{Error, Result},
    tensor::{codec, device},
    train::{Length, Model, Recipe, finetune, run::Run},
};

use super::subject;

/// Opens the data set of a run or a measurement.
pub(super) fn open_data(name: &str, options: &args::RunOptions) -> Result<DatasetPair> {
    data::open(name, &data_root(options.data.as_deref())?)
}

pub(in crate::cli) fn train(options: &args::Train) -> Result<()> {
    let recipe = Recipe::open(&options.recipe)?;
    if recipe.gene.is_some() {
        return Err(Error::invalid("[gene]", "this recipe learns a gene; use genebank learn"));
    }
    let data = open_data(&recipe.data, &options.run)?;
    let folder = options.recipe.parent().unwrap_or(Path::new("."));
    let model = match &recipe.start {
        Some(start) => Model::open(&folder.join(start))?,
        None => Model::fresh(&recipe, &data.train)?,
    };
    let checkpoint = checkpoint(options)?;
    let watch = Watch::new();
    let run = run(&recipe, &data, &options.run, Some(&checkpoint), true)?;
    let model = run.classify(model, &watch.cancel(), &mut |report| watch.report(report))?;
    model.write(&options.output)?;
    remove(&checkpoint)
}

pub(in crate::cli) fn learn(options: &args::Learn) -> Result<()> {
    let recipe = Recipe::open(&options.train.recipe)?;
    let Some(gene) = &recipe.gene else {
        return Err(Error::invalid("[gene]", "this recipe learns no gene; use genebank train"));
    };
    let folder = options.train.recipe.parent().unwrap_or(Path::new("."));
    let teacher = Model::open(&options.teacher.clone().unwrap_or_else(|| folder.join(&gene.teacher)))?;
    let data = open_data(&recipe.data, &options.train.run)?;
    let checkpoint = checkpoint(&options.train)?;
    let watch = Watch::new();
    let run = run(&recipe, &data, &options.train.run, Some(&checkpoint), true)?;
    let (_, bytes) = run.learn(gene, &teacher, &watch.cancel(), &mut |report| watch.report(report))?;
    codec::write_atomic(&options.train.output, [bytes.as_ref()])?;
    remove(&checkpoint)
}

pub(in crate::cli) fn finetune(options: &args::Finetune) -> Result<()> {
    let length = match (options.epochs, options.steps) {
        (Some(epochs), _) => Length::Epochs(epochs),
        (None, steps) => Length::Steps(steps.unwrap_or(0)),
    };
    let data = open_data(&options.dataset, &options.run)?;
    let recipe = finetune::recipe_on(&data, length, options.lr, options.seed)?;
    let run = run(&recipe, &data, &options.run, None, true)?;
    let model = subject::model(&options.subject, data.train.class_names(), &run.device)?;
    let watch = Watch::new();
    let model = run.classify(model, &watch.cancel(), &mut |report| watch.report(report))?;
    model.write(&options.output)
}

fn run<'a>(
    recipe: &'a Recipe,
    data: &'a DatasetPair,
    options: &args::RunOptions,
    checkpoint: Option<&'a Path>,
    watch_held_out: bool,
) -> Result<Run<'a>> {
    let (threads, device) = (config::threads(options)?, device::open(&options.device)?);
    Ok(Run { recipe, data, threads, device, checkpoint, watch_held_out })
}

fn checkpoint(options: &args::Train) -> Result<PathBuf> {
    let path = options.checkpoint.clone().unwrap_or_else(|| options.output.with_extension("ckpt"));
    if path == options.output {
        return Err(Error::invalid("--checkpoint", format!("{} is the output file too", path.display())));
    }
    Ok(path)
}

/// Removes the checkpoint once the result is written. If it stayed, the next run of the recipe would end at once.
fn remove(checkpoint: &Path) -> Result<()> {
    std::fs::remove_file(checkpoint).map_err(Error::io(checkpoint))
}

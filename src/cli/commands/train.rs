//! `genebank train`, `learn` and `finetune`: train from a recipe or a few flags, and write the result to a file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;

use crate::{
    blueprint::Ancestor,
    cli::{args, config, output, progress::Watch},
    data::{
        self, DatasetPair, data_root,
        text::{Corpus, Tokenizer},
    },
    error::{Error, Result},
    file,
    gene::Learngene,
    tensor::{codec, device},
    train::{
        Accuracy, Length, Model, Recipe, finetune,
        recipe::{GeneRecipe, Texts},
        run::{Run, RunEvent, TextRun},
    },
};

use super::subject::{Source, ancestor};

/// Opens the data set of a run or a measurement.
pub(super) fn open_data(name: &str, options: &args::RunOptions) -> Result<DatasetPair> {
    data::open(name, &data_root(options.data.as_deref())?)
}

/// Opens a data set, and makes its images grey or coloured as those of a model are.
pub(super) fn open_data_for(name: &str, channels: usize, options: &args::RunOptions) -> Result<DatasetPair> {
    let data = open_data(name, options)?;
    let found = data.train.shape().channels;
    if found != channels {
        let [found, wanted] = [found, channels].map(|n| if n == 1 { "grey" } else { "coloured" });
        output::talk(format_args!(
            "note: the images of \"{name}\" are {found}; they are made {wanted} for the model"
        ));
    }
    data.with_channels(channels)
}

pub(in crate::cli) fn train(options: &args::Train) -> Result<()> {
    let checkpoint = checkpoint(options)?;
    let recipe = Recipe::open(&options.recipe)?;
    if recipe.gene.is_some() {
        return Err(Error::invalid("[gene]", "this recipe learns a gene; use genebank learn"));
    }
    let folder = options.recipe.parent().unwrap_or(Path::new("."));
    let (model, data) = if let Some(start) = &recipe.start {
        let model = Model::of(&ancestor(&folder.join(start))?, &Device::Cpu)?;
        let data = open_data_for(&recipe.data, model.info.config.vit()?.channels(), &options.run)?;
        (model, data)
    } else {
        let data = open_data(&recipe.data, &options.run)?;
        (Model::fresh(&recipe, &data.train)?, data)
    };
    let watch = Watch::new();
    let run = run(&recipe, &data, &options.run, Some(&checkpoint), true)?;
    let model = run.classify(model, &watch.cancel(), &mut |report| watch.report(report))?;
    model.write(&options.output)?;
    remove(&checkpoint)
}

pub(in crate::cli) fn learn(options: &args::Learn) -> Result<()> {
    let checkpoint = checkpoint(&options.train)?;
    let recipe = Recipe::open(&options.train.recipe)?;
    let Some(gene) = &recipe.gene else {
        return Err(Error::invalid("[gene]", "this recipe learns no gene; use genebank train"));
    };
    let folder = options.train.recipe.parent().unwrap_or(Path::new("."));
    let teacher = options.teacher.clone().unwrap_or_else(|| folder.join(&gene.teacher));
    let teacher = ancestor(&teacher)?;
    if let Some(texts) = &recipe.texts {
        return learn_texts(options, &recipe, gene, texts, &teacher, &checkpoint);
    }
    let teacher = Model::of(&teacher, &Device::Cpu)?;
    let data = open_data_for(&recipe.data, teacher.info.config.vit()?.channels(), &options.train.run)?;
    let watch = Watch::new();
    let run = run(&recipe, &data, &options.train.run, Some(&checkpoint), true)?;
    let (_, bytes) = run.learn(gene, &teacher, &watch.cancel(), &mut |report| watch.report(report))?;
    codec::write_atomic(&options.train.output, [bytes.as_ref()])?;
    remove(&checkpoint)
}

/// Learns a gene of text encoders.
fn learn_texts(
    options: &args::Learn,
    recipe: &Recipe,
    gene: &GeneRecipe,
    texts: &Texts,
    teacher: &Ancestor,
    checkpoint: &Path,
) -> Result<()> {
    let train = &options.train;
    let (threads, device) = (config::threads(&train.run)?, device::open(&train.run.device)?);
    let none =
        || Error::invalid("gene.teacher", "it has no tokenizer; give the folder that has one beside it");
    let json = teacher.tokenizer().ok_or_else(none)?;
    let tokenizer = Tokenizer::from_json(json.as_bytes(), texts.max_tokens, "the teacher's tokenizer")?;
    let path = data_root(train.run.data.as_deref())?.join(&recipe.data);
    let column = texts.column.as_deref();
    let corpus = Corpus::open(&path, &recipe.data, &texts.licence, column, &tokenizer, threads)?;
    let corpus = Arc::new(corpus);
    let vectors = checkpoint.with_extension("vectors");
    let folder = train.recipe.parent().unwrap_or(Path::new("."));
    let start = recipe.start.as_ref().map(|start| Learngene::open(&folder.join(start))).transpose()?;
    let watch = Watch::new();
    let run = TextRun {
        recipe,
        corpus: &corpus,
        threads,
        device,
        checkpoint: Some(checkpoint),
        vectors: Some(&vectors),
        start: start.as_ref(),
    };
    let (_, bytes) = run.learn(gene, teacher, &watch.cancel(), &mut |report| watch.report(report))?;
    codec::write_atomic(&train.output, [bytes.as_ref()])?;
    remove(&vectors)?;
    remove(checkpoint)
}

pub(in crate::cli) fn finetune(options: &args::Finetune) -> Result<()> {
    file::check_writable(&options.output)?;
    let length = match (options.epochs, options.steps) {
        (Some(epochs), _) => Length::Epochs(epochs),
        (None, steps) => Length::Steps(steps.unwrap_or(0)),
    };
    let source = Source::open(&options.subject)?;
    let name = source.dataset(options.dataset.as_deref())?;
    let data = open_data_for(name, source.config().vit()?.channels(), &options.run)?;
    let recipe = finetune::recipe_on(&data, length, options.lr, options.seed)?;
    let run = run(&recipe, &data, &options.run, None, true)?;
    let model = source.model(&options.subject, data.train.class_names(), &run.device)?;
    let watch = Watch::new();
    let mut held_out = None;
    let model = run.classify(model, &watch.cancel(), &mut |report| {
        if let RunEvent::HeldOut { accuracy, .. } = report {
            held_out = Some(accuracy);
        }
        watch.report(report);
    })?;
    model.write(&options.output)?;
    let Some(accuracy) = held_out else { return Ok(()) };
    let (output, share) = (options.output.display(), output::percent(Some(accuracy.share())));
    let Accuracy { correct, images, .. } = accuracy;
    output::line(format_args!("{output}: {share} on held-out images ({correct} of {images})"))
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

/// The path of the checkpoint. Neither it nor the output may turn out to be unwritable after hours of work.
fn checkpoint(options: &args::Train) -> Result<PathBuf> {
    let path = options.checkpoint.clone().unwrap_or_else(|| options.output.with_extension("ckpt"));
    if path == options.output {
        return Err(Error::invalid("--checkpoint", format!("{} is the output file too", path.display())));
    }
    file::check_writable(&options.output)?;
    file::check_writable(&path)?;
    Ok(path)
}

/// Removes the checkpoint once the result is written. If it stayed, the next run of the recipe would end at once.
fn remove(checkpoint: &Path) -> Result<()> {
    std::fs::remove_file(checkpoint).map_err(Error::io(checkpoint))
}

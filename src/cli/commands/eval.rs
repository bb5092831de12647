//! `genebank eval`: measures the accuracy of a model, or how well an encoder's similarities agree with people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    cli::{args, config, output},
    data::{
        Split, data_root,
        text::{PairSplit, open_pairs},
    },
    error::{Error, Result},
    file,
    nn::Bert,
    tensor::{Dtype, TensorBytes, codec, device},
    train::{embed::similarity, measure::measure_logits},
};

use super::{subject::Source, train::open_data_for};

#[derive(Debug, Serialize)]
struct Evaluation {
    dataset: String,
    split: Split,
    correct: u64,
    images: u64,
    accuracy: f64,
    loss: f64,
}

#[derive(Debug, Serialize)]
struct Similarity {
    dataset: String,
    split: String,
    pairs: usize,
    spearman: f64,
}

pub(in crate::cli) fn run(options: &args::Eval) -> Result<()> {
    let source = Source::open(&options.subject)?;
    if source.config().as_vit().is_some() { images(options, source) } else { texts(options, source) }
}

/// Spearman's rank correlation of a text encoder's similarities with people's scores.
fn texts(options: &args::Eval, source: Source) -> Result<()> {
    let split = match options.split.parse()? {
        Split::Test => PairSplit::Test,
        Split::HeldOut => PairSplit::Dev,
        Split::Train | Split::TrainFull => PairSplit::Train,
    };
    if options.logits.is_some() {
        return Err(Error::invalid("--logits", "a text encoder has none"));
    }
    let dataset = source.dataset(options.dataset.as_deref())?.to_owned();
    let pairs = open_pairs(&dataset, &data_root(options.run.data.as_deref())?, split)?;
    let tokenizer = source.tokenizer()?;
    let device = device::open(&options.run.device)?;
    let model = source.model(&options.subject, &[], &device)?;
    let encoder = Bert::new(*model.info.config.bert()?, &model.weights)?;
    let spearman = similarity(&encoder, &tokenizer, &pairs, config::threads(&options.run)?)?;
    let report = Similarity { dataset, split: split.to_string(), pairs: pairs.len(), spearman };
    if options.json {
        return output::json(&report);
    }
    output::line(format_args!(
        "Spearman {:.4} of {} pairs of {} {}",
        report.spearman, report.pairs, report.dataset, report.split
    ))
}

/// Accuracy of a vision transformer.
fn images(options: &args::Eval, source: Source) -> Result<()> {
    let split: Split = options.split.parse()?;
    options.logits.as_deref().map_or(Ok(()), file::check_writable)?;
    let dataset = source.dataset(options.dataset.as_deref())?.to_owned();
    let data = open_data_for(&dataset, source.config().vit()?.channels(), &options.run)?;
    let device = device::open(&options.run.device)?;
    let model = source.model(&options.subject, data.train.class_names(), &device)?;
    let (result, logits) = measure_logits(&model, &data, split, config::threads(&options.run)?)?;
    if let Some(path) = &options.logits {
        let mut bytes = Vec::with_capacity(logits.len() * Dtype::F32.size_bytes());
        Dtype::F32.write(logits.into_iter(), &mut bytes);
        let shape = vec![result.images as usize, model.info.config.outputs()];
        let tensor = TensorBytes { dtype: Dtype::F32, shape, bytes: bytes.into() };
        let file = codec::render(&BTreeMap::new(), &[("logits".to_owned(), tensor)]);
        codec::write_atomic(path, [file.as_ref()])?;
    }
    let report = Evaluation {
        dataset,
        split,
        correct: result.correct,
        images: result.images,
        accuracy: result.share(),
        loss: result.loss,
    };
    if options.json {
        return output::json(&report);
    }
    output::line(format_args!(
        "{}: {} of {} images of {} {}, loss {:.4}",
        output::percent(Some(report.accuracy)),
        report.correct,
        report.images,
        report.dataset,
        options.split,
        report.loss
    ))
}

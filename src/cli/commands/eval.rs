//! `genebank eval`: measures the accuracy of a model.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    cli::{args, config, output},
    data::Split,
    error::Result,
    file,
    tensor::{Dtype, TensorBytes, codec, device},
    train::measure::measure_logits,
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

pub(in crate::cli) fn run(options: &args::Eval) -> Result<()> {
    let split: Split = options.split.parse()?;
    options.logits.as_deref().map_or(Ok(()), file::check_writable)?;
    let source = Source::open(&options.subject)?;
    let dataset = source.dataset(options.dataset.as_deref())?.to_owned();
    let data = open_data_for(&dataset, source.channels(), &options.run)?;
    let device = device::open(&options.run.device)?;
    let model = source.model(&options.subject, data.train.class_names(), &device)?;
    let (result, logits) = measure_logits(&model, &data, split, config::threads(&options.run)?)?;
    if let Some(path) = &options.logits {
        let mut bytes = Vec::with_capacity(logits.len() * Dtype::F32.size_bytes());
        Dtype::F32.write(logits.into_iter(), &mut bytes);
        let shape = vec![result.images as usize, model.info.config.classes()];
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

//! `genebank eval`: accuracy of a model.

use serde::Serialize;

use crate::{
    cli::{args, config, output},
    data::Split,
    error::{Error, Result},
    tensor::device,
    train::run::measure,
};

use super::{subject, train::open_data};

#[derive(Debug, Serialize)]
struct Report {
    dataset: String,
    split: Split,
    correct: u64,
    images: u64,
    accuracy: f64,
    loss: f64,
}

pub(in crate::cli) fn run(options: &args::Eval) -> Result<()> {
    let split: Split = serde_json::from_value(options.split.clone().into())
        .map_err(|_| Error::invalid("--split", "use one of test, held-out, train, train-full"))?;
    let mut model = subject::model(&options.subject)?;
    model.weights = model.weights.to_device(&device::open(&options.run.device)?)?;
    let data = open_data(&options.dataset, &options.run)?;
    let result = measure(&model, &data, split, config::threads(&options.run)?)?;
    let report = Report {
        dataset: options.dataset.clone(),
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

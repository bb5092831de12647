//! Accuracy of a model on one part of a data set.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    blueprint::Preprocessing,
    data::{Dataset, DatasetPair, Loader, Split},
    error::{Error, Result},
    nn::VitConfig,
};

use super::{
    Accuracy, Model,
    evaluate::{labels, logits, score},
};

/// Images per batch of an evaluation.
const EVALUATION_BATCH: usize = 250;
/// Seed of the held-out part. All runs share it, so that no run trains on images that another run holds out.
pub const SPLIT_SEED: u64 = 0;

/// An evaluation loader over a part of `data`.
///
/// # Errors
/// [`Error::Invalid`] if the preprocessing has other channels.
pub fn loader_of(data: &DatasetPair, split: Split, preprocessing: &Preprocessing) -> Result<Arc<Loader>> {
    let (dataset, indices) = data.select(split, SPLIT_SEED);
    Loader::evaluation(dataset, indices, EVALUATION_BATCH, preprocessing).map(Arc::new)
}

/// Accuracy of `model` on a part of `data`, computed on the device of the model's weights.
///
/// # Errors
/// [`Error::Invalid`] if model and data do not fit; [`Error::Tensor`].
pub fn measure(model: &Model, data: &DatasetPair, split: Split, threads: usize) -> Result<Accuracy> {
    measure_logits(model, data, split, threads).map(|(accuracy, _)| accuracy)
}

/// As [`measure`], with the logits of every image, `[images, classes]` in row-major order.
///
/// # Errors
/// As [`measure`].
pub fn measure_logits(
    model: &Model,
    data: &DatasetPair,
    split: Split,
    threads: usize,
) -> Result<(Accuracy, Vec<f32>)> {
    check_data(&data.train, model.info.config.vit()?)?;
    check_labels(&data.train, &model.info.labels)?;
    let loader = loader_of(data, split, &model.info.preprocessing)?;
    let logits = logits(&model.vit()?, &loader, threads)?;
    Ok((score(&logits, model.info.config.outputs(), &labels(&loader)), logits))
}

/// Checks that `data` has images and classes of the network's shape.
///
/// # Errors
/// [`Error::Invalid`] with both numbers, and what to change.
pub(super) fn check_data(data: &Dataset, config: &VitConfig) -> Result<()> {
    let ([size, channels], classes) = ([data.shape().size, data.shape().channels], data.class_names().len());
    let [own_size, own_channels, own_classes] = [config.image_size(), config.channels(), config.classes()];
    let reason = if size != own_size {
        let resized = size.is_multiple_of(config.patch_size());
        let other = if resized {
            format!(", or take a gene's model with --image-size {size}")
        } else {
            String::new()
        };
        format!(
            "its images have {size}x{size} pixels, the model takes {own_size}x{own_size}; write `size = {own_size}` into \
             its dataset.toml{other}"
        )
    } else if channels != own_channels {
        format!(
            "its images have {channels} channels, the model takes {own_channels}; write `channels = {own_channels}` into \
             its dataset.toml"
        )
    } else if classes != own_classes {
        format!(
            "it has {classes} classes, the model {own_classes}; take a gene's model with the labels of the data set \
             (--labels dataset)"
        )
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("data set \"{}\"", data.name()), reason))
}

/// Checks that every class that both `data` and `labels` know has the same number in both.
pub(super) fn check_labels(data: &Dataset, labels: &[String]) -> Result<()> {
    let numbers: BTreeMap<_, _> = labels.iter().enumerate().map(|(number, label)| (label, number)).collect();
    for (number, class) in data.class_names().iter().enumerate() {
        if let Some(other) = numbers.get(class).filter(|other| **other != number) {
            let reason =
                format!("\"{class}\" is class {number} of \"{}\", and {other} of the model", data.name());
            return Err(Error::invalid("data", reason));
        }
    }
    Ok(())
}

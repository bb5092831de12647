//! Brief tuning of a descendant: ordinary supervised training of untied weights.
//!
//! Source: Xia et al. 2024 (SWS, arXiv 2404.16897), the published tuning recipe: labels only, no warm-up, cosine decay,
//! and a learning rate far below that of training from scratch (a high rate would destroy the inherited weights).

use crate::{
    data::{Augment, DatasetPair, Split},
    error::Result,
};

use super::{Length, Optim, Recipe, measure::SPLIT_SEED};

/// Must change whenever the same request would give another recipe, or the same recipe other bits.
pub const RECIPE_VERSION: u64 = 3;
/// Largest number of optimiser steps for tuning on a server.
pub const MAX_STEPS: u32 = 100_000;
/// Largest number of epochs for tuning on a server.
pub const MAX_EPOCHS: u32 = 100;
/// Default peak learning rate: the best of three on held-out images (docs/results/sws).
pub const LEARNING_RATE: f64 = 1e-3;

/// Images per step; [`recipe_on`] lowers it to the number of training images.
const BATCH: usize = 128;

/// The recipe for tuning on the data set called `data`.
///
/// # Errors
/// [`crate::error::Error::Invalid`] for a learning rate that is not a positive number.
pub fn recipe(data: &str, length: Length, learning_rate: Option<f64>, seed: u64) -> Result<Recipe> {
    let learning_rate = learning_rate.unwrap_or(LEARNING_RATE);
    let optim = Optim {
        length,
        batch: BATCH,
        learning_rate,
        min_learning_rate: learning_rate * 0.02,
        warmup_steps: 0,
        weight_decay: 0.05,
        betas: [0.9, 0.999],
        clip: 1.0,
        label_smoothing: 0.1,
        drop_path: 0.0,
        recompute: false,
        bf16: false,
    };
    optim.check()?;
    let augment = Augment { crop_padding: 0, flip: true, erase: None };
    Ok(Recipe {
        data: data.to_owned(),
        seed,
        model: None,
        start: None,
        optim,
        augment,
        texts: None,
        gene: None,
    })
}

/// The recipe for tuning on `data`, with a batch no larger than its training part.
///
/// # Errors
/// As [`recipe`].
pub fn recipe_on(
    data: &DatasetPair,
    length: Length,
    learning_rate: Option<f64>,
    seed: u64,
) -> Result<Recipe> {
    let mut recipe = recipe(data.train.name(), length, learning_rate, seed)?;
    let (_, images) = data.select(Split::Train, SPLIT_SEED);
    recipe.optim.batch = images.len().clamp(1, BATCH);
    Ok(recipe)
}

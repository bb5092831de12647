//! Recipes: one TOML file per training run.

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::{
    data::Augment,
    error::{Error, Result},
};

/// Everything that decides the result of a run, together with the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the data set.
    pub data: String,
    /// Seed of initial values, order, augmentation and stochastic depth.
    #[serde(default)]
    pub seed: u64,
    /// Shape of the network; of the auxiliary model, where a gene is learned. Absent: given by what is tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelShape>,
    /// Model file to go on from, relative to the recipe's folder, instead of fresh values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// Optimiser and schedule.
    pub optim: Optim,
    /// Augmentation of training images.
    #[serde(default)]
    pub augment: Augment,
    /// Gene learning; absent: ordinary classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gene: Option<GeneRecipe>,
}

/// The part of a network's shape that the data do not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Height and width of a patch, pixels.
    pub patch_size: usize,
    /// Transformer blocks.
    pub depth: usize,
    /// Embedding dimension.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden units of the MLP per unit of width.
    pub mlp_ratio: usize,
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Passes over the training part.
    Epochs(u32),
    /// Optimiser steps.
    Steps(u32),
}

impl Length {
    /// Optimiser steps, where an epoch has `per_epoch`.
    pub fn steps(self, per_epoch: u64) -> u64 {
        match self {
            Self::Epochs(epochs) => u64::from(epochs) * per_epoch,
            Self::Steps(steps) => u64::from(steps),
        }
    }
}

/// AdamW with warm-up and cosine decay, and what regularises the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    /// How long.
    pub length: Length,
    /// Images per step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate at the end.
    #[serde(default)]
    pub min_learning_rate: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// Decay rates of the moments.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Largest norm of the gradient; 0: no clipping.
    #[serde(default)]
    pub clip: f64,
    /// Share of the target that is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Stochastic depth of the last block; grows linearly from 0 at the first.
    #[serde(default)]
    pub drop_path: f64,
    /// Keep only the input of each residual branch for the backward pass and compute the rest again: less memory for
    /// activations, one more forward pass, and the same result to the bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
    /// Compute in bf16 with f32 parameters and moments; on a GPU only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16: bool,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

/// How a gene is learned (SWS).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneRecipe {
    /// Name of the gene.
    pub name: String,
    /// Layers of each stage in the auxiliary model.
    pub stages: Vec<usize>,
    /// Least and greatest depth that will be served.
    pub depth_range: [usize; 2],
    /// The ancestor's file, relative to the recipe's folder.
    pub teacher: PathBuf,
    /// Weight of the distillation term; the paper's is 1: labels are not used.
    pub alpha: f64,
    /// Temperature of the distillation term; the paper's is 1.
    pub temperature: f64,
    /// First values: the teacher's where true, fresh ones (as published) where false.
    #[serde(default)]
    pub from_teacher: bool,
    /// Every depth and width in one gene; absent: the published objective, which trains one size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested: Option<Nested>,
}

/// How nested widths and random depths are learned; see [`super::nested`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nested {
    /// Widths that are trained and will be served, the trained one among them.
    pub widths: Vec<usize>,
    /// Least and greatest depth that is drawn.
    pub depths: [usize; 2],
    /// Sizes drawn in each step, beside the trained one and the smallest.
    pub draws: usize,
    /// Share of the ancestor in what a size is taught; the rest is the next larger size's of the step.
    pub ancestor_share: f64,
    /// Weight of the trained size where a drawn one has 1.
    #[serde(default = "one")]
    pub full_weight: f64,
    /// Weight of the smallest size where a drawn one has 1.
    #[serde(default = "one")]
    pub smallest_weight: f64,
    /// First steps, which train the trained size alone.
    #[serde(default)]
    pub full_only_steps: u64,
    /// Power `p ≥ 0` of the draw: a depth or width `n` is drawn in proportion to `n⁻ᵖ`. 0: evenly.
    #[serde(default)]
    pub toward_small: f64,
    /// Scales and shifts of the norms of their own for each narrower width.
    #[serde(default)]
    pub width_norms: bool,
}

fn one() -> f64 {
    1.0
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Invalid`] naming key, value and limit.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let recipe: Self =
            toml::from_str(&text).map_err(|e| Error::invalid(path.display().to_string(), e.to_string()))?;
        recipe.optim.check()?;
        if let Some(GeneRecipe { alpha, temperature, nested, depth_range, .. }) = &recipe.gene {
            let (alpha, temperature) = (*alpha, *temperature);
            if let Some(nested) = nested {
                nested.check(*depth_range)?;
            }
            if !(0.0..=1.0).contains(&alpha) {
                return Err(Error::invalid("gene.alpha", format!("{alpha} is not 0..=1")));
            }
            if !(temperature.is_finite() && temperature > 0.0) {
                return Err(Error::invalid(
                    "gene.temperature",
                    format!("{temperature} is not a positive number"),
                ));
            }
        }
        Ok(recipe)
    }
}

impl Nested {
    /// Most sizes drawn in a step.
    pub const MAX_DRAWS: usize = 16;
    /// Greatest power of the draw: depth 16 is then 256 times rarer than depth 4.
    pub const MAX_POWER: f64 = 4.0;

    /// Checks every number; that the widths are of the gene is checked with the gene.
    fn check(&self, served: [usize; 2]) -> Result<()> {
        let [least, greatest] = self.depths;
        let weight = |value: f64| value.is_finite() && value > 0.0;
        let rules = [
            ("widths", !self.widths.is_empty(), format!("{:?}: at least one", self.widths)),
            (
                "depths",
                served[0] <= least && least <= greatest && greatest <= served[1],
                format!("{least}..={greatest} is not within depth_range {}..={}", served[0], served[1]),
            ),
            (
                "draws",
                self.draws <= Self::MAX_DRAWS,
                format!("{} is not 0..={}", self.draws, Self::MAX_DRAWS),
            ),
            (
                "ancestor_share",
                (0.0..=1.0).contains(&self.ancestor_share),
                format!("{} is not 0..=1", self.ancestor_share),
            ),
            (
                "toward_small",
                (0.0..=Self::MAX_POWER).contains(&self.toward_small),
                format!("{} is not 0..={}", self.toward_small, Self::MAX_POWER),
            ),
            ("full_weight", weight(self.full_weight), format!("{} is not positive", self.full_weight)),
            (
                "smallest_weight",
                weight(self.smallest_weight),
                format!("{} is not positive", self.smallest_weight),
            ),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, reason)) => Err(Error::invalid(format!("gene.nested.{field}"), reason)),
            None => Ok(()),
        }
    }
}

impl Optim {
    /// Largest batch.
    pub const MAX_BATCH: usize = 4096;

    /// What networks are computed in; parameters, moments and losses are f32.
    pub const fn dtype(&self) -> DType {
        if self.bf16 { DType::BF16 } else { DType::F32 }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming key, value and limit.
    pub fn check(&self) -> Result<()> {
        let unit = |value: f64| (0.0..1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let rules = [
            ("batch", (1..=Self::MAX_BATCH).contains(&self.batch), "1..=4096", self.batch as f64),
            ("learning_rate", positive(self.learning_rate), "a positive number", self.learning_rate),
            (
                "min_learning_rate",
                (0.0..=self.learning_rate).contains(&self.min_learning_rate),
                "0..=learning_rate",
                self.min_learning_rate,
            ),
            ("weight_decay", (0.0..=1.0).contains(&self.weight_decay), "0..=1", self.weight_decay),
            ("betas", unit(self.betas[0]) && unit(self.betas[1]), "two numbers in 0..1", self.betas[0]),
            ("clip", self.clip.is_finite() && self.clip >= 0.0, "0 or a positive number", self.clip),
            ("label_smoothing", unit(self.label_smoothing), "0..1", self.label_smoothing),
            ("drop_path", unit(self.drop_path), "0..1", self.drop_path),
            ("length", self.length.steps(1) > 0, "at least one step", 0.0),
        ];
        match rules.into_iter().find(|(_, holds, ..)| !holds) {
            Some((field, _, limit, found)) => Err(Error::invalid(field, format!("{found} is not {limit}"))),
            None => Ok(()),
        }
    }
}

//! Recipes: one TOML file per training run.

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::{
    data::Augment,
    error::{Error, Result},
    file,
    tensor::Dtype,
};

/// Size limit of a recipe, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The settings of a run. Together with the data and the initial models they determine its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the data set.
    pub data: String,
    /// Seed of initial values, data order, augmentation, stochastic depth and drawn sizes.
    #[serde(default)]
    pub seed: u64,
    /// Shape of the network, or of the auxiliary model when learning a gene. Absent when the run starts from a model
    /// that has a shape already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelShape>,
    /// Model file to start from instead of fresh values, relative to the recipe's folder; for a gene of text encoders, a
    /// gene to go on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// Optimiser and schedule.
    pub optim: Optim,
    /// Augmentation of training images.
    #[serde(default)]
    pub augment: Augment,
    /// How texts are read; the data are sentences then, and the result is a gene of text encoders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<Texts>,
    /// Gene learning; without it, ordinary classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gene: Option<GeneRecipe>,
}

/// How texts are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// Most tokens of a text; the rest is cut off.
    pub max_tokens: usize,
    /// Texts of an epoch, after which the state is saved. Without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_epoch: Option<usize>,
    /// Licence of the texts, an SPDX expression.
    pub licence: String,
    /// Key or column of the texts in files that have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

/// The part of a network's shape that does not follow from the data.
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
    /// Hidden units of the MLP, as a multiple of the width.
    pub mlp_ratio: usize,
}

/// Length of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Passes over the training part.
    Epochs(u32),
    /// Optimiser steps.
    Steps(u32),
}

impl Length {
    /// Number of optimiser steps if an epoch has `per_epoch`.
    pub fn steps(self, per_epoch: u64) -> u64 {
        match self {
            Self::Epochs(epochs) => u64::from(epochs) * per_epoch,
            Self::Steps(steps) => u64::from(steps),
        }
    }
}

/// AdamW with warm-up and cosine decay, and the regularisation of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    /// Length of the run.
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
    /// Decoupled weight decay; applies to matrices only.
    #[serde(default)]
    pub weight_decay: f64,
    /// Decay rates of the moments.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Largest norm of the gradient; 0 disables clipping.
    #[serde(default)]
    pub clip: f64,
    /// Share of the target spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Drop probability of the last block (stochastic depth). It grows linearly from 0 at the first block.
    #[serde(default)]
    pub drop_path: f64,
    /// Keep only the input of each residual branch for the backward pass and recompute the rest. This saves memory for
    /// activations, costs one more forward pass, and gives the same result to the bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
    /// Compute in bf16 with f32 parameters and moments. Needs a GPU.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16: bool,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

/// Settings of gene learning (SWS).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneRecipe {
    /// Name of the gene.
    pub name: String,
    /// Licence of the weights, an SPDX identifier. Without it, that of the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Layers of each stage in the auxiliary model.
    pub stages: Vec<usize>,
    /// Smallest and largest depth to serve.
    pub depth_range: [usize; 2],
    /// The ancestor's file, relative to the recipe's folder.
    pub teacher: PathBuf,
    /// Weight of the distillation term. The paper uses 1, so labels have no influence.
    pub alpha: f64,
    /// Temperature of the distillation term. The paper uses 1.
    pub temperature: f64,
    /// Whether to start from the teacher's values. The paper starts from fresh values.
    #[serde(default)]
    pub from_teacher: bool,
    /// Whether to start from the teacher's values with channels, heads and hidden units in the order of importance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub importance: bool,
    /// Texts of a step whose similarities to a text the second term of the objective compares; for text encoders.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anchors: usize,
    /// Element type of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dtype: Dtype,
    /// Learn several depths and widths in one gene. Without it, the published objective trains one size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested: Option<Nested>,
}

/// Settings of learning nested widths and random depths; see [`super::nested`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nested {
    /// Widths to train and serve, including the full width.
    pub widths: Vec<usize>,
    /// Smallest and largest depth to draw.
    pub depths: [usize; 2],
    /// Sizes drawn in each step, in addition to the full size and the smallest.
    pub draws: usize,
    /// The ancestor's share in teaching each size. The rest comes from the next larger size of the step.
    pub ancestor_share: f64,
    /// Weight of the full size, relative to a drawn size.
    #[serde(default = "one")]
    pub full_weight: f64,
    /// Weight of the smallest size, relative to a drawn size.
    #[serde(default = "one")]
    pub smallest_weight: f64,
    /// The full size is trained in one step of this many. It learns with the others where they share its weights.
    #[serde(default = "every_step", skip_serializing_if = "is_every_step")]
    pub full_every: u64,
    /// Number of initial steps that train only the full size.
    #[serde(default)]
    pub full_only_steps: u64,
    /// Power `p ≥ 0` of the draw: a depth or width `n` is drawn with probability proportional to `n⁻ᵖ`. 0 draws
    /// uniformly.
    #[serde(default)]
    pub toward_small: f64,
    /// Give each narrower width separate scales and shifts of the norms.
    #[serde(default)]
    pub width_norms: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn every_step() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_every_step(every: &u64) -> bool {
    *every == every_step()
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
        let text = file::text(path, MAX_FILE_BYTES)?;
        let recipe: Self =
            toml::from_str(&text).map_err(|e| Error::invalid(path.display().to_string(), e.to_string()))?;
        recipe.optim.check()?;
        if let Some(GeneRecipe { alpha, temperature, nested, depth_range, anchors, .. }) = &recipe.gene {
            let needed = usize::from(recipe.texts.is_some() && *alpha > 0.0);
            if !(needed..=GeneRecipe::MAX_ANCHORS).contains(anchors) {
                let limit = format!("{needed}..={}", GeneRecipe::MAX_ANCHORS);
                return Err(Error::invalid("gene.anchors", format!("{anchors} is not {limit}")));
            }
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

impl GeneRecipe {
    /// Most anchors of a step.
    pub const MAX_ANCHORS: usize = 1 << 16;
}

impl Nested {
    /// Largest number of sizes drawn in a step.
    pub const MAX_DRAWS: usize = 16;
    /// Largest power of the draw. With it, depth 16 is 256 times rarer than depth 4.
    pub const MAX_POWER: f64 = 4.0;

    /// Checks every number. [`crate::gene::GeneMeta::check`] checks whether the widths suit the gene.
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
            ("full_every", self.full_every > 0, "0: at least 1".to_owned()),
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

    /// Element type of the networks' computation; parameters, moments and losses are f32.
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

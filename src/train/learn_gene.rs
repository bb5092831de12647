//! Gene learning by stage-wise weight sharing (SWS).
//!
//! Source: Xia et al. 2024 (arXiv 2404.16897), sections 3.1 and 3.2, and the official recipe (`α = 1`, `τ = 1`,
//! soft).
//!
//! The auxiliary model has `N` layers in `M` stages. Layer `l` belongs to stage `s(l)`, and all layers of a stage share
//! the weights `θ_{s(l)}`:
//!
//! ```text
//! f(x) = head ∘ norm ∘ B(θ_{s(N)}) ∘ … ∘ B(θ_{s(1)}) ∘ embed (x)
//! L    = (1 - α) CE(y, f(x)) + α τ² KL( softmax(g(x) / τ) ‖ softmax(f(x) / τ) )
//! ```
//!
//! | symbol | here | shape |
//! | --- | --- | --- |
//! | `θ_s` | tensors `stages.{s}.*` | one block |
//! | `f(x)` | `logits` | `[images, classes]` |
//! | `g(x)` | `teacher_logits` | `[images, classes]` |
//! | `α`, `τ` | `alpha`, `temperature` | |
//!
//! The auxiliary model is the blueprint of the trained size, expanded over the gene's variables. Serving and learning
//! therefore use the same code, and the gradient of a stage is the sum over its layers.
//!
//! Differs from the official code in: the KL term is a mean over the batch, not over batch × classes. The official term
//! is smaller by a factor of the number of classes. AdamW hides this factor except in its epsilon, in clipping and in
//! the balance with the label term at `α < 1`. As in the official code, the teacher sees the same augmented images.

use candle_core::{DType, Tensor};

use crate::{
    blueprint::{Blueprint, expand},
    error::{Context, Result},
    tensor::{Weights, ops},
};

use super::{
    Objective, Optim, Shard,
    objective::{draw_gates, network, smooth_targets},
    recipe::GeneRecipe,
    teacher::Teacher,
};

/// The distillation loss of a student.
#[derive(Debug, Clone, Copy)]
pub struct Distillation {
    /// Weight of the distillation term, `α`.
    pub alpha: f64,
    /// Temperature of the distillation term, `τ`.
    pub temperature: f64,
    /// Share of the label term's target spread over all classes.
    pub label_smoothing: f64,
}

impl Distillation {
    /// The loss of a recipe.
    pub const fn new(gene: &GeneRecipe, optim: &Optim) -> Self {
        Self { alpha: gene.alpha, temperature: gene.temperature, label_smoothing: optim.label_smoothing }
    }

    /// `(1 - α) CE(y, f(x)) + α τ² KL( softmax(g(x) / τ) ‖ softmax(f(x) / τ) )`
    ///
    /// # Shapes
    /// `logits`, `teacher_logits`: `[images, classes]`. The teacher gets no gradient.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`].
    pub fn loss(&self, logits: &Tensor, teacher_logits: &Tensor, shard: &Shard) -> Result<Tensor> {
        let soft = ops::kl_divergence(teacher_logits, logits, self.temperature).context("distillation")?;
        if self.alpha == 1.0 {
            return Ok(soft);
        }
        let targets = smooth_targets(shard, logits.dims2().context("logits")?.1, self.label_smoothing)?;
        let hard = ops::cross_entropy(logits, &targets).context("cross-entropy")?;
        ((hard * (1.0 - self.alpha)).context("loss")? + (soft * self.alpha).context("loss")?).context("loss")
    }
}

/// The distillation objective over a gene's variables.
#[derive(Debug)]
pub struct StageSharing {
    /// Blueprint of the trained size. It assigns a stage to each layer.
    pub auxiliary: Blueprint,
    /// The ancestor.
    pub teacher: Teacher,
    /// The loss.
    pub distillation: Distillation,
    /// Drop probability of the last block (stochastic depth).
    pub drop_path: f64,
    /// Seed of stochastic depth.
    pub seed: u64,
    /// Element type of the auxiliary model's computation.
    pub dtype: DType,
}

impl StageSharing {
    /// The objective of a recipe.
    pub fn new(auxiliary: Blueprint, teacher: Teacher, gene: &GeneRecipe, optim: &Optim, seed: u64) -> Self {
        let distillation = Distillation::new(gene, optim);
        Self { auxiliary, teacher, distillation, drop_path: optim.drop_path, seed, dtype: optim.dtype() }
    }
}

impl Objective for StageSharing {
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor> {
        let config = *self.auxiliary.info.config.vit()?;
        let weights = expand(&self.auxiliary, weights, shard.device())?;
        let model = network(config, &weights, self.dtype)?;
        let gates = draw_gates(self.seed, self.drop_path, config.depth(), shard)?;
        let logits = model.forward_gated(shard.images()?, &gates).context("auxiliary model")?;
        self.distillation.loss(&logits, &self.teacher.logits(shard)?, shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Input;
    use candle_core::Device;

    /// One image of class 1; the logits are logarithms, so that the probabilities are simple.
    #[test]
    fn the_loss_is_the_one_computed_by_hand() {
        let row = |values: [f32; 2]| Tensor::new(&[values], &Device::Cpu).unwrap();
        let ln = |value: f64| libm::log(value) as f32;
        // At τ = 2: the teacher says (1/4, 3/4), the student (2/3, 1/3). At τ = 1 the student says (4/5, 1/5).
        let (teacher, student) = (row([0.0, ln(9.0)]), row([ln(4.0), 0.0]));
        let shard = Shard {
            input: Input::Images(row([0.0; 2])),
            labels: vec![1],
            items: vec![0],
            views: vec![0],
            step: 0,
            first: 0,
        };
        let loss = |alpha| {
            let distillation = Distillation { alpha, temperature: 2.0, label_smoothing: 0.2 };
            distillation.loss(&student, &teacher, &shard).unwrap().to_scalar::<f32>().unwrap()
        };
        // CE = 0.1 ln(5/4) + 0.9 ln 5, and τ² KL = 4 (1/4 ln(3/8) + 3/4 ln(9/4)).
        let (hard, soft) = (1.470_808_5, 1.451_961_4);
        for (alpha, expected) in [(0.0, hard), (1.0, soft), (0.3, 0.7 * hard + 0.3 * soft)] {
            assert!((loss(alpha) - expected).abs() < 1e-6, "{alpha}: {} is not {expected}", loss(alpha));
        }
    }
}

//! Objectives: the losses that training minimises, and what they share.

use candle_core::{DType, Tensor, backprop::GradStore};

use crate::{
    error::{Context as _, Result},
    nn::{Gates, Vit, VitConfig},
    tensor::{Weights, ops::Gate, rng},
};

use super::Shard;

/// A scalar loss as a function of named weights, which carry the autograd graph.
pub trait Objective: Sync {
    /// Mean loss over the items of `shard`.
    ///
    /// # Errors
    /// Those of building the network, and [`crate::error::Error::Tensor`].
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor>;

    /// Whether a step may leave some parameters without a gradient, because it trains randomly drawn sizes.
    fn samples(&self) -> bool {
        false
    }
}

/// Stack size of a training thread; large, because candle's backward pass recurses over the graph.
pub(super) const STACK_BYTES: usize = 256 << 20;

/// What `shard` contributes to the mean loss over a batch of `items` items, with candle's gradients.
///
/// Needs a thread with a stack of [`STACK_BYTES`].
pub(super) fn backward(
    objective: &dyn Objective,
    weights: &Weights,
    shard: &Shard,
    items: usize,
) -> Result<(f64, GradStore)> {
    let share = shard.len() as f64 / items as f64;
    let loss = (objective.loss(weights, shard)? * share).context("loss")?;
    #[expect(clippy::disallowed_methods, reason = "the one backward pass, on a thread with a large stack")]
    let store = loss.backward().context("backward")?;
    Ok((f64::from(loss.to_scalar::<f32>().context("loss")?), store))
}

/// The network of `weights`, computed in `dtype`. Weights with another type are cast; gradients flow through the casts.
///
/// # Errors
/// The schema errors, and [`crate::error::Error::Tensor`] if a cast fails.
pub fn network(config: VitConfig, weights: &Weights, dtype: DType) -> Result<Vit> {
    Vit::new(config, &weights.to_dtype(dtype)?)
}

/// Targets of cross-entropy: `(1 - smoothing)` on the label and `smoothing` spread over all classes (Szegedy et
/// al. 2016, arXiv 1512.00567, section 7).
///
/// # Shapes
/// Result: `[images, classes]`.
///
/// # Errors
/// [`crate::error::Error::Tensor`].
pub fn smooth_targets(shard: &Shard, classes: usize, smoothing: f64) -> Result<Tensor> {
    let mut targets = vec![(smoothing / classes as f64) as f32; shard.labels.len() * classes];
    for (row, label) in targets.chunks_exact_mut(classes).zip(&shard.labels) {
        row[*label as usize] += (1.0 - smoothing) as f32;
    }
    Tensor::from_vec(targets, (shard.labels.len(), classes), shard.device()).context("targets")
}

/// Stochastic depth (Huang et al. 2016, arXiv 1603.09382). Block `l` of `L`, counted from 0, drops each branch of each
/// image with probability `q = p l / (L - 1)` and scales a branch that it keeps by `1 / (1 - q)`.
///
/// The draw is keyed by seed, step and position in the batch, so it does not depend on shards and threads.
///
/// # Errors
/// [`crate::error::Error::Tensor`].
pub fn draw_gates(seed: u64, probability: f64, depth: usize, shard: &Shard) -> Result<Vec<Gates>> {
    if probability == 0.0 {
        return Ok(vec![Gates::default(); depth]);
    }
    let images = shard.len();
    let mut factors = vec![vec![0f32; images]; 2 * depth];
    for image in 0..images {
        let mut random = rng::stream(seed, &format!("drop-path/{}/{}", shard.step, shard.first + image));
        for (branch, factors) in factors.iter_mut().enumerate() {
            let p = (probability * (branch / 2) as f64 / (depth - 1).max(1) as f64) as f32;
            factors[image] = if random.unit_f32() < p { 0.0 } else { 1.0 / (1.0 - p) };
        }
    }
    let gate = |factors: &[f32]| -> Result<Gate> {
        let out = Tensor::from_slice(factors, (images, 1, 1), shard.device());
        Ok(Gate { out: Some(out.context("stochastic depth")?), inner: None })
    };
    factors.chunks_exact(2).map(|pair| Ok(Gates { mixer: gate(&pair[0])?, mlp: gate(&pair[1])? })).collect()
}

//! What training minimises.

use candle_core::{DType, Tensor};

use crate::{
    error::{Context as _, Result},
    nn::{DropPath, Vit, VitConfig, block::Keep},
    tensor::{Weights, rng},
};

/// A part of a batch: the unit of work of one thread and the unit of summation.
#[derive(Debug)]
pub struct Shard {
    /// `[images, channels, height, width]`.
    pub images: Tensor,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// Item of the data set that each image is.
    pub items: Vec<u32>,
    /// Which of its views.
    pub views: Vec<u8>,
    /// Optimiser step, from 0.
    pub step: u64,
    /// Position of the first image in its batch.
    pub first: usize,
}

/// A scalar to minimise, as a function of named weights that carry the graph.
pub trait Objective: Sync {
    /// Mean loss over the images of `shard`.
    ///
    /// # Errors
    /// Those of building the network, and [`crate::error::Error::Tensor`].
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor>;

    /// Whether a step may leave parameters out, because what it trains is drawn.
    fn samples(&self) -> bool {
        false
    }
}

/// The network of `weights`, computed in `dtype`: of casts, where they have another, which hand their gradients back.
///
/// # Errors
/// The schema errors, and [`crate::error::Error::Tensor`] where a cast fails.
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
    Tensor::from_vec(targets, (shard.labels.len(), classes), shard.images.device()).context("targets")
}

/// Stochastic depth (Huang et al. 2016, arXiv 1603.09382): block `l` of `L` drops each branch of each image with
/// probability `p l / (L - 1)`, `l` from 0, and scales what it keeps by the inverse of the rest.
///
/// The draw is keyed by seed, step and position in the batch: independent of shards and threads.
///
/// # Errors
/// [`crate::error::Error::Tensor`].
pub fn draw_paths(seed: u64, probability: f64, depth: usize, shard: &Shard) -> Result<DropPath> {
    if probability == 0.0 {
        return Ok(DropPath::none(depth));
    }
    let images = shard.labels.len();
    let mut factors = vec![vec![0f32; images]; 2 * depth];
    for image in 0..images {
        let mut random = rng::stream(seed, &format!("drop-path/{}/{}", shard.step, shard.first + image));
        for (branch, factors) in factors.iter_mut().enumerate() {
            let p = (probability * (branch / 2) as f64 / (depth - 1).max(1) as f64) as f32;
            factors[image] = if random.unit_f32() < p { 0.0 } else { 1.0 / (1.0 - p) };
        }
    }
    let keep = |factors: &[f32]| -> Result<Keep> {
        let factor =
            Tensor::from_slice(factors, (images, 1, 1), shard.images.device()).context("stochastic depth")?;
        Ok(Keep(Some(factor)))
    };
    let pairs = factors.chunks_exact(2).map(|pair| Ok([keep(&pair[0])?, keep(&pair[1])?]));
    Ok(DropPath::new(pairs.collect::<Result<_>>()?))
}

//! Ordinary classification: cross-entropy with smoothed labels.

use candle_core::{DType, Tensor};

use crate::{
    error::{Context, Result},
    nn::VitConfig,
    tensor::{Weights, ops},
};

use super::{
    Objective, Optim, Shard,
    objective::{draw_gates, network, smooth_targets},
};

/// Cross-entropy of a vision transformer against smoothed labels.
#[derive(Debug, Clone)]
pub struct Classification {
    /// Shape of the network.
    pub config: VitConfig,
    /// Share of the target spread over all classes.
    pub label_smoothing: f64,
    /// Drop probability of the last block (stochastic depth).
    pub drop_path: f64,
    /// Seed of stochastic depth.
    pub seed: u64,
    /// Element type of the computation.
    pub dtype: DType,
}

impl Classification {
    /// The objective of a recipe.
    pub const fn new(config: VitConfig, optim: &Optim, seed: u64) -> Self {
        Self {
            config,
            label_smoothing: optim.label_smoothing,
            drop_path: optim.drop_path,
            seed,
            dtype: optim.dtype(),
        }
    }
}

impl Objective for Classification {
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor> {
        let model = network(self.config, weights, self.dtype)?;
        let gates = draw_gates(self.seed, self.drop_path, self.config.depth(), shard)?;
        let targets = smooth_targets(shard, self.config.classes(), self.label_smoothing)?;
        let logits = model.forward_gated(shard.images()?, &gates).context("forward")?;
        ops::cross_entropy(&logits, &targets).context("cross-entropy")
    }
}

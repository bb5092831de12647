//! The pre-norm transformer block of timm's `Block`, and stochastic depth.
//!
//! Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eqs. (2) and (3); Huang et al. 2016 (arXiv 1603.09382)
//! for [`Keep`].

use candle_core::{Result, Tensor};

use crate::{
    error,
    tensor::{Weights, ops},
};

use super::{
    layers::{LayerNorm, Linear},
    mixer::Attention,
};

/// What stochastic depth does to one residual branch: nothing, or a factor `0` or `1 / (1 - p)` per sample.
#[derive(Debug, Clone, Default)]
pub struct Keep(pub Option<Tensor>); // [batch, 1, 1]

impl Keep {
    fn apply(&self, branch: Tensor) -> Result<Tensor> {
        match &self.0 {
            Some(factor) => branch.broadcast_mul(factor),
            None => Ok(branch),
        }
    }
}

/// Two linear layers with an erf-GELU between them.
#[derive(Debug, Clone)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(weights: &Weights, prefix: &str) -> error::Result<Self> {
        let linear = |part: &str| Linear::new(weights, &format!("{prefix}.{part}"));
        Ok(Self { fc1: linear("fc1")?, fc2: linear("fc2")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&ops::gelu(&self.fc1.forward(x)?)?)
    }
}

/// One transformer block.
#[derive(Debug, Clone)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    /// Takes the block's parameters under `prefix`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, prefix: &str, heads: usize) -> error::Result<Self> {
        let name = |part: &str| format!("{prefix}.{part}");
        Ok(Self {
            norm1: LayerNorm::new(weights, &name("norm1"))?,
            attn: Attention::new(weights, &name("attn"), heads)?,
            norm2: LayerNorm::new(weights, &name("norm2"))?,
            mlp: Mlp::new(weights, &name("mlp"))?,
        })
    }

    /// # Shapes
    /// `x`: `[batch, tokens, width]`; result: the same. `keep` is stochastic depth of the attention and of the
    /// MLP branch.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward(&self, x: &Tensor, keep: &[Keep; 2]) -> Result<Tensor> {
        let x = (x + keep[0].apply(self.attn.forward(&self.norm1.forward(x)?)?)?)?;
        &x + keep[1].apply(self.mlp.forward(&self.norm2.forward(&x)?)?)?
    }
}

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
    config::NORM_EPS,
    layers::{LayerNorm, Linear},
    mixer::Attention,
};

/// What stochastic depth does to one residual branch: nothing, or a factor `0` or `1 / (1 - p)` per sample.
#[derive(Debug, Clone, Default)]
pub struct Keep(pub Option<Tensor>); // [batch, 1, 1]

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

    /// `x + keep · Fc2(GELU(Fc1(norm(x))))`
    fn residual(&self, x: &Tensor, norm: &LayerNorm, keep: &Keep) -> Result<Tensor> {
        let layers = [self.fc1.affine(), self.fc2.affine()];
        ops::mlp_branch(x, norm.affine(), NORM_EPS, layers, keep.0.as_ref())
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
        let x = self.attn.residual(x, &self.norm1, &keep[0])?;
        self.mlp.residual(&x, &self.norm2, &keep[1])
    }

    /// The class token of [`Block::forward`], for the last block: nothing reads its other tokens.
    ///
    /// # Shapes
    /// `x`: `[batch, tokens, width]`; result: `[batch, 1, width]`.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward_class(&self, x: &Tensor, keep: &[Keep; 2]) -> Result<Tensor> {
        let x = self.attn.class_residual(x, &self.norm1, &keep[0])?;
        self.mlp.residual(&x, &self.norm2, &keep[1])
    }
}

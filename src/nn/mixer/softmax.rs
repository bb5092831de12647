//! Multi-head softmax attention.
//!
//! Source: Vaswani et al. 2017, section 3.2, eq. (1); fused projection and names as in timm's `Attention`.
//!
//! `Attention(Q, K, V) = softmax(Q Kᵀ / √d) V`, with `d` the dimension of a head.

use candle_core::{Result, Tensor};

use crate::{
    error,
    nn::{
        block::Keep,
        config::NORM_EPS,
        layers::{LayerNorm, Linear},
    },
    tensor::{Weights, ops},
};

/// Attention over all tokens of a sequence.
#[derive(Debug, Clone)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    /// Takes `{prefix}.qkv` and `{prefix}.proj`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, prefix: &str, heads: usize) -> error::Result<Self> {
        let linear = |part: &str| Linear::new(weights, &format!("{prefix}.{part}"));
        Ok(Self { qkv: linear("qkv")?, proj: linear("proj")?, heads })
    }

    /// `x + keep · Proj(Attention(norm(x)))`, the residual branch of a block.
    ///
    /// # Shapes
    /// `x`: `[batch, tokens, width]`; result: the same.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn residual(&self, x: &Tensor, norm: &LayerNorm, keep: &Keep) -> Result<Tensor> {
        let layers = [self.qkv.affine(), self.proj.affine()];
        ops::attention_branch(x, norm.affine(), NORM_EPS, layers, self.heads, keep.0.as_ref())
    }

    /// [`Attention::residual`] of the class token alone.
    ///
    /// # Shapes
    /// `x`: `[batch, tokens, width]`; result: `[batch, 1, width]`.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn class_residual(&self, x: &Tensor, norm: &LayerNorm, keep: &Keep) -> Result<Tensor> {
        let layers = [self.qkv.affine(), self.proj.affine()];
        ops::class_attention_branch(x, norm.affine(), NORM_EPS, layers, self.heads, keep.0.as_ref())
    }
}

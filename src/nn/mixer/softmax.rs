//! Multi-head softmax attention.
//!
//! Source: Vaswani et al. 2017, section 3.2, eq. (1); fused projection and names as in timm's `Attention`.
//!
//! `Attention(Q, K, V) = softmax(Q Kᵀ / √d) V`, with `d` the dimension of a head.

use candle_core::{Result, Tensor};

use crate::{
    error,
    nn::layers::Linear,
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

    /// # Shapes
    /// `x`: `[batch, tokens, width]`; result: the same.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?; // [batch, tokens, 3 * width]
        self.proj.forward(&ops::attention(&qkv, self.heads)?)
    }
}

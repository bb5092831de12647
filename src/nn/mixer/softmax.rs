//! Multi-head softmax attention.
//!
//! Source: Vaswani et al. 2017, section 3.2, eq. (1); fused projection as in timm's `Attention`, or three as in
//! transformers.
//!
//! `Attention(Q, K, V) = softmax(Q Kᵀ / √d) V`, with `d` the dimension of a head.

use candle_core::Tensor;

use crate::{
    error,
    nn::layers::{LayerNorm, Linear},
    tensor::{
        Weights,
        ops::{Branch, Core, Gate, Rows},
    },
};

/// Attention over all tokens of a sequence.
#[derive(Debug, Clone)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    /// Takes the linear layers called `qkv` and `proj`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, qkv: &str, proj: &str, heads: usize) -> error::Result<Self> {
        Ok(Self { qkv: Linear::new(weights, qkv)?, proj: Linear::new(weights, proj)?, heads })
    }

    /// Takes separate layers for query, key and value, and `proj`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`], or a shape that cannot be stacked.
    pub fn split(weights: &Weights, qkv: &[String; 3], proj: &str, heads: usize) -> error::Result<Self> {
        Ok(Self { qkv: Linear::stacked(weights, qkv)?, proj: Linear::new(weights, proj)?, heads })
    }

    /// The residual branch with `norm`, computed for the tokens `rows`, that sees the keys that are not zero in `keys`.
    pub(in crate::nn) fn branch<'a>(
        &'a self,
        norm: &'a LayerNorm,
        gate: &'a Gate,
        rows: Rows,
        keys: Option<&'a Tensor>,
    ) -> Branch<'a> {
        let core = Core::Attention {
            qkv: self.qkv.affine(),
            proj: self.proj.affine(),
            heads: self.heads,
            rows,
            keys,
        };
        Branch { norm: norm.of_branch(), core, gate }
    }
}

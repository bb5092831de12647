//! Multi-head softmax attention.
//!
//! Source: Vaswani et al. 2017, section 3.2, eq. (1); fused projection as in timm's `Attention`.
//!
//! `Attention(Q, K, V) = softmax(Q Kᵀ / √d) V`, with `d` the dimension of a head.

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

    /// The residual branch that begins with `norm`, computed for the tokens `rows`.
    pub(in crate::nn) fn branch<'a>(&'a self, norm: &'a LayerNorm, gate: &'a Gate, rows: Rows) -> Branch<'a> {
        let core = Core::Attention {
            qkv: self.qkv.affine(),
            proj: self.proj.affine(),
            heads: self.heads,
            rows,
            keys: None,
        };
        Branch { norm: norm.before(), core, gate }
    }
}

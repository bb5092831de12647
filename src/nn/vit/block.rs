//! The pre-norm transformer block of timm's `Block`.
//!
//! Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eqs. (2) and (3).
//!
//! ```text
//! z' = z + MSA(LN z)
//! z  = z' + MLP(LN z')
//! ```

use candle_core::{Result, Tensor};

use crate::{
    error,
    nn::{layers::LayerNorm, mixer::Attention, mlp::Mlp},
    tensor::{
        Weights,
        ops::{Gate, Rows, pre_norm},
    },
};

use super::VitConfig;
use super::schema::{FC1, FC2, NORM1, NORM2, PROJ, QKV, in_block};

/// The gates of a block, set by stochastic depth or by a router. By default they are open.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// Gate of the attention branch.
    pub mixer: Gate,
    /// Gate of the MLP branch.
    pub mlp: Gate,
}

/// One transformer block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    /// Takes the parameters of block `index`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub(super) fn new(weights: &Weights, index: usize, config: &VitConfig) -> error::Result<Self> {
        let (eps, heads) = (config.norm_eps(), config.heads());
        let name = |module: &str| in_block(index, module);
        Ok(Self {
            norm1: LayerNorm::new(weights, &name(NORM1), eps)?,
            attn: Attention::new(weights, &name(QKV), &name(PROJ), heads)?,
            norm2: LayerNorm::new(weights, &name(NORM2), eps)?,
            mlp: Mlp::new(weights, &name(FC1), &name(FC2))?,
        })
    }

    /// # Shapes
    /// `z`: `[batch, tokens, width]`; result: the same, or `[batch, 1, width]` for [`Rows::First`].
    ///
    /// # Errors
    /// A candle error if shapes disagree.
    pub(super) fn forward(&self, z: &Tensor, gates: &Gates, rows: Rows) -> Result<Tensor> {
        let z = pre_norm(z, &self.attn.branch(&self.norm1, &gates.mixer, rows, None))?;
        pre_norm(&z, &self.mlp.branch(&self.norm2, &gates.mlp))
    }
}

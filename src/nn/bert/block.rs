//! The post-norm transformer block of transformers' `BertLayer`.
//!
//! Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.1; Devlin et al. 2018 (arXiv 1810.04805), section 3.
//!
//! ```text
//! h' = LN(h + MSA(h))
//! h  = LN(h' + MLP(h'))
//! ```

use candle_core::{Result, Tensor};

use crate::{
    error,
    nn::{Gates, layers::LayerNorm, mixer::Attention, mlp::Mlp},
    tensor::{
        Weights,
        ops::{Rows, post_norm},
    },
};

use super::BertConfig;
use super::schema::{FC1, FC2, NORM1, NORM2, PROJ, QKV, in_block};

/// One transformer block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    attn: Attention,
    norm1: LayerNorm,
    mlp: Mlp,
    norm2: LayerNorm,
}

impl Block {
    /// Takes the parameters of block `index`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub(super) fn new(weights: &Weights, index: usize, config: &BertConfig) -> error::Result<Self> {
        let (eps, heads) = (config.norm_eps(), config.raw().heads);
        let name = |module: &str| in_block(index, module);
        Ok(Self {
            attn: Attention::split(weights, &QKV.map(name), &name(PROJ), heads)?,
            norm1: LayerNorm::new(weights, &name(NORM1), eps)?,
            mlp: Mlp::new(weights, &name(FC1), &name(FC2))?,
            norm2: LayerNorm::new(weights, &name(NORM2), eps)?,
        })
    }

    /// # Shapes
    /// `h`: `[batch, tokens, width]`; `keys`: `[batch, tokens]`, 0 for padding; result: as `h`.
    ///
    /// # Errors
    /// A candle error if shapes disagree.
    pub(super) fn forward(&self, h: &Tensor, keys: &Tensor, gates: &Gates) -> Result<Tensor> {
        let h = post_norm(h, &self.attn.branch(&self.norm1, &gates.mixer, Rows::All, Some(keys)))?;
        post_norm(&h, &self.mlp.branch(&self.norm2, &gates.mlp))
    }
}

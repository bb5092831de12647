//! The text encoder, as transformers' `BertModel` with the pooling of sentence-transformers.
//!
//! Source: Devlin et al. 2018 (arXiv 1810.04805), section 3; Reimers & Gurevych 2019 (arXiv 1908.10084), section 3.
//!
//! ```text
//! e_t = LN(word[id_t] + kind[0] + position[t]),   H_0 = [e_1 … e_n],   H_l = Block_l(H_{l-1})
//! v   = W · pool(H_L),                            v ← v / ‖v‖ if vectors have length 1
//! ```

use candle_core::{DType, Device, Result, Tensor};

use crate::{
    error::{self, Error},
    nn::{Gates, layers::LayerNorm},
    tensor::{
        Weight, Weights,
        ops::{self, Affine, Tables},
    },
};

mod block;
pub mod config;
pub mod schema;

pub use config::{BertConfig, Pooling, RawBertConfig};

use block::Block;

/// Number of tokens that pass through the network together on the CPU; see the vision transformer's.
pub const ROWS: usize = 1024;

/// Texts as token ids, padded to the longest.
#[derive(Debug, Clone)]
pub struct Texts {
    /// Token ids, `[batch, tokens]`, u32.
    pub ids: Tensor,
    /// 1 for a token and 0 for padding, `[batch, tokens]`, f32.
    pub mask: Tensor,
}

impl Texts {
    /// The texts `first..first + count`.
    fn part(&self, first: usize, count: usize) -> Result<Self> {
        Ok(Self { ids: self.ids.narrow(0, first, count)?, mask: self.mask.narrow(0, first, count)? })
    }
}

/// A text encoder built from named weights.
#[derive(Debug, Clone)]
pub struct Bert {
    config: BertConfig,
    tables: Tables,
    norm: LayerNorm,
    blocks: Vec<Block>,
    projection: Option<Affine>, // [dimension, width], without a bias
}

impl Bert {
    /// Takes exactly the tensors of [`BertConfig::schema`].
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`] or [`Error::ShapeMismatch`].
    pub fn new(config: BertConfig, weights: &Weights) -> error::Result<Self> {
        weights.check(config.schema().shapes())?;
        let projection = || {
            let weight = weights.get(schema::PROJECTION)?.clone();
            let zeros = Tensor::zeros(config.dimension(), weight.dtype(), weight.device());
            let bias = zeros.and_then(|zeros| Weight::new(&zeros));
            Ok::<_, Error>(Affine { weight, bias: error::Context::context(bias, schema::PROJECTION)? })
        };
        Ok(Self {
            config,
            tables: Tables {
                words: weights.get(schema::WORDS)?.clone(),
                positions: weights.get(schema::POSITIONS)?.clone(),
                kinds: weights.get(schema::KINDS)?.clone(),
            },
            norm: LayerNorm::new(weights, schema::NORM, config.norm_eps())?,
            blocks: (0..config.raw().depth)
                .map(|index| Block::new(weights, index, &config))
                .collect::<error::Result<_>>()?,
            projection: (config.raw().dimension > 0).then(projection).transpose()?,
        })
    }

    /// The shape of this network.
    pub const fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The device of its weights.
    pub fn device(&self) -> &Device {
        self.tables.words.device()
    }

    /// The vectors of a batch with all gates open, `[batch, dimension]` in f32.
    ///
    /// # Errors
    /// A candle error if shapes disagree, an id has no row, or a text is longer than the positions.
    pub fn forward(&self, texts: &Texts) -> Result<Tensor> {
        let ((batch, tokens), open) = (texts.ids.dims2()?, vec![Gates::default(); self.blocks.len()]);
        let part = (ROWS / tokens.max(1)).max(1);
        if !self.device().is_cpu() || batch <= part {
            return self.forward_gated(texts, &open);
        }
        let vectors = (0..batch)
            .step_by(part)
            .map(|first| self.forward_gated(&texts.part(first, part.min(batch - first))?, &open));
        Tensor::cat(&vectors.collect::<Result<Vec<_>>>()?, 0)
    }

    /// The vectors of a batch under `gates`, one for each block.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn forward_gated(&self, texts: &Texts, gates: &[Gates]) -> Result<Tensor> {
        let states = self.states(texts, gates)?;
        let pooled = match self.config.raw().pooling {
            Pooling::Mean => mean(&states, &texts.mask)?,
            Pooling::Cls => states.narrow(1, 0, 1)?.squeeze(1)?,
        };
        let vectors = match &self.projection {
            Some(projection) => ops::linear(&pooled, projection)?,
            None => pooled,
        }
        .to_dtype(DType::F32)?;
        if self.config.raw().normalize { normalized(&vectors) } else { Ok(vectors) }
    }

    /// The states of the tokens after the last block, `[batch, tokens, width]`.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn states(&self, texts: &Texts, gates: &[Gates]) -> Result<Tensor> {
        if gates.len() != self.blocks.len() {
            candle_core::bail!("{} gates for {} blocks", gates.len(), self.blocks.len());
        }
        let mut states = self.norm.forward(&ops::embedding(&texts.ids, &self.tables)?)?;
        for (block, gates) in self.blocks.iter().zip(gates) {
            states = block.forward(&states, &texts.mask, gates)?;
        }
        Ok(states)
    }
}

/// The mean of each text's states over its tokens.
///
/// # Shapes
/// - `states`: `[batch, tokens, width]`; `mask`: `[batch, tokens]`; result: `[batch, width]`
fn mean(states: &Tensor, mask: &Tensor) -> Result<Tensor> {
    // As in sentence-transformers, a text without a token has the vector 0.
    let count = mask.sum_keepdim(1)?.maximum(1e-9)?;
    let shares = mask.broadcast_div(&count)?.to_dtype(states.dtype())?.unsqueeze(2)?;
    states.broadcast_mul(&shares)?.sum(1)
}

/// Rows of length 1.
fn normalized(x: &Tensor) -> Result<Tensor> {
    // PyTorch's `normalize` divides by at least 1e-12.
    x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.maximum(1e-24)?.sqrt()?)
}

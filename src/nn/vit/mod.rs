//! The vision transformer, as timm's `VisionTransformer` with a class token.
//!
//! Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eqs. (1) to (4).
//!
//! `z₀ = [cls; x₁E; …; x_N E] + E_pos`, `z_l = Block_l(z_{l-1})`, `logits = head(norm(z_L)[0])`.

use candle_core::{DType, Result, Tensor, bail};

use crate::{
    error,
    tensor::{
        Weight, Weights,
        ops::{self, Rows},
    },
};

use super::layers::{LayerNorm, Linear};

mod block;
pub mod config;
pub mod schema;

pub use block::Gates;
pub use config::{RawVitConfig, VitConfig};

use block::Block;

/// Number of tokens that pass through the network together on the CPU. It is large enough for efficient products and
/// small enough that activations stay in the caches and in memory that the allocator already holds.
const ROWS: usize = 1024;

/// A vision transformer built from named weights.
#[derive(Debug, Clone)]
pub struct Vit {
    config: VitConfig,
    class_token: Weight, // [1, 1, width]
    positions: Weight,   // [1, tokens, width]
    patches: Linear,     // [width, channels * patch * patch]
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Option<Linear>,
}

impl Vit {
    /// Takes exactly the tensors of [`VitConfig::schema`].
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`], [`error::Error::UnexpectedTensor`] or
    /// [`error::Error::ShapeMismatch`].
    pub fn new(config: VitConfig, weights: &Weights) -> error::Result<Self> {
        weights.check(config.schema().shapes())?;
        let block = |index| Block::new(weights, index, &config);
        Ok(Self {
            config,
            class_token: weights.get(schema::CLASS_TOKEN)?.clone(),
            positions: weights.get(schema::POSITIONS)?.clone(),
            patches: Linear::new(weights, schema::PATCHES)?,
            blocks: (0..config.depth()).map(block).collect::<error::Result<_>>()?,
            norm: LayerNorm::new(weights, schema::NORM, config.norm_eps())?,
            head: (config.classes() > 0).then(|| Linear::new(weights, schema::HEAD)).transpose()?,
        })
    }

    /// The shape of this network.
    pub const fn config(&self) -> &VitConfig {
        &self.config
    }

    /// The device of its weights.
    pub fn device(&self) -> &candle_core::Device {
        self.class_token.device()
    }

    /// Logits of a batch with all gates open, or, without a head, final states of its class tokens.
    ///
    /// # Shapes
    /// `images`: `[batch, channels, height, width]`; result: `[batch, classes]`, or `[batch, width]`
    /// without a head.
    ///
    /// # Errors
    /// A candle error if shapes disagree.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, open) = (images.dims4()?.0, vec![Gates::default(); self.blocks.len()]);
        let part = (ROWS / self.config.tokens()).max(1);
        if !images.device().is_cpu() || batch <= part {
            return self.forward_gated(images, &open);
        }
        let logits = (0..batch)
            .step_by(part)
            .map(|first| self.forward_gated(&images.narrow(0, first, part.min(batch - first))?, &open));
        Tensor::cat(&logits.collect::<Result<Vec<_>>>()?, 0)
    }

    /// The result for a batch under `gates`.
    ///
    /// # Shapes
    /// As for [`Vit::forward`]; `gates` has one element per block.
    ///
    /// # Errors
    /// A candle error if shapes disagree.
    pub fn forward_gated(&self, images: &Tensor, gates: &[Gates]) -> Result<Tensor> {
        let ([blocks @ .., last], [gates @ .., last_gates]) = (self.blocks.as_slice(), gates) else {
            bail!("a network without a block");
        };
        let mut z = self.embed(images)?; // [batch, tokens, width]
        for (block, gates) in blocks.iter().zip(gates) {
            z = block.forward(&z, gates, Rows::All)?;
        }
        // LayerNorm acts on each token separately, so token 0 can be picked before the final norm.
        let class = last.forward(&z, last_gates, Rows::First)?.squeeze(1)?; // [batch, width]
        let class = self.norm.forward(&class)?;
        let result = match &self.head {
            Some(head) => head.forward(&class)?,
            None => class,
        };
        // Losses are computed in f32 whatever the dtype of the network.
        result.to_dtype(DType::F32)
    }

    /// `[cls; x₁E; …; x_N E] + E_pos`.
    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let (b, c, _, _) = images.dims4()?;
        let (p, side) = (self.config.patch_size(), self.config.image_size() / self.config.patch_size());
        // The dtype of the computation is the network's, not the images'.
        let patches = images
            .to_dtype(self.class_token.dtype())?
            .reshape((b, c, side, p, side, p))?
            .permute((0, 2, 4, 1, 3, 5))?
            .reshape((b, side * side, self.config.patch_dim()))?; // [batch, patches, channels * patch * patch]
        ops::sequence(&self.patches.forward(&patches)?, &self.class_token, &self.positions)
    }
}

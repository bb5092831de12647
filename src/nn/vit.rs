//! The vision transformer of timm's `VisionTransformer` with a class token.
//!
//! Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eqs. (1) to (4).
//!
//! `z₀ = [cls; x₁E; …; x_N E] + E_pos`, `z_l = Block_l(z_{l-1})`, `logits = head(norm(z_L)[0])`.

use candle_core::{DType, Result, Tensor, bail};

use crate::{
    error,
    tensor::{Weight, Weights, ops},
};

use super::{
    VitConfig,
    block::{Block, Keep},
    layers::{LayerNorm, Linear},
    schema,
};

/// Tokens that go through the network together on the CPU: enough for the products, and their activations stay in the
/// caches and in memory that the allocator has at hand.
const ROWS: usize = 1024;

/// Stochastic depth of one batch: the factors of both branches of every block.
#[derive(Debug, Clone, Default)]
pub struct DropPath(Vec<[Keep; 2]>);

impl DropPath {
    /// One pair per block, first block first.
    pub fn new(blocks: Vec<[Keep; 2]>) -> Self {
        Self(blocks)
    }

    /// Every branch of `depth` blocks is kept.
    pub fn none(depth: usize) -> Self {
        Self(vec![Default::default(); depth])
    }
}

/// A vision transformer built from named weights.
#[derive(Debug, Clone)]
pub struct Vit {
    config: VitConfig,
    class_token: Weight, // [1, 1, width]
    positions: Weight,   // [1, tokens, width]
    patches: Linear,     // [width, channels * patch * patch]
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl Vit {
    /// Takes exactly the tensors of [`schema::vit`].
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`], [`error::Error::UnexpectedTensor`] or
    /// [`error::Error::ShapeMismatch`].
    pub fn new(config: VitConfig, weights: &Weights) -> error::Result<Self> {
        let specs = schema::vit(&config);
        weights.check(specs.iter().map(|spec| (spec.name.as_str(), spec.shape(&config))))?;
        let block = |i| Block::new(weights, &format!("blocks.{i}"), config.heads());
        Ok(Self {
            config,
            class_token: weights.get(schema::CLASS_TOKEN)?.clone(),
            positions: weights.get(schema::POSITIONS)?.clone(),
            patches: Linear::new(weights, schema::PATCHES)?,
            blocks: (0..config.depth()).map(block).collect::<error::Result<_>>()?,
            norm: LayerNorm::new(weights, schema::NORM)?,
            head: Linear::new(weights, schema::HEAD)?,
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

    /// Logits of a batch with every branch kept.
    ///
    /// # Shapes
    /// `images`: `[batch, channels, height, width]`; result: `[batch, classes]`.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, every) = (images.dims4()?.0, DropPath::none(self.blocks.len()));
        let part = (ROWS / self.config.tokens()).max(1);
        if !images.device().is_cpu() || batch <= part {
            return self.forward_dropping(images, &every);
        }
        let logits = (0..batch)
            .step_by(part)
            .map(|first| self.forward_dropping(&images.narrow(0, first, part.min(batch - first))?, &every));
        Tensor::cat(&logits.collect::<Result<Vec<_>>>()?, 0)
    }

    /// Logits of a batch under stochastic depth.
    ///
    /// # Shapes
    /// As [`Vit::forward`]; `paths` has a pair per block.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward_dropping(&self, images: &Tensor, paths: &DropPath) -> Result<Tensor> {
        let mut z = self.embed(images)?; // [batch, tokens, width]
        let [blocks @ .., last] = self.blocks.as_slice() else { bail!("a network without a block") };
        for (block, keep) in blocks.iter().zip(&paths.0) {
            z = block.forward(&z, keep)?;
        }
        // LayerNorm is per token, so norm → token 0 may pick the token first.
        let class = last.forward_class(&z, &paths.0[blocks.len()])?.squeeze(1)?; // [batch, width]
        // A loss is computed in f32 whatever the network is.
        self.head.forward(&self.norm.forward(&class)?)?.to_dtype(DType::F32)
    }

    /// `[cls; x₁E; …; x_N E] + E_pos`.
    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let (b, c, _, _) = images.dims4()?;
        let (p, side) = (self.config.patch_size(), self.config.image_size() / self.config.patch_size());
        // The network decides what is computed in, not the images.
        let patches = images
            .to_dtype(self.class_token.dtype())?
            .reshape((b, c, side, p, side, p))?
            .permute((0, 2, 4, 1, 3, 5))?
            .reshape((b, side * side, self.config.patch_dim()))?; // [batch, patches, channels * patch * patch]
        ops::sequence(&self.patches.forward(&patches)?, &self.class_token, &self.positions)
    }
}

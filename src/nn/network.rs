//! What the families of networks have in common.

use candle_core::Device;

use crate::{
    digest::Canonical,
    error::{Error, Result},
    tensor::Weights,
};

use super::{Bert, BertConfig, Dims, Schema, Size, Vit, VitConfig, bert::Texts};

/// Length of the text that the cost of a text encoder is stated for, tokens.
pub const COSTED_TOKENS: usize = 32;

/// The shape of a network of any family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Config {
    /// A vision transformer.
    Vit(VitConfig),
    /// A text encoder.
    Bert(BertConfig),
}

impl From<VitConfig> for Config {
    fn from(config: VitConfig) -> Self {
        Self::Vit(config)
    }
}

impl From<BertConfig> for Config {
    fn from(config: BertConfig) -> Self {
        Self::Bert(config)
    }
}

impl Config {
    /// The shape of a vision transformer; `None` for another family.
    pub const fn as_vit(&self) -> Option<&VitConfig> {
        match self {
            Self::Vit(config) => Some(config),
            Self::Bert(_) => None,
        }
    }

    /// The shape of a vision transformer.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another family.
    pub fn vit(&self) -> Result<&VitConfig> {
        self.as_vit().ok_or_else(|| Error::invalid("model", "it is a text encoder, not a vision transformer"))
    }

    /// The shape of a text encoder.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another family.
    pub fn bert(&self) -> Result<&BertConfig> {
        match self {
            Self::Bert(config) => Ok(config),
            Self::Vit(_) => Err(Error::invalid("model", "it is a vision transformer, not a text encoder")),
        }
    }

    /// Every parameter of the network.
    pub fn schema(&self) -> Schema {
        match self {
            Self::Vit(config) => config.schema(),
            Self::Bert(config) => config.schema(),
        }
    }

    /// The sizes that determine how long the axes of its parameters are.
    pub const fn dims(&self) -> Dims {
        match self {
            Self::Vit(config) => config.dims(),
            Self::Bert(config) => config.dims(),
        }
    }

    /// Width and depth.
    pub const fn size(&self) -> Size {
        let dims = self.dims();
        Size { width: dims.width, depth: dims.depth }
    }

    /// Transformer blocks.
    pub const fn depth(&self) -> usize {
        self.dims().depth
    }

    /// Embedding dimension.
    pub const fn width(&self) -> usize {
        self.dims().width
    }

    /// Attention heads.
    pub const fn heads(&self) -> usize {
        self.dims().heads
    }

    /// Dimension of one head.
    pub const fn head_dim(&self) -> usize {
        self.dims().head_dim
    }

    /// Added to the variance in every norm.
    pub const fn norm_eps(&self) -> f64 {
        match self {
            Self::Vit(config) => config.norm_eps(),
            Self::Bert(config) => config.norm_eps(),
        }
    }

    /// The same network with another depth and width; the head dimension stays.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] if no network of the family has the new shape.
    pub fn resized(&self, depth: usize, width: usize) -> Result<Self> {
        match self {
            Self::Vit(config) => config.resized(depth, width).map(Self::Vit),
            Self::Bert(config) => config.resized(depth, width).map(Self::Bert),
        }
    }

    /// Adds every number of the shape to the name of a request.
    pub fn canonical(&self, form: Canonical) -> Canonical {
        match self {
            Self::Vit(config) => config.canonical(form),
            Self::Bert(config) => config.canonical(form),
        }
    }

    /// Multiply-accumulates of one forward pass of one image, or of a text of [`COSTED_TOKENS`] tokens.
    pub const fn macs(&self) -> u64 {
        match self {
            Self::Vit(config) => config.macs(),
            Self::Bert(config) => config.macs(COSTED_TOKENS),
        }
    }

    /// Side of an image and side of a patch, pixels; zeros for a network that reads none.
    pub const fn images(&self) -> [usize; 2] {
        match self {
            Self::Vit(config) => [config.image_size(), config.patch_size()],
            Self::Bert(_) => [0, 0],
        }
    }

    /// Tokens of one image, or of the text that costs are stated for.
    pub const fn tokens(&self) -> usize {
        match self {
            Self::Vit(config) => config.tokens(),
            Self::Bert(_) => COSTED_TOKENS,
        }
    }

    /// Values that are held at once while one item becomes a sequence: the image, its patches, the projected patches and
    /// the sequence; of a text, the embedding and its norm.
    pub const fn stem_values(&self) -> usize {
        match self {
            Self::Vit(config) => 2 * config.image_values() + 2 * config.tokens() * config.width(),
            Self::Bert(config) => 2 * COSTED_TOKENS * config.raw().width,
        }
    }

    /// Values that the network gives for one item: logits, or the components of its vector.
    pub const fn outputs(&self) -> usize {
        match self {
            Self::Vit(config) if config.classes() == 0 => config.width(),
            Self::Vit(config) => config.classes(),
            Self::Bert(config) => config.dimension(),
        }
    }
}

impl std::fmt::Display for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "depth {}, width {}, {} heads, ", self.depth(), self.width(), self.heads())?;
        match self {
            Self::Vit(config) => write!(
                f,
                "{} x {size} x {size} in patches of {}, {} classes",
                config.channels(),
                config.patch_size(),
                config.classes(),
                size = config.image_size()
            ),
            Self::Bert(config) => write!(
                f,
                "{} words, {} tokens, vectors of {} by {} pooling{}",
                config.raw().vocabulary,
                config.raw().positions,
                config.dimension(),
                config.raw().pooling,
                if config.raw().normalize { ", normalized" } else { "" }
            ),
        }
    }
}

/// What a network reads.
#[derive(Debug, Clone)]
pub enum Input {
    /// `[batch, channels, height, width]`.
    Images(candle_core::Tensor),
    /// Token ids and their mask.
    Texts(Texts),
}

/// A network of any family.
#[derive(Debug, Clone)]
pub enum Network {
    /// A vision transformer.
    Vit(Box<Vit>),
    /// A text encoder.
    Bert(Box<Bert>),
}

impl Network {
    /// Takes exactly the tensors of [`Config::schema`].
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`] or [`Error::ShapeMismatch`].
    pub fn new(config: Config, weights: &Weights) -> Result<Self> {
        match config {
            Config::Vit(config) => Ok(Self::Vit(Box::new(Vit::new(config, weights)?))),
            Config::Bert(config) => Ok(Self::Bert(Box::new(Bert::new(config, weights)?))),
        }
    }

    /// The device of its weights.
    pub fn device(&self) -> &Device {
        match self {
            Self::Vit(vit) => vit.device(),
            Self::Bert(bert) => bert.device(),
        }
    }

    /// Logits or vectors of a batch, `[batch, outputs]` in f32.
    ///
    /// # Errors
    /// A candle error if shapes disagree or the input is that of another family.
    pub fn forward(&self, input: &Input) -> candle_core::Result<candle_core::Tensor> {
        match (self, input) {
            (Self::Vit(vit), Input::Images(images)) => vit.forward(images),
            (Self::Bert(bert), Input::Texts(texts)) => bert.forward(texts),
            (Self::Vit(_), Input::Texts(_)) => candle_core::bail!("a vision transformer was given texts"),
            (Self::Bert(_), Input::Images(_)) => candle_core::bail!("a text encoder was given images"),
        }
    }
}

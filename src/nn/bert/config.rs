//! The shape of a text encoder. It holds only integers and names, so that it can be a key.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString};

use crate::{
    digest::Canonical,
    error::{Error, Result},
    nn::{schema::Dims, size::Size},
};

/// Largest accepted epsilon of a LayerNorm, in units of 1e-12.
const MAX_NORM_EPS_E12: u64 = 1_000_000_000;

/// How the states of the tokens become one vector.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Display, EnumString,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Pooling {
    /// The mean over the tokens that are not padding.
    Mean,
    /// The state of the first token.
    Cls,
}

/// A checked shape of a BERT encoder: learned positions, post-norm blocks, and from the states one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawBertConfig", into = "RawBertConfig")]
pub struct BertConfig(RawBertConfig);

/// [`BertConfig`] before it is checked, and in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBertConfig {
    /// Token ids.
    pub vocabulary: usize,
    /// Learned positions: the longest text, tokens.
    pub positions: usize,
    /// Kinds of segments, whose first row is added to every token.
    pub kinds: usize,
    /// Transformer blocks.
    pub depth: usize,
    /// Embedding dimension.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden units of the MLP.
    pub hidden: usize,
    /// Added to the variance in every LayerNorm, in units of 1e-12.
    pub norm_eps_e12: u64,
    /// How the states become one vector.
    pub pooling: Pooling,
    /// Dimension of the vector after a projection; 0 for an encoder without one, whose vectors are `width` long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dimension: usize,
    /// Whether vectors have length 1.
    pub normalize: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(dimension: &usize) -> bool {
    *dimension == 0
}

impl TryFrom<RawBertConfig> for BertConfig {
    type Error = Error;

    fn try_from(raw: RawBertConfig) -> Result<Self> {
        let limits = [
            ("vocabulary", raw.vocabulary as u64, 1, 1 << 20),
            ("positions", raw.positions as u64, 1, 8192),
            ("kinds", raw.kinds as u64, 1, 16),
            ("depth", raw.depth as u64, 1, 1024),
            ("width", raw.width as u64, 1, 16_384),
            ("heads", raw.heads as u64, 1, 256),
            ("hidden", raw.hidden as u64, 1, 1 << 18),
            ("norm_eps_e12", raw.norm_eps_e12, 1, MAX_NORM_EPS_E12),
            ("dimension", raw.dimension as u64, 0, 16_384),
        ];
        for (what, found, least, limit) in limits {
            if !(least..=limit).contains(&found) {
                let (of, limit) = ("a text encoder".to_owned(), format!("{least}..={limit}"));
                return Err(Error::OutOfRange { what, found, of, limit });
            }
        }
        if !raw.width.is_multiple_of(raw.heads) {
            return Err(Error::invalid(
                "width",
                format!("{} is not a multiple of heads {}", raw.width, raw.heads),
            ));
        }
        Ok(Self(raw))
    }
}

impl From<BertConfig> for RawBertConfig {
    fn from(config: BertConfig) -> Self {
        config.0
    }
}

impl BertConfig {
    /// Every number of the shape.
    pub const fn raw(&self) -> &RawBertConfig {
        &self.0
    }

    /// Width and depth.
    pub const fn size(&self) -> Size {
        Size { width: self.0.width, depth: self.0.depth }
    }

    /// Dimension of one head.
    pub const fn head_dim(&self) -> usize {
        self.0.width / self.0.heads
    }

    /// Added to the variance in every LayerNorm.
    pub const fn norm_eps(&self) -> f64 {
        self.0.norm_eps_e12 as f64 / 1e12
    }

    /// Dimension of the vector of a text.
    pub const fn dimension(&self) -> usize {
        if self.0.dimension == 0 { self.0.width } else { self.0.dimension }
    }

    /// The sizes that determine how long the axes of its parameters are.
    pub const fn dims(&self) -> Dims {
        Dims {
            depth: self.0.depth,
            width: self.0.width,
            heads: self.0.heads,
            kv_heads: self.0.heads,
            head_dim: self.head_dim(),
            hidden: self.0.hidden,
        }
    }

    /// The same network with another depth and width. The head dimension, the hidden units per unit of width, and the
    /// dimension of the vectors stay.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] if no encoder has the new shape.
    pub fn resized(&self, depth: usize, width: usize) -> Result<Self> {
        let raw = self.0;
        if !width.is_multiple_of(self.head_dim()) {
            let reason = format!("{width} is not a multiple of head_dim {}", self.head_dim());
            return Err(Error::invalid("width", reason));
        }
        let hidden = raw.hidden.saturating_mul(width);
        if !hidden.is_multiple_of(raw.width) {
            let reason =
                format!("{} hidden units of width {} do not shrink to {width}", raw.hidden, raw.width);
            return Err(Error::invalid("width", reason));
        }
        let (heads, hidden) = (width / self.head_dim(), hidden / raw.width);
        Self::try_from(RawBertConfig { depth, width, heads, hidden, ..raw })
    }

    /// Adds every number of the shape to the name of a request.
    pub fn canonical(&self, form: Canonical) -> Canonical {
        let raw = self.0;
        let form = form.text("bert").text(&raw.pooling.to_string());
        [
            raw.vocabulary,
            raw.positions,
            raw.kinds,
            raw.depth,
            raw.width,
            raw.heads,
            raw.hidden,
            raw.norm_eps_e12 as usize,
            raw.dimension,
            usize::from(raw.normalize),
        ]
        .into_iter()
        .fold(form, |form, value| form.integer(value as u64))
    }

    /// Multiply-accumulates of one forward pass of a text of `tokens` tokens: projections and attention products.
    pub const fn macs(&self, tokens: usize) -> u64 {
        let (n, d, hidden) = (tokens as u64, self.0.width as u64, self.0.hidden as u64);
        let projections = n * d * (4 * d + 2 * hidden);
        let attention = 2 * n * n * d;
        self.0.depth as u64 * (projections + attention) + self.0.dimension as u64 * d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: RawBertConfig = RawBertConfig {
        vocabulary: 40,
        positions: 16,
        kinds: 2,
        depth: 2,
        width: 12,
        heads: 3,
        hidden: 18,
        norm_eps_e12: 1,
        pooling: Pooling::Mean,
        dimension: 12,
        normalize: true,
    };

    #[test]
    fn impossible_shapes_are_refused() {
        BertConfig::try_from(RAW).unwrap();
        for raw in [
            RawBertConfig { vocabulary: 0, ..RAW },
            RawBertConfig { positions: 10_000, ..RAW },
            RawBertConfig { kinds: 0, ..RAW },
            RawBertConfig { heads: 5, ..RAW },
            RawBertConfig { norm_eps_e12: 0, ..RAW },
            RawBertConfig { dimension: 100_000, ..RAW },
        ] {
            BertConfig::try_from(raw).unwrap_err();
        }
    }

    #[test]
    fn a_narrower_encoder_keeps_the_ratio_and_the_dimension() {
        let config = BertConfig::try_from(RAW).unwrap();
        let small = *config.resized(5, 8).unwrap().raw();
        let found = [small.depth, small.width, small.heads, small.hidden, small.dimension];
        assert_eq!(found, [5, 8, 2, 12, 12]);
        config.resized(1, 6).unwrap_err();
        let odd = BertConfig::try_from(RawBertConfig { hidden: 17, ..RAW }).unwrap();
        assert!(odd.resized(1, 8).unwrap_err().to_string().contains("do not shrink"));
    }
}

//! The shape of a vision transformer. It holds only integers, so that it can be a key.

use serde::{Deserialize, Serialize};

use crate::{
    digest::Canonical,
    error::{Error, Result},
    nn::{schema::Dims, size::Size},
};

/// Epsilon of every LayerNorm, timm's value for vision transformers.
pub const NORM_EPS: f64 = 1e-6;

/// Largest number of patches in an image. The cost of attention grows with its square.
pub const MAX_PATCHES: usize = 4096;

/// A checked shape of a vision transformer in timm's form: class token, learned positions, pre-norm blocks,
/// `norm` → token 0 → `head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawVitConfig", into = "RawVitConfig")]
pub struct VitConfig(RawVitConfig);

/// [`VitConfig`] before it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVitConfig {
    /// Height and width of an image, pixels.
    pub image_size: usize,
    /// Height and width of a patch, pixels.
    pub patch_size: usize,
    /// Colour channels.
    pub channels: usize,
    /// Classes of the head.
    pub classes: usize,
    /// Transformer blocks.
    pub depth: usize,
    /// Embedding dimension.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden units of the MLP per unit of width.
    pub mlp_ratio: usize,
}

impl TryFrom<RawVitConfig> for VitConfig {
    type Error = Error;

    fn try_from(raw: RawVitConfig) -> Result<Self> {
        let limits = [
            ("image_size", raw.image_size, 1024),
            ("patch_size", raw.patch_size, 256),
            ("channels", raw.channels, 16),
            ("classes", raw.classes, 100_000),
            ("depth", raw.depth, 1024),
            ("width", raw.width, 16_384),
            ("heads", raw.heads, 256),
            ("mlp_ratio", raw.mlp_ratio, 16),
        ];
        for (what, found, limit) in limits {
            if !(1..=limit).contains(&found) {
                let (of, limit) = ("a vision transformer".to_owned(), format!("1..={limit}"));
                return Err(Error::OutOfRange { what, found: found as u64, of, limit });
            }
        }
        for (whole, value, part, by) in [
            ("image_size", raw.image_size, "patch_size", raw.patch_size),
            ("width", raw.width, "heads", raw.heads),
        ] {
            if value % by != 0 {
                return Err(Error::invalid(whole, format!("{value} is not a multiple of {part} {by}")));
            }
        }
        let config = Self(raw);
        if config.patches() > MAX_PATCHES {
            let (what, found, of) = ("patches", config.patches() as u64, "a vision transformer".to_owned());
            return Err(Error::OutOfRange { what, found, of, limit: format!("1..={MAX_PATCHES}") });
        }
        Ok(config)
    }
}

impl From<VitConfig> for RawVitConfig {
    fn from(config: VitConfig) -> Self {
        config.0
    }
}

impl VitConfig {
    /// Height and width of an image, pixels.
    pub const fn image_size(&self) -> usize {
        self.0.image_size
    }

    /// Height and width of a patch, pixels.
    pub const fn patch_size(&self) -> usize {
        self.0.patch_size
    }

    /// Colour channels.
    pub const fn channels(&self) -> usize {
        self.0.channels
    }

    /// Classes of the head.
    pub const fn classes(&self) -> usize {
        self.0.classes
    }

    /// Transformer blocks.
    pub const fn depth(&self) -> usize {
        self.0.depth
    }

    /// Embedding dimension.
    pub const fn width(&self) -> usize {
        self.0.width
    }

    /// Width and depth.
    pub const fn size(&self) -> Size {
        Size { width: self.0.width, depth: self.0.depth }
    }

    /// Attention heads.
    pub const fn heads(&self) -> usize {
        self.0.heads
    }

    /// Hidden units of the MLP per unit of width.
    pub const fn mlp_ratio(&self) -> usize {
        self.0.mlp_ratio
    }

    /// Dimension of one head.
    pub const fn head_dim(&self) -> usize {
        self.0.width / self.0.heads
    }

    /// The sizes that determine how long the axes of its parameters are.
    pub const fn dims(&self) -> Dims {
        Dims {
            depth: self.0.depth,
            width: self.0.width,
            heads: self.0.heads,
            kv_heads: self.0.heads,
            head_dim: self.head_dim(),
            hidden: self.0.mlp_ratio * self.0.width,
        }
    }

    /// Patches of one image.
    pub const fn patches(&self) -> usize {
        let side = self.0.image_size / self.0.patch_size;
        side * side
    }

    /// Tokens of one image: the class token and the patches.
    pub const fn tokens(&self) -> usize {
        1 + self.patches()
    }

    /// Values of one patch.
    pub const fn patch_dim(&self) -> usize {
        self.0.channels * self.0.patch_size * self.0.patch_size
    }

    /// Values of one image.
    pub const fn image_values(&self) -> usize {
        self.0.channels * self.0.image_size * self.0.image_size
    }

    /// The same network with another depth and width; the head dimension stays.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] if no vision transformer has the new shape.
    pub fn resized(&self, depth: usize, width: usize) -> Result<Self> {
        if !width.is_multiple_of(self.head_dim()) {
            let reason = format!("{width} is not a multiple of head_dim {}", self.head_dim());
            return Err(Error::invalid("width", reason));
        }
        Self::try_from(RawVitConfig { depth, width, heads: width / self.head_dim(), ..self.0 })
    }

    /// Adds every number of the shape to the name of a request.
    pub fn canonical(&self, form: Canonical) -> Canonical {
        [
            self.image_size(),
            self.patch_size(),
            self.channels(),
            self.classes(),
            self.depth(),
            self.width(),
            self.heads(),
            self.mlp_ratio(),
        ]
        .into_iter()
        .fold(form, |form, value| form.integer(value as u64))
    }

    /// Multiply-accumulates of one forward pass of one image: projections and attention products.
    pub const fn macs(&self) -> u64 {
        let (n, d) = (self.tokens() as u64, self.0.width as u64);
        let projections = (4 + 2 * self.0.mlp_ratio as u64) * n * d * d;
        let attention = 2 * n * n * d;
        self.patches() as u64 * self.patch_dim() as u64 * d
            + self.0.depth as u64 * (projections + attention)
            + d * self.0.classes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: RawVitConfig = RawVitConfig {
        image_size: 28,
        patch_size: 4,
        channels: 1,
        classes: 10,
        depth: 10,
        width: 96,
        heads: 4,
        mlp_ratio: 4,
    };

    #[test]
    fn impossible_shapes_are_refused() {
        for raw in [
            RawVitConfig { depth: 0, ..RAW },
            RawVitConfig { width: 1_000_000_000, ..RAW },
            RawVitConfig { heads: 5, ..RAW },
            RawVitConfig { patch_size: 5, ..RAW },
            RawVitConfig { image_size: 1024, patch_size: 1, ..RAW },
        ] {
            VitConfig::try_from(raw).unwrap_err();
        }
        assert_eq!(
            VitConfig::try_from(RAW).unwrap().resized(3, 100).unwrap_err().kind(),
            crate::error::Kind::Invalid
        );
    }

    #[test]
    fn macs_count_every_matrix_once_for_each_token_it_sees() {
        use crate::nn::schema::Role;
        let config = VitConfig::try_from(RAW).unwrap();
        let seen = config.schema().specs().into_iter().filter(|spec| spec.role.decays()).map(|spec| {
            let times = if spec.role == Role::PatchKernel { config.patches() } else { config.tokens() };
            spec.elem_count(&config.dims()) * if spec.role == Role::Head { 1 } else { times }
        });
        let products = config.depth() * 2 * config.tokens() * config.tokens() * config.width();
        assert_eq!(config.macs(), (seen.sum::<usize>() + products) as u64);
    }
}

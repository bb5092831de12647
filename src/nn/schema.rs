//! The single source of parameter names, shapes, initial values and decay groups: timm's `VisionTransformer`.

use crate::tensor::Init;

use super::VitConfig;

/// How one axis of a parameter grows with the configuration; this is all that width slicing needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// The residual stream: `width`.
    Width,
    /// Fused query, key and value: three groups of `width`.
    Qkv,
    /// Hidden units of the MLP: `mlp_ratio * width`.
    Hidden,
    /// Independent of depth and width.
    Fixed(usize),
}

impl Axis {
    /// Groups that are sliced separately, and the length of each.
    pub const fn groups(self, config: &VitConfig) -> (usize, usize) {
        match self {
            Self::Width => (1, config.width()),
            Self::Qkv => (3, config.width()),
            Self::Hidden => (1, config.mlp_ratio() * config.width()),
            Self::Fixed(n) => (1, n),
        }
    }

    /// Length of the axis.
    pub const fn len(self, config: &VitConfig) -> usize {
        let (groups, length) = self.groups(config);
        groups * length
    }
}

/// One parameter of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// timm's name.
    pub name: String,
    /// Axes in storage order.
    pub axes: Vec<Axis>,
    /// Initial values of a network that inherits nothing.
    pub init: Init,
    /// Whether weight decay applies: matrices yes; biases, norms, positions and the class token no.
    pub decay: bool,
}

impl ParamSpec {
    fn matrix(name: &str, rows: Axis, cols: Axis, config: &VitConfig) -> Self {
        let init = Init::glorot(cols.len(config), rows.groups(config).1);
        Self { name: name.to_owned(), axes: vec![rows, cols], init, decay: true }
    }

    fn vector(name: &str, axis: Axis, init: Init) -> Self {
        Self { name: name.to_owned(), axes: vec![axis], init, decay: false }
    }

    /// Shape of the parameter in a network of this configuration.
    pub fn shape(&self, config: &VitConfig) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.len(config)).collect()
    }
}

/// Standard deviation of embeddings and of the head in units of 1e-9, as in timm.
const EMBEDDING: Init = Init::TruncNormal { std_e9: 20_000_000 };

/// Name of the class token.
pub const CLASS_TOKEN: &str = "cls_token";
/// Name of the position embedding.
pub const POSITIONS: &str = "pos_embed";
/// Prefix of the patch projection.
pub const PATCHES: &str = "patch_embed.proj";
/// Name of the weights of the patch projection.
pub const PATCH_KERNEL: &str = "patch_embed.proj.weight";
/// Prefix of the final norm.
pub const NORM: &str = "norm";
/// Prefix of the classifier.
pub const HEAD: &str = "head";
/// Prefix of the blocks.
pub const BLOCKS: &str = "blocks";
/// Prefix in a block of the norm before attention.
pub const NORM1: &str = "norm1";
/// Prefix in a block of the fused projection to query, key and value, in this order.
pub const QKV: &str = "attn.qkv";
/// Prefix in a block of the projection after attention.
pub const PROJ: &str = "attn.proj";
/// Prefix in a block of the norm before the MLP.
pub const NORM2: &str = "norm2";
/// Prefix in a block of the first matrix of the MLP.
pub const FC1: &str = "mlp.fc1";
/// Prefix in a block of the second matrix of the MLP.
pub const FC2: &str = "mlp.fc2";

/// Name of parameter `parameter` of block `index`.
pub fn block_name(index: usize, parameter: &str) -> String {
    format!("{BLOCKS}.{index}.{parameter}")
}

/// Block and parameter of a name that [`block_name`] makes.
pub fn in_block(name: &str) -> Option<(usize, &str)> {
    let (index, parameter) = name.strip_prefix(BLOCKS)?.strip_prefix('.')?.split_once('.')?;
    Some((index.parse().ok()?, parameter))
}

/// Parameters before the blocks, in timm's order.
pub fn stem(config: &VitConfig) -> Vec<ParamSpec> {
    let (channels, patch) = (Axis::Fixed(config.channels()), Axis::Fixed(config.patch_size()));
    vec![
        ParamSpec {
            name: CLASS_TOKEN.to_owned(),
            axes: vec![Axis::Fixed(1), Axis::Fixed(1), Axis::Width],
            init: EMBEDDING,
            decay: false,
        },
        ParamSpec {
            name: POSITIONS.to_owned(),
            axes: vec![Axis::Fixed(1), Axis::Fixed(config.tokens()), Axis::Width],
            init: EMBEDDING,
            decay: false,
        },
        ParamSpec {
            name: PATCH_KERNEL.to_owned(),
            axes: vec![Axis::Width, channels, patch, patch],
            init: Init::glorot(config.patch_dim(), config.width()),
            decay: true,
        },
        ParamSpec::vector(&format!("{PATCHES}.bias"), Axis::Width, Init::Zeros),
    ]
}

/// Parameters of one block without its prefix, in timm's order.
pub fn block(config: &VitConfig) -> Vec<ParamSpec> {
    use Axis::{Hidden, Qkv, Width};
    let norm = |module: &str| {
        [
            ParamSpec::vector(&format!("{module}.weight"), Width, Init::Ones),
            ParamSpec::vector(&format!("{module}.bias"), Width, Init::Zeros),
        ]
    };
    let linear = |module: &str, rows: Axis, cols: Axis| {
        [
            ParamSpec::matrix(&format!("{module}.weight"), rows, cols, config),
            ParamSpec::vector(&format!("{module}.bias"), rows, Init::Zeros),
        ]
    };
    [
        norm(NORM1),
        linear(QKV, Qkv, Width),
        linear(PROJ, Width, Width),
        norm(NORM2),
        linear(FC1, Hidden, Width),
        linear(FC2, Width, Hidden),
    ]
    .concat()
}

/// Parameters after the blocks, in timm's order.
pub fn tail(config: &VitConfig) -> Vec<ParamSpec> {
    vec![
        ParamSpec::vector(&format!("{NORM}.weight"), Axis::Width, Init::Ones),
        ParamSpec::vector(&format!("{NORM}.bias"), Axis::Width, Init::Zeros),
        ParamSpec {
            name: format!("{HEAD}.weight"),
            axes: vec![Axis::Fixed(config.classes()), Axis::Width],
            init: EMBEDDING,
            decay: true,
        },
        ParamSpec::vector(&format!("{HEAD}.bias"), Axis::Fixed(config.classes()), Init::Zeros),
    ]
}

/// Every parameter of the network in timm's order.
pub fn vit(config: &VitConfig) -> Vec<ParamSpec> {
    let blocks = (0..config.depth()).flat_map(|index| {
        block(config).into_iter().map(move |spec| ParamSpec { name: block_name(index, &spec.name), ..spec })
    });
    stem(config).into_iter().chain(blocks).chain(tail(config)).collect()
}

/// Whether weight decay applies to the tensor called `name`: timm's rule, by the last parts of the name.
///
/// Gene tensors carry the same endings under another prefix, so one rule serves both.
pub fn decays(name: &str, rank: usize) -> bool {
    rank > 1 && name != CLASS_TOKEN && name != POSITIONS
}

/// Whether the tensor called `name` is scale or shift of a norm, with or without a prefix.
pub fn of_norm(name: &str) -> bool {
    name.rsplit('.').nth(1).is_some_and(|part| part.starts_with(NORM))
}

/// Whether the tensor called `name` is the classifier's.
pub fn of_head(name: &str) -> bool {
    name.split('.').next() == Some(HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::config::RawVitConfig;

    #[test]
    fn parameter_count_is_the_closed_form() {
        let raw = RawVitConfig {
            image_size: 28,
            patch_size: 4,
            channels: 1,
            classes: 10,
            depth: 7,
            width: 96,
            heads: 4,
            mlp_ratio: 4,
        };
        let config = VitConfig::try_from(raw).unwrap();
        let count: usize =
            vit(&config).iter().map(|spec| spec.shape(&config).iter().product::<usize>()).sum();
        let (d, depth) = (96, 7);
        let stem_and_tail = d + 50 * d + 16 * d + d + 2 * d + 10 * d + 10;
        assert_eq!(count, depth * (12 * d * d + 13 * d) + stem_and_tail);
    }

    #[test]
    fn decay_follows_the_schema() {
        let raw = RawVitConfig {
            image_size: 8,
            patch_size: 4,
            channels: 3,
            classes: 2,
            depth: 1,
            width: 8,
            heads: 2,
            mlp_ratio: 4,
        };
        for spec in vit(&VitConfig::try_from(raw).unwrap()) {
            assert_eq!(decays(&spec.name, spec.axes.len()), spec.decay, "{}", spec.name);
            assert_eq!(of_norm(&spec.name), spec.name.contains("norm"), "{}", spec.name);
        }
    }
}

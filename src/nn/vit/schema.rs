//! The parameters of a vision transformer under timm's names.

use std::sync::Arc;

use crate::{
    nn::schema::{self, Axis, BIAS, Role, Schema, Spec, WEIGHT},
    tensor::Init,
};

use super::VitConfig;

/// Name of the class token.
pub const CLASS_TOKEN: &str = "cls_token";
/// Name of the position embedding.
pub const POSITIONS: &str = "pos_embed";
/// Prefix of the patch projection.
pub const PATCHES: &str = "patch_embed.proj";
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

/// Name of module `module` of block `index`.
pub fn in_block(index: usize, module: &str) -> String {
    schema::layer_name(BLOCKS, index, module)
}

/// Splits the name of a parameter or module in a block into the block's index and the rest of the name.
pub fn of_block(name: &str) -> Option<(usize, &str)> {
    let (index, module) = name.strip_prefix(BLOCKS)?.strip_prefix('.')?.split_once('.')?;
    Some((index.parse().ok()?, module))
}

/// Initial values of embeddings and of the head: a standard deviation of 0.02, as in timm.
const EMBEDDING: Init = Init::TruncNormal { std_e9: 20_000_000 };

impl VitConfig {
    /// Every parameter of the network, in timm's order.
    pub fn schema(&self) -> Schema {
        let dims = self.dims();
        let block: Arc<[Spec]> = self.block().into();
        Schema { dims, prefix: BLOCKS, stem: self.stem(), layers: vec![block; dims.depth], tail: self.tail() }
    }

    fn stem(&self) -> Vec<Spec> {
        let (channels, patch) = (Axis::Fixed(self.channels()), Axis::Fixed(self.patch_size()));
        let embedding = |name: &str, tokens: usize, role: Role| Spec {
            name: name.to_owned(),
            axes: vec![Axis::Fixed(1), Axis::Fixed(tokens), Axis::Width],
            role,
            init: EMBEDDING,
        };
        let kernel = Spec {
            name: format!("{PATCHES}.{WEIGHT}"),
            axes: vec![Axis::Width, channels, patch, patch],
            role: Role::PatchKernel,
            init: Init::glorot(self.patch_dim(), self.width()),
        };
        vec![
            embedding(CLASS_TOKEN, 1, Role::ClassToken),
            embedding(POSITIONS, self.tokens(), Role::Positions),
            kernel,
            Spec::vector(&format!("{PATCHES}.{BIAS}"), Axis::Width, Role::Bias, Init::Zeros),
        ]
    }

    /// The parameters of a block, named without its prefix.
    fn block(&self) -> Vec<Spec> {
        use Axis::{Fused, Hidden, Inner, KeyValue, Width};
        let dims = self.dims();
        [
            Spec::norm(NORM1, Width),
            Spec::linear(QKV, Fused(&[Inner, KeyValue, KeyValue]), Width, &dims),
            Spec::linear(PROJ, Width, Inner, &dims),
            Spec::norm(NORM2, Width),
            Spec::linear(FC1, Hidden, Width, &dims),
            Spec::linear(FC2, Width, Hidden, &dims),
        ]
        .concat()
    }

    fn tail(&self) -> Vec<Spec> {
        let norm = Spec::norm(NORM, Axis::Width);
        if self.classes() == 0 {
            return norm.into();
        }
        let classes = Axis::Fixed(self.classes());
        let head = Spec {
            name: format!("{HEAD}.{WEIGHT}"),
            axes: vec![classes, Axis::Width],
            role: Role::Head,
            init: EMBEDDING,
        };
        let bias = Spec::vector(&format!("{HEAD}.{BIAS}"), classes, Role::HeadBias, Init::Zeros);
        norm.into_iter().chain([head, bias]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::vit::RawVitConfig;

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
        let (d, depth) = (96, 7);
        let stem_and_tail = d + 50 * d + 16 * d + d + 2 * d + 10 * d + 10;
        let expected = depth * (12 * d * d + 13 * d) + stem_and_tail;
        assert_eq!(VitConfig::try_from(raw).unwrap().schema().parameters(), expected);
    }

    #[test]
    fn matrices_decay_and_nothing_else() {
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
        for spec in VitConfig::try_from(raw).unwrap().schema().specs() {
            let matrix = spec.axes.len() > 1 && ![CLASS_TOKEN, POSITIONS].contains(&spec.name.as_str());
            assert_eq!(spec.role.decays(), matrix, "{}", spec.name);
            assert_eq!(spec.role.of_norm(), spec.name.contains("norm"), "{}", spec.name);
        }
    }
}

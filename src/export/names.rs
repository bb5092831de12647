//! The names that other libraries give to the parameters of a vision transformer: read from left to right to write a
//! model for them, and from right to left to import one of theirs.

use crate::nn::vit::schema::{
    CLASS_TOKEN, FC1, FC2, HEAD, NORM, NORM1, NORM2, PATCHES, POSITIONS, PROJ, QKV, of_block,
};

/// The names of one library.
#[derive(Debug)]
pub struct Names {
    /// The library and the kind of model.
    pub what: &'static str,
    /// First part of the names in a model with a head, which a model without one lacks.
    pub base: &'static str,
    /// Tensors that belong to no module.
    tensors: [(&'static str, &'static str); 2],
    /// Modules around the blocks.
    modules: [(&'static str, &'static str); 3],
    /// Prefix of the blocks.
    blocks: &'static str,
    /// Modules of a block.
    block: [(&'static str, &'static str); 5],
    /// Parts of the fused projection to query, key and value, in storage order.
    qkv: &'static [&'static str],
    /// Scales of the residual branches of a block (LayerScale), by the layer whose result they multiply.
    scales: [(&'static str, &'static str); 2],
}

/// timm's names, which are this program's own.
pub const TIMM: Names = Names {
    what: "timm",
    base: "",
    tensors: [(CLASS_TOKEN, CLASS_TOKEN), (POSITIONS, POSITIONS)],
    modules: [(PATCHES, PATCHES), (NORM, NORM), (HEAD, HEAD)],
    blocks: "blocks",
    block: [(NORM1, NORM1), (PROJ, PROJ), (NORM2, NORM2), (FC1, FC1), (FC2, FC2)],
    qkv: &[QKV],
    scales: [(PROJ, "ls1.gamma"), (FC2, "ls2.gamma")],
};

/// The names of transformers' `ViTForImageClassification` in its published checkpoints, which every version reads;
/// version 5 and later rename them while loading.
pub const VIT: Names = Names {
    what: "transformers vit",
    base: "vit.",
    tensors: [(CLASS_TOKEN, "vit.embeddings.cls_token"), (POSITIONS, "vit.embeddings.position_embeddings")],
    modules: [
        (PATCHES, "vit.embeddings.patch_embeddings.projection"),
        (NORM, "vit.layernorm"),
        (HEAD, "classifier"),
    ],
    blocks: "vit.encoder.layer",
    block: [
        (NORM1, "layernorm_before"),
        (PROJ, "attention.output.dense"),
        (NORM2, "layernorm_after"),
        (FC1, "intermediate.dense"),
        (FC2, "output.dense"),
    ],
    qkv: &["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    scales: [(PROJ, "layer_scale1.lambda1"), (FC2, "layer_scale2.lambda1")],
};

/// The names of transformers' `Dinov2Model`.
pub const DINOV2: Names = Names {
    what: "transformers dinov2",
    base: "dinov2.",
    tensors: [
        (CLASS_TOKEN, "dinov2.embeddings.cls_token"),
        (POSITIONS, "dinov2.embeddings.position_embeddings"),
    ],
    modules: [
        (PATCHES, "dinov2.embeddings.patch_embeddings.projection"),
        (NORM, "dinov2.layernorm"),
        (HEAD, "classifier"),
    ],
    blocks: "dinov2.encoder.layer",
    block: [
        (NORM1, "norm1"),
        (PROJ, "attention.output.dense"),
        (NORM2, "norm2"),
        (FC1, "mlp.fc1"),
        (FC2, "mlp.fc2"),
    ],
    qkv: VIT.qkv,
    scales: VIT.scales,
};

impl Names {
    /// The names for this program's tensor `own`: one, or one for each part of a fused tensor.
    pub fn of(&self, own: &str) -> Option<Vec<String>> {
        if let Some(theirs) = find(&self.tensors, own) {
            return Some(vec![theirs.to_owned()]);
        }
        let (module, parameter) = own.rsplit_once('.')?;
        let Some((index, module)) = of_block(module) else {
            return Some(vec![format!("{}.{parameter}", find(&self.modules, module)?)]);
        };
        let full = |module: &str| format!("{}.{index}.{module}.{parameter}", self.blocks);
        if module == QKV {
            return Some(self.qkv.iter().map(|part| full(part)).collect());
        }
        Some(vec![full(find(&self.block, module)?)])
    }

    /// The name of the scale of this program's tensor `own`, whose rows a LayerScale multiplies.
    pub fn scale(&self, own: &str) -> Option<String> {
        let (index, module) = of_block(own.rsplit_once('.')?.0)?;
        Some(format!("{}.{index}.{}", self.blocks, find(&self.scales, module)?))
    }

    /// The name of the class token.
    pub fn class_token(&self) -> &'static str {
        self.tensors[0].1
    }

    /// First part of the names in the block with this index.
    pub fn block_prefix(&self, index: usize) -> String {
        format!("{}.{index}.", self.blocks)
    }
}

fn find(table: &[(&str, &'static str)], own: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == own).map(|(_, theirs)| *theirs)
}

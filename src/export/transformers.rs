//! Tensor names and configuration files for transformers' `ViTForImageClassification`.
//!
//! timm's fused projection is split by rows into query, key and value.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    blueprint::{Blueprint, Entry, ModelInfo, Span},
    error::{Error, Result},
    nn::VitConfig,
    tensor::{Dtype, matrix_view},
};

use super::{json::decimals, names::VIT};

/// The entries of `blueprint` under transformers' names.
pub(super) fn entries(blueprint: &Blueprint) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(blueprint.entries.len() + 4 * blueprint.info.config.depth());
    for entry in &blueprint.entries {
        let names =
            VIT.of(&entry.name).ok_or_else(|| Error::UnexpectedTensor { name: entry.name.clone() })?;
        match names.as_slice() {
            [name] => entries.push(Entry { name: name.clone(), ..entry.clone() }),
            names => entries.extend(parts(entry, names)?),
        }
    }
    Ok(entries)
}

/// Cuts `entry` along its rows into equal parts, one for each of `names`.
fn parts(entry: &Entry, names: &[String]) -> Result<Vec<Entry>> {
    let rows = matrix_view(&entry.shape)[0] / names.len();
    let part = |(index, name): (usize, &String)| {
        let source = entry.source.rows(Span::new(index * rows, (index + 1) * rows)).ok_or_else(|| {
            Error::invalid("layout", format!("\"{}\" cannot be cut into its parts", entry.name))
        })?;
        let shape = std::iter::once(rows).chain(entry.shape.iter().skip(1).copied()).collect();
        Ok(Entry { name: name.clone(), shape, dtype: entry.dtype, source })
    };
    names.iter().enumerate().map(part).collect()
}

/// `config.json`.
pub(super) fn config(info: &ModelInfo, config: &VitConfig, dtype: Dtype) -> Value {
    let id2label: BTreeMap<_, _> =
        info.labels.iter().enumerate().map(|(index, label)| (index.to_string(), label)).collect();
    let label2id: BTreeMap<_, _> =
        info.labels.iter().enumerate().map(|(index, label)| (label, index)).collect();
    json!({
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "dtype": torch_dtype(dtype),
        "image_size": config.image_size(),
        "patch_size": config.patch_size(),
        "num_channels": config.channels(),
        "encoder_stride": config.patch_size(),
        "hidden_size": config.width(),
        "num_hidden_layers": config.depth(),
        "num_attention_heads": config.heads(),
        "intermediate_size": config.mlp_ratio() * config.width(),
        "hidden_act": "gelu",
        "qkv_bias": true,
        "layer_norm_eps": config.norm_eps(),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "id2label": id2label,
        "label2id": label2id,
    })
}

/// PyTorch's name of an element type.
pub(super) const fn torch_dtype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
    }
}

/// `preprocessor_config.json`.
pub(super) fn preprocessor(info: &ModelInfo, config: &VitConfig) -> Value {
    let side = config.image_size();
    json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true,
        "size": { "height": side, "width": side },
        // Pillow's number for bilinear.
        "resample": 2,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": decimals(&info.preprocessing.mean),
        "image_std": decimals(&info.preprocessing.std),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::vit::RawVitConfig;

    #[test]
    fn every_parameter_of_the_schema_has_a_name() {
        let raw = RawVitConfig {
            image_size: 8,
            patch_size: 4,
            channels: 3,
            classes: 2,
            depth: 2,
            width: 8,
            heads: 2,
            mlp_ratio: 4,
        };
        let config = VitConfig::try_from(raw).unwrap();
        let here: Vec<_> =
            config.schema().specs().iter().flat_map(|spec| VIT.of(&spec.name).unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = here.iter().collect();
        // 8 tensors around the blocks, and 12 in each block, 2 of them fused from 3.
        assert_eq!((here.len(), distinct.len()), (8 + 2 * 16, here.len()));
        for name in ["blocks.x.norm1.weight", "blocks.0.norm3.weight", "fc_norm.weight", "pos"] {
            assert_eq!(VIT.of(name), None, "{name}");
        }
    }
}

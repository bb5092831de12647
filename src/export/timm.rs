//! timm's `config.json`. Tensors have timm's names already ([`crate::nn::vit::schema`]).
//!
//! The architecture names only a factory function. `model_args` sets depth, width, image and patch size, so no new
//! name has to be registered. transformers reads the same file through its timm wrapper.

use serde_json::{Value, json};

use crate::{
    blueprint::ModelInfo,
    nn::{VitConfig, vit::schema},
};

use super::json::decimals;

/// A registered vision transformer with a class token, learned positions and LayerNorm eps 1e-6.
const FACTORY: &str = "vit_tiny_patch16_224";

/// `config.json`.
pub(super) fn config(info: &ModelInfo, config: &VitConfig) -> Value {
    json!({
        "architecture": FACTORY,
        "num_classes": config.classes(),
        "num_features": config.width(),
        "global_pool": "token",
        "model_args": {
            "img_size": config.image_size(),
            "patch_size": config.patch_size(),
            "in_chans": config.channels(),
            "embed_dim": config.width(),
            "depth": config.depth(),
            "num_heads": config.heads(),
            "mlp_ratio": config.mlp_ratio(),
        },
        "pretrained_cfg": pretrained_cfg(info, config),
        "label_names": info.labels,
    })
}

/// `preprocessor_config.json` for transformers' processor of timm models. Versions before 5 read its configuration from
/// this file, later versions from `config.json`.
pub(super) fn preprocessor(info: &ModelInfo, config: &VitConfig) -> Value {
    json!({
        "image_processor_type": "TimmWrapperImageProcessor",
        "architecture": FACTORY,
        "pretrained_cfg": pretrained_cfg(info, config),
    })
}

/// The input that the weights expect, and the names of the first and last layer.
fn pretrained_cfg(info: &ModelInfo, config: &VitConfig) -> Value {
    let preprocessing = &info.preprocessing;
    json!({
        "input_size": [config.channels(), config.image_size(), config.image_size()],
        "fixed_input_size": true,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": decimals(&preprocessing.mean),
        "std": decimals(&preprocessing.std),
        "num_classes": config.classes(),
        "first_conv": schema::PATCHES,
        "classifier": schema::HEAD,
    })
}

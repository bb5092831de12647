//! timm's `config.json`. Names of tensors are timm's already ([`crate::nn::schema`]).
//!
//! The architecture is only a factory: `model_args` gives it any depth, width, image and patch, so that no name has to
//! be registered. transformers reads the same file through its timm wrapper.

use serde_json::{Value, json};

use crate::{blueprint::ModelInfo, nn::schema};

use super::decimals;

/// A registered vision transformer with a class token, learned positions and LayerNorm eps 1e-6.
const FACTORY: &str = "vit_tiny_patch16_224";

/// `config.json`.
pub(super) fn config(info: &ModelInfo) -> Value {
    let config = &info.config;
    let (side, channels, classes) = (config.image_size(), config.channels(), config.classes());
    json!({
        "architecture": FACTORY,
        "num_classes": classes,
        "num_features": config.width(),
        "global_pool": "token",
        "model_args": {
            "img_size": side,
            "patch_size": config.patch_size(),
            "in_chans": channels,
            "embed_dim": config.width(),
            "depth": config.depth(),
            "num_heads": config.heads(),
            "mlp_ratio": config.mlp_ratio(),
        },
        "pretrained_cfg": {
            "input_size": [channels, side, side],
            "fixed_input_size": true,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": decimals(&info.preprocessing.mean),
            "std": decimals(&info.preprocessing.std),
            "num_classes": classes,
            "first_conv": schema::PATCHES,
            "classifier": schema::HEAD,
        },
        "label_names": info.labels,
    })
}

/// `preprocessor_config.json`: transformers' processor for timm models, which reads `pretrained_cfg`.
pub(super) fn preprocessor() -> Value {
    json!({ "image_processor_type": "TimmWrapperImageProcessor" })
}

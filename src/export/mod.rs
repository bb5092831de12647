//! What other programs expect of a model: names of tensors, configuration files, a model card.
//!
//! A layout is a view of a blueprint: entries get other names, and a fused one becomes slices of itself. No value
//! changes, so the layouts of one model compute the same function.

pub mod card;
mod json;
pub mod task;
pub mod timm;
pub mod transformers;

use json::document;

use strum::{Display, EnumString, VariantArray};

use crate::{
    blueprint::{Blueprint, Identity, ModelInfo},
    error::{Error, Result},
    tensor::Dtype,
};

/// For whom tensors are named and laid out.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Display, EnumString, VariantArray,
)]
#[strum(serialize_all = "lowercase", parse_err_ty = Error, parse_err_fn = unknown)]
pub enum Layout {
    /// timm's `VisionTransformer`; transformers reads it through its timm wrapper.
    #[default]
    Timm,
    /// transformers' `ViTForImageClassification`.
    Transformers,
}

impl Layout {
    /// `blueprint`, which is in timm's layout, in this one. Its identity and record change with the layout.
    ///
    /// # Errors
    /// [`Error::Invalid`] where values are drawn: their streams are keyed by timm's names.
    pub fn of(self, mut blueprint: Blueprint) -> Result<Blueprint> {
        if self == Self::Timm {
            return Ok(blueprint);
        }
        if let Some(entry) = blueprint.entries.iter().find(|entry| entry.source.draws()) {
            let reason = format!("\"{}\" has fresh values, which only layout timm gives", entry.name);
            return Err(Error::invalid("layout", reason));
        }
        blueprint.entries = transformers::entries(&blueprint)?;
        let form = Identity::form("genebank.layout").text(&blueprint.identity.to_string());
        blueprint.identity = form.text(&self.to_string()).into();
        if let Some(origin) = &mut blueprint.info.origin {
            origin.identity = blueprint.identity.to_string();
        }
        Ok(blueprint)
    }

    /// `config.json` of a model in this layout.
    pub fn config(self, info: &ModelInfo, dtype: Dtype) -> String {
        document(&match self {
            Self::Timm => timm::config(info),
            Self::Transformers => transformers::config(info, dtype),
        })
    }

    /// `preprocessor_config.json` of a model in this layout.
    pub fn preprocessor(self, info: &ModelInfo) -> String {
        document(&match self {
            Self::Timm => timm::preprocessor(info),
            Self::Transformers => transformers::preprocessor(info),
        })
    }
}

fn unknown(text: &str) -> Error {
    Error::not_one_of::<Layout>("layout", text)
}

//! What other programs expect of a model: tensor names, configuration files and a model card.
//!
//! A layout is a view of a blueprint. It renames entries and splits a fused entry into slices. No value changes, so all
//! layouts of a model compute the same function.

pub mod card;
mod json;
pub mod names;
pub mod sentences;
pub mod task;
pub mod timm;
pub mod transformers;

use json::document;

use strum::{Display, EnumString, VariantArray};

use crate::{
    blueprint::{Blueprint, Identity, ModelInfo},
    error::{Error, Result},
    nn::Config,
    tensor::Dtype,
};

/// The library that tensors are named and laid out for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Display, EnumString, VariantArray,
)]
#[strum(serialize_all = "lowercase", parse_err_ty = Error, parse_err_fn = unknown)]
pub enum Layout {
    /// timm's `VisionTransformer`; transformers reads it through its timm wrapper. A text encoder has transformers' own
    /// names in every layout.
    #[default]
    Timm,
    /// transformers' `ViTForImageClassification`.
    Transformers,
}

impl Layout {
    /// Converts `blueprint` from timm's layout to this one. Identity and record change with the layout.
    ///
    /// # Errors
    /// [`Error::Invalid`] if any value is drawn, because timm's names key the random streams; for timm's layout, if the
    /// norms have an epsilon that its architectures lack.
    pub fn of(self, mut blueprint: Blueprint) -> Result<Blueprint> {
        if self == Self::Timm {
            if let Config::Vit(config) = &blueprint.info.config
                && !config.has_usual_eps()
            {
                let eps = config.norm_eps();
                let reason = format!(
                    "timm's architectures have norms of eps 1e-6, this model {eps:e}; use transformers"
                );
                return Err(Error::invalid("layout", reason));
            }
            return Ok(blueprint);
        }
        blueprint.info.config.vit()?;
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

    /// The configuration files of a model in this layout, by path; those of a text encoder with its `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text encoder without a tokenizer.
    pub fn files(
        self,
        info: &ModelInfo,
        dtype: Dtype,
        tokenizer: Option<&str>,
    ) -> Result<Vec<(&'static str, String)>> {
        let config = match &info.config {
            Config::Vit(config) => config,
            Config::Bert(config) => {
                let none =
                    || Error::invalid("gene", "it has no tokenizer, which a folder of a text encoder holds");
                return sentences::files(config, dtype, tokenizer.ok_or_else(none)?);
            }
        };
        let (config, preprocessor) = match self {
            Self::Timm => (timm::config(info, config), timm::preprocessor(info, config)),
            Self::Transformers => {
                (transformers::config(info, config, dtype), transformers::preprocessor(info, config))
            }
        };
        Ok(vec![("config.json", document(&config)), ("preprocessor_config.json", document(&preprocessor))])
    }
}

fn unknown(text: &str) -> Error {
    Error::not_one_of::<Layout>("layout", text)
}

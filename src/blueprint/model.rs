//! What a model file says about itself, in `__metadata__["genebank"]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    nn::VitConfig,
    tensor::TensorFile,
};

/// Key of the JSON value in a file's `__metadata__`.
pub const METADATA_KEY: &str = "genebank";

/// Version of the record that this program reads and writes.
pub const FORMAT: u32 = 1;
/// The one model family.
pub const FAMILY: &str = "vit";

/// How pixels become the network's input: `(pixel / 255 - mean) / std`, per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Mean of each channel, pixels scaled to 0..1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl Preprocessing {
    /// Checks the numbers for images of `channels` channels.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a number is absent, a deviation is not above 0, or a normalised pixel is not finite.
    pub fn validate(&self, channels: usize) -> Result<()> {
        for (field, values) in [("normalize.mean", &self.mean), ("normalize.std", &self.std)] {
            if values.len() != channels {
                let reason = format!("{} values for images of {channels} channels", values.len());
                return Err(Error::invalid(field, reason));
            }
        }
        for (mean, std) in self.mean.iter().zip(&self.std) {
            let finite = [(0.0 - mean) / std, (1.0 - mean) / std].iter().all(|value| value.is_finite());
            if !(finite && *std > 0.0 && std.is_finite()) {
                let reason = format!("mean {mean} with std {std} does not give finite values");
                return Err(Error::invalid("normalize", reason));
            }
        }
        Ok(())
    }
}

/// The gene that a model was expanded from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Name of the gene.
    pub gene: String,
    /// SHA-256 of the gene file, hex.
    pub digest: String,
    /// Layers of each stage in this model.
    pub stage_layers: Vec<usize>,
    /// Identity of the request, hex.
    pub identity: String,
}

/// What a model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// Version of this record.
    pub format: u32,
    /// Model family.
    pub family: String,
    /// Shape of the network.
    pub config: VitConfig,
    /// How pixels become the network's input.
    pub preprocessing: Preprocessing,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Licence of the training data.
    pub licence: String,
    /// Data that the weights were trained on.
    pub data: String,
    /// Gene that the weights come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Training that came after, newest last: recipe, seed and commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub training: Vec<String>,
}

impl ModelInfo {
    /// `__metadata__` of a file that holds this model.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let json = serde_json::to_string(self).expect("a record of strings and numbers serialises");
        BTreeMap::from([("format".to_owned(), "pt".to_owned()), (METADATA_KEY.to_owned(), json)])
    }

    /// Reads the record of `file`; `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the record is absent or malformed.
    pub fn from_file(file: &TensorFile, origin: &str) -> Result<Self> {
        let json = file
            .metadata(METADATA_KEY)
            .ok_or_else(|| Error::corrupt(origin, "no \"genebank\" record in __metadata__"))?;
        let info: Self = serde_json::from_str(json)
            .map_err(|e| Error::corrupt(origin, format!("\"genebank\" record: {e}")))?;
        if (info.format, info.family.as_str()) != (FORMAT, FAMILY) {
            let found = format!("format {} of family \"{}\"", info.format, info.family);
            return Err(Error::corrupt(origin, format!("{found} is not format {FORMAT} of \"{FAMILY}\"")));
        }
        Ok(info)
    }
}

//! What a model is: shape, classes, preprocessing and provenance.

use crate::{
    error::{Error, Result},
    nn::VitConfig,
};

/// How pixels become the network's input: `(pixel / 255 - mean) / std`, per channel.
#[derive(Debug, Clone, PartialEq)]
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
    /// [`Error::Invalid`] if a number is missing, a deviation is not above 0, or a normalised pixel is not finite.
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
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
    pub origin: Option<Origin>,
    /// Training that came after, newest last: recipe, seed and commit.
    pub training: Vec<String>,
}

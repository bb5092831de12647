//! What a model is: shape, classes, preprocessing and provenance.

use crate::{
    error::{Error, Result},
    nn::Config,
};

/// How pixels become the network's input: `(pixel / 255 - mean) / std`, per channel. Empty for a text encoder.
#[derive(Debug, Clone, Default, PartialEq)]
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

/// What a record says of the data of weights that were not trained.
pub const NO_DATA: &str = "none";

/// What a record says of the data of imported weights.
pub const UNKNOWN_DATA: &str = "unknown";

/// Data that weights were trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingData {
    /// Name, and the digest of the content.
    pub data: String,
    /// Its licence.
    pub licence: String,
}

/// What a model is.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Shape of the network.
    pub config: Config,
    /// How pixels become the network's input.
    pub preprocessing: Preprocessing,
    /// Names of the classes; none for a text encoder.
    pub labels: Vec<String>,
    /// Licence of `data`.
    pub licence: String,
    /// Data that the weights were trained on last: the name and the digest of its content.
    pub data: String,
    /// Data that the weights were trained on before that, oldest first. None of them is `data`.
    pub earlier: Vec<TrainingData>,
    /// Gene that the weights come from.
    pub origin: Option<Origin>,
    /// Training that came after, newest last: recipe, seed and commit.
    pub training: Vec<String>,
}

impl ModelInfo {
    /// Records that the weights were trained on `now` as well.
    pub fn trained_on(&mut self, now: TrainingData) {
        let before =
            TrainingData { data: std::mem::take(&mut self.data), licence: std::mem::take(&mut self.licence) };
        // Seeded values have no data.
        if before.data != NO_DATA {
            self.earlier.push(before);
        }
        self.earlier.retain(|earlier| *earlier != now);
        (self.data, self.licence) = (now.data, now.licence);
    }
}

/// The name of a data set in a record's text about it.
pub fn data_name(data: &str) -> &str {
    data.split_whitespace().next().unwrap_or(NO_DATA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{VitConfig, vit::RawVitConfig};

    fn info() -> ModelInfo {
        let raw = RawVitConfig {
            image_size: 8,
            patch_size: 4,
            channels: 1,
            classes: 1,
            depth: 1,
            width: 8,
            heads: 1,
            mlp_ratio: 4,
        };
        ModelInfo {
            config: VitConfig::try_from(raw).unwrap().into(),
            preprocessing: Preprocessing { mean: vec![0.5], std: vec![0.5] },
            labels: vec!["a".to_owned()],
            licence: NO_DATA.to_owned(),
            data: NO_DATA.to_owned(),
            earlier: Vec::new(),
            origin: None,
            training: Vec::new(),
        }
    }

    #[test]
    fn every_data_set_is_named_once_and_the_last_one_apart() {
        let set = |data: &str| TrainingData { data: data.to_owned(), licence: format!("licence of {data}") };
        let mut info = info();
        for (now, earlier) in [
            ("a 1", vec![]),
            ("a 1", vec![]),
            ("b 2", vec![set("a 1")]),
            ("c 3", vec![set("a 1"), set("b 2")]),
            ("a 1", vec![set("b 2"), set("c 3")]),
        ] {
            info.trained_on(set(now));
            assert_eq!((info.data.as_str(), &info.licence), (now, &set(now).licence));
            assert_eq!(info.earlier, earlier, "{now}");
        }
    }

    #[test]
    fn the_first_word_about_data_is_its_name() {
        assert_eq!((data_name("fashion-mnist abc"), data_name(" ")), ("fashion-mnist", NO_DATA));
    }
}

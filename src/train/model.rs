//! A model in memory: its weights and its record.

use std::path::Path;

use candle_core::Device;

use crate::{
    blueprint::{Ancestor, Blueprint, ModelInfo, Preprocessing, TrainingData, expand},
    data::Dataset,
    error::{Error, Result},
    nn::{Vit, VitConfig, vit::RawVitConfig},
    tensor::{Dtype, Weights, codec},
};

use super::Recipe;

/// Weights of a model, and the record that describes them.
#[derive(Debug, Clone)]
pub struct Model {
    /// The record for the file.
    pub info: ModelInfo,
    /// Tensors under timm's names.
    pub weights: Weights,
}

impl Model {
    /// Reads a model file written by this program.
    ///
    /// # Errors
    /// Those of [`Ancestor::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(&Ancestor::open(path)?, &Device::Cpu)
    }

    /// The model of `ancestor` on `device`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device refuses.
    pub fn of(ancestor: &Ancestor, device: &Device) -> Result<Self> {
        Ok(Self { info: ancestor.info().clone(), weights: ancestor.weights(device)? })
    }

    /// The bytes of the model file.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor cannot be read.
    pub fn render(&self, dtype: Dtype) -> Result<bytes::Bytes> {
        Ok(codec::render(&self.info.metadata(), &self.weights.to_bytes(dtype)?))
    }

    /// Writes the model file atomically.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Tensor`] if a tensor cannot be read.
    pub fn write(&self, path: &Path) -> Result<()> {
        codec::write_atomic(path, [self.render(Dtype::F32)?.as_ref()])
    }

    /// The network.
    ///
    /// # Errors
    /// The schema errors.
    pub fn vit(&self) -> Result<Vit> {
        Vit::new(*self.info.config.vit()?, &self.weights)
    }

    /// A model for `data` that inherits nothing: values drawn from the recipe's seed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the recipe has no model, or its shape does not fit the data.
    pub fn fresh(recipe: &Recipe, data: &Dataset) -> Result<Self> {
        let info = model_info(recipe, data, preprocessing(data))?;
        let blueprint = Blueprint::fresh(info, recipe.seed);
        let weights = expand(&blueprint, &Weights::default(), &Device::Cpu)?;
        Ok(Self { info: blueprint.info, weights })
    }
}

/// The record of a model for `data` with the shape of the recipe.
pub(super) fn model_info(recipe: &Recipe, data: &Dataset, preprocessing: Preprocessing) -> Result<ModelInfo> {
    let shape = recipe.model.ok_or_else(|| Error::invalid("model", "the recipe has no [model]"))?;
    let config = VitConfig::try_from(RawVitConfig {
        image_size: data.shape().size,
        patch_size: shape.patch_size,
        channels: data.shape().channels,
        classes: data.class_names().len(),
        depth: shape.depth,
        width: shape.width,
        heads: shape.heads,
        mlp_ratio: shape.mlp_ratio,
    })?;
    let TrainingData { data: about, licence } = training_data(data);
    Ok(ModelInfo {
        config: config.into(),
        preprocessing,
        labels: data.class_names().to_vec(),
        licence,
        data: about,
        earlier: Vec::new(),
        origin: None,
        training: Vec::new(),
    })
}

/// `data` as the record of a model names it.
pub(super) fn training_data(data: &Dataset) -> TrainingData {
    TrainingData { data: format!("{} {}", data.name(), data.digest()), licence: data.licence().to_owned() }
}

/// Mean and standard deviation of each channel over all images of `data`, to four decimals.
fn preprocessing(data: &Dataset) -> Preprocessing {
    let channels = data.shape().channels;
    let plane = data.shape().size * data.shape().size;
    let mut sums = vec![[0u64; 2]; channels];
    for item in 0..data.len() {
        for (sums, plane) in sums.iter_mut().zip(data.image(item).chunks_exact(plane)) {
            sums[0] += plane.iter().map(|p| u64::from(*p)).sum::<u64>();
            sums[1] += plane.iter().map(|p| u64::from(*p) * u64::from(*p)).sum::<u64>();
        }
    }
    let count = (data.len() * plane) as f64;
    let round = |value: f64| (libm::round(value * 1e4) / 1e4) as f32;
    let moments = sums.iter().map(|[first, second]| {
        let mean = *first as f64 / count;
        let variance = (*second as f64 / count - mean * mean).max(1e-6);
        (round(mean / 255.0), round(libm::sqrt(variance) / 255.0))
    });
    let (mean, std) = moments.unzip();
    Preprocessing { mean, std }
}

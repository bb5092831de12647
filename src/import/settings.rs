//! What the JSON files of a checkpoint say, and what they must not say.

use serde_json::Value;

use crate::{
    blueprint::{ModelInfo, Preprocessing, model::UNKNOWN_DATA},
    error::{Error, Result},
    gene::labels,
    nn::Config,
};

use super::{Checkpoint, Report};

/// Mean and deviation of pixels where a checkpoint does not say them: those of ImageNet, which most were trained with.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What a checkpoint does not say itself.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// timm's name of the architecture, or transformers' `model_type`.
    pub architecture: Option<String>,
    /// Attention heads, which no tensor shows.
    pub heads: Option<usize>,
}

/// What an imported model expects and answers.
pub(super) struct Settings {
    pub(super) preprocessing: Preprocessing,
    pub(super) labels: Vec<String>,
    pub(super) licence: String,
}

impl Settings {
    /// The settings of a model for images of so many `channels` with so many `classes`.
    pub(super) fn read(
        checkpoint: &Checkpoint,
        channels: usize,
        classes: usize,
        report: &mut Report,
    ) -> Result<Self> {
        let preprocessing = preprocessing(checkpoint).unwrap_or_else(|| {
            report.assumed.push("mean and deviation of the pixels: ImageNet's".to_owned());
            let of = |values: [f32; 3]| (0..channels).map(|channel| values[channel % 3]).collect();
            Preprocessing { mean: of(MEAN), std: of(STD) }
        });
        preprocessing.validate(channels)?;
        let labels = labels(checkpoint, classes)?.unwrap_or_else(|| {
            if classes > 0 {
                report.assumed.push("names of the classes: class 0, class 1, …".to_owned());
            }
            (0..classes).map(|class| format!("class {class}")).collect()
        });
        let licence = licence_or_unknown(checkpoint, report);
        Ok(Self { preprocessing, labels, licence })
    }

    /// The settings of a text encoder, which has neither pixels nor classes.
    pub(super) fn of_texts(checkpoint: &Checkpoint, report: &mut Report) -> Self {
        let (preprocessing, labels) = (Preprocessing::default(), Vec::new());
        Self { preprocessing, labels, licence: licence_or_unknown(checkpoint, report) }
    }

    /// The record of a model of this shape that was read from `checkpoint`; `what` names its kind.
    pub(super) fn info(self, checkpoint: &Checkpoint, config: Config, what: &str) -> ModelInfo {
        ModelInfo {
            config,
            preprocessing: self.preprocessing,
            labels: self.labels,
            licence: self.licence,
            data: UNKNOWN_DATA.to_owned(),
            earlier: Vec::new(),
            origin: None,
            training: vec![format!("imported from {what}, sha256 {}", checkpoint.digest)],
        }
    }
}

fn preprocessing(checkpoint: &Checkpoint) -> Option<Preprocessing> {
    let numbers = |of: &Value, key: &str| -> Option<Vec<f32>> {
        let values = of.get(key)?.as_array()?;
        values.iter().map(|value| value.as_f64().map(|value| value as f32)).collect()
    };
    let pair = |of: &Value, mean: &str, std: &str| {
        Some(Preprocessing { mean: numbers(of, mean)?, std: numbers(of, std)? })
    };
    let timm = || pair(checkpoint.config.as_ref()?.get("pretrained_cfg")?, "mean", "std");
    let transformers = || pair(checkpoint.preprocessor.as_ref()?, "image_mean", "image_std");
    transformers().or_else(timm)
}

fn licence_or_unknown(checkpoint: &Checkpoint, report: &mut Report) -> String {
    licence(checkpoint).unwrap_or_else(|| {
        report.assumed.push("no licence is named: \"unknown\"".to_owned());
        "unknown".to_owned()
    })
}

/// The licence that the README names, or timm's record of the weights.
fn licence(checkpoint: &Checkpoint) -> Option<String> {
    let timm = || checkpoint.config.as_ref()?.get("pretrained_cfg")?.get("license")?.as_str();
    let found = checkpoint.licence.as_deref().or_else(timm);
    found.filter(|licence| !licence.is_empty() && licence.len() <= 100).map(ToOwned::to_owned)
}

/// The names of the classes, if there is one for each.
fn labels(checkpoint: &Checkpoint, classes: usize) -> Result<Option<Vec<String>>> {
    let Some(config) = &checkpoint.config else { return Ok(None) };
    let listed = config.get("label_names").or_else(|| config.get("pretrained_cfg")?.get("label_names"));
    let found: Option<Vec<String>> = match (listed, config.get("id2label")) {
        (Some(Value::Array(names)), _) => {
            names.iter().map(|name| name.as_str().map(ToOwned::to_owned)).collect()
        }
        (_, Some(Value::Object(names))) => {
            (0..classes).map(|class| names.get(&class.to_string())?.as_str().map(ToOwned::to_owned)).collect()
        }
        _ => None,
    };
    let Some(labels) = found.filter(|labels| labels.len() == classes) else { return Ok(None) };
    labels::check(&labels).map_err(|reason| Error::corrupt(&checkpoint.origin, reason))?;
    Ok(Some(labels))
}

/// A key of `config.json`, at the top or among timm's `model_args`.
pub(super) fn key<'a>(config: &'a Value, name: &str) -> Option<&'a Value> {
    config.get("model_args").and_then(|args| args.get(name)).or_else(|| config.get(name))
}

/// A whole number of `config.json`.
pub(super) fn number(config: Option<&Value>, name: &str) -> Option<usize> {
    key(config?, name)?.as_u64().and_then(|number| usize::try_from(number).ok())
}

/// Refuses a key of `config.json` that is not one of `accepted`. All of these mean the same function.
pub(super) fn only(config: Option<&Value>, name: &str, accepted: &[Value], why: &str) -> Result<()> {
    let Some(config) = config else { return Ok(()) };
    let places = [config.get(name), config.get("model_args").and_then(|args| args.get(name))];
    let other = places.into_iter().flatten().find(|found| !found.is_null() && !accepted.contains(found));
    other.map_or(Ok(()), |found| {
        let found: String = found.to_string().chars().take(80).collect();
        Err(Error::invalid(format!("config.json: {name}"), format!("{found} {why}")))
    })
}

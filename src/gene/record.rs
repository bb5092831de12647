//! The record in a gene file: one JSON value in `__metadata__["genebank"]`.
//!
//! The formats are frozen, like those of a model's record ([`crate::blueprint::record`]).

use serde::{Deserialize, Serialize};

use crate::{
    blueprint::{
        Metric, Preprocessing,
        record::{Family, Preprocessing1, parse},
    },
    error::{Error, Result},
    nn::{BertConfig, Config, VitConfig},
    tensor::TensorHeader,
};

use super::{GeneMeta, Probe, Quality};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format1 {
    format: u32,
    name: String,
    family: String,
    config: VitConfig,
    stages: Vec<usize>,
    trained_widths: Vec<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    width_norms: bool,
    depth_range: [usize; 2],
    head_dim: usize,
    norm_eps: f64,
    pooling: Pooling1,
    preprocessing: Preprocessing1,
    labels: Vec<String>,
    licence: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_licence: Option<String>,
    data: String,
    teacher: String,
    recipe: String,
    probe: Probe1,
    #[serde(default)]
    quality: Vec<Quality1>,
}

/// How tokens become the input of the head.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Pooling1 {
    /// `norm` → token 0 → `head`.
    Token,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe1 {
    seed: u64,
    batch: usize,
    logits: Vec<f32>,
}

/// Accuracy is the only metric of format 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quality1 {
    depth: usize,
    width: usize,
    tuning_epochs: u32,
    accuracy: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<u64>,
}

/// The record of a gene of text encoders. The metric is Spearman's rank correlation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format2 {
    format: u32,
    name: String,
    family: String,
    config: BertConfig,
    stages: Vec<usize>,
    trained_widths: Vec<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    width_norms: bool,
    depth_range: [usize; 2],
    licence: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_licence: Option<String>,
    data: String,
    teacher: String,
    recipe: String,
    probe: Probe2,
    #[serde(default)]
    quality: Vec<Quality2>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe2 {
    seed: u64,
    batch: usize,
    vectors: Vec<f32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quality2 {
    depth: usize,
    width: usize,
    tuning_epochs: u32,
    spearman: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<u64>,
}

/// The record of `meta` as JSON.
pub(super) fn write(meta: &GeneMeta) -> String {
    let GeneMeta {
        name,
        config,
        stages,
        trained_widths,
        width_norms,
        depth_range,
        preprocessing,
        labels,
        licence,
        weights_licence,
        data,
        teacher,
        recipe,
        probe: Probe { seed, batch, logits },
        metric: _,
        quality,
    } = meta.clone();
    match config {
        Config::Vit(config) => {
            let (format, family) = Family::Vit.tag();
            serde_json::to_string(&Format1 {
                format,
                name,
                family: family.to_owned(),
                config,
                stages,
                trained_widths,
                width_norms,
                depth_range,
                head_dim: config.head_dim(),
                norm_eps: config.norm_eps(),
                pooling: Pooling1::Token,
                preprocessing: preprocessing.into(),
                labels,
                licence,
                weights_licence,
                data,
                teacher,
                recipe,
                probe: Probe1 { seed, batch, logits },
                quality: quality.into_iter().map(Into::into).collect(),
            })
        }
        Config::Bert(config) => {
            let (format, family) = Family::Bert.tag();
            serde_json::to_string(&Format2 {
                format,
                name,
                family: family.to_owned(),
                config,
                stages,
                trained_widths,
                width_norms,
                depth_range,
                licence,
                weights_licence,
                data,
                teacher,
                recipe,
                probe: Probe2 { seed, batch, vectors: logits },
                quality: quality.into_iter().map(Into::into).collect(),
            })
        }
    }
    .expect("a record of finite numbers and text serialises")
}

/// Reads and checks the record in `header`; `from` names the file in errors.
///
/// # Errors
/// [`Error::Corrupt`] if the record is absent or malformed, or breaks a rule.
pub(super) fn read(header: &TensorHeader, from: &str) -> Result<GeneMeta> {
    let meta = match Family::of(header, from)? {
        Family::Vit => parse::<Format1>(header, from)?.meta(from)?,
        Family::Bert => parse::<Format2>(header, from)?.into(),
    };
    meta.check().map_err(|reason| Error::corrupt(from, reason))?;
    Ok(meta)
}

impl Format1 {
    fn meta(self, from: &str) -> Result<GeneMeta> {
        let Self {
            format: _,
            name,
            family: _,
            config,
            stages,
            trained_widths,
            width_norms,
            depth_range,
            head_dim,
            norm_eps,
            pooling: Pooling1::Token,
            preprocessing,
            labels,
            licence,
            weights_licence,
            data,
            teacher,
            recipe,
            probe: Probe1 { seed, batch, logits },
            quality,
        } = self;
        let refuse = |reason: String| Err(Error::corrupt(from, reason));
        if head_dim != config.head_dim() {
            return refuse(format!("head_dim {head_dim} is not the network's {}", config.head_dim()));
        }
        if norm_eps != config.norm_eps() {
            return refuse(format!("norm_eps {norm_eps} is not the network's {}", config.norm_eps()));
        }
        Ok(GeneMeta {
            name,
            config: config.into(),
            stages,
            trained_widths,
            width_norms,
            depth_range,
            preprocessing: preprocessing.into(),
            labels,
            licence,
            weights_licence,
            data,
            teacher,
            recipe,
            probe: Probe { seed, batch, logits },
            metric: Metric::Accuracy,
            quality: quality.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<Format2> for GeneMeta {
    fn from(record: Format2) -> Self {
        let Format2 {
            format: _,
            name,
            family: _,
            config,
            stages,
            trained_widths,
            width_norms,
            depth_range,
            licence,
            weights_licence,
            data,
            teacher,
            recipe,
            probe: Probe2 { seed, batch, vectors },
            quality,
        } = record;
        Self {
            name,
            config: config.into(),
            stages,
            trained_widths,
            width_norms,
            depth_range,
            preprocessing: Preprocessing::default(),
            labels: Vec::new(),
            licence,
            weights_licence,
            data,
            teacher,
            recipe,
            probe: Probe { seed, batch, logits: vectors },
            metric: Metric::Spearman,
            quality: quality.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Quality> for Quality2 {
    fn from(Quality { depth, width, tuning_epochs, value, items }: Quality) -> Self {
        Self { depth, width, tuning_epochs, spearman: value, items }
    }
}

impl From<Quality2> for Quality {
    fn from(Quality2 { depth, width, tuning_epochs, spearman, items }: Quality2) -> Self {
        Self { depth, width, tuning_epochs, value: spearman, items }
    }
}

impl From<Quality> for Quality1 {
    fn from(Quality { depth, width, tuning_epochs, value, items }: Quality) -> Self {
        Self { depth, width, tuning_epochs, accuracy: value, items }
    }
}

impl From<Quality1> for Quality {
    fn from(Quality1 { depth, width, tuning_epochs, accuracy, items }: Quality1) -> Self {
        Self { depth, width, tuning_epochs, value: accuracy, items }
    }
}

//! The record of a model file: one JSON value in `__metadata__["genebank"]`.
//!
//! The formats are frozen. The program's types may change, and then the conversions here follow; whatever format 1 can
//! express, a vision transformer, is still written as format 1. Format 2 added text encoders.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    error::{Error, Result},
    nn::{BertConfig, Config, VitConfig},
    tensor::{TensorFile, TensorHeader, weights::check_schema},
};

use super::model::{ModelInfo, Origin, Preprocessing, TrainingData};

/// Key of the JSON value in a file's `__metadata__`.
pub const METADATA_KEY: &str = "genebank";
/// Key of a text encoder's `tokenizer.json` in a file's `__metadata__`.
pub const TOKENIZER_KEY: &str = "tokenizer.json";

/// The families whose records this program reads and writes, each with the format that introduced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Format 1.
    Vit,
    /// Format 2.
    Bert,
}

impl Family {
    /// The family of a network of this shape.
    pub const fn of_network(config: &Config) -> Self {
        match config {
            Config::Vit(_) => Self::Vit,
            Config::Bert(_) => Self::Bert,
        }
    }

    /// Its name in records and messages.
    pub const fn name(self) -> &'static str {
        self.tag().1
    }

    /// Version of the record and name of the family.
    pub const fn tag(self) -> (u32, &'static str) {
        match self {
            Self::Vit => (1, "vit"),
            Self::Bert => (2, "bert"),
        }
    }

    /// The family of the record in `header`; `from` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is no record, or one that this program does not know.
    pub fn of(header: &TensorHeader, from: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            family: String,
        }
        let Head { format, family } = parse(header, from)?;
        let known = [Self::Vit, Self::Bert];
        known.into_iter().find(|known| known.tag() == (format, family.as_str())).ok_or_else(|| {
            let known = known.map(|known| format!("format {} of \"{}\"", known.tag().0, known.tag().1));
            let found = format!("format {format} of family \"{family}\"");
            Error::corrupt(from, format!("{found} is not {}", known.join(" or ")))
        })
    }
}

/// The record of a vision transformer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format1<'a> {
    format: u32,
    family: String,
    config: VitConfig,
    preprocessing: Preprocessing1,
    /// Borrowed when written: there may be many, and every header of a file holds them.
    labels: Cow<'a, [String]>,
    licence: String,
    data: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<TrainingData1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin1>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    training: Vec<String>,
}

/// How pixels become the network's input, in the records of models and genes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing1 {
    mean: Vec<f32>,
    std: Vec<f32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainingData1 {
    data: String,
    licence: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin1 {
    gene: String,
    digest: String,
    stage_layers: Vec<usize>,
    identity: String,
}

/// The record of a text encoder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Format2 {
    format: u32,
    family: String,
    config: BertConfig,
    licence: String,
    data: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<TrainingData1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin1>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    training: Vec<String>,
}

/// A model serialises as its record.
impl Serialize for ModelInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { config, preprocessing, labels, licence, data, earlier, origin, training } = self;
        let (licence, data, training) = (licence.clone(), data.clone(), training.clone());
        let (earlier, origin) =
            (earlier.iter().cloned().map(Into::into).collect(), origin.clone().map(Into::into));
        match config {
            Config::Vit(config) => {
                let (format, family) = Family::Vit.tag();
                Format1 {
                    format,
                    family: family.to_owned(),
                    config: *config,
                    preprocessing: preprocessing.clone().into(),
                    labels: Cow::Borrowed(labels),
                    licence,
                    data,
                    earlier,
                    origin,
                    training,
                }
                .serialize(serializer)
            }
            Config::Bert(config) => {
                let (format, family) = Family::Bert.tag();
                let (family, config) = (family.to_owned(), *config);
                Format2 { format, family, config, licence, data, earlier, origin, training }
                    .serialize(serializer)
            }
        }
    }
}

/// The record of `info` as JSON.
pub fn write(info: &ModelInfo) -> String {
    serde_json::to_string(info).expect("a record of strings and numbers serialises")
}

impl ModelInfo {
    /// `__metadata__` of a file that holds this model.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let format = ("format".to_owned(), "pt".to_owned());
        BTreeMap::from([format, (METADATA_KEY.to_owned(), write(self))])
    }

    /// Reads the record of `file`; `from` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the record is absent or malformed.
    pub fn from_file(file: &TensorFile, from: &str) -> Result<Self> {
        Self::from_header(file.header(), from)
    }

    /// Reads the record of the model file at `path`, and checks it against the shapes of the tensors. No weight is read.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] and the schema errors if the file is not a model of this program.
    pub fn open(path: &Path) -> Result<Self> {
        let header = TensorHeader::open(path)?;
        let info = Self::from_header(&header, &path.display().to_string())?;
        check_schema(header.shapes(), info.config.schema().shapes())?;
        Ok(info)
    }

    fn from_header(header: &TensorHeader, from: &str) -> Result<Self> {
        match Family::of(header, from)? {
            Family::Vit => parse::<Format1<'_>>(header, from).map(Into::into),
            Family::Bert => parse::<Format2>(header, from).map(Into::into),
        }
    }
}

impl From<Format1<'_>> for ModelInfo {
    fn from(record: Format1<'_>) -> Self {
        let Format1 { config, preprocessing, labels, licence, data, earlier, origin, training, .. } = record;
        let (config, preprocessing, labels) = (config.into(), preprocessing.into(), labels.into_owned());
        let (earlier, origin) = (earlier.into_iter().map(Into::into).collect(), origin.map(Into::into));
        Self { config, preprocessing, labels, licence, data, earlier, origin, training }
    }
}

impl From<Format2> for ModelInfo {
    fn from(record: Format2) -> Self {
        let Format2 { config, licence, data, earlier, origin, training, .. } = record;
        let (preprocessing, labels) = (Preprocessing::default(), Vec::new());
        let (earlier, origin) = (earlier.into_iter().map(Into::into).collect(), origin.map(Into::into));
        Self { config: config.into(), preprocessing, labels, licence, data, earlier, origin, training }
    }
}

/// The JSON value of `file`'s record; `from` names the file in errors.
///
/// # Errors
/// [`Error::Corrupt`] if the value is absent or cannot be parsed as a `T`.
pub fn parse<T: serde::de::DeserializeOwned>(header: &TensorHeader, from: &str) -> Result<T> {
    let json = header.metadata(METADATA_KEY).ok_or_else(|| {
        Error::corrupt(from, "no \"genebank\" record in __metadata__; import what another library wrote")
    })?;
    serde_json::from_str(json).map_err(|e| Error::corrupt(from, format!("\"genebank\" record: {e}")))
}

impl From<Preprocessing> for Preprocessing1 {
    fn from(Preprocessing { mean, std }: Preprocessing) -> Self {
        Self { mean, std }
    }
}

impl From<Preprocessing1> for Preprocessing {
    fn from(Preprocessing1 { mean, std }: Preprocessing1) -> Self {
        Self { mean, std }
    }
}

impl From<TrainingData> for TrainingData1 {
    fn from(TrainingData { data, licence }: TrainingData) -> Self {
        Self { data, licence }
    }
}

impl From<TrainingData1> for TrainingData {
    fn from(TrainingData1 { data, licence }: TrainingData1) -> Self {
        Self { data, licence }
    }
}

impl From<Origin> for Origin1 {
    fn from(Origin { gene, digest, stage_layers, identity }: Origin) -> Self {
        Self { gene, digest, stage_layers, identity }
    }
}

impl From<Origin1> for Origin {
    fn from(Origin1 { gene, digest, stage_layers, identity }: Origin1) -> Self {
        Self { gene, digest, stage_layers, identity }
    }
}

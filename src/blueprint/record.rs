//! Format 1 of a model file's record: one JSON value in `__metadata__["genebank"]`.
//!
//! This format is frozen. The program's types may change, and then the conversions here follow; whatever format 1 can
//! express is still written as format 1.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    error::{Error, Result},
    nn::VitConfig,
    tensor::{TensorFile, TensorHeader, weights::check_schema},
};

use super::model::{ModelInfo, Origin, Preprocessing, TrainingData};

/// Key of the JSON value in a file's `__metadata__`.
pub const METADATA_KEY: &str = "genebank";
/// Version of the records that this program reads and writes.
pub const FORMAT: u32 = 1;
/// The only model family.
pub const FAMILY: &str = "vit";

/// The record of a model.
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

impl<'a> From<&'a ModelInfo> for Format1<'a> {
    fn from(info: &'a ModelInfo) -> Self {
        let ModelInfo { config, preprocessing, labels, licence, data, earlier, origin, training } = info;
        Self {
            format: FORMAT,
            family: FAMILY.to_owned(),
            config: *config,
            preprocessing: preprocessing.clone().into(),
            labels: Cow::Borrowed(labels),
            licence: licence.clone(),
            data: data.clone(),
            earlier: earlier.iter().cloned().map(Into::into).collect(),
            origin: origin.clone().map(Into::into),
            training: training.clone(),
        }
    }
}

/// A model serialises as its record.
impl Serialize for ModelInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Format1::from(self).serialize(serializer)
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
        let Format1 {
            format,
            family,
            config,
            preprocessing,
            labels,
            licence,
            data,
            earlier,
            origin,
            training,
        } = parse(header, from)?;
        if (format, family.as_str()) != (FORMAT, FAMILY) {
            let found = format!("format {format} of family \"{family}\"");
            return Err(Error::corrupt(from, format!("{found} is not format {FORMAT} of \"{FAMILY}\"")));
        }
        let (preprocessing, labels) = (preprocessing.into(), labels.into_owned());
        let (earlier, origin) = (earlier.into_iter().map(Into::into).collect(), origin.map(Into::into));
        Ok(Self { config, preprocessing, labels, licence, data, earlier, origin, training })
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

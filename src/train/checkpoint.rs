//! The state of a run on disk: parameters, moments and step, in one safetensors file.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    tensor::{Dtype, Params, TensorBytes, TensorFile, codec},
};

use super::optim::{AdamW, Moments};

const METADATA_KEY: &str = "genebank.checkpoint";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    run: String,
    step: u64,
}

/// A stored state.
#[derive(Debug)]
pub struct Checkpoint {
    step: u64,
    values: BTreeMap<String, Vec<f32>>,
    /// The optimiser's moments.
    pub moments: BTreeMap<String, Moments>,
}

impl Checkpoint {
    /// The state at `path`, or `None` where there is no file.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it belongs to another run; [`Error::Corrupt`] where it is malformed.
    pub fn open(path: &Path, run: &str) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let origin = path.display().to_string();
        let file = TensorFile::open(path)?;
        let record: Record = file
            .metadata(METADATA_KEY)
            .and_then(|json| serde_json::from_str(json).ok())
            .ok_or_else(|| Error::corrupt(&origin, "not a checkpoint"))?;
        if record.run != run {
            return Err(Error::invalid(
                "checkpoint",
                format!("{origin} belongs to another recipe or data set"),
            ));
        }
        let mut checkpoint = Self { step: record.step, values: BTreeMap::new(), moments: BTreeMap::new() };
        for (name, tensor) in file.tensors() {
            let values = tensor.dtype.read(&tensor.bytes);
            match name.split_once('/') {
                Some(("param", name)) => {
                    checkpoint.values.insert(name.to_owned(), values);
                }
                Some(("first", name)) => {
                    checkpoint.moments.entry(name.to_owned()).or_default().first = values;
                }
                Some(("second", name)) => {
                    checkpoint.moments.entry(name.to_owned()).or_default().second = values;
                }
                _ => return Err(Error::UnexpectedTensor { name: name.to_owned() }),
            }
        }
        Ok(Some(checkpoint))
    }

    /// Sets every parameter; returns the steps that were made.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::Tensor`] where parameters differ.
    pub fn restore(&self, params: &Params) -> Result<u64> {
        for (name, var) in params.iter() {
            let values =
                self.values.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
            params.set(name, values.clone(), var.device())?;
        }
        Ok(self.step)
    }

    /// Writes the state whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(path: &Path, run: &str, step: u64, params: &Params, adamw: &AdamW) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, var) in params.iter() {
            let moments = &adamw.moments()[name];
            let values = params.values(name)?;
            for (kind, values) in [("param", &values), ("first", &moments.first), ("second", &moments.second)]
            {
                let mut bytes = Vec::with_capacity(values.len() * 4);
                Dtype::F32.write(values.iter().copied(), &mut bytes);
                let tensor =
                    TensorBytes { dtype: Dtype::F32, shape: var.dims().to_vec(), bytes: bytes.into() };
                tensors.push((format!("{kind}/{name}"), tensor));
            }
        }
        let record = Record { run: run.to_owned(), step };
        let json = serde_json::to_string(&record).expect("a record of text and a number serialises");
        let file = codec::render(&BTreeMap::from([(METADATA_KEY.to_owned(), json)]), &tensors);
        codec::write_atomic(path, [file.as_ref()])
    }
}

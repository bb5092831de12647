//! The state of a run on disk: parameters, moments and step in one safetensors file.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    tensor::{Dtype, Params, TensorBytes, TensorFile, codec, weights::check_schema},
};

const METADATA_KEY: &str = "genebank.checkpoint";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    run: String,
    step: u64,
}

/// Parameters and moments, each in the flat order of the parameters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// `θ`
    pub values: Vec<f32>,
    /// `m`
    pub first: Vec<f32>,
    /// `v`
    pub second: Vec<f32>,
}

/// A state read from disk.
#[derive(Debug)]
pub struct Checkpoint {
    step: u64,
    tensors: TensorFile,
}

/// The three values stored for each parameter.
const KINDS: [&str; 3] = ["param", "first", "second"];

impl Checkpoint {
    /// The state at `path`, or `None` if there is no file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it belongs to another run; [`Error::Corrupt`] if it is malformed.
    pub fn open(path: &Path, run: &str) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let origin = path.display().to_string();
        let tensors = TensorFile::open(path)?;
        let record: Record = tensors
            .metadata(METADATA_KEY)
            .and_then(|json| serde_json::from_str(json).ok())
            .ok_or_else(|| Error::corrupt(&origin, "not a checkpoint"))?;
        if record.run != run {
            return Err(Error::invalid(
                "checkpoint",
                format!("{origin} belongs to another recipe or data set"),
            ));
        }
        Ok(Some(Self { step: record.step, tensors }))
    }

    /// The number of steps made, and the state in the flat order of `params`.
    ///
    /// # Errors
    /// The schema errors if the parameters differ.
    pub fn state(&self, params: &Params) -> Result<(u64, State)> {
        let found = self.tensors.tensors().map(|(name, tensor)| (name, tensor.shape.as_slice()));
        let expected = params
            .iter()
            .flat_map(|(name, shape, _)| KINDS.map(|kind| (format!("{kind}/{name}"), shape.to_vec())));
        check_schema(found, expected)?;
        let mut state = State::default();
        let [param, first, second] = KINDS;
        for (name, ..) in params.iter() {
            let read = |kind: &str, into: &mut Vec<f32>| {
                let tensor = self.tensors.tensor(&format!("{kind}/{name}"))?;
                into.extend(tensor.dtype.read(&tensor.bytes));
                Ok::<_, Error>(())
            };
            read(param, &mut state.values)?;
            read(first, &mut state.first)?;
            read(second, &mut state.second)?;
        }
        Ok((self.step, state))
    }

    /// Writes the state atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(path: &Path, run: &str, step: u64, params: &Params, state: &State) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, shape, span) in params.iter() {
            for (kind, values) in KINDS.into_iter().zip([&state.values, &state.first, &state.second]) {
                let mut bytes = Vec::with_capacity(span.len() * 4);
                Dtype::F32.write(values[span.clone()].iter().copied(), &mut bytes);
                let tensor = TensorBytes { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.into() };
                tensors.push((format!("{kind}/{name}"), tensor));
            }
        }
        let record = Record { run: run.to_owned(), step };
        let json = serde_json::to_string(&record).expect("a record of text and a number serialises");
        let file = codec::render(&BTreeMap::from([(METADATA_KEY.to_owned(), json)]), &tensors);
        codec::write_atomic(path, [file.as_ref()])
    }
}

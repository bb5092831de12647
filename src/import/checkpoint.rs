//! A checkpoint on disk: its tensors, from one file or from shards, and the JSON files beside them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    digest::Digest,
    error::{Error, Result},
    file,
    tensor::{TensorBytes, TensorFile, codec::MAX_FILE_BYTES},
};

/// Size limit of `config.json` and of the files like it, bytes.
const MAX_JSON_BYTES: u64 = 16 << 20;
/// Size limit of a README, bytes.
const MAX_README_BYTES: u64 = 4 << 20;
/// Largest number of shards.
const MAX_SHARDS: usize = 1000;

/// The usual file of a checkpoint.
const WHOLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// Files of other formats, and how to convert them.
const OTHER_FORMATS: [(&[&str], &str); 2] = [
    (
        &["bin", "pt", "pth", "ckpt"],
        "python -c \"import sys, torch, safetensors.torch as s; s.save_file({k: v.contiguous().clone() for k, v in \
         torch.load(sys.argv[1], map_location='cpu', weights_only=True).items()}, 'model.safetensors')\" FILE",
    ),
    (
        &["onnx"],
        "python -c \"import sys, onnx, safetensors.numpy as s; s.save_file({t.name: \
         onnx.numpy_helper.to_array(t).copy() for t in onnx.load(sys.argv[1]).graph.initializer}, \
         'model.safetensors')\" FILE",
    ),
];

/// What stands on disk.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What errors call it.
    pub(super) origin: String,
    /// The folder, if it is one.
    folder: Option<PathBuf>,
    /// `config.json`.
    pub(super) config: Option<Value>,
    /// `preprocessor_config.json`.
    pub(super) preprocessor: Option<Value>,
    /// Licence in the front matter of the README.
    pub(super) licence: Option<String>,
    /// Tensors of f32, f16 and bf16.
    pub(super) tensors: BTreeMap<String, TensorBytes>,
    /// Names and dtypes of the other tensors.
    pub(super) others: BTreeMap<String, String>,
    /// SHA-256 of the files of tensors, hex; of several, that of their digests.
    pub(super) digest: String,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads the folder or safetensors file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] for a file that breaks its format; [`Error::Invalid`] for a folder without
    /// safetensors, with the command that converts what is there.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        if !path.is_dir() {
            refuse_other_format(path)?;
            return Self::default_of(origin).with_files(&[path.to_owned()]);
        }
        let json = |name: &str| {
            let path = path.join(name);
            if !path.try_exists().map_err(Error::io(&path))? {
                return Ok(None);
            }
            parse::<Value>(&path).map(Some)
        };
        let checkpoint = Self {
            config: json("config.json")?,
            preprocessor: json("preprocessor_config.json")?,
            licence: licence(path)?,
            folder: Some(path.to_owned()),
            ..Self::default_of(origin)
        };
        checkpoint.with_files(&files(path)?)
    }

    const fn default_of(origin: String) -> Self {
        Self {
            origin,
            folder: None,
            config: None,
            preprocessor: None,
            licence: None,
            tensors: BTreeMap::new(),
            others: BTreeMap::new(),
            digest: String::new(),
        }
    }

    /// What errors call the file `name` of the folder.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.origin)
    }

    /// The bytes of the file `name` of the folder, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] for a file beyond the limit.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.folder.as_ref().map(|folder| folder.join(name)) else { return Ok(None) };
        if !path.try_exists().map_err(Error::io(&path))? {
            return Ok(None);
        }
        file::read(&path, MAX_JSON_BYTES).map(Some)
    }

    /// The JSON file `name` of the folder, if there is one.
    ///
    /// # Errors
    /// As for the bytes; [`Error::Corrupt`] for malformed JSON.
    pub(super) fn json(&self, name: &str) -> Result<Option<Value>> {
        let parse = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes)
                .map_err(|error| Error::corrupt(self.named(name), error.to_string()))
        };
        self.bytes(name)?.map(parse).transpose()
    }

    /// The tensors of the file `name` of the folder.
    ///
    /// # Errors
    /// Those of [`TensorFile::open_any`].
    pub(super) fn tensors_of(&self, name: &str) -> Result<TensorFile> {
        let missing = || Error::invalid(self.named(name), "is missing");
        let folder = self.folder.as_ref().ok_or_else(missing)?;
        let file = TensorFile::open_any(&folder.join(name))?;
        file.check_finite(&self.named(name))?;
        Ok(file)
    }

    fn with_files(mut self, files: &[PathBuf]) -> Result<Self> {
        let length = |path: &PathBuf| file::open(path, MAX_FILE_BYTES).map(|(_, metadata)| metadata.len());
        let bytes = files.iter().map(length).sum::<Result<u64>>()?;
        if bytes > MAX_FILE_BYTES {
            let reason = format!("{bytes} bytes of tensors are more than the limit of {MAX_FILE_BYTES}");
            return Err(Error::corrupt(self.origin, reason));
        }
        let mut digests = Vec::new();
        for path in files {
            let file = TensorFile::open_any(path)?;
            let origin = path.display().to_string();
            file.check_finite(&origin)?;
            digests.push(Digest::of(file.bytes()).to_string());
            for (name, dtype) in file.header().others() {
                self.others.insert(name.to_owned(), dtype.to_owned());
            }
            for (name, tensor) in file.tensors() {
                if self.tensors.insert(name.to_owned(), tensor.clone()).is_some() {
                    return Err(Error::corrupt(origin, format!("tensor \"{name}\" is in another shard too")));
                }
            }
        }
        self.digest = match digests.as_slice() {
            [one] => one.clone(),
            many => Digest::of(many.concat().as_bytes()).to_string(),
        };
        Ok(self)
    }
}

/// The files of tensors in `folder`.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(INDEX);
    if index.is_file() {
        let Index { weight_map } = parse(&index)?;
        let names: BTreeSet<String> = weight_map.into_values().collect();
        let plain = |name: &String| !name.contains(['/', '\\']) && name.ends_with(".safetensors");
        if names.is_empty() || names.len() > MAX_SHARDS || !names.iter().all(plain) {
            let reason =
                format!("it names {} shards; 1..={MAX_SHARDS} files beside it are read", names.len());
            return Err(Error::corrupt(index.display().to_string(), reason));
        }
        return Ok(names.into_iter().map(|name| folder.join(name)).collect());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        found.push(entry.map_err(Error::io(folder))?.path());
    }
    found.sort();
    let tensors: Vec<_> =
        found.iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    if let Some(whole) = tensors.iter().find(|path| path.ends_with(WHOLE)) {
        return Ok(vec![(*whole).clone()]);
    }
    match tensors.as_slice() {
        [one] => Ok(vec![(*one).clone()]),
        [] => {
            found.iter().try_for_each(|path| refuse_other_format(path))?;
            Err(Error::invalid(folder.display().to_string(), "the folder holds no .safetensors file"))
        }
        many => {
            let reason = format!("{} files of tensors and neither {WHOLE} nor {INDEX}; name one", many.len());
            Err(Error::invalid(folder.display().to_string(), reason))
        }
    }
}

fn refuse_other_format(path: &Path) -> Result<()> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let other = OTHER_FORMATS.iter().find(|(extensions, _)| extensions.contains(&extension));
    other.map_or(Ok(()), |(_, command)| {
        let reason = format!("only safetensors are read. Convert it: {command}");
        Err(Error::invalid(path.display().to_string(), reason))
    })
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    serde_json::from_slice(&file::read(path, MAX_JSON_BYTES)?)
        .map_err(|error| Error::corrupt(path.display().to_string(), error.to_string()))
}

/// `license:` of the front matter of the README in `folder`.
fn licence(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("README.md");
    if !path.is_file() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&file::read(&path, MAX_README_BYTES)?).into_owned();
    let mut lines = text.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Ok(None);
    }
    let mut front = lines.take_while(|line| line.trim_end() != "---");
    let value = front.find_map(|line| line.strip_prefix("license:"));
    let value = value.map(|value| value.trim().trim_matches(['"', '\'']));
    Ok(value.filter(|value| !value.is_empty() && value.len() <= 100).map(ToOwned::to_owned))
}

//! The lock file of `init`. It records each output, so that a later run writes the same bytes or fails.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    client::{Expected, Summary},
    error::{Error, Result},
    file,
    tensor::codec,
};

/// Path of the lock file if the user gives none.
pub(super) const DEFAULT: &str = "genebank.lock";
/// Version of the file format.
const VERSION: u32 = 1;
/// Size limit of a lock file, bytes.
const MAX_BYTES: u64 = 4 << 20;

/// A lock file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    version: u32,
    /// One record for each output.
    #[serde(default, rename = "model", skip_serializing_if = "Vec::is_empty")]
    models: Vec<Locked>,
}

/// The record of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Locked {
    output: String,
    gene: String,
    depth: u32,
    width: u32,
    size_bytes: u64,
    manifest: String,
    #[serde(flatten)]
    expected: Expected,
}

impl Lock {
    /// Reads the file at `path`. If there is no file, nothing is locked.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] if the file is not a lock file of this version.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::invalid(path.display().to_string(), reason);
        let text = match file::text(path, MAX_BYTES) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { version: VERSION, models: Vec::new() });
            }
            text => text?,
        };
        let lock: Self = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        if lock.version != VERSION {
            return Err(invalid(format!("version {} is not {VERSION}", lock.version)));
        }
        Ok(lock)
    }

    /// The expected identity and digest of `output`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `output` is not locked.
    pub(super) fn expected(&self, output: &Path) -> Result<&Expected> {
        let name = output.display().to_string();
        let locked = self.models.iter().find(|locked| locked.output == name);
        locked.map(|locked| &locked.expected).ok_or_else(|| {
            let known: Vec<_> = self.models.iter().map(|locked| locked.output.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let known = format!("{known}; to lock it, run the same command with --lock in place of --locked");
            Error::NotFound { what: "locked output", name, known }
        })
    }

    /// Records what was written to `output`.
    pub(super) fn put(&mut self, output: &Path, summary: &Summary) {
        let Summary { model, manifest, sha256 } = summary;
        let output = output.display().to_string();
        self.models.retain(|locked| locked.output != output);
        self.models.push(Locked {
            output,
            gene: model.gene.clone(),
            depth: model.depth,
            width: model.width,
            size_bytes: model.size_bytes,
            manifest: manifest.clone(),
            expected: Expected { identity: model.identity.clone(), sha256: sha256.clone() },
        });
        self.models.sort_by(|a, b| a.output.cmp(&b.output));
    }

    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|error| Error::invalid("lock", error.to_string()))?;
        let head = "# Written by genebank init --lock; genebank init --locked writes these bytes or fails.\n";
        codec::write_atomic(path, [head.as_bytes(), text.as_bytes()])
    }
}

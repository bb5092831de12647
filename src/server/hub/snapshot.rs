//! A repository as the protocol names it: paths, sizes and object ids.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::{
    bank::{Repository, repository::WEIGHTS},
    digest::hex,
    error::Result,
    server::{file::etag, request::not_found, state::State},
};

/// A repository and the object ids of its small files.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) repository: Repository,
    pub(super) commit: String,
    texts: BTreeMap<&'static str, Text>,
}

/// A small file.
#[derive(Debug)]
struct Text {
    bytes: Bytes,
    oid: String,
}

/// What is known about a file before any weight is read.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) size: u64,
    /// The name in caches: git's object id for a small file, a digest of the identity for weights.
    pub(super) etag: String,
    /// The bytes of a small file; weights have none here.
    pub(super) text: Option<Bytes>,
}

/// One file of a repository and its object ids.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) path: &'static str,
    pub(super) size: u64,
    /// git's object id of the file, or of the pointer to it.
    pub(super) oid: String,
    /// Only for weights: git keeps a pointer to them.
    pub(super) stored: Option<Stored>,
}

/// The content of the pointer to a large file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) sha256: Arc<str>,
    pub(super) pointer_size: usize,
}

impl Snapshot {
    pub(super) fn new(repository: Repository) -> Self {
        let texts = repository
            .texts
            .iter()
            .map(|(path, bytes)| (*path, Text { oid: blob_id(bytes), bytes: bytes.clone() }));
        Self { texts: texts.collect(), commit: repository.commit(), repository }
    }

    /// Memory in use, bytes: the texts, and about 256 for each entry of the blueprint.
    pub(super) fn bytes(&self) -> usize {
        let texts: usize = self.texts.values().map(|text| text.bytes.len()).sum();
        texts + 256 * self.repository.quote.blueprint.entries.len()
    }

    /// Its paths in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &'static str> {
        let mut paths: Vec<_> = self.texts.keys().copied().chain([WEIGHTS]).collect();
        paths.sort_unstable();
        paths.into_iter()
    }

    /// The file at `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the paths that exist.
    pub(super) fn file(&self, path: &str) -> Result<File> {
        if let Some((path, Text { bytes, oid })) = self.texts.get_key_value(path) {
            let (size, etag, text) = (bytes.len() as u64, oid.clone(), Some(bytes.clone()));
            return Ok(File { path, size, etag, text });
        }
        if path != WEIGHTS {
            return Err(not_found("file", path, &self.paths().collect::<Vec<_>>().join(", ")));
        }
        let quote = &self.repository.quote;
        let etag = etag(quote.blueprint.identity, WEIGHTS);
        Ok(File { path: WEIGHTS, size: quote.size_bytes(), etag, text: None })
    }

    /// The file at `path` with its object ids. Weights are rendered and digested once.
    ///
    /// # Errors
    /// Those of [`Snapshot::file`] and of rendering.
    pub(super) async fn object(&self, state: &State, path: &str) -> Result<Object> {
        let File { path, size, etag, text } = self.file(path)?;
        if text.is_some() {
            return Ok(Object { path, size, oid: etag, stored: None });
        }
        let sha256 = state.digests.of_quote(&state.bank, &self.repository.quote).await?;
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        let stored = Some(Stored { sha256, pointer_size: pointer.len() });
        Ok(Object { path, size, oid: blob_id(pointer.as_bytes()), stored })
    }

    /// Every file in the order of paths.
    ///
    /// # Errors
    /// Those of rendering.
    pub(super) async fn objects(&self, state: &State) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for path in self.paths() {
            objects.push(self.object(state, path).await?);
        }
        Ok(objects)
    }
}

impl Object {
    /// The file as an entry of a tree.
    pub(super) fn entry(&self) -> Value {
        let mut entry = json!({ "type": "file", "path": self.path, "size": self.size, "oid": self.oid });
        if let Some(stored) = &self.stored {
            entry["lfs"] =
                json!({ "oid": *stored.sha256, "size": self.size, "pointerSize": stored.pointer_size });
        }
        entry
    }

    /// The file as a sibling of a model.
    pub(super) fn sibling(&self) -> Value {
        let mut sibling = json!({ "rfilename": self.path, "size": self.size, "blobId": self.oid });
        if let Some(stored) = &self.stored {
            sibling["lfs"] =
                json!({ "sha256": *stored.sha256, "size": self.size, "pointerSize": stored.pointer_size });
        }
        sibling
    }
}

/// git's object id of a file with these bytes.
fn blob_id(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_have_the_names_that_git_gives() {
        // printf 'hello\n' | git hash-object --stdin
        assert_eq!(blob_id(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(blob_id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }
}

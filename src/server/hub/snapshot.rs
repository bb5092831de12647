//! A repository as the protocol names it: paths, sizes and object ids.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::{
    bank::{Quote, Repository},
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
    pub(super) content: Known,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// A small file.
    Text(Bytes),
    /// Weights, which are made when they are asked for.
    Weights(Box<Quote>),
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
        let entries = |quote: &Quote| quote.blueprint.entries.len();
        let weights: usize = self.repository.weights.values().map(entries).sum();
        texts + 256 * (weights + entries(&self.repository.quote))
    }

    /// Its paths in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &'static str> {
        let mut paths: Vec<_> = self.texts.keys().chain(self.repository.weights.keys()).copied().collect();
        paths.sort_unstable();
        paths.into_iter()
    }

    /// The file at `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the paths that exist.
    pub(super) fn file(&self, path: &str) -> Result<File> {
        if let Some((path, Text { bytes, oid })) = self.texts.get_key_value(path) {
            let (size, etag, content) = (bytes.len() as u64, oid.clone(), Known::Text(bytes.clone()));
            return Ok(File { path, size, etag, content });
        }
        let known = self.repository.weights.get_key_value(path);
        let (path, quote) =
            known.ok_or_else(|| not_found("file", path, &self.paths().collect::<Vec<_>>().join(", ")))?;
        let etag = etag(quote.blueprint.identity, path);
        Ok(File { path, size: quote.size_bytes(), etag, content: Known::Weights(Box::new(quote.clone())) })
    }

    /// The file at `path` with its object ids. Weights are rendered and digested once.
    ///
    /// # Errors
    /// Those of [`Snapshot::file`] and of rendering.
    pub(super) async fn object(&self, state: &State, path: &str) -> Result<Object> {
        let File { path, size, etag, content } = self.file(path)?;
        let quote = match content {
            Known::Text(_) => return Ok(Object { path, size, oid: etag, stored: None }),
            Known::Weights(quote) => quote,
        };
        let sha256 = state.digests.of_quote(&state.bank, &quote).await?;
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
    object_id("blob", bytes)
}

/// git's object id of a folder that holds only these files.
pub(super) fn tree_id(files: &[&Object]) -> String {
    let mut tree = Vec::new();
    for Object { path, oid, .. } in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        tree.extend_from_slice(format!("100644 {name}\0").as_bytes());
        tree.extend(
            (0..oid.len() / 2).filter_map(|at| u8::from_str_radix(&oid[2 * at..2 * at + 2], 16).ok()),
        );
    }
    object_id("tree", &tree)
}

fn object_id(kind: &str, bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("{kind} {}\0", bytes.len())).chain_update(bytes).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_have_the_names_that_git_gives() {
        // printf 'hello\n' | git hash-object --stdin
        assert_eq!(blob_id(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(blob_id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        // printf '100644 blob e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\tconfig.json\n' | git mktree
        let file = Object { path: "1_Pooling/config.json", size: 0, oid: blob_id(b""), stored: None };
        assert_eq!(tree_id(&[&file]), "7ec9bc0c5d9e417f48f5d2d15b8743a762065a18");
    }
}

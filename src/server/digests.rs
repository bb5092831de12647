//! Digests of files. Each is computed once, on a thread where it blocks nobody.

use std::sync::{Arc, atomic::AtomicBool};

use moka::future::Cache;
use tokio::sync::Semaphore;

use crate::{
    bank::{Bank, CancelOnDrop, Quote, background},
    blueprint::{Artifact, Identity},
    digest::Digest,
    error::{Error, Result},
};

/// Digests of one kind that are computed at the same time; others wait.
const AT_ONCE: usize = 2;

/// Digests that are remembered: about 200 bytes each.
const REMEMBERED: u64 = 65_536;

/// Permits by kind. A header waits for a manifest, and must not queue behind digests of whole files.
#[derive(Debug, Clone)]
pub(super) struct Digests {
    manifests: Arc<Semaphore>,
    files: Arc<Semaphore>,
    /// SHA-256 of files by identity. It outlives the file in memory, so no file is rendered again for its digest.
    known: Cache<Identity, Arc<str>>,
}

impl Digests {
    pub(super) fn new() -> Self {
        let permits = || Arc::new(Semaphore::new(AT_ONCE));
        Self { manifests: permits(), files: permits(), known: Cache::new(REMEMBERED) }
    }

    /// Hex of the artifact's manifest.
    pub(super) async fn manifest(&self, artifact: &Arc<Artifact>) -> Result<String> {
        match artifact.known_manifest() {
            Some(manifest) => Ok(manifest.to_string()),
            None => compute(&self.manifests, artifact, Artifact::manifest_unless).await,
        }
    }

    /// Hex of the SHA-256 of the artifact's file.
    pub(super) async fn sha256(&self, artifact: &Arc<Artifact>) -> Result<String> {
        match artifact.known_sha256() {
            Some(sha256) => Ok(sha256.to_string()),
            None => compute(&self.files, artifact, Artifact::sha256_unless).await,
        }
    }

    /// Hex of the SHA-256 of the untuned file of `quote`. The file is rendered only if its digest is not known.
    /// Concurrent calls for one identity share the work.
    pub(super) async fn of_quote(&self, bank: &Arc<Bank>, quote: &Quote) -> Result<Arc<str>> {
        let digest = async { self.sha256(&bank.fetch(quote).await?).await.map(Arc::from) };
        Ok(self.known.try_get_with(quote.blueprint.identity, digest).await?)
    }
}

/// Computes a digest on a thread for blocking work. The work stops when its caller leaves.
async fn compute(
    permits: &Arc<Semaphore>,
    artifact: &Arc<Artifact>,
    digest: fn(&Artifact, &AtomicBool) -> Option<Digest>,
) -> Result<String> {
    let permit = permits.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
    let (artifact, cancel) = (artifact.clone(), Arc::new(AtomicBool::new(false)));
    let left = CancelOnDrop(cancel.clone());
    let work = move || {
        let digest = digest(&artifact, &cancel);
        drop(permit);
        digest
    };
    let digest = background(work).await.map_err(|_| Error::Panicked { what: "digest" })?;
    drop(left);
    digest.map(|digest| digest.to_string()).ok_or(Error::Cancelled)
}

//! The one way to the bytes of an untuned model: the caches, the permits, and the room for what is made.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use moka::future::Cache;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::{
    blueprint::{Artifact, Identity, Pool, Reservation, Slices, assemble::assemble_in},
    error::{Error, Result},
    export::Layout,
    tensor::Dtype,
};

use super::{
    Config, Quote,
    blocking::{CancelOnDrop, blocking},
};

/// Bytes of a small render. Small renders have permits of their own, so that they never wait for large ones.
const SMALL_RENDER: usize = 8 << 20;

/// What a request does when the limit is reached.
#[derive(Debug, Clone, Copy)]
pub(super) enum AtLimit {
    Refuse,
    Wait,
}

/// Gene digest, width, dtype, layout, and the sizes of image and patch. Each layout cuts tensors in another way, so
/// its slices are counted separately.
type SlicesKey = (String, usize, Dtype, Layout, [usize; 2]);

/// Renders models, and keeps what is asked for again.
///
/// Memory: what is made is reserved in the pool before the work begins, and counts until its last reader is gone. The
/// pool's limit is the cache and the room for requests together; the cache bounds itself.
#[derive(Debug)]
pub(super) struct Render {
    pool: Arc<Pool>,
    /// Wakes those who wait for room.
    released: Arc<Notify>,
    /// The largest room of one request.
    most: usize,
    slices: Cache<SlicesKey, Arc<Slices>>,
    artifacts: Cache<Identity, Arc<Artifact>>,
    permits: [Arc<Semaphore>; 2],
    limit: usize,
    count: Arc<AtomicU64>,
}

impl Render {
    pub(super) fn new(config: &Config) -> Self {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let part = config.cache_bytes / 16 * 7;
        let released = Arc::new(Notify::new());
        let wake = released.clone();
        let limit = bytes(config.cache_bytes).saturating_add(bytes(config.request_bytes));
        let pool = Pool::new(bytes(config.cache_bytes / 8), limit, move || wake.notify_waiters());
        // Weights are in KiB, because moka's have 32 bits.
        let kib = |bytes: u64| u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let slices = Cache::builder()
            .max_capacity(part / 1024)
            .weigher(move |(_, width, dtype, ..): &SlicesKey, slices: &Arc<Slices>| {
                kib(slices.most_owned_bytes(*width, *dtype))
            })
            .build();
        let artifacts = Cache::builder()
            .max_capacity(part / 1024)
            .weigher(move |_, artifact: &Arc<Artifact>| kib(artifact.own_bytes()))
            .build();
        Self {
            most: bytes(config.request_bytes),
            permits: [config.renders; 2].map(|permits| Arc::new(Semaphore::new(permits))),
            limit: config.renders,
            count: Arc::default(),
            pool,
            released,
            slices,
            artifacts,
        }
    }

    /// What counts the bytes of models.
    pub(super) fn pool(&self) -> Arc<Pool> {
        self.pool.clone()
    }

    /// Number of models that were rendered.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_in_use(&self) -> usize {
        self.pool.used()
    }

    /// The untuned model of `quote`. Concurrent calls for one identity render once. The work stops when the last of
    /// them leaves.
    ///
    /// # Errors
    /// [`Error::Overloaded`] for [`AtLimit::Refuse`], before any work begins; [`Error::OutOfRange`] if the model never
    /// has room.
    pub(super) async fn artifact(&self, quote: &Quote, at_limit: AtLimit) -> Result<Arc<Artifact>> {
        let identity = quote.blueprint.identity;
        if let Some(artifact) = self.artifacts.get(&identity).await {
            return Ok(artifact);
        }
        let render = async {
            let slices = self.slices(quote).await;
            let bytes = slices.missing(&quote.blueprint) + quote.header_bytes;
            let mut room = self.room(bytes, at_limit).await?;
            let permit = self.permit(bytes, at_limit).await?;
            let (blueprint, count) = (quote.blueprint.clone(), self.count.clone());
            let cancel = Arc::new(AtomicBool::new(false));
            let left = CancelOnDrop(cancel.clone());
            // The work holds the permit and the room, so that a caller who leaves does not free them early.
            let work = move || {
                let artifact = assemble_in(&blueprint, &slices, &mut room, &cancel).map(Arc::new);
                drop((room, permit));
                count.fetch_add(u64::from(artifact.is_ok()), Ordering::Relaxed);
                artifact
            };
            let artifact = blocking(work).await;
            drop(left);
            artifact
        };
        Ok(self.artifacts.try_get_with(identity, render).await?)
    }

    /// Room for `bytes`.
    ///
    /// # Errors
    /// As [`Self::artifact`].
    pub(super) async fn room(&self, bytes: usize, at_limit: AtLimit) -> Result<Reservation> {
        if bytes > self.most {
            return Err(Error::OutOfRange {
                what: "bytes to make",
                found: bytes as u64,
                of: "one request of this server".to_owned(),
                limit: format!("0..={}, see --request-mib", self.most),
            });
        }
        loop {
            let released = self.released.notified();
            if let Some(room) = self.pool.reserve(bytes) {
                return Ok(room);
            }
            match at_limit {
                AtLimit::Wait => released.await,
                AtLimit::Refuse => {
                    return Err(Error::Overloaded {
                        what: "bytes of models being made",
                        limit: self.most,
                        retry_after_s: 1,
                    });
                }
            }
        }
    }

    async fn permit(&self, bytes: usize, at_limit: AtLimit) -> Result<OwnedSemaphorePermit> {
        let permits = self.permits[usize::from(bytes > SMALL_RENDER)].clone();
        match at_limit {
            AtLimit::Wait => permits.acquire_owned().await.map_err(|_| Error::Cancelled),
            AtLimit::Refuse => permits.try_acquire_owned().map_err(|_| Error::Overloaded {
                what: "renders",
                limit: self.limit,
                retry_after_s: 1,
            }),
        }
    }

    async fn slices(&self, quote: &Quote) -> Arc<Slices> {
        let (stored, config) = (&quote.stored, &quote.blueprint.info.config);
        let key = (stored.digest.clone(), config.width(), quote.dtype, quote.layout, config.images());
        let slices = || Slices::new(stored.file.clone(), stored.width).with_resized(&quote.blueprint);
        self.slices.get_with(key, async { Arc::new(slices()) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bank::{Bank, ModelRequest},
        gene::{SizeRequest, Synthetic},
        nn::{VitConfig, vit::RawVitConfig},
        tensor::codec,
    };

    /// A bank with one gene: three layers of width 16, an MLP of one unit per unit of width.
    fn bank(cache_bytes: u64) -> (Arc<Bank>, tempfile::TempDir) {
        let raw = RawVitConfig {
            image_size: 4,
            patch_size: 2,
            channels: 1,
            classes: 3,
            depth: 3,
            width: 16,
            heads: 2,
            mlp_ratio: 1,
        };
        let synthetic = Synthetic {
            name: "g".to_owned(),
            config: VitConfig::try_from(raw).unwrap(),
            stages: 3,
            widths: vec![8],
            seed: 0,
        };
        let folder = tempfile::tempdir().unwrap();
        let bytes = synthetic.render().unwrap().1;
        codec::write_atomic(&folder.path().join("g.safetensors"), [bytes.as_ref()]).unwrap();
        let config = Config {
            models: Some(folder.path().to_owned()),
            default_gene: None,
            data: None,
            store: folder.path().join("store"),
            cache_bytes,
            request_bytes: 1 << 20,
            renders: 1,
            tunings: 1,
            device: candle_core::Device::Cpu,
        };
        (Arc::new(Bank::open(config).unwrap()), folder)
    }

    async fn artifact(bank: &Arc<Bank>, depth: u64, dtype: Dtype) -> Arc<Artifact> {
        let size = SizeRequest { depth: Some(depth), dtype, ..SizeRequest::default() };
        let request = ModelRequest { size, ..ModelRequest::default() };
        let quote = bank.plan(&bank.owner().admit("").unwrap(), &request).unwrap();
        bank.fetch(&quote).await.unwrap()
    }

    /// The weights of both caches in KiB, once all evictions are done.
    async fn weights(bank: &Bank) -> [u64; 2] {
        let Render { slices, artifacts, .. } = &bank.render;
        slices.run_pending_tasks().await;
        artifacts.run_pending_tasks().await;
        [slices.weighted_size(), artifacts.weighted_size()]
    }

    #[tokio::test]
    async fn caches_weigh_the_bytes_that_they_hold() {
        let (bank, _folder) = bank(64 << 20);
        // What is served as it is stored takes no memory of its own: a header and a list of at most 4 KiB.
        artifact(&bank, 3, Dtype::F32).await;
        let [slices, artifacts] = weights(&bank).await;
        assert!(slices == 0 && (1..=8).contains(&artifacts), "{slices} {artifacts}");
        // At width 16 a layer has norms of 4 · 16, qkv of 48 · 17, proj and both halves of the MLP of 16 · 17. Beside
        // the layers there are kernels of 16 · 5, a class token of 16, positions of 5 · 16, a norm of 2 · 16 and a head
        // of 3 · 17.
        let values = 3 * (4 * 16 + 48 * 17 + 3 * 16 * 17) + 16 * 5 + 16 + 5 * 16 + 2 * 16 + 3 * 17;
        let half = artifact(&bank, 3, Dtype::F16).await;
        let [more_slices, more_artifacts] = weights(&bank).await;
        assert_eq!(more_slices - slices, (2 * values as u64).div_ceil(1024));
        assert_eq!(more_artifacts - artifacts, half.own_bytes().div_ceil(1024));
        assert!(half.own_bytes() > 2 * values as u64);
    }

    #[tokio::test]
    async fn caches_hold_no_more_than_their_part() {
        // Each of the two caches has 7/16, here 56 KiB. A file of 16-bit values takes about 16 KiB.
        let (bank, _folder) = bank(128 << 10);
        for depth in 1..=12 {
            artifact(&bank, depth, Dtype::F16).await;
        }
        let [slices, artifacts] = weights(&bank).await;
        assert!(slices <= 56 && (16..=56).contains(&artifacts), "{slices} {artifacts}");
        assert!(bank.render.artifacts.entry_count() < 12);
    }
}

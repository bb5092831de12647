//! The operations under gRPC, HTTP and the command line: which genes there are, what a request means, and the one way
//! to its bytes.

mod admitted;
mod blocking;
pub mod budget;
pub mod catalog;
mod config;
pub mod cost;
pub mod jobs;
pub mod latency;
mod policy;
pub mod quantity;
pub mod quote;
pub mod registry;
pub mod repository;
mod residents;
pub mod size_name;
pub mod summary;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    blueprint::{Artifact, Identity, Pool, Slices, assemble::assemble},
    error::{Error, Kind, Result},
    export::Layout,
    gene::Learngene,
    tensor::Dtype,
};

pub use admitted::{Admitted, Guard};
pub use budget::{Budget, Choice, Choices, LatencyBudget, Reach};
pub use config::Config;
pub use cost::Cost;
pub use jobs::{Delivery, Job, Progress};
pub use latency::{Latency, LatencyTable};
use policy::Caller;
pub use policy::{Credentials, Policy, Token};
pub use quote::{ModelRequest, Quote, Tune};

pub use crate::train::Length;
use blocking::blocking;
pub use registry::Registry;
pub use repository::{Repository, RepositoryName};
use residents::Residents;
pub use summary::{GeneSummary, ModelSummary};

/// What a render does when the limit is reached.
#[derive(Debug, Clone, Copy)]
enum AtLimit {
    Refuse,
    Wait,
}

/// Gene digest, width, dtype, layout, and the sizes of image and patch. Each layout cuts tensors in another way, so
/// its slices are counted separately.
type SlicesKey = (String, usize, Dtype, Layout, [usize; 2]);

/// Genes in memory, and everything that is made from them.
#[derive(Debug)]
pub struct Bank {
    config: Config,
    policy: Policy,
    registry: Registry,
    slices: Cache<SlicesKey, Arc<Slices>>,
    pool: Arc<Pool>,
    artifacts: Cache<Identity, Arc<Artifact>>,
    renders: Arc<Semaphore>,
    rendered: AtomicU64,
    jobs: Arc<jobs::Jobs>,
}

impl Bank {
    /// Loads every gene of the folder. None is private before [`Bank::guarded`] says so.
    ///
    /// # Errors
    /// Those of [`Registry::open`], and [`Error::Tensor`] where the device refuses.
    pub fn open(config: Config) -> Result<Self> {
        let registry = Registry::open(&config.models, config.default_gene.as_deref())?;
        // Weights are in KiB, because moka's have 32 bits.
        let kib = |bytes: u64| u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let pool = Pool::new(usize::try_from(config.cache_bytes / 8).unwrap_or(usize::MAX));
        let part = config.cache_bytes / 16 * 7 / 1024;
        let slices = Cache::builder()
            .max_capacity(part)
            .weigher(move |(_, width, dtype, ..): &SlicesKey, slices: &Arc<Slices>| {
                kib(slices.most_owned_bytes(*width, *dtype))
            })
            .build();
        let artifacts = Cache::builder()
            .max_capacity(part)
            .weigher(move |_, artifact: &Arc<Artifact>| kib(artifact.own_bytes()))
            .build();
        Ok(Self {
            renders: Arc::new(Semaphore::new(config.renders)),
            rendered: AtomicU64::new(0),
            jobs: Arc::new(jobs::Jobs::new(&config, Residents::new(&registry, config.device.clone())?)),
            registry,
            slices,
            artifacts,
            pool,
            policy: Policy::default(),
            config,
        })
    }

    /// The same bank under `policy`. Every private gene has to exist: a misspelt one would be open to all.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn guarded(self, policy: Policy) -> Result<Self> {
        policy.private.iter().try_for_each(|gene| self.registry.get(gene).map(drop))?;
        Ok(Self { policy, ..self })
    }

    fn is_private(&self, gene: &str) -> bool {
        self.policy.is_private(gene)
    }

    /// What a caller with these credentials may see.
    ///
    /// # Errors
    /// [`Error::BadToken`].
    pub fn guard(&self, credentials: Credentials<'_>) -> Result<Guard<'_>> {
        Ok(Guard::new(&self.registry, &self.policy, self.policy.caller(credentials)?))
    }

    /// What the program that opened the bank may see: every gene. For use without a server; whoever answers others
    /// asks [`Bank::guard`].
    pub const fn owner(&self) -> Guard<'_> {
        Guard::new(&self.registry, &self.policy, Caller::Owner)
    }

    /// Number of untuned models that were rendered since the bank was opened. A cached model is not rendered again.
    pub fn rendered(&self) -> u64 {
        self.rendered.load(Ordering::Relaxed)
    }

    /// Every gene that `guard` sees, in name order.
    pub fn genes(&self, guard: Guard<'_>) -> Vec<GeneSummary> {
        let seen = self.registry.iter().filter(|gene| guard.sees(&gene.meta().name));
        seen.map(|gene| self.summary(gene)).collect()
    }

    /// The admitted gene.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn gene(&self, admitted: &Admitted<'_>) -> Result<GeneSummary> {
        self.registry.get(admitted.gene()).map(|gene| self.summary(gene))
    }

    fn summary(&self, gene: &Learngene) -> GeneSummary {
        GeneSummary::of(gene, gene.meta().name == self.registry.default_name())
    }

    /// What `request` means on the admitted gene: size, identity, blueprint and expected quality. No weight is touched.
    /// `request.gene` is what the caller was admitted for, and is not read again.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown gene, [`Error::OutOfRange`] or [`Error::Invalid`] for an impossible size
    /// or tuning.
    pub fn plan(&self, admitted: &Admitted<'_>, request: &ModelRequest) -> Result<Quote> {
        let gene = self.registry.get(admitted.gene())?;
        let ancestor = self.registry.ancestor(&gene.meta().name);
        Quote::new(gene, ancestor, request, self.config.data.as_deref())
    }

    /// The model of `quote`, or the job that makes it.
    ///
    /// # Errors
    /// [`Error::Overloaded`] before any work begins; [`Error::NotFound`] for an unknown data set; those of
    /// rendering.
    pub async fn deliver(self: &Arc<Self>, quote: &Quote) -> Result<Delivery> {
        match &quote.tune {
            None => self.artifact(quote, AtLimit::Refuse).await.map(Delivery::Ready),
            Some(tune) => self.jobs.deliver(quote, tune).await,
        }
    }

    /// The untuned model of `quote`, however long it takes: for a caller that was already told that it exists.
    ///
    /// # Errors
    /// Those of rendering.
    pub async fn fetch(self: &Arc<Self>, quote: &Quote) -> Result<Arc<Artifact>> {
        loop {
            match self.artifact(quote, AtLimit::Wait).await {
                // This call joined one that does not wait, and that one was refused.
                Err(error) if error.kind() == Kind::Overloaded => {}
                outcome => return outcome,
            }
        }
    }

    /// The untuned model of `quote`. Concurrent calls for one identity render once: only the first takes a permit.
    async fn artifact(self: &Arc<Self>, quote: &Quote, at_limit: AtLimit) -> Result<Arc<Artifact>> {
        let identity = quote.blueprint.identity;
        if let Some(artifact) = self.artifacts.get(&identity).await {
            return Ok(artifact);
        }
        let render = async {
            let permit = self.permit(at_limit).await?;
            let slices = self.slices(quote).await;
            let (bank, blueprint) = (self.clone(), quote.blueprint.clone());
            // The work holds the permit, so that a caller who leaves does not free it early.
            let work = move || {
                bank.rendered.fetch_add(1, Ordering::Relaxed);
                let artifact = assemble(&blueprint, &slices).map(Arc::new);
                drop(permit);
                artifact
            };
            blocking(work).await
        };
        Ok(self.artifacts.try_get_with(identity, render).await?)
    }

    async fn permit(&self, at_limit: AtLimit) -> Result<OwnedSemaphorePermit> {
        let renders = self.renders.clone();
        match at_limit {
            AtLimit::Wait => renders.acquire_owned().await.map_err(|_| Error::Cancelled),
            AtLimit::Refuse => renders.try_acquire_owned().map_err(|_| Error::Overloaded {
                what: "renders",
                limit: self.config.renders,
                retry_after_s: 1,
            }),
        }
    }

    async fn slices(&self, quote: &Quote) -> Arc<Slices> {
        let (stored, config) = (&quote.stored, &quote.blueprint.info.config);
        let images = [config.image_size(), config.patch_size()];
        let key = (stored.digest.clone(), config.width(), quote.dtype, quote.layout, images);
        let slices = || Slices::new(stored.file.clone(), stored.width).with_pool(self.pool.clone());
        self.slices.get_with(key, async { Arc::new(slices().with_resized(&quote.blueprint)) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
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
            models: folder.path().to_owned(),
            default_gene: None,
            data: None,
            store: folder.path().join("store"),
            cache_bytes,
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
        bank.slices.run_pending_tasks().await;
        bank.artifacts.run_pending_tasks().await;
        [bank.slices.weighted_size(), bank.artifacts.weighted_size()]
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
        assert!(bank.artifacts.entry_count() < 12);
    }
}

//! The operations under gRPC, HTTP and the command line: which genes there are, what a request means, and the one way
//! to its bytes.

mod admitted;
mod blocking;
pub mod budget;
pub mod builtin;
pub mod catalog;
mod config;
pub mod cost;
pub mod jobs;
pub mod latency;
mod policy;
pub mod quantity;
pub mod quote;
pub mod registry;
mod render;
pub mod repository;
mod residents;
pub mod size_name;
pub mod summary;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    blueprint::Artifact,
    error::{Error, Kind, Result},
    gene::{Head, Method, Start},
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
pub use blocking::{CancelOnDrop, background};
pub use registry::{GeneFile, Registry};
use render::{AtLimit, Render};
pub use repository::{Repository, RepositoryName};
use residents::Residents;
pub use summary::{GeneSummary, ModelSummary};

/// Labels of a request that are planned where the request arrives: about a millisecond of work.
const SMALL_LABELS: usize = 256 << 10;

/// Genes, and everything that is made from them.
#[derive(Debug)]
pub struct Bank {
    config: Config,
    policy: Policy,
    registry: Arc<Registry>,
    render: Render,
    jobs: Arc<jobs::Jobs>,
    /// For large requests, see [`Bank::large`].
    large: Arc<Semaphore>,
}

impl Bank {
    /// Opens the folder of genes, or the gene inside the program. None is private before [`Bank::guarded`] says so.
    ///
    /// # Errors
    /// Those of [`Registry::open`].
    pub fn open(config: Config) -> Result<Self> {
        let registry = Arc::new(Registry::open(config.models.as_deref(), config.default_gene.as_deref())?);
        let residents = Residents::new(config.device.clone());
        let render = Render::new(&config);
        Ok(Self {
            jobs: Arc::new(jobs::Jobs::new(&config, residents, render.pool())),
            render,
            registry,
            policy: Policy::default(),
            config,
            large: Arc::new(Semaphore::new(1)),
        })
    }

    /// The same bank under `policy`. Every private gene has to exist: a misspelt one would be open to all.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn guarded(self, policy: Policy) -> Result<Self> {
        policy.private.iter().try_for_each(|gene| self.registry.find(gene).map(drop))?;
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
    pub fn owner(&self) -> Guard<'_> {
        Guard::new(&self.registry, &self.policy, Caller::Owner)
    }

    /// Number of untuned models that were rendered since the bank was opened. A cached model is not rendered again.
    pub fn rendered(&self) -> u64 {
        self.render.count()
    }

    /// Every gene that `guard` sees, in name order.
    ///
    /// # Errors
    /// Those of [`Registry::summary`].
    pub async fn genes(&self, guard: Guard<'_>) -> Result<Vec<GeneSummary>> {
        let seen = self.registry.iter().map(|meta| meta.name.clone()).filter(|name| guard.sees(name));
        self.summaries(seen.collect()).await
    }

    /// The admitted gene.
    ///
    /// # Errors
    /// Those of [`Registry::summary`].
    pub async fn gene(&self, admitted: &Admitted<'_>) -> Result<GeneSummary> {
        let mut summaries = self.summaries(vec![admitted.gene().to_owned()]).await?;
        summaries.pop().ok_or(Error::Cancelled)
    }

    /// Digests that are known need no thread of their own.
    async fn summaries(&self, names: Vec<String>) -> Result<Vec<GeneSummary>> {
        let registry = self.registry.clone();
        let known = |name: &String| registry.find(name).is_ok_and(GeneFile::is_digested);
        let all = names.iter().all(known);
        let work = move || names.iter().map(|name| registry.summary(name)).collect();
        if all { work() } else { blocking(work).await }
    }

    /// Reads the admitted gene if nobody has asked for it before, and its ancestor if `start` needs it, so that
    /// [`Bank::plan`] finds them in memory.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown gene; those of [`GeneFile::gene`] and [`GeneFile::ancestor`].
    pub async fn read(&self, admitted: &Admitted<'_>, start: &Start) -> Result<()> {
        let method = start.method;
        if self.registry.find(admitted.gene())?.is_read(method) {
            return Ok(());
        }
        let (registry, name) = (self.registry.clone(), admitted.gene().to_owned());
        let read = move || {
            let file = registry.find(&name)?;
            file.gene()?;
            let ancestor = if method.selects() { file.ancestor()? } else { None };
            match ancestor {
                // An order reads every weight.
                Some(ancestor) if method == Method::Importance => ancestor.order().map(drop),
                _ => Ok(()),
            }
        };
        blocking(read).await
    }

    /// What `request` means on the admitted gene: size, identity, blueprint and expected quality. No weight is touched,
    /// once the gene was read ([`Bank::read`]).
    /// `request.gene` is what the caller was admitted for, and is not read again.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown gene, [`Error::OutOfRange`] or [`Error::Invalid`] for an impossible size
    /// or tuning, [`Error::NoToken`] for a tuning that needs one.
    pub fn plan(&self, admitted: &Admitted<'_>, request: &ModelRequest) -> Result<Quote> {
        admitted.check_request(request)?;
        self.quote(admitted.gene(), request)
    }

    /// As [`Bank::plan`]. A request that is large is planned on a thread for blocking work, and only while there is
    /// room for what it holds.
    ///
    /// # Errors
    /// Those of [`Bank::plan`]; [`Error::Overloaded`] before any work begins.
    pub async fn plan_any(self: &Arc<Self>, admitted: Admitted<'_>, request: ModelRequest) -> Result<Quote> {
        admitted.check_request(&request)?;
        let bytes = request.label_bytes();
        if bytes <= SMALL_LABELS {
            self.read(&admitted, &request.start).await?;
            return self.quote(admitted.gene(), &request);
        }
        let room = self.render.room(bytes, AtLimit::Refuse).await?;
        let (bank, gene) = (self.clone(), admitted.gene().to_owned());
        let quote = self.large(move || bank.quote(&gene, &request)).await?;
        Ok(Quote { room: Some(Arc::new(room)), ..quote })
    }

    /// The outcome of `work` on a large request, on a thread for blocking work. One is worked on at a time: many at once
    /// would take turns at the allocator and at the page tables, and hold up those who answer small requests.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn large<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.large.clone().acquire_owned().await;
        blocking(move || {
            let outcome = work();
            drop(permit);
            outcome
        })
        .await
    }

    fn quote(&self, gene: &str, request: &ModelRequest) -> Result<Quote> {
        let file = self.registry.find(gene)?;
        let ancestor = if request.start.method.selects() { file.ancestor()? } else { None };
        Quote::new(&file.gene()?, ancestor.as_ref(), request, self.config.data.as_deref())
    }

    /// `request` with the classes of the data set that it tunes on, if it names none and the gene has others.
    ///
    /// # Errors
    /// Those of [`Bank::plan`]; [`Error::NotFound`] for an unknown data set.
    pub async fn with_classes(
        &self,
        admitted: &Admitted<'_>,
        mut request: ModelRequest,
    ) -> Result<ModelRequest> {
        let (Some(tune), None) = (&request.tune, &request.target.head) else { return Ok(request) };
        self.read(admitted, &request.start).await?;
        let quote = self.plan(admitted, &request)?;
        let data = self.jobs.load(&tune.dataset).await?;
        let classes = data.train.class_names();
        if quote.blueprint.info.labels != classes {
            request.target.head = Some(Head { labels: classes.to_vec(), seed: 0 });
        }
        Ok(request)
    }

    /// The model of `quote`, or the job that makes it.
    ///
    /// # Errors
    /// [`Error::Overloaded`] before any work begins; [`Error::OutOfRange`] for a model that is larger than the room for
    /// requests; [`Error::NotFound`] for an unknown data set; those of rendering.
    pub async fn deliver(self: &Arc<Self>, quote: &Quote) -> Result<Delivery> {
        match &quote.tune {
            None => self.render.artifact(quote, AtLimit::Refuse).await.map(Delivery::Ready),
            Some(tune) => self.jobs.deliver(quote, tune).await,
        }
    }

    /// The untuned model of `quote`, however long it takes: for a caller that was already told that it exists.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a model that is larger than the room for requests; those of rendering.
    pub async fn fetch(&self, quote: &Quote) -> Result<Arc<Artifact>> {
        loop {
            match self.render.artifact(quote, AtLimit::Wait).await {
                // This call joined one that does not wait, and that one was refused.
                Err(error) if error.kind() == Kind::Overloaded => {}
                outcome => return outcome,
            }
        }
    }

    /// Bytes that are made or reserved for requests and caches at this moment.
    pub fn bytes_in_use(&self) -> usize {
        self.render.bytes_in_use()
    }
}

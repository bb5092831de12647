//! Tuning jobs. There is one for each identity, however many callers wait for it. It is cancelled when the last of
//! them leaves, and its result is stored.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::Device;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    blueprint::{Artifact, Blueprint, Identity, Pool, Reservation},
    data::{self, Dataset, DatasetPair},
    error::{Error, Kind, Result},
    file,
    tensor::TensorFile,
    train::{
        Event, Length, Model, finetune,
        run::{Run, RunEvent},
    },
};

use super::{
    blocking::blocking,
    config::Config,
    quote::{Quote, Tune},
    residents::Residents,
};

/// What a request leads to.
#[derive(Debug)]
pub enum Delivery {
    /// The model, at once.
    Ready(Arc<Artifact>),
    /// A tuning job that will make it. Dropping the last handle of a job cancels it.
    Tuning(Job),
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps in all.
    pub total_steps: u64,
    /// Loss of the last step that was read.
    pub loss: f64,
}

/// A handle on a running job. Clones watch the same job; dropping the last one cancels it.
#[derive(Debug, Clone)]
pub struct Job {
    handle: Arc<Handle>,
    progress: watch::Receiver<Progress>,
    done: watch::Receiver<Outcome>,
}

/// `None` while the job runs.
type Outcome = Option<std::result::Result<Arc<Artifact>, Arc<Error>>>;

#[derive(Debug)]
struct Handle {
    identity: Identity,
    cancel: Arc<AtomicBool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Job {
    /// The identity of the tuned model.
    pub fn identity(&self) -> Identity {
        self.handle.identity
    }

    /// The next progress, or `None` once the job has ended.
    pub async fn progress(&mut self) -> Option<Progress> {
        self.progress.changed().await.ok()?;
        Some(*self.progress.borrow_and_update())
    }

    /// Waits for the tuned model.
    ///
    /// # Errors
    /// The job's, or [`Error::Cancelled`].
    pub async fn finish(&mut self) -> Result<Arc<Artifact>> {
        match self.done.wait_for(Option::is_some).await.map_err(|_| Error::Cancelled)?.clone() {
            Some(Ok(artifact)) => Ok(artifact),
            Some(Err(error)) => Err(error.into()),
            None => Err(Error::Cancelled),
        }
    }
}

/// A running job that somebody may wait for.
#[derive(Debug)]
struct Running {
    handle: Weak<Handle>,
    progress: watch::Receiver<Progress>,
    done: watch::Receiver<Outcome>,
}

/// Running jobs by identity, and what they share.
#[derive(Debug)]
pub(super) struct Jobs {
    data: Option<PathBuf>,
    store: PathBuf,
    residents: Residents,
    pool: Arc<Pool>,
    limit: usize,
    permits: Arc<Semaphore>,
    datasets: Mutex<BTreeMap<String, Arc<DatasetPair>>>,
    running: Mutex<BTreeMap<Identity, Running>>,
    /// Stored models that are in use. Callers of the same model share its memory.
    held: Mutex<BTreeMap<Identity, Weak<Artifact>>>,
}

impl Jobs {
    /// Stored models count in `pool` while they are read.
    pub(super) fn new(config: &Config, residents: Residents, pool: Arc<Pool>) -> Self {
        Self {
            data: config.data.clone(),
            store: config.store.clone(),
            residents,
            pool,
            limit: config.tunings,
            permits: Arc::new(Semaphore::new(config.tunings)),
            datasets: Mutex::default(),
            running: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// The stored result of `quote`, or the job that makes it.
    pub(super) async fn deliver(self: &Arc<Self>, quote: &Quote, tune: &Tune) -> Result<Delivery> {
        let data = self.load(&tune.dataset).await?;
        let identity = identity(quote, tune, &data.train, self.residents.device());
        let jobs = self.clone();
        if let Some(artifact) = blocking(move || jobs.stored(identity)).await? {
            return Ok(Delivery::Ready(artifact));
        }
        self.join_or_start(identity, quote, tune, data).map(Delivery::Tuning)
    }

    /// The data set called `name`.
    pub(super) async fn load(self: &Arc<Self>, name: &str) -> Result<Arc<DatasetPair>> {
        let (jobs, name) = (self.clone(), name.to_owned());
        blocking(move || jobs.dataset(&name)).await
    }

    fn join_or_start(
        self: &Arc<Self>,
        identity: Identity,
        quote: &Quote,
        tune: &Tune,
        data: Arc<DatasetPair>,
    ) -> Result<Job> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = running.get(&identity).and_then(Running::join) {
            return Ok(job);
        }
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| Error::Overloaded {
            what: "tuning jobs",
            limit: self.limit,
            retry_after_s: 30,
        })?;
        let (progress, watch_progress) = watch::channel(Progress::default());
        let (done, watch_done) = watch::channel(None);
        let handle = Arc::new(Handle { identity, cancel: Arc::default() });
        let job = Job { handle: handle.clone(), progress: watch_progress.clone(), done: watch_done.clone() };
        let entry = Running { handle: Arc::downgrade(&handle), progress: watch_progress, done: watch_done };
        running.insert(identity, entry);
        let work = Work {
            jobs: self.clone(),
            quote: quote.clone(),
            tune: tune.clone(),
            data,
            handle: Arc::downgrade(&handle),
            cancel: handle.cancel.clone(),
            permit,
            progress,
        };
        super::background(move || {
            let outcome = work.run(identity).map_err(Arc::new);
            // Even if nobody waits any more, the result is stored.
            done.send_replace(Some(outcome));
        });
        Ok(job)
    }

    fn path(&self, identity: Identity) -> PathBuf {
        self.store.join(format!("{identity}.safetensors"))
    }

    /// The stored model with this identity, from memory if it is in use.
    fn stored(&self, identity: Identity) -> Result<Option<Arc<Artifact>>> {
        let held =
            self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&identity).and_then(Weak::upgrade);
        if held.is_some() {
            return Ok(held);
        }
        let path = self.path(identity);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let room = self.pool.reserve(bytes).ok_or(Error::Overloaded {
            what: "bytes of models being read",
            limit: self.pool.limit(),
            retry_after_s: 1,
        })?;
        self.hold(identity, TensorFile::open(&path)?, room).map(Some)
    }

    /// Remembers a model file, for callers who ask for it while it is in use.
    fn hold(&self, identity: Identity, file: TensorFile, room: Reservation) -> Result<Arc<Artifact>> {
        let artifact = Arc::new(Artifact::from_file(identity, &file, "tuned model", room)?);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Another caller may have read it at the same time; one copy is enough.
        if let Some(artifact) = held.get(&identity).and_then(Weak::upgrade) {
            return Ok(artifact);
        }
        held.retain(|_, artifact| artifact.strong_count() > 0);
        held.insert(identity, Arc::downgrade(&artifact));
        Ok(artifact)
    }

    /// The data set called `name`, read once.
    fn dataset(&self, name: &str) -> Result<Arc<DatasetPair>> {
        let mut datasets = self.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = datasets.get(name) {
            return Ok(data.clone());
        }
        let root =
            self.data.as_ref().ok_or_else(|| Error::invalid("fine_tune", "this server has no data sets"))?;
        let opened = data::open(name, root).map_err(|error| {
            if error.kind() == Kind::NotFound {
                return error;
            }
            // The message names paths of this machine, and the caller can do nothing about them.
            tracing::error!(%error, name, "a data set cannot be read");
            Error::corrupt(format!("data set \"{name}\""), "cannot be read by this server")
        });
        let data = Arc::new(opened?);
        datasets.insert(name.to_owned(), data.clone());
        Ok(data)
    }
}

impl Running {
    fn join(&self) -> Option<Job> {
        let handle = self.handle.upgrade()?;
        Some(Job { handle, progress: self.progress.clone(), done: self.done.clone() })
    }
}

/// What a job needs on its thread.
struct Work {
    jobs: Arc<Jobs>,
    quote: Quote,
    tune: Tune,
    data: Arc<DatasetPair>,
    handle: Weak<Handle>,
    cancel: Arc<AtomicBool>,
    permit: OwnedSemaphorePermit,
    progress: watch::Sender<Progress>,
}

impl Work {
    fn run(self, identity: Identity) -> Result<Arc<Artifact>> {
        let outcome = self.tune(identity);
        let mut running = self.jobs.running.lock().unwrap_or_else(PoisonError::into_inner);
        // If this job was cancelled, a later one with the same identity may be in its place.
        if running.get(&identity).is_some_and(|job| Weak::ptr_eq(&job.handle, &self.handle)) {
            running.remove(&identity);
        }
        drop(self.permit);
        outcome
    }

    fn tune(&self, identity: Identity) -> Result<Arc<Artifact>> {
        // A job with the same identity may have ended after the caller looked at the store.
        if let Some(artifact) = self.jobs.stored(identity)? {
            return Ok(artifact);
        }
        // A store that cannot be written is told before the work, not after it.
        let (store, path) = (&self.jobs.store, self.jobs.path(identity));
        std::fs::create_dir_all(store).map_err(Error::io(store))?;
        file::check_writable(&path)?;
        let residents = &self.jobs.residents;
        let mut blueprint = Blueprint::clone(&self.quote.blueprint);
        blueprint.entries.iter_mut().for_each(|entry| entry.dtype = crate::tensor::Dtype::F32);
        let weights = residents.expand(&blueprint, &self.quote)?;
        let model = Model { info: blueprint.info, weights };
        let data = self.data.with_channels(model.info.config.vit()?.channels())?;
        let rate = self.tune.learning_rate_e9.map(|rate| rate as f64 * 1e-9);
        let recipe = finetune::recipe_on(&data, self.tune.length, rate, self.tune.seed)?;
        let run = Run {
            recipe: &recipe,
            data: &data,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            device: residents.device().clone(),
            checkpoint: None,
            watch_held_out: false,
        };
        let mut report = |report: RunEvent| {
            if let RunEvent::Trainer(Event::Step { step, total, loss, .. }) = report {
                self.progress.send_replace(Progress { step, total_steps: total, loss });
            }
        };
        let mut tuned = run.classify(model, &self.cancel, &mut report)?;
        if let Some(origin) = &mut tuned.info.origin {
            origin.identity = identity.to_string();
        }
        let file = tuned.render(self.quote.dtype)?;
        file::write_atomic(&path, [file.as_ref()])?;
        let room = self.jobs.pool.count(file.len());
        self.jobs.hold(identity, TensorFile::from_bytes(file, "tuned model")?, room)
    }
}

/// The identity of the tuned model: the untuned model, the data by content, and the numbers of the request.
fn identity(quote: &Quote, tune: &Tune, data: &Dataset, device: &Device) -> Identity {
    let (unit, length) = match tune.length {
        Length::Steps(steps) => ("steps", steps),
        Length::Epochs(epochs) => ("epochs", epochs),
    };
    let form = Identity::form("genebank.tuned")
        .text(&quote.blueprint.identity.to_string())
        .text(data.digest())
        .text(unit)
        .integer(u64::from(length))
        .integer(tune.learning_rate_e9.map_or(0, |rate| rate + 1))
        .integer(tune.seed)
        .integer(finetune::RECIPE_VERSION);
    // Another device adds in another order.
    if device.is_cpu() { form } else { form.text("cuda") }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::ImageShape,
        digest::Digest,
        gene::Synthetic,
        nn::{VitConfig, vit::RawVitConfig},
    };

    use super::super::quote::ModelRequest;

    fn quote(depth: u64) -> Quote {
        let raw = RawVitConfig {
            image_size: 4,
            patch_size: 2,
            channels: 1,
            classes: 3,
            depth: 2,
            width: 8,
            heads: 2,
            mlp_ratio: 1,
        };
        let synthetic = Synthetic {
            name: "g".to_owned(),
            config: VitConfig::try_from(raw).unwrap(),
            stages: 2,
            widths: Vec::new(),
            seed: 0,
        };
        let mut request = ModelRequest::default();
        request.size.depth = Some(depth);
        Quote::new(&Arc::new(synthetic.render().unwrap().0), None, &request, None).unwrap()
    }

    fn data(pixel: u8) -> Dataset {
        let shape = ImageShape { channels: 1, size: 4 };
        let classes = ["a", "b", "c"].map(ToOwned::to_owned).to_vec();
        Dataset::new("d", shape, vec![pixel; 16], vec![0], classes).unwrap()
    }

    #[test]
    fn the_name_of_a_tuned_model_depends_on_all_that_it_is_made_from() {
        let tune =
            || Tune { dataset: "d".to_owned(), length: Length::Steps(2), learning_rate_e9: None, seed: 0 };
        let cpu = |quote: Quote, tune: Tune, data: Dataset| identity(&quote, &tune, &data, &Device::Cpu);
        let names = [
            cpu(quote(2), tune(), data(0)),
            cpu(quote(1), tune(), data(0)),
            cpu(quote(2), tune(), data(1)),
            cpu(quote(2), Tune { length: Length::Epochs(2), ..tune() }, data(0)),
            cpu(quote(2), Tune { length: Length::Steps(3), ..tune() }, data(0)),
            cpu(quote(2), Tune { learning_rate_e9: Some(1), ..tune() }, data(0)),
            cpu(quote(2), Tune { learning_rate_e9: Some(2), ..tune() }, data(0)),
            cpu(quote(2), Tune { seed: 1, ..tune() }, data(0)),
        ];
        let different: std::collections::BTreeSet<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(different.len(), names.len());
        // A data set is named by its content, not by what it is called.
        let renamed = Tune { dataset: "other".to_owned(), ..tune() };
        assert_eq!(cpu(quote(2), renamed, data(0)), names[0]);
        // Stored models are found by this name, so its fields and their order stay. Each has a tag, and text a length.
        let (quote, data) = (quote(2), data(0));
        let text = |text: &str| [&b"t"[..], &(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let integer = |value: u64| [&b"i"[..], &value.to_le_bytes()].concat();
        let fields = [
            text("genebank.tuned"),
            integer(crate::blueprint::RENDER_VERSION),
            text(&quote.blueprint.identity.to_string()),
            text(data.digest()),
            text("steps"),
            integer(2),
            integer(0),
            integer(0),
            integer(finetune::RECIPE_VERSION),
        ];
        assert_eq!(names[0].to_string(), Digest::of(&fields.concat()).to_string());
    }
}

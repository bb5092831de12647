//! Whole runs: from a recipe and a data set to a model or gene.

mod ancestor;
mod gene;
mod texts;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use candle_core::Device;

use crate::{
    blueprint::Preprocessing,
    data::{Batches as _, DatasetPair, Loader, Split},
    digest::Digest,
    error::Result,
    nn::{Vit, VitConfig},
    tensor::{Dtype, Params, Weights, codec},
};

use super::{
    Accuracy, Control, Decay, Event, Model, Objective, Recipe, Trainer, evaluate,
    measure::{SPLIT_SEED, check_data, loader_of},
    teacher::Teacher,
};

pub use texts::TextRun;

/// An event of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RunEvent {
    /// An event of the trainer.
    Trainer(Event),
    /// Accuracy on the held-out part after an epoch.
    HeldOut {
        /// Epochs finished.
        epoch: u64,
        /// The accuracy.
        accuracy: Accuracy,
    },
    /// Agreement with the teacher's vectors on held-out texts after an epoch.
    Vectors {
        /// Epochs finished.
        epoch: u64,
        /// Width of the model; its depth is the trained one.
        width: usize,
        /// Mean cosine.
        cosine: f64,
    },
}

/// Recipe, data and resources of a run.
#[derive(Debug)]
pub struct Run<'a> {
    /// The settings.
    pub recipe: &'a Recipe,
    /// Training and test images.
    pub data: &'a DatasetPair,
    /// Threads for computation on the CPU.
    pub threads: usize,
    /// The device that computes.
    pub device: Device,
    /// File for the state after every epoch; without it no state is saved.
    pub checkpoint: Option<&'a Path>,
    /// Whether to measure the held-out part after every epoch.
    pub watch_held_out: bool,
}

/// What to train, and how to build a network from it.
struct Task<'a> {
    objective: &'a dyn Objective,
    network: &'a dyn Fn(&Weights) -> Result<Vit>,
    initial: Weights,
    decay: Decay,
    /// Identifies the run: changes with everything that the result depends on.
    identity: String,
    preprocessing: &'a Preprocessing,
    config: VitConfig,
}

impl Run<'_> {
    /// The teacher for the images of this run, made of the model `teacher`.
    fn teacher(&self, teacher: &Model, student: &VitConfig, cancel: &AtomicBool) -> Result<Teacher> {
        let network = Vit::new(*teacher.info.config.vit()?, &teacher.weights.to_device(&self.device)?)?;
        let loader = self.loader(&teacher.info.preprocessing, student)?;
        let optim = &self.recipe.optim;
        let images = optim.length.steps(loader.batches_per_epoch() as u64) * optim.batch as u64;
        Teacher::new(network, &loader, images, self.threads, cancel)
    }

    /// Training images of the recipe.
    fn loader(&self, preprocessing: &Preprocessing, config: &VitConfig) -> Result<Loader> {
        let (dataset, indices) = self.data.select(Split::Train, SPLIT_SEED);
        check_data(&dataset, config)?;
        let recipe = self.recipe;
        Loader::new(dataset, indices, recipe.optim.batch, recipe.seed, recipe.augment, preprocessing)
    }

    /// Trains; reports the accuracy on the held-out part after every epoch if the run watches it.
    fn train(
        &self,
        task: Task<'_>,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(RunEvent),
    ) -> Result<Weights> {
        let Task { objective, network, initial, decay, identity, preprocessing, config } = task;
        let recipe = self.recipe;
        let loader = self.loader(preprocessing, &config)?;
        let held_out = loader_of(self.data, Split::HeldOut, preprocessing)?;
        let trainer = Trainer {
            objective,
            loader: Arc::new(loader),
            decay: &decay,
            optim: &recipe.optim,
            threads: self.threads,
            checkpoint: self.checkpoint.map(|path| (path, identity.as_str())),
        };
        let mut on_event = |event: Event, params: &Params| {
            report(RunEvent::Trainer(event));
            if let (Event::Epoch { epoch, .. }, true) = (event, self.watch_held_out) {
                let model = network(&params.snapshot()?)?;
                report(RunEvent::HeldOut { epoch, accuracy: evaluate(&model, &held_out, self.threads)? });
            }
            Ok(())
        };
        trainer.run(initial, &mut Control { cancel, on_event: &mut on_event })
    }

    /// As the free function, for the data of this run.
    fn identity(&self, what: &str, weights: &Weights) -> Result<String> {
        identity(self.recipe, self.data.train.digest(), what, weights)
    }

    fn note(&self) -> String {
        note(self.recipe)
    }
}

/// Digest of what the result of a run depends on: recipe, digest of the data, `what` is trained, and `weights`.
fn identity(recipe: &Recipe, data: &str, what: &str, weights: &Weights) -> Result<String> {
    let recipe = serde_json::to_string(recipe).expect("a recipe of finite numbers serialises");
    let tensors = weights.to_bytes(Dtype::F32)?;
    let tensors = codec::digests(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)));
    let parts = format!("{data}\n{recipe}\n{what}\n{tensors}");
    Ok(Digest::of_text(&parts).to_string())
}

/// What a record says of a training.
fn note(recipe: &Recipe) -> String {
    let recipe = serde_json::to_string(recipe).expect("a recipe of finite numbers serialises");
    format!("genebank {} {recipe}", env!("CARGO_PKG_VERSION"))
}

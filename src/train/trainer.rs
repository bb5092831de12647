//! The training loop: epochs, events, checkpoints and exact resume.
//!
//! Everything random is keyed by seed, epoch, step and item. The state of a run is therefore only its parameters,
//! moments and step.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    data::Batches,
    error::{Error, Result},
    tensor::{Params, Weights},
};

use super::{Decay, Engine, Objective, Optim, checkpoint::Checkpoint, optim};

/// An event during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The run resumed from a checkpoint.
    Resumed {
        /// Optimiser steps made before the checkpoint.
        step: u64,
    },
    /// A step finished.
    Step {
        /// Steps made so far.
        step: u64,
        /// Steps of the whole run.
        total: u64,
        /// Mean loss over the batch.
        loss: f64,
        /// Norm of the gradient before clipping.
        norm: f64,
    },
    /// An epoch or the run finished.
    Epoch {
        /// Epochs finished.
        epoch: u64,
        /// Mean loss over those steps of the epoch that this process made.
        loss: f64,
        /// Time that this process spent on the epoch.
        elapsed: Duration,
    },
}

/// Watches and stops a run.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Control<'a> {
    /// When set, ends the run with [`Error::Cancelled`] after the step in progress.
    pub cancel: &'a AtomicBool,
    /// Called for every event, on the training thread.
    pub on_event: &'a mut dyn FnMut(Event, &Params) -> Result<()>,
}

/// The settings of a training loop.
#[expect(missing_debug_implementations, reason = "holds an objective")]
pub struct Trainer<'a> {
    /// The loss to minimise.
    pub objective: &'a dyn Objective,
    /// Training data.
    pub loader: Arc<dyn Batches>,
    /// Parameters that weight decay applies to.
    pub decay: &'a Decay,
    /// Optimiser and schedule.
    pub optim: &'a Optim,
    /// Number of threads; at most [`super::engine::SHARDS`] are used.
    pub threads: usize,
    /// File for the state after every epoch, and the identity of the run.
    pub checkpoint: Option<(&'a Path, &'a str)>,
}

impl Trainer<'_> {
    /// Trains from `initial`, or from the checkpoint if there is one, and returns detached weights.
    ///
    /// Takes `initial` by value and drops it before the first step, because training works on a copy.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Diverged`] at a loss or gradient that is not finite; those of the objective,
    /// of the checkpoint and of `control.on_event`.
    pub fn run(&self, initial: Weights, control: &mut Control<'_>) -> Result<Weights> {
        let per_epoch = self.loader.batches_per_epoch() as u64;
        let total = self.optim.length.steps(per_epoch);
        let mut engine = Engine::new(&initial, self.decay, self.optim, self.threads)?;
        drop(initial);
        let mut step = 0;
        if let Some((path, run)) = self.checkpoint
            && let Some(checkpoint) = Checkpoint::open(path, run)?
        {
            let (made, state) = checkpoint.state(&engine.params)?;
            engine.restore(&state)?;
            step = made;
            (control.on_event)(Event::Resumed { step }, &engine.params)?;
        }
        while step < total {
            let epoch = step / per_epoch;
            let (start, mut losses, first) = (Instant::now(), 0.0, step);
            for batch in self.loader.clone().prefetch(epoch, (step % per_epoch) as usize, 4)? {
                if control.cancel.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                let loss = engine.gradients(self.objective, &batch, step)?;
                let norm = engine.reduce()?;
                for (what, value) in [("loss", loss), ("gradient norm", norm)] {
                    if !value.is_finite() {
                        return Err(Error::Diverged { step, what: what.to_owned(), value });
                    }
                }
                engine.update(self.optim, norm, optim::learning_rate(self.optim, step, total), step)?;
                step += 1;
                losses += loss;
                (control.on_event)(Event::Step { step, total, loss, norm }, &engine.params)?;
                if step == total {
                    break;
                }
            }
            if let Some((path, run)) = self.checkpoint {
                Checkpoint::write(path, run, step, &engine.params, &engine.state()?)?;
            }
            let loss = losses / (step - first) as f64;
            let event = Event::Epoch { epoch: epoch + 1, loss, elapsed: start.elapsed() };
            (control.on_event)(event, &engine.params)?;
        }
        engine.into_params()?.into_weights()
    }
}

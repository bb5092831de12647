//! The training loop: shards, threads, sums in a fixed order, checkpoints and exact resume.
//!
//! A batch is always cut into [`SHARDS`] shards whose gradients are added in shard order, so the result does not
//! depend on the number of threads. Everything random is keyed by seed, epoch, step and item, so the state of a run
//! is its parameters, moments and step.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};

use crate::{
    data::{Batch, Loader},
    error::{Context as _, Error, Result},
    nn::VitConfig,
    tensor::{Params, Weights},
};

use super::{
    Objective, Optim, Shard,
    checkpoint::Checkpoint,
    optim::{self, AdamW, Gradients},
};

/// Shards of a batch, whatever the number of threads.
pub const SHARDS: usize = 4;
/// Stack of a training thread: candle's backward pass recurses over the graph.
const STACK_BYTES: usize = 256 << 20;

/// What happens during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The run continues from a checkpoint.
    Resumed {
        /// Optimiser steps that it holds.
        step: u64,
    },
    /// A step was made.
    Step {
        /// Steps made.
        step: u64,
        /// Steps in all.
        total: u64,
        /// Mean loss over the batch.
        loss: f64,
        /// Norm of the gradient before clipping.
        norm: f64,
    },
    /// An epoch, or the run, was finished.
    Epoch {
        /// Epochs finished.
        epoch: u64,
        /// Mean loss over the epoch's steps of this process.
        loss: f64,
        /// Time that the epoch took in this process.
        elapsed: Duration,
    },
}

/// How a run is watched and stopped.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Control<'a> {
    /// Ends the run with [`Error::Cancelled`] after the step in progress.
    pub cancel: &'a AtomicBool,
    /// Called from the training thread.
    pub on_event: &'a mut dyn FnMut(Event, &Params) -> Result<()>,
}

/// A run.
#[expect(missing_debug_implementations, reason = "holds an objective")]
pub struct Trainer<'a> {
    /// What is minimised.
    pub objective: &'a dyn Objective,
    /// Training images.
    pub loader: &'a Arc<Loader>,
    /// Shape of the images.
    pub config: VitConfig,
    /// Optimiser and schedule.
    pub optim: &'a Optim,
    /// Threads; more than [`SHARDS`] are not used.
    pub threads: usize,
    /// Where the state is kept after every epoch, and what identifies the run.
    pub checkpoint: Option<(&'a Path, &'a str)>,
}

impl Trainer<'_> {
    /// Trains from `initial`, or from the checkpoint where there is one, and returns detached weights.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Diverged`] at a loss or gradient that is not finite; those of the objective,
    /// of the checkpoint and of `control.on_event`.
    pub fn run(&self, initial: &Weights, control: &mut Control<'_>) -> Result<Weights> {
        let per_epoch = self.loader.batches_per_epoch() as u64;
        let total = self.optim.length.steps(per_epoch);
        let params = Params::new(initial)?;
        let mut adamw = AdamW::default();
        let mut step = 0;
        if let Some((path, run)) = self.checkpoint
            && let Some(checkpoint) = Checkpoint::open(path, run)?
        {
            step = checkpoint.restore(&params)?;
            adamw = AdamW::from_moments(checkpoint.moments);
            (control.on_event)(Event::Resumed { step }, &params)?;
        }
        while step < total {
            let epoch = step / per_epoch;
            let (start, mut losses, first) = (Instant::now(), 0.0, step);
            for batch in self.loader.prefetch(epoch, (step % per_epoch) as usize, 4)? {
                if control.cancel.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                let (loss, mut gradients) = self.gradients(&params, &batch, step)?;
                let norm = optim::clip(&mut gradients, self.optim.clip);
                for (what, value) in [("loss", loss), ("gradient norm", norm)] {
                    if !value.is_finite() {
                        return Err(Error::Diverged { step, what: what.to_owned(), value });
                    }
                }
                let eta = optim::learning_rate(self.optim, step, total);
                adamw.step(&params, &gradients, self.optim, eta, step)?;
                step += 1;
                losses += loss;
                (control.on_event)(Event::Step { step, total, loss, norm }, &params)?;
                if step == total {
                    break;
                }
            }
            if let Some((path, run)) = self.checkpoint {
                Checkpoint::write(path, run, step, &params, &adamw)?;
            }
            let loss = losses / (step - first) as f64;
            (control.on_event)(Event::Epoch { epoch: epoch + 1, loss, elapsed: start.elapsed() }, &params)?;
        }
        params.snapshot()
    }

    /// Mean loss and gradients over `batch`.
    ///
    /// # Errors
    /// Those of the objective; [`Error::MissingTensor`] where a parameter has no gradient.
    pub fn gradients(&self, params: &Params, batch: &Batch, step: u64) -> Result<(f64, Gradients)> {
        let images = batch.labels.len();
        let bounds: Vec<_> = (0..SHARDS).map(|s| (s * images / SHARDS, (s + 1) * images / SHARDS)).collect();
        let weights = params.weights();
        let threads = self.threads.clamp(1, SHARDS);
        let shard = |(start, end): (usize, usize)| -> Result<(f64, Gradients)> {
            self.shard(params, &weights, batch, start, end, step)
        };
        let mut shards: Vec<Option<Result<(f64, Gradients)>>> = (0..SHARDS).map(|_| None).collect();
        std::thread::scope(|scope| {
            let slots =
                shards.chunks_mut(SHARDS.div_ceil(threads)).zip(bounds.chunks(SHARDS.div_ceil(threads)));
            for (slots, bounds) in slots {
                let work = move || {
                    for (slot, bounds) in slots.iter_mut().zip(bounds) {
                        *slot = Some(shard(*bounds));
                    }
                };
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, work)
                    .map_err(Error::io("thread"))?;
            }
            Ok::<_, Error>(())
        })?;
        let mut sum: Option<(f64, Gradients)> = None;
        for shard in shards.into_iter().flatten() {
            let (loss, gradients) = shard?;
            match &mut sum {
                None => sum = Some((loss, gradients)),
                Some((total, sums)) => {
                    *total += loss;
                    for (sum, gradient) in sums.values_mut().zip(gradients.values()) {
                        sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g);
                    }
                }
            }
        }
        sum.ok_or_else(|| Error::invalid("batch", "no image"))
    }

    /// A shard's share of the batch's mean loss and gradient.
    fn shard(
        &self,
        params: &Params,
        weights: &Weights,
        batch: &Batch,
        start: usize,
        end: usize,
        step: u64,
    ) -> Result<(f64, Gradients)> {
        if start == end {
            let zeros = params.iter().map(|(name, var)| (name.to_owned(), vec![0.0; var.elem_count()]));
            return Ok((0.0, zeros.collect()));
        }
        let device = params.iter().next().map_or(&Device::Cpu, |(_, var)| var.device());
        let shard = Shard {
            images: images(batch, start, end, &self.config, device)?,
            labels: batch.labels[start..end].to_vec(),
            step,
            first: start,
        };
        let share = (end - start) as f64 / batch.labels.len() as f64;
        let loss = (self.objective.loss(weights, &shard)? * share).context("loss")?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the one backward pass, on a thread with a large stack"
        )]
        let store = loss.backward().context("backward")?;
        let gradients = params.iter().map(|(name, var)| {
            let gradient = store
                .get(var.as_tensor())
                .ok_or_else(|| Error::MissingTensor { name: format!("gradient of {name}") })?;
            let values = gradient.flatten_all().and_then(|g| g.to_vec1()).context(name)?;
            Ok((name.to_owned(), values))
        });
        Ok((f64::from(loss.to_scalar::<f32>().context("loss")?), gradients.collect::<Result<_>>()?))
    }
}

/// Images `start..end` of `batch` on `device`, `[images, channels, height, width]`.
///
/// # Errors
/// [`Error::Tensor`] where the images have another shape.
pub fn images(
    batch: &Batch,
    start: usize,
    end: usize,
    config: &VitConfig,
    device: &Device,
) -> Result<Tensor> {
    let (values, side) = (config.image_values(), config.image_size());
    let shape = (end - start, config.channels(), side, side);
    Tensor::from_slice(&batch.images[start * values..end * values], shape, device).context("images")
}

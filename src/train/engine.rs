//! One optimiser step: shards, threads, and sums in a fixed order.
//!
//! A batch is always cut into [`SHARDS`] shards whose gradients are added in shard order, so the result does not
//! depend on the number of threads. Each shard has a tape; the shards of one thread use the same memory one after the other.

use std::sync::{Arc, MutexGuard};

use candle_core::{Device, Tensor};

use crate::{
    data::Batch,
    error::{Context as _, Error, Result},
    nn::VitConfig,
    tensor::{Params, Tape, Weights, tape::Pool},
};

use super::{Objective, Optim, Shard, optim::AdamW};

/// Shards of a batch, whatever the number of threads.
pub const SHARDS: usize = 4;
/// Stack of a training thread: candle's backward pass recurses over the graph.
const STACK_BYTES: usize = 256 << 20;

/// Parameters, optimiser and the memory of the steps.
#[derive(Debug)]
pub struct Engine {
    /// What is trained.
    pub params: Params,
    /// Moments.
    pub adamw: AdamW,
    tapes: Vec<Arc<Tape>>,
    threads: usize,
}

impl Engine {
    /// Parameters with the values of `initial` and moments of zero. More than [`SHARDS`] threads are not used.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a copy fails.
    pub fn new(initial: &Weights, optim: &Optim, threads: usize) -> Result<Self> {
        let params = Params::new(initial)?;
        let threads = threads.clamp(1, SHARDS);
        let pools: Vec<Arc<Pool>> = (0..threads).map(|_| Arc::default()).collect();
        let tape = |shard: usize| {
            let pool = Arc::clone(&pools[shard / SHARDS.div_ceil(threads)]);
            Tape::new(params.len(), optim.recompute, pool).map(Arc::new)
        };
        let tapes = (0..SHARDS).map(tape).collect::<candle_core::Result<_>>().context("gradients")?;
        Ok(Self { adamw: AdamW::new(&params, threads), params, tapes, threads })
    }

    /// Computes the gradients of every shard of `batch` and returns the mean loss.
    ///
    /// # Errors
    /// Those of the objective.
    pub fn gradients(
        &mut self,
        objective: &dyn Objective,
        config: &VitConfig,
        batch: &Batch,
        step: u64,
    ) -> Result<f64> {
        let images = batch.labels.len();
        let bounds: Vec<_> = (0..SHARDS).map(|s| (s * images / SHARDS, (s + 1) * images / SHARDS)).collect();
        let per_thread = SHARDS.div_ceil(self.threads);
        let mut losses: Vec<Result<f64>> = (0..SHARDS).map(|_| Ok(0.0)).collect();
        let this = &*self;
        std::thread::scope(|scope| {
            let shards = losses
                .chunks_mut(per_thread)
                .zip(bounds.chunks(per_thread))
                .zip(this.tapes.chunks(per_thread));
            for ((losses, bounds), tapes) in shards {
                let work = move || {
                    for ((loss, bounds), tape) in losses.iter_mut().zip(bounds).zip(tapes) {
                        tape.clear();
                        *loss = this.shard(objective, config, tape, batch, *bounds, step);
                    }
                };
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, work)
                    .map_err(Error::io("thread"))?;
            }
            Ok::<_, Error>(())
        })?;
        losses.into_iter().sum()
    }

    /// Adds up a shard's share of the gradient of the batch's mean loss, and returns its share of the loss.
    fn shard(
        &self,
        objective: &dyn Objective,
        config: &VitConfig,
        tape: &Arc<Tape>,
        batch: &Batch,
        (start, end): (usize, usize),
        step: u64,
    ) -> Result<f64> {
        if start == end {
            return Ok(0.0);
        }
        let shard = Shard {
            images: images(batch, start, end, config, &Device::Cpu)?,
            labels: batch.labels[start..end].to_vec(),
            step,
            first: start,
        };
        let share = (end - start) as f64 / batch.labels.len() as f64;
        let loss = (objective.loss(&self.params.weights(tape)?, &shard)? * share).context("loss")?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the one backward pass, on a thread with a large stack"
        )]
        loss.backward().context("backward")?;
        Ok(f64::from(loss.to_scalar::<f32>().context("loss")?))
    }

    /// Adds the gradients of the shards; returns the norm of the sum.
    pub fn reduce(&self) -> f64 {
        let [sum, others @ ..] = self.tapes.as_slice() else { return 0.0 };
        let others: Vec<_> = others.iter().map(|tape| tape.gradients()).collect();
        let others: Vec<_> = others.iter().map(|gradients| gradients.as_slice()).collect();
        self.adamw.reduce(&mut sum.gradients(), &others)
    }

    /// The sum of [`Engine::reduce`] in the flat order of the parameters.
    pub fn gradient(&self) -> MutexGuard<'_, Vec<f32>> {
        self.tapes[0].gradients()
    }

    /// One step of the optimiser at learning rate `eta`, with the sum of [`Engine::reduce`], whose norm is `norm`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the parameters cannot be changed.
    pub fn update(&mut self, optim: &Optim, norm: f64, eta: f64, step: u64) -> Result<()> {
        self.adamw.step(&self.params, &self.tapes[0].gradients(), norm, optim, eta, step)
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

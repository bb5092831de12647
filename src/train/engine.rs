//! One optimiser step: shards, threads, and sums in a fixed order.
//!
//! A batch is always cut into [`SHARDS`] shards whose gradients are added in shard order, so the result does not
//! depend on the number of threads. Each shard has a tape; the shards of one thread use the same memory one after the other.

use std::sync::Arc;

use candle_core::{Device, Tensor, backprop::GradStore};

use crate::{
    data::Batch,
    error::{Context as _, Error, Result},
    nn::VitConfig,
    tensor::{Params, Tape, Weights, tape::Pool},
};

use super::{Objective, Optim, Shard, checkpoint::State, device::OnDevice, optim::AdamW};

/// Shards of a batch, whatever the number of threads.
pub const SHARDS: usize = 4;
/// Stack of a training thread: candle's backward pass recurses over the graph.
pub(super) const STACK_BYTES: usize = 256 << 20;

/// Parameters, optimiser and the memory of the steps.
#[derive(Debug)]
pub struct Engine {
    /// What is trained.
    pub params: Params,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Host(Host),
    Device(OnDevice),
}

#[derive(Debug)]
struct Host {
    adamw: AdamW,
    tapes: Vec<Arc<Tape>>,
    threads: usize,
    /// Of each parameter: whether a step has added to its gradient.
    alive: Vec<bool>,
}

impl Engine {
    /// Parameters with the values of `initial`, where those are, and moments of zero. More than [`SHARDS`] threads
    /// are not used.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a copy fails; [`Error::Invalid`] for half precision on the CPU.
    pub fn new(initial: &Weights, optim: &Optim, threads: usize) -> Result<Self> {
        Self::of(Params::new(initial)?, optim, threads)
    }

    /// An engine for these parameters: variables are trained by candle's graph, a flat store by the fused operations.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn of(params: Params, optim: &Optim, threads: usize) -> Result<Self> {
        let cpu = params.vars().is_none_or(|vars| vars.values().all(|var| var.device().is_cpu()));
        if optim.bf16 && cpu {
            return Err(Error::invalid("optim.bf16", "half precision is for a GPU; the CPU trains in f32"));
        }
        if params.vars().is_some() {
            let place = Place::Device(OnDevice::new(&params)?);
            return Ok(Self { params, place });
        }
        let threads = threads.clamp(1, SHARDS);
        let pools: Vec<Arc<Pool>> = (0..threads).map(|_| Arc::default()).collect();
        let tape =
            |shard: usize| params.tape(optim.recompute, Arc::clone(&pools[shard / SHARDS.div_ceil(threads)]));
        let tapes = (0..SHARDS).map(tape).collect::<Result<_>>()?;
        let alive = vec![false; params.iter().len()];
        let place = Place::Host(Host { adamw: AdamW::new(&params, threads), tapes, threads, alive });
        Ok(Self { params, place })
    }

    /// The parameters, without the optimiser's memory.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a parameter that no step of this engine has read.
    pub fn into_params(self) -> Result<Params> {
        match &self.place {
            Place::Host(host) => check_alive(&self.params, &host.alive)?,
            Place::Device(device) => check_alive(&self.params, device.alive())?,
        }
        Ok(self.params)
    }

    /// Computes the gradients of `batch` and returns the mean loss.
    ///
    /// # Errors
    /// Those of the objective; [`Error::MissingTensor`] for a parameter that the loss does not depend on.
    pub fn gradients(
        &mut self,
        objective: &dyn Objective,
        config: &VitConfig,
        batch: &Batch,
        step: u64,
    ) -> Result<f64> {
        match &mut self.place {
            Place::Host(host) => host.gradients(&self.params, objective, config, batch, step),
            Place::Device(device) => device.gradients(&self.params, objective, config, batch, step),
        }
    }

    /// Adds the gradients of the shards; returns the norm of the sum.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a device cannot be read.
    pub fn reduce(&self) -> Result<f64> {
        match &self.place {
            Place::Host(host) => Ok(host.reduce()),
            Place::Device(device) => device.norm(),
        }
    }

    /// The sum of [`Engine::reduce`] in the flat order of the parameters.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a device cannot be read.
    pub fn gradient(&self) -> Result<Vec<f32>> {
        match &self.place {
            Place::Host(host) => Ok(host.tapes[0].gradients().to_vec()),
            Place::Device(device) => device.gradient(),
        }
    }

    /// One step of the optimiser at learning rate `eta`, with the sum of [`Engine::reduce`], whose norm is `norm`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the parameters cannot be changed.
    pub fn update(&mut self, optim: &Optim, norm: f64, eta: f64, step: u64) -> Result<()> {
        match &mut self.place {
            Place::Host(Host { adamw, tapes, .. }) => {
                adamw.step(&self.params, &tapes[0].gradients(), norm, optim, eta, step)
            }
            Place::Device(device) => device.update(&self.params, optim, norm, eta, step),
        }
    }

    /// What a checkpoint keeps.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a device cannot be read.
    pub fn state(&self) -> Result<State> {
        let [first, second] = match &self.place {
            Place::Host(host) => [host.adamw.first.clone(), host.adamw.second.clone()],
            Place::Device(device) => device.moments()?,
        };
        Ok(State { values: self.params.values()?, first, second })
    }

    /// Goes back to `state`, which has as many values as there are parameters.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number, [`Error::Tensor`] where a device refuses.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        self.params.set(&state.values)?;
        match &mut self.place {
            Place::Host(host) => {
                host.adamw.first.clone_from(&state.first);
                host.adamw.second.clone_from(&state.second);
                Ok(())
            }
            Place::Device(device) => device.restore(&self.params, state),
        }
    }
}

impl Host {
    fn gradients(
        &mut self,
        params: &Params,
        objective: &dyn Objective,
        config: &VitConfig,
        batch: &Batch,
        step: u64,
    ) -> Result<f64> {
        let images = batch.labels.len();
        let bounds: Vec<_> = (0..SHARDS).map(|s| (s * images / SHARDS, (s + 1) * images / SHARDS)).collect();
        let per_thread = SHARDS.div_ceil(self.threads);
        let mut losses: Vec<Result<f64>> = (0..SHARDS).map(|_| Ok(0.0)).collect();
        std::thread::scope(|scope| {
            let shards = losses.chunks_mut(per_thread).zip(bounds.chunks(per_thread));
            for ((losses, bounds), tapes) in shards.zip(self.tapes.chunks(per_thread)) {
                let work = move || {
                    for ((loss, (start, end)), tape) in losses.iter_mut().zip(bounds).zip(tapes) {
                        tape.gradients().clear();
                        if start < end {
                            let weights = params.weights(tape);
                            *loss = weights.and_then(|weights| {
                                let shard = shard(batch, *start, *end, config, &Device::Cpu, step)?;
                                Ok(backward(objective, &weights, &shard, images)?.0)
                            });
                        }
                    }
                };
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, work)
                    .map_err(Error::io("thread"))?;
            }
            Ok::<_, Error>(())
        })?;
        let loss = losses.into_iter().sum::<Result<f64>>()?;
        let mut touched = vec![false; self.alive.len()];
        for tape in &self.tapes {
            let mut gradients = tape.gradients();
            touched.iter_mut().zip(gradients.finish()).for_each(|(any, one)| *any |= one);
        }
        self.alive.iter_mut().zip(&touched).for_each(|(alive, now)| *alive |= now);
        if !objective.samples() {
            check_alive(params, &touched)?;
        }
        Ok(loss)
    }

    fn reduce(&self) -> f64 {
        let [sum, others @ ..] = self.tapes.as_slice() else { return 0.0 };
        let others: Vec<_> = others.iter().map(|tape| tape.gradients()).collect();
        let others: Vec<&[f32]> = others.iter().map(|gradients| &***gradients).collect();
        self.adamw.reduce(&mut sum.gradients(), &others)
    }
}

/// Refuses a parameter to which nothing was added: it would only decay.
fn check_alive(params: &Params, touched: &[bool]) -> Result<()> {
    match params.iter().zip(touched).find(|(_, touched)| !**touched) {
        Some(((name, ..), _)) => Err(Error::MissingTensor { name: format!("gradient of {name}") }),
        None => Ok(()),
    }
}

/// A shard's share of the mean loss over `images` images, and candle's gradients of it.
///
/// Call it on a thread with a large stack.
pub(super) fn backward(
    objective: &dyn Objective,
    weights: &Weights,
    shard: &Shard,
    images: usize,
) -> Result<(f64, GradStore)> {
    let share = shard.labels.len() as f64 / images as f64;
    let loss = (objective.loss(weights, shard)? * share).context("loss")?;
    #[expect(clippy::disallowed_methods, reason = "the one backward pass, on a thread with a large stack")]
    let store = loss.backward().context("backward")?;
    Ok((f64::from(loss.to_scalar::<f32>().context("loss")?), store))
}

/// Images `start..end` of `batch` on `device`.
pub(super) fn shard(
    batch: &Batch,
    start: usize,
    end: usize,
    config: &VitConfig,
    device: &Device,
    step: u64,
) -> Result<Shard> {
    Ok(Shard {
        images: images(batch, start, end, config, device)?,
        labels: batch.labels[start..end].to_vec(),
        items: batch.items[start..end].to_vec(),
        views: batch.views[start..end].to_vec(),
        step,
        first: start,
    })
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

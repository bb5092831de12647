//! One optimiser step, on the CPU or on a device.
//!
//! On the CPU a batch is always cut into [`SHARDS`] shards, and their gradients are added in shard order, so the result
//! does not depend on the number of threads. Each shard has a tape; the shards of one thread take turns with the same
//! memory. A device computes the whole batch at once.

mod device;
mod host;

use std::ops::Range;

use crate::{
    data::Batch,
    error::{Error, Result},
    tensor::{Params, Weights},
};

use super::{Decay, Objective, Optim, checkpoint::State, optim::rates};

use device::OnDevice;
use host::{Host, check_alive};

pub use host::SHARDS;

/// Parameters, optimiser, and the memory that steps reuse.
#[derive(Debug)]
pub struct Engine {
    /// The trained parameters.
    pub params: Params,
    executor: Executor,
}

#[derive(Debug)]
enum Executor {
    Host(Host),
    Device(OnDevice),
}

impl Engine {
    /// An engine with a copy of `initial` on the same device, and moments of zero. It uses at most [`SHARDS`] threads.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a copy fails; [`Error::Invalid`] for half precision on the CPU.
    pub fn new(initial: &Weights, decay: &Decay, optim: &Optim, threads: usize) -> Result<Self> {
        Self::of(Params::new(initial)?, decay, optim, threads)
    }

    /// An engine for these parameters. Variables use candle's graph; a flat store uses the fused operations.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn of(params: Params, decay: &Decay, optim: &Optim, threads: usize) -> Result<Self> {
        let cpu = params.vars().is_none_or(|vars| vars.values().all(|var| var.device().is_cpu()));
        if optim.bf16 && cpu {
            return Err(Error::invalid("optim.bf16", "half precision is for a GPU; the CPU trains in f32"));
        }
        if params.vars().is_some() {
            let executor = Executor::Device(OnDevice::new(&params, decay.clone())?);
            return Ok(Self { params, executor });
        }
        let executor = Executor::Host(Host::new(&params, decay, optim, threads)?);
        Ok(Self { params, executor })
    }

    /// The parameters. Frees the optimiser's memory.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a parameter that got no gradient in any step, those before a checkpoint included.
    pub fn into_params(self) -> Result<Params> {
        match &self.executor {
            Executor::Host(host) => check_alive(&self.params, &host.alive)?,
            Executor::Device(device) => check_alive(&self.params, &device.alive)?,
        }
        Ok(self.params)
    }

    /// Computes the gradients of `batch` and returns the mean loss.
    ///
    /// # Errors
    /// Those of the objective; [`Error::MissingTensor`] for a parameter that the loss does not depend on.
    pub fn gradients(&mut self, objective: &dyn Objective, batch: &Batch, step: u64) -> Result<f64> {
        match &mut self.executor {
            Executor::Host(host) => host.gradients(&self.params, objective, batch, step),
            Executor::Device(device) => device.gradients(&self.params, objective, batch, step),
        }
    }

    /// Adds the gradients of the shards; returns the norm of the sum.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a device cannot be read.
    pub fn reduce(&self) -> Result<f64> {
        match &self.executor {
            Executor::Host(host) => Ok(host.reduce()),
            Executor::Device(device) => device.norm(),
        }
    }

    /// The sum of [`Engine::reduce`] in the flat order of the parameters.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a device cannot be read.
    pub fn gradient(&self) -> Result<Vec<f32>> {
        match &self.executor {
            Executor::Host(host) => Ok(host.gradient()),
            Executor::Device(device) => device.gradient(),
        }
    }

    /// One optimiser step at learning rate `eta` with the sum of [`Engine::reduce`]; `norm` is its norm.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the parameters cannot be changed.
    pub fn update(&mut self, optim: &Optim, norm: f64, eta: f64, step: u64) -> Result<()> {
        match &mut self.executor {
            Executor::Host(Host { adamw, tapes, active, .. }) => {
                let rates = |decays| rates(optim, norm, eta, step, decays);
                adamw.step(&self.params, active, &tapes[0].gradients(), &rates)
            }
            Executor::Device(device) => device.update(&self.params, optim, norm, eta, step),
        }
    }

    /// The state for a checkpoint.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a device cannot be read.
    pub fn state(&self) -> Result<State> {
        let [first, second] = match &self.executor {
            Executor::Host(host) => [host.adamw.first.clone(), host.adamw.second.clone()],
            Executor::Device(device) => device.moments()?,
        };
        Ok(State { values: self.params.values()?, first, second })
    }

    /// Restores `state`, which must have as many values as the parameters. A parameter whose first moment is not zero
    /// has had a gradient before.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number differs, [`Error::Tensor`] if a device refuses.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        self.params.set(&state.values)?;
        let moved =
            |(_, _, span): (_, _, Range<usize>)| state.first[span].iter().any(|moment| *moment != 0.0);
        let alive: Vec<_> = self.params.iter().map(moved).collect();
        match &mut self.executor {
            Executor::Host(host) => {
                host.alive = alive;
                host.adamw.first.clone_from(&state.first);
                host.adamw.second.clone_from(&state.second);
                Ok(())
            }
            Executor::Device(device) => {
                device.alive = alive;
                device.restore(&self.params, state)
            }
        }
    }
}

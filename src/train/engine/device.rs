//! The step on a device: the whole batch at once, candle's own gradients, and AdamW as tensor operations.
//!
//! Parameters and moments are f32. An objective in half precision computes with casts of the parameters; the casts
//! return gradients in f32. Norms, softmax and losses are f32 too.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::{
    data::Batch,
    error::{Context as _, Error, Result},
    tensor::{Params, Weight, Weights},
    train::{
        Decay, Objective, Optim, Shard,
        checkpoint::State,
        objective::{STACK_BYTES, backward},
        optim,
    },
};

/// Gradients and moments on a device, by parameter name.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    decay: Decay,
    gradients: BTreeMap<String, Tensor>,
    /// Whether each parameter has had a gradient.
    pub(super) alive: Vec<bool>,
    first: BTreeMap<String, Tensor>,
    second: BTreeMap<String, Tensor>,
}

impl OnDevice {
    pub(super) fn new(params: &Params, decay: Decay) -> Result<Self> {
        let device = vars(params)?.values().next().map_or(Device::Cpu, |var| var.device().clone());
        let zeros = || -> Result<BTreeMap<_, _>> {
            let zero = |(name, var): (&String, &Var)| Ok((name.clone(), var.zeros_like().context(name)?));
            vars(params)?.iter().map(zero).collect()
        };
        let (first, second) = (zeros()?, zeros()?);
        let alive = vec![false; params.iter().len()];
        Ok(Self { device, decay, gradients: BTreeMap::new(), alive, first, second })
    }

    /// As [`super::Engine::gradients`].
    pub(super) fn gradients(
        &mut self,
        params: &Params,
        objective: &dyn Objective,
        batch: &Batch,
        step: u64,
    ) -> Result<f64> {
        let items = batch.len();
        let shard = Shard::of(batch, 0..items, &self.device, step)?;
        let weight =
            |(name, var): (&String, &Var)| Ok((name.clone(), Weight::new(var.as_tensor()).context(name)?));
        let weights: Weights = vars(params)?.iter().map(weight).collect::<Result<_>>()?;
        let work = || backward(objective, &weights, &shard, items);
        let (loss, mut store) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
            thread
                .map_err(Error::io("thread"))?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        for ((name, var), alive) in vars(params)?.iter().zip(&mut self.alive) {
            let gradient = match store.remove(var.as_tensor()) {
                Some(gradient) => {
                    *alive = true;
                    gradient
                }
                None if objective.samples() => var.zeros_like().context(name)?,
                None => return Err(Error::MissingTensor { name: format!("gradient of {name}") }),
            };
            self.gradients.insert(name.clone(), gradient);
        }
        Ok(loss)
    }

    /// Norm over all gradients.
    pub(super) fn norm(&self) -> Result<f64> {
        let squares = self.gradients.values().map(|gradient| gradient.sqr()?.sum_all());
        let norm = || {
            let squares =
                Tensor::stack(&squares.collect::<candle_core::Result<Vec<_>>>()?, 0)?.to_vec1::<f32>()?;
            Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt())
        };
        norm().context("gradient norm")
    }

    /// As [`super::Engine::update`].
    pub(super) fn update(
        &mut self,
        params: &Params,
        optim: &Optim,
        norm: f64,
        eta: f64,
        step: u64,
    ) -> Result<()> {
        for (name, var) in vars(params)? {
            let rates = optim::rates(optim, norm, eta, step, self.decay.applies_to(name));
            let ([b1, b2], [c1, c2]) = (rates.betas.map(f64::from), rates.rest.map(f64::from));
            let (m, v) = (&self.first[name], &self.second[name]);
            let change = || {
                let g = (&self.gradients[name] * f64::from(rates.clip))?;
                let m = ((m * b1)? + (&g * c1)?)?;
                let v = ((v * b2)? + (g.sqr()? * c2)?)?;
                let step = (&m / (v.sqrt()? + f64::from(rates.epsilon))?)?;
                var.set(
                    &((var.as_tensor().detach() * f64::from(rates.keep))? - (step * f64::from(rates.rate))?)?,
                )?;
                Ok((m, v))
            };
            let (m, v) = change().context(name)?;
            self.first.insert(name.clone(), m);
            self.second.insert(name.clone(), v);
        }
        Ok(())
    }

    /// The gradients in the flat order of the parameters.
    pub(super) fn gradient(&self) -> Result<Vec<f32>> {
        flat(&self.gradients)
    }

    /// Both moments in the flat order of the parameters.
    pub(super) fn moments(&self) -> Result<[Vec<f32>; 2]> {
        Ok([flat(&self.first)?, flat(&self.second)?])
    }

    /// As [`super::Engine::restore`].
    pub(super) fn restore(&mut self, params: &Params, state: &State) -> Result<()> {
        for (name, shape, span) in params.iter() {
            let moment = |values: &[f32]| Tensor::from_slice(values, shape, &self.device).context(name);
            let (m, v) = (moment(&state.first[span.clone()])?, moment(&state.second[span])?);
            self.first.insert(name.to_owned(), m);
            self.second.insert(name.to_owned(), v);
        }
        Ok(())
    }
}

fn vars(params: &Params) -> Result<&BTreeMap<String, Var>> {
    params.vars().ok_or_else(|| Error::invalid("parameters", "a flat store is no variables of a device"))
}

fn flat(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for (name, tensor) in tensors {
        all.extend(tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).context(name)?);
    }
    Ok(all)
}

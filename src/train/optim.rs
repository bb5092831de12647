//! AdamW with decay groups, clipping and a warm-up cosine schedule.
//!
//! Source: Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2; Kingma & Ba 2015 (arXiv 1412.6980) for the
//! moments.
//!
//! ```text
//! m ← β₁ m + (1 - β₁) g        m̂ = m / (1 - β₁ᵗ)
//! v ← β₂ v + (1 - β₂) g²       v̂ = v / (1 - β₂ᵗ)
//! θ ← θ - η λ θ - η m̂ / (√v̂ + ε)
//! ```

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    nn::schema,
    tensor::Params,
};

use super::Optim;

/// ε of the update, PyTorch's default.
const EPSILON: f32 = 1e-8;

/// First and second moment of one parameter.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// `m`, a value per element.
    pub first: Vec<f32>,
    /// `v`, a value per element.
    pub second: Vec<f32>,
}

/// The optimiser's state.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    moments: BTreeMap<String, Moments>,
}

/// Gradients by parameter name, in storage order of the parameter.
pub type Gradients = BTreeMap<String, Vec<f32>>;

impl AdamW {
    /// Moments by name.
    pub const fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// The state of a checkpoint.
    pub const fn from_moments(moments: BTreeMap<String, Moments>) -> Self {
        Self { moments }
    }

    /// One step at learning rate `eta`; `step` counts from 0.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] where a parameter has no gradient: a parameter that silently stays behind is a
    /// bug of the network, not a case.
    pub fn step(
        &mut self,
        params: &Params,
        gradients: &Gradients,
        optim: &Optim,
        eta: f64,
        step: u64,
    ) -> Result<()> {
        let [beta1, beta2] = optim.betas;
        let t = (step + 1) as f64;
        let (correct1, correct2) = (1.0 - libm::pow(beta1, t), 1.0 - libm::pow(beta2, t));
        // η m̂ / (√v̂ + ε) = rate m / (√v + ε √correct2), with the corrections folded into two numbers.
        let rate = (eta * correct2.sqrt() / correct1) as f32;
        let epsilon = EPSILON * correct2.sqrt() as f32;
        let (b1, b2) = (beta1 as f32, beta2 as f32);
        for (name, var) in params.iter() {
            let gradient = gradients
                .get(name)
                .ok_or_else(|| Error::MissingTensor { name: format!("gradient of {name}") })?;
            let decay = if schema::decays(name, var.rank()) { optim.weight_decay } else { 0.0 };
            let keep = (1.0 - eta * decay) as f32;
            let moments = self.moments.entry(name.to_owned()).or_default();
            moments.first.resize(gradient.len(), 0.0);
            moments.second.resize(gradient.len(), 0.0);
            let mut values = params.values(name)?;
            let state = moments.first.iter_mut().zip(&mut moments.second);
            for ((theta, g), (m, v)) in values.iter_mut().zip(gradient).zip(state) {
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *theta = keep * *theta - rate * *m / (v.sqrt() + epsilon);
            }
            params.set(name, values, var.device())?;
        }
        Ok(())
    }
}

/// Norm of all gradients together.
fn norm(gradients: &Gradients) -> f64 {
    let squares = |values: &Vec<f32>| values.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
    gradients.values().map(squares).sum::<f64>().sqrt()
}

/// Scales gradients to at most `limit`; returns the norm before.
pub fn clip(gradients: &mut Gradients, limit: f64) -> f64 {
    let norm = norm(gradients);
    if limit > 0.0 && norm > limit {
        let factor = (limit / norm) as f32;
        gradients.values_mut().flatten().for_each(|g| *g *= factor);
    }
    norm
}

/// Learning rate of `step` of `total`: linear warm-up, then half a cosine down to the minimum.
pub fn learning_rate(optim: &Optim, step: u64, total: u64) -> f64 {
    if step < optim.warmup_steps {
        return optim.learning_rate * (step + 1) as f64 / optim.warmup_steps as f64;
    }
    let span = total.saturating_sub(optim.warmup_steps).max(1);
    let progress = (step - optim.warmup_steps) as f64 / span as f64;
    let cosine = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress.min(1.0)));
    optim.min_learning_rate + (optim.learning_rate - optim.min_learning_rate) * cosine
}

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

use std::{collections::BTreeSet, ops::Range};

use crate::{
    error::Result,
    nn::Spec,
    tensor::{Params, ops},
};

use super::Optim;

/// `ε` of the update; PyTorch's default.
const EPSILON: f32 = 1e-8;
/// Largest number of values in a segment, the unit of work and of summation. Small enough to stay in the nearest caches
/// between the passes.
const SEGMENT: usize = 1 << 14;

/// Names of the parameters that weight decay applies to.
#[derive(Debug, Clone)]
pub struct Decay(BTreeSet<String>);

impl Decay {
    /// The parameters of `specs` whose role decays.
    pub fn of(specs: impl IntoIterator<Item = Spec>) -> Self {
        Self(specs.into_iter().filter(|spec| spec.role.decays()).map(|spec| spec.name).collect())
    }

    /// Whether weight decay applies to the parameter called `name`.
    pub fn applies_to(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// Consecutive values of one parameter.
#[derive(Debug, Clone)]
struct Segment {
    span: Range<usize>,
    decays: bool,
}

/// The segments of one thread, and the range of values that they cover.
struct Share<'a> {
    segments: &'a [Segment],
    values: Range<usize>,
}

/// Divides `segments` among at most `threads` threads.
fn shares(segments: &[Segment], threads: usize) -> Vec<Share<'_>> {
    let per_thread = segments.len().div_ceil(threads.max(1)).max(1);
    let share = |segments: &'_ [Segment]| segments[0].span.start..segments[segments.len() - 1].span.end;
    segments.chunks(per_thread).map(|segments| Share { segments, values: share(segments) }).collect()
}

/// The optimiser: moments in the flat order of the parameters, and their division into segments.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// `m`
    pub first: Vec<f32>,
    /// `v`
    pub second: Vec<f32>,
    segments: Vec<Segment>,
    threads: usize,
}

impl AdamW {
    /// An optimiser for `params` with moments of zero. It uses `threads` threads.
    pub fn new(params: &Params, decay: &Decay, threads: usize) -> Self {
        let cut = |(name, _, span): (&str, &[usize], Range<usize>)| {
            let decays = decay.applies_to(name);
            let starts = span.clone().step_by(SEGMENT);
            starts.map(move |start| Segment { span: start..(start + SEGMENT).min(span.end), decays })
        };
        let segments = params.iter().flat_map(cut).collect();
        Self { first: vec![0.0; params.len()], second: vec![0.0; params.len()], segments, threads }
    }

    /// Computes `sum ← sum + Σ others`, in the order of `others`; returns the norm of the result.
    ///
    /// The result does not depend on the number of threads.
    pub fn reduce(&self, sum: &mut [f32], others: &[&[f32]]) -> f64 {
        let mut squares = vec![0.0; self.segments.len()];
        std::thread::scope(|scope| {
            let (mut sum, mut squares) = (sum, squares.as_mut_slice());
            for share in shares(&self.segments, self.threads) {
                let (sums, rest) = std::mem::take(&mut sum).split_at_mut(share.values.len());
                let (square, later) = std::mem::take(&mut squares).split_at_mut(share.segments.len());
                (sum, squares) = (rest, later);
                scope.spawn(move || {
                    for (segment, square) in share.segments.iter().zip(square) {
                        let at = segment.span.start - share.values.start;
                        let sum = &mut sums[at..at + segment.span.len()];
                        for other in others {
                            ops::add_to(sum, &other[segment.span.clone()]);
                        }
                        *square = ops::square_sum(sum);
                    }
                });
            }
        });
        squares.iter().sum::<f64>().sqrt()
    }

    /// One step at learning rate `eta` with gradients of norm `norm`; `step` counts from 0.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`] if the parameters cannot be changed.
    pub fn step(
        &mut self,
        params: &Params,
        gradients: &[f32],
        norm: f64,
        optim: &Optim,
        eta: f64,
        step: u64,
    ) -> Result<()> {
        let (decaying, other) = (rates(optim, norm, eta, step, true), rates(optim, norm, eta, step, false));
        let shares = shares(&self.segments, self.threads);
        let (first, second) = (&mut self.first, &mut self.second);
        params.update(|values| {
            std::thread::scope(|scope| {
                let (mut values, mut first, mut second) =
                    (values, first.as_mut_slice(), second.as_mut_slice());
                for share in shares {
                    let len = share.values.len();
                    let (theta, next) = std::mem::take(&mut values).split_at_mut(len);
                    let (m, next_m) = std::mem::take(&mut first).split_at_mut(len);
                    let (v, next_v) = std::mem::take(&mut second).split_at_mut(len);
                    (values, first, second) = (next, next_m, next_v);
                    scope.spawn(move || {
                        for segment in share.segments {
                            let at = segment.span.start - share.values.start;
                            let at = at..at + segment.span.len();
                            let rates = if segment.decays { decaying } else { other };
                            let gradient = &gradients[segment.span.clone()];
                            ops::adamw(
                                &mut theta[at.clone()],
                                gradient,
                                &mut m[at.clone()],
                                &mut v[at],
                                rates,
                            );
                        }
                    });
                }
            });
        })
    }
}
/// The coefficients of step `step`, counted from 0, at learning rate `eta` and with gradients of norm `norm`.
pub(super) fn rates(optim: &Optim, norm: f64, eta: f64, step: u64, decays: bool) -> ops::Rates {
    let [beta1, beta2] = optim.betas;
    let t = (step + 1) as f64;
    let (correct1, correct2) = (1.0 - libm::pow(beta1, t), 1.0 - libm::pow(beta2, t));
    // η m̂ / (√v̂ + ε) = rate m / (√v + ε √correct2): two numbers absorb both bias corrections.
    ops::Rates {
        betas: [beta1 as f32, beta2 as f32],
        rest: [(1.0 - beta1) as f32, (1.0 - beta2) as f32],
        clip: if optim.clip > 0.0 && norm > optim.clip { (optim.clip / norm) as f32 } else { 1.0 },
        keep: (1.0 - if decays { eta * optim.weight_decay } else { 0.0 }) as f32,
        rate: (eta * correct2.sqrt() / correct1) as f32,
        epsilon: EPSILON * correct2.sqrt() as f32,
    }
}

/// Learning rate of `step` of `total`: linear warm-up, then half a cosine period down to the minimum.
pub fn learning_rate(optim: &Optim, step: u64, total: u64) -> f64 {
    if step < optim.warmup_steps {
        return optim.learning_rate * (step + 1) as f64 / optim.warmup_steps as f64;
    }
    let span = total.saturating_sub(optim.warmup_steps).max(1);
    let progress = (step - optim.warmup_steps) as f64 / span as f64;
    let cosine = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress.min(1.0)));
    optim.min_learning_rate + (optim.learning_rate - optim.min_learning_rate) * cosine
}

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
//!
//! Of a table, a step changes only the rows that have a gradient, and their moments, as PyTorch's `SparseAdam` does.

use std::{collections::BTreeSet, ops::Range};

use crate::{
    error::Result,
    nn::Spec,
    tensor::{
        Params, ops,
        tape::{TableRows, Written},
    },
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where they are in the flat order.
    pub span: Range<usize>,
    decays: bool,
}

/// The segments of one thread, and the range of values that they lie in.
struct Share<'a> {
    segments: &'a [Segment],
    values: Range<usize>,
}

/// Divides `segments` among at most `threads` threads, a like number of values to each. The ranges follow one another
/// from 0 on.
fn shares(segments: &[Segment], threads: usize) -> Vec<Share<'_>> {
    let total: usize = segments.iter().map(|segment| segment.span.len()).sum();
    let (per_thread, mut first) = (total.div_ceil(threads.max(1)).max(1), 0);
    let (mut counted, mut end) = (0, 0);
    let groups = segments.chunk_by(|one, _| {
        counted += one.span.len();
        let more = counted < per_thread;
        counted = if more { counted } else { 0 };
        more
    });
    let share = |segments: &'_ [Segment]| {
        first = std::mem::replace(&mut end, segments[segments.len() - 1].span.end);
        first..end
    };
    let mut share = share;
    groups.map(|segments| Share { segments, values: share(segments) }).collect()
}

/// The optimiser: moments in the flat order of the parameters, and their division into segments.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// `m`
    pub first: Vec<f32>,
    /// `v`
    pub second: Vec<f32>,
    /// Of each parameter, in the flat order.
    segments: Vec<Vec<Segment>>,
    threads: usize,
}

impl AdamW {
    /// An optimiser for `params` with moments of zero. It uses `threads` threads.
    pub fn new(params: &Params, decay: &Decay, threads: usize) -> Self {
        let cut = |(name, _, span): (&str, &[usize], Range<usize>)| {
            let decays = decay.applies_to(name);
            let starts = span.clone().step_by(SEGMENT);
            starts.map(|start| Segment { span: start..(start + SEGMENT).min(span.end), decays }).collect()
        };
        let segments = params.iter().map(cut).collect();
        Self { first: vec![0.0; params.len()], second: vec![0.0; params.len()], segments, threads }
    }

    /// Every parameter as a whole.
    pub fn whole(&self) -> Vec<Segment> {
        self.segments.concat()
    }

    /// What a step changes: every parameter as a whole, but of a table only the rows that were `written`.
    pub fn active(&self, written: &[Written]) -> Vec<Segment> {
        let rows = |whole: &[Segment], table: &TableRows| {
            let Some(Segment { span, decays }) = whole.first().cloned() else { return Vec::new() };
            let row = |row: &usize| span.start + row * table.cols;
            table.rows.iter().map(|r| Segment { span: row(r)..row(r) + table.cols, decays }).collect()
        };
        let of = |(whole, written): (&Vec<Segment>, &Written)| match written {
            Written::Rows(table) => rows(whole, table),
            Written::Nothing | Written::Whole => whole.clone(),
        };
        self.segments.iter().zip(written).flat_map(of).collect()
    }

    /// Computes `sum ← sum + Σ others` in the segments `active`, in the order of `others`; returns the norm of the
    /// result.
    ///
    /// The result does not depend on the number of threads.
    pub fn reduce(&self, active: &[Segment], sum: &mut [f32], others: &[&[f32]]) -> f64 {
        let mut squares = vec![0.0; active.len()];
        std::thread::scope(|scope| {
            let (mut sum, mut squares) = (sum, squares.as_mut_slice());
            for share in shares(active, self.threads) {
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

    /// One step of the segments `active` with these gradients. `rates` gives the coefficients of parameters with and
    /// without weight decay.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`] if the parameters cannot be changed.
    pub fn step(
        &mut self,
        params: &Params,
        active: &[Segment],
        gradients: &[f32],
        rates: &dyn Fn(bool) -> ops::Rates,
    ) -> Result<()> {
        let (decaying, other) = (rates(true), rates(false));
        let shares = shares(active, self.threads);
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
pub fn rates(optim: &Optim, norm: f64, eta: f64, step: u64, decays: bool) -> ops::Rates {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Length;

    fn optim() -> Optim {
        Optim {
            length: Length::Steps(12),
            batch: 1,
            learning_rate: 8e-3,
            min_learning_rate: 2e-3,
            warmup_steps: 4,
            weight_decay: 0.05,
            betas: [0.9, 0.999],
            clip: 1.0,
            label_smoothing: 0.0,
            drop_path: 0.0,
            recompute: false,
            bf16: false,
        }
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found:e} is not {expected:e}");
    }

    #[test]
    fn the_learning_rate_rises_in_a_line_and_falls_along_half_a_cosine() {
        // After the warm-up, a quarter of the way is at 2e-3 + 6e-3 (1 + cos 45°) / 2.
        for (step, expected) in [
            (0, 2e-3),
            (2, 6e-3),
            (3, 8e-3),
            (4, 8e-3),
            (6, 7.121_320_344e-3),
            (8, 5e-3),
            (12, 2e-3),
            (99, 2e-3),
        ] {
            assert_near(learning_rate(&optim(), step, 12), expected);
        }
        let unwarmed = Optim { warmup_steps: 0, ..optim() };
        assert_near(learning_rate(&unwarmed, 0, 12), 8e-3);
        assert_near(learning_rate(&unwarmed, 6, 12), 5e-3);
    }

    #[test]
    fn the_coefficients_of_a_step_are_those_computed_by_hand() {
        let first = rates(&optim(), 0.5, 1e-3, 0, true);
        assert_eq!((first.betas, first.clip), ([0.9, 0.999], 1.0));
        assert_near(f64::from(first.rest[0]), 0.1);
        assert_near(f64::from(first.rest[1]), 1e-3);
        // 1 - 1e-3 · 0.05
        assert_eq!(first.keep, 0.99995);
        // 1e-3 √0.001 / 0.1 and 1e-8 √0.001
        assert_near(f64::from(first.rate), 3.162_277_660e-4);
        assert_near(f64::from(first.epsilon), 3.162_277_660e-10);
        // 1e-3 √(1 - 0.999²) / (1 - 0.9²)
        let second = rates(&optim(), 0.5, 1e-3, 1, false);
        assert_near(f64::from(second.rate), 2.353_167_25e-4);
        assert_eq!(second.keep, 1.0);
    }

    #[test]
    fn gradients_are_scaled_down_to_the_clip_and_never_up() {
        let clip = |clip, norm| rates(&Optim { clip, ..optim() }, norm, 1e-3, 0, true).clip;
        assert_eq!([clip(1.0, 4.0), clip(2.0, 8.0), clip(1.0, 1.0), clip(1.0, 0.1)], [0.25, 0.25, 1.0, 1.0]);
        // A clip of 0 means none.
        assert_eq!(clip(0.0, 4.0), 1.0);
    }

    /// One step of two tensors, of which only `a` decays, against the header's formula.
    #[test]
    fn a_step_is_the_formula_of_the_header() {
        use crate::tensor::{Weight, Weights};
        use candle_core::{Device, Tensor};
        let one = |value: f32| Weight::new(&Tensor::new(&[value], &Device::Cpu).unwrap()).unwrap();
        let weights: Weights = [("a".to_owned(), one(2.0)), ("b".to_owned(), one(2.0))].into_iter().collect();
        let params = Params::new(&weights).unwrap();
        let mut optimiser = AdamW::new(&params, &Decay(["a".to_owned()].into()), 2);
        // Norm 4 is clipped to 1, so g = (0.5, 0.5); then m = 0.1 g, v = 0.001 g², and both corrections undo that:
        // m̂ / √v̂ = 1.
        let active = optimiser.active(&[Written::Whole, Written::Whole]);
        optimiser
            .step(&params, &active, &[2.0, 2.0], &|decays| rates(&optim(), 4.0, 0.1, 0, decays))
            .unwrap();
        assert_near(f64::from(optimiser.first[0]), 0.05);
        assert_near(f64::from(optimiser.second[0]), 0.001 * 0.25);
        let values = params.values().unwrap();
        assert_near(f64::from(values[0]), 2.0 - 0.1 * 0.05 * 2.0 - 0.1);
        assert_near(f64::from(values[1]), 2.0 - 0.1);
    }

    #[test]
    fn of_a_table_only_the_written_rows_change() {
        use crate::tensor::{Weight, Weights};
        use candle_core::{Device, Tensor};
        let ones = |shape: (usize, usize)| {
            Weight::new(&Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap()
        };
        let weights: Weights =
            [("a".to_owned(), ones((4, 2))), ("b".to_owned(), ones((1, 2)))].into_iter().collect();
        let params = Params::new(&weights).unwrap();
        for threads in [1, 2, 9] {
            let mut optimiser = AdamW::new(&params, &Decay(BTreeSet::new()), threads);
            let table = TableRows { cols: 2, rows: [1, 3].into() };
            let active = optimiser.active(&[Written::Rows(table), Written::Whole]);
            let spans: Vec<_> = active.iter().map(|segment| segment.span.clone()).collect();
            assert_eq!(spans, [2..4, 6..8, 8..10]);
            let mut sum = [1.0; 10];
            let norm = optimiser.reduce(&active, &mut sum, &[&[2.0; 10]]);
            assert_eq!(sum, [1.0, 1.0, 3.0, 3.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0]);
            assert_near(norm, (6.0f64 * 9.0).sqrt());
            params.set(&[1.0; 10]).unwrap();
            optimiser.step(&params, &active, &sum, &|decays| rates(&optim(), 1.0, 0.1, 0, decays)).unwrap();
            let moved: Vec<bool> = params.values().unwrap().iter().map(|value| *value != 1.0).collect();
            assert_eq!(moved, [false, false, true, true, false, false, true, true, true, true]);
            assert!(optimiser.first.iter().zip(&moved).all(|(moment, moved)| (*moment != 0.0) == *moved));
        }
    }
}

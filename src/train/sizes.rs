//! The sizes that a step of nested learning trains.

use std::collections::BTreeMap;

use crate::{
    blueprint::Blueprint,
    error::Result,
    gene::{GeneMeta, SizeRequest, store},
    nn::Size,
    tensor::rng,
};

use super::recipe::Nested;

/// Draws the sizes of each step.
#[derive(Debug)]
pub(super) struct Sizes {
    meta: GeneMeta,
    nested: Nested,
    seed: u64,
}

impl Sizes {
    /// The sizes of a recipe for the gene `meta`.
    ///
    /// # Errors
    /// Those of the blueprints of its sizes.
    pub(super) fn new(meta: &GeneMeta, nested: &Nested, seed: u64) -> Result<Self> {
        let sizes = Self { meta: meta.clone(), nested: nested.clone(), seed };
        // Every drawn size lies between these, so any error appears before the first step.
        for size in nested.widths.iter().flat_map(|&width| nested.depths.map(|depth| Size { width, depth })) {
            sizes.blueprint(size)?;
        }
        Ok(sizes)
    }

    pub(super) fn blueprint(&self, Size { width, depth }: Size) -> Result<Blueprint> {
        let request =
            SizeRequest { depth: Some(depth as u64), width: Some(width as u64), ..SizeRequest::default() };
        store::blueprint(&self.meta, &request)
    }

    /// The sizes of a step and their weights `λ`, largest first. The draws of a step repeat no width until all widths
    /// have been drawn.
    pub(super) fn of(&self, step: u64) -> Vec<(Size, f64)> {
        let (nested, config) = (&self.nested, &self.meta.config);
        let mut sizes = BTreeMap::new();
        let only = step < nested.full_only_steps;
        if only || step.is_multiple_of(nested.full_every) {
            sizes.insert(config.size(), nested.full_weight);
        }
        if !only {
            let narrowest = nested.widths.iter().copied().min().unwrap_or(config.width());
            sizes.entry(Size { width: narrowest, depth: nested.depths[0] }).or_insert(nested.smallest_weight);
            let mut random = rng::stream(self.seed, &format!("sizes/{step}"));
            let [least, greatest] = nested.depths;
            let depths: Vec<_> = (least..=greatest).collect();
            let mut left = Vec::new();
            for _ in 0..nested.draws {
                if left.is_empty() {
                    left.clone_from(&nested.widths);
                }
                let width = left.remove(draw(&left, nested.toward_small, &mut random));
                let depth = depths[draw(&depths, nested.toward_small, &mut random)];
                sizes.entry(Size { width, depth }).or_insert(1.0);
            }
        }
        sizes.into_iter().rev().collect()
    }
}

/// The index of one of `numbers`; number `n` is drawn with probability proportional to `n⁻ᵖ`.
fn draw(numbers: &[usize], power: f64, random: &mut rng::Stream) -> usize {
    let weight = |n: &usize| libm::pow(*n as f64, -power);
    let mut rest = f64::from(random.unit_f32()) * numbers.iter().map(weight).sum::<f64>();
    let below = |n: &usize| {
        rest -= weight(n);
        rest < 0.0
    };
    // Rounding may leave a small rest after the last number.
    numbers.iter().position(below).unwrap_or(numbers.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_drawn_as_often_as_the_power_says() {
        let mut random = rng::stream(3, "draw");
        let (numbers, draws) = ([1, 2, 4], 7000);
        for (power, expected) in [(0.0, [1.0 / 3.0; 3]), (1.0, [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0])] {
            let mut counts = [0; 3];
            for _ in 0..draws {
                counts[draw(&numbers, power, &mut random)] += 1;
            }
            for (count, share) in counts.into_iter().zip(expected) {
                // Five standard deviations of a count.
                let spread = 5.0 * (f64::from(draws) * share * (1.0 - share)).sqrt();
                assert!((f64::from(count) - f64::from(draws) * share).abs() < spread, "{power}: {counts:?}");
            }
        }
    }
}

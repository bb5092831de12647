//! Seeded random streams: the same seed and label give the same values on every machine.
//!
//! A stream is `ChaCha20` keyed by SHA-256(seed, 8 bytes little-endian ‖ label). Streams with different labels are
//! independent, so a new consumer of randomness never shifts the values of an existing one.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// Opens the stream identified by `seed` and `label`.
///
/// # Determinism
/// The values depend on `seed` and `label` alone.
pub fn stream(seed: u64, label: &str) -> Stream {
    let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(label).finalize();
    Stream { rng: ChaCha20Rng::from_seed(key.into()) }
}

/// A seeded stream of random values.
#[derive(Debug, Clone)]
pub struct Stream {
    rng: ChaCha20Rng,
}

impl Stream {
    /// 32 uniform bits.
    pub fn bits(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// A uniform integer in `0..n`, without bias; 0 when `n` is 0.
    ///
    /// Lemire 2019, "Fast random integer generation in an interval".
    pub fn below(&mut self, n: u64) -> u64 {
        let mut product = u128::from(self.rng.next_u64()) * u128::from(n);
        // The low half tells whether the draw may be a surplus preimage, which would bias the result.
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.rng.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// A uniform number in `0.0..1.0`, a multiple of 2⁻²⁴ (exact in `f32`).
    pub fn unit_f32(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / 16_777_216.0
    }

    /// A standard normal number (Box and Muller 1958, the cosine half), computed with `libm` so that every machine gets
    /// the same value.
    pub fn normal_f32(&mut self) -> f32 {
        // 1 − u lies in (0, 1], so the logarithm is finite.
        let radius = libm::sqrtf(-2.0 * libm::logf(1.0 - self.unit_f32()));
        radius * libm::cosf(std::f32::consts::TAU * self.unit_f32())
    }

    /// Puts `items` into a uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_pinned_by_an_independent_chacha20() {
        let mut stream = stream(7, "shuffle");
        let found: Vec<u32> = (0..4).map(|_| stream.bits()).collect();
        assert_eq!(found, PINNED);
    }

    /// From a `ChaCha20` (RFC 8439, nonce and counter 0) written in Python, key SHA-256(7u64 ‖ "shuffle").
    const PINNED: [u32; 4] = [0xde60_61fb, 0x5e83_1736, 0x49bb_12a9, 0x0b27_8ece];

    #[test]
    fn other_seed_or_label_is_another_stream() {
        let bits = |seed, label| stream(seed, label).bits();
        assert_ne!(bits(1, "a"), bits(2, "a"));
        assert_ne!(bits(1, "a"), bits(1, "b"));
    }

    #[test]
    fn below_has_no_bias_where_a_plain_product_has() {
        // Without rejection, every value divisible by 3 would have two preimages: half of the draws, not a third.
        let mut stream = stream(0, "bias");
        let n = 3 << 62;
        let divisible = (0..3000).filter(|_| stream.below(n).is_multiple_of(3)).count();
        assert!((850..1150).contains(&divisible), "{divisible} of 3000");
    }

    #[test]
    fn below_covers_its_range_and_nothing_else() {
        let mut stream = stream(0, "range");
        let mut counts = [0; 5];
        for _ in 0..1000 {
            counts[stream.below(5) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
        assert_eq!(stream.below(1), 0);
        assert_eq!(stream.below(0), 0);
    }

    #[test]
    fn unit_and_normal_have_their_moments() {
        let mut stream = stream(3, "moments");
        let moments = |values: &[f32]| {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
            (mean, variance)
        };
        let unit: Vec<f32> = (0..10_000).map(|_| stream.unit_f32()).collect();
        assert!(unit.iter().all(|v| (0.0..1.0).contains(v)));
        let (mean, variance) = moments(&unit);
        assert!((mean - 0.5).abs() < 0.02 && (variance - 1.0 / 12.0).abs() < 0.005, "{mean} {variance}");
        let normal: Vec<f32> = (0..10_000).map(|_| stream.normal_f32()).collect();
        let (mean, variance) = moments(&normal);
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.06, "{mean} {variance}");
    }

    #[test]
    fn shuffle_is_a_permutation_and_moves_items() {
        let mut items: Vec<u32> = (0..100).collect();
        stream(1, "order").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}

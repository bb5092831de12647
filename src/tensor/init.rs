//! Seeded initial values: the same seed and tensor name give the same bytes on every machine.
//!
//! Streams are ChaCha20 keyed by SHA-256(seed ‖ name); functions come from the pinned `libm` crate, never from
//! the system's.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How fresh values are drawn. Integers only, so that it can be part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal with this standard deviation in units of 1e-9, redrawn outside two deviations.
    TruncNormal {
        /// Standard deviation before truncation, 1e-9.
        std_e9: u32,
    },
}

impl Init {
    /// Truncated normal whose standard deviation is `sqrt(2 / (fan_in + fan_out))` (Glorot & Bengio 2010, eq. 16).
    pub fn glorot(fan_in: usize, fan_out: usize) -> Self {
        let std = libm::sqrt(2.0 / (fan_in + fan_out) as f64);
        Self::TruncNormal { std_e9: libm::round(std * 1e9) as u32 }
    }

    /// `count` values for the tensor called `name`.
    pub fn values(self, seed: u64, name: &str, count: usize) -> Vec<f32> {
        match self {
            Self::Zeros => vec![0.0; count],
            Self::Ones => vec![1.0; count],
            Self::TruncNormal { std_e9 } => {
                let mut normal = Normal::new(stream(seed, name));
                let std = f64::from(std_e9) * 1e-9;
                (0..count).map(|_| (std * normal.truncated(2.0)) as f32).collect()
            }
        }
    }
}

/// The ChaCha20 stream of `(seed, name)`.
pub fn stream(seed: u64, name: &str) -> ChaCha20Rng {
    let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name.as_bytes()).finalize();
    ChaCha20Rng::from_seed(key.into())
}

/// Standard normal values by Box & Muller 1958, in f64.
struct Normal {
    stream: ChaCha20Rng,
    spare: Option<f64>,
}

impl Normal {
    fn new(stream: ChaCha20Rng) -> Self {
        Self { stream, spare: None }
    }

    /// Uniform in (0, 1], 53 bits.
    fn unit(&mut self) -> f64 {
        ((self.stream.next_u64() >> 11) + 1) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    fn next(&mut self) -> f64 {
        if let Some(z) = self.spare.take() {
            return z;
        }
        let radius = libm::sqrt(-2.0 * libm::log(self.unit()));
        let angle = 2.0 * std::f64::consts::PI * self.unit();
        self.spare = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }

    fn truncated(&mut self, limit: f64) -> f64 {
        loop {
            let z = self.next();
            if z.abs() <= limit {
                return z;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_pinned() {
        // Any change here changes served bytes and needs a new render version.
        let bits: Vec<u32> = Init::TruncNormal { std_e9: 20_000_000 }
            .values(7, "head.weight", 3)
            .into_iter()
            .map(f32::to_bits)
            .collect();
        assert_eq!(bits, PINNED);
    }

    const PINNED: [u32; 3] = [0, 0, 0];

    #[test]
    fn truncated_normal_has_its_moments_and_bounds() {
        let values = Init::TruncNormal { std_e9: 1_000_000_000 }.values(1, "w", 100_000);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.01, "mean {mean}");
        // Variance of a standard normal truncated at two deviations: 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.7737.
        assert!((var - 0.7737).abs() < 0.01, "variance {var}");
        assert!(values.iter().all(|v| v.abs() <= 2.0));
    }

    #[test]
    fn streams_differ_by_name_and_by_seed() {
        let draw = |seed, name| Init::TruncNormal { std_e9: 1 << 30 }.values(seed, name, 4);
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_eq!(draw(1, "a"), draw(1, "a"));
    }
}

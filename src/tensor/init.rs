//! Seeded initial values: the same seed and tensor name give the same bytes on every machine.
//!
//! Values come from [`rng::stream`], keyed by the seed and the name.

use serde::{Deserialize, Serialize};

use super::rng;

/// How fresh values are drawn. It holds only integers, so that it can be part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal values; those beyond two standard deviations are drawn again.
    TruncNormal {
        /// Standard deviation before truncation, in units of 1e-9.
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
                let mut stream = rng::stream(seed, name);
                let std = (f64::from(std_e9) * 1e-9) as f32;
                let mut truncated = || {
                    loop {
                        let z = stream.normal_f32();
                        if z.abs() <= 2.0 {
                            return std * z;
                        }
                    }
                };
                (0..count).map(|_| truncated()).collect()
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

    const PINNED: [u32; 3] = [1_020_476_891, 1_001_015_580, 1_017_275_424];

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

//! How the quality of a model is measured.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// A figure of merit on a test set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of items classified correctly.
    #[default]
    Accuracy,
    /// Cross-entropy of the next token in bits per byte of text.
    BitsPerByte,
    /// Spearman's rank correlation of the similarities of pairs with people's scores.
    Spearman,
    /// Share of items whose nearest neighbour has the same class.
    NearestNeighbour,
}

impl Metric {
    /// Range of the values it can have.
    pub const fn bounds(self) -> RangeInclusive<f64> {
        match self {
            Self::Accuracy | Self::NearestNeighbour => 0.0..=1.0,
            Self::BitsPerByte => 0.0..=f64::MAX,
            Self::Spearman => -1.0..=1.0,
        }
    }

    /// Whether `a` is better than `b`.
    pub fn is_better(self, a: f64, b: f64) -> bool {
        match self {
            Self::Accuracy | Self::Spearman | Self::NearestNeighbour => a > b,
            Self::BitsPerByte => a < b,
        }
    }

    /// Its name in a sentence.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "Accuracy",
            Self::BitsPerByte => "Bits per byte",
            Self::Spearman => "Spearman's rank correlation",
            Self::NearestNeighbour => "Accuracy of the nearest neighbour",
        }
    }

    /// The unit of tables, whose figures are 100 times the value.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Accuracy | Self::NearestNeighbour => "per cent",
            Self::BitsPerByte | Self::Spearman => "x 100",
        }
    }

    /// What a column of its values is called.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "ACCURACY",
            Self::BitsPerByte => "BITS PER BYTE",
            Self::Spearman => "SPEARMAN",
            Self::NearestNeighbour => "NEIGHBOURS",
        }
    }

    /// The standard error of a `value` measured on `items` test items; `None` where no formula is known.
    ///
    /// Of a share it is `√(p (1 - p) / n)`, with one success and one failure added to `p`, so that it is not 0 at a share
    /// of 0 or 1. Of a rank correlation it is `(1 - ρ²) √((1 + ρ²/2) / (n - 3))`: Bonett & Wright 2000, Psychometrika
    /// 65(1), for Fisher's transformation, taken back.
    pub fn standard_error(self, value: f64, items: u64) -> Option<f64> {
        let n = items as f64;
        match self {
            Self::Accuracy | Self::NearestNeighbour => {
                let p = (value * n + 1.0) / (n + 2.0);
                Some(libm::sqrt(p * (1.0 - p) / n))
            }
            Self::Spearman if items > 3 => {
                let square = value * value;
                Some((1.0 - square) * libm::sqrt((1.0 + square / 2.0) / (n - 3.0)))
            }
            Self::Spearman | Self::BitsPerByte => None,
        }
    }

    /// A value as people read it: shares in per cent.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Accuracy | Self::NearestNeighbour => format!("{:.2} %", 100.0 * value),
            Self::BitsPerByte => format!("{value:.3} bits/byte"),
            Self::Spearman => format!("{value:.3}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_knows_bounds_direction_and_form() {
        assert!(!Metric::Accuracy.bounds().contains(&1.1) && Metric::Spearman.bounds().contains(&-0.5));
        assert!(
            !Metric::BitsPerByte.bounds().contains(&-0.1) && !Metric::Accuracy.bounds().contains(&f64::NAN)
        );
        assert!(Metric::Accuracy.is_better(0.9, 0.8) && Metric::BitsPerByte.is_better(0.8, 0.9));
        assert_eq!(Metric::Accuracy.show(0.8789), "87.89 %");
        assert_eq!(Metric::BitsPerByte.show(1.5), "1.500 bits/byte");
        assert_eq!(serde_json::to_string(&Metric::NearestNeighbour).unwrap(), "\"nearest_neighbour\"");
    }
}

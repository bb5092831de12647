//! The angles of a rotary position embedding ([`super::rope()`]).

use candle_core::{Result, bail};
use std::sync::Arc;

/// The cosines and sines of all angles, computed in `f64` and rounded once; cheap to clone.
#[derive(Debug, Clone)]
pub struct Rotary {
    pub(super) tokens: usize,
    pub(super) head_dim: usize,
    /// `[tokens, head_dim]`: the cosines of a token, then its sines.
    pub(super) table: Arc<[f32]>,
}

impl Rotary {
    /// The angles of `tokens` positions, starting at `first`, with `theta` as the base of the frequencies.
    ///
    /// # Errors
    /// If `head_dim` is not even and positive, or `theta` is not positive and finite.
    pub fn new(tokens: usize, head_dim: usize, theta: f64, first: usize) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) || !(theta > 0.0 && theta.is_finite()) {
            bail!("rope: no rotation has head_dim {head_dim} and theta {theta}");
        }
        let half = head_dim / 2;
        let mut table = Vec::with_capacity(tokens * head_dim);
        for position in first..first + tokens {
            let angle = |i: usize| position as f64 * libm::pow(theta, -(i as f64) / half as f64);
            table.extend((0..half).map(|i| libm::cos(angle(i)) as f32));
            table.extend((0..half).map(|i| libm::sin(angle(i)) as f32));
        }
        Ok(Self { tokens, head_dim, table: table.into() })
    }

    /// Channels of a head.
    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// `[tokens, head_dim]`: the cosines of a token, then its sines.
    pub(super) fn table(&self) -> &[f32] {
        &self.table
    }
}

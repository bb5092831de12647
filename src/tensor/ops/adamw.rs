//! The AdamW update and the sums it needs, on plain slices without tensors or a graph.

use super::simd::{self, LANES, fold};

/// The numbers of one update, with the bias corrections folded in.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// β₁ and β₂.
    pub betas: [f32; 2],
    /// `1 - β₁` and `1 - β₂`, rounded once: `1 - 0.999` in `f32` would be off by 1e-5.
    pub rest: [f32; 2],
    /// Factor for every gradient; below 1 if the norm exceeded its limit.
    pub clip: f32,
    /// `1 - η λ`
    pub keep: f32,
    /// `η √(1 - β₂ᵗ) / (1 - β₁ᵗ)`
    pub rate: f32,
    /// `ε √(1 - β₂ᵗ)`
    pub epsilon: f32,
}

/// `m ← β₁ m + (1 - β₁) g`, `v ← β₂ v + (1 - β₂) g²`, `θ ← keep θ - rate m / (√v + ε)`, elementwise and in place.
pub fn adamw(theta: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], rates: Rates) {
    update(theta, gradient, m, v, rates);
}

simd::kernel! {
    fn update<'a>(theta: &'a mut [f32], gradient: &'a [f32], m: &'a mut [f32], v: &'a mut [f32], rates: Rates) {
        let Rates { betas: [b1, b2], rest: [c1, c2], clip, keep, rate, epsilon } = rates;
        for (((theta, g), m), v) in theta.iter_mut().zip(gradient).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g * clip;
            *m = b1.mul_add(*m, c1 * g);
            *v = b2.mul_add(*v, c2 * g * g);
            *theta = keep.mul_add(*theta, -(rate * *m / (v.sqrt() + epsilon)));
        }
    }
}

simd::kernel! {
    /// `sum ← sum + x`
    pub fn add_to<'a>(sum: &'a mut [f32], x: &'a [f32]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += x;
        }
    }
}

/// Sum of squares: short sums in `f32`, added up in `f64`.
pub fn square_sum(x: &[f32]) -> f64 {
    let mut total = 0.0;
    squares(x, &mut total);
    total
}

simd::kernel! {
    fn squares<'a>(x: &'a [f32], total: &'a mut f64) {
        for block in x.chunks(64 * LANES) {
            let (chunks, rest) = block.as_chunks::<LANES>();
            let mut partial = [0.0_f32; LANES];
            for chunk in chunks {
                for lane in 0..LANES {
                    partial[lane] = chunk[lane].mul_add(chunk[lane], partial[lane]);
                }
            }
            *total += f64::from(fold(partial)) + rest.iter().map(|x| f64::from(x * x)).sum::<f64>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_add_up_with_a_remainder() {
        for n in [0, 1, 16, 17, 1024, 1061] {
            let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let exact: f64 = x.iter().map(|x| f64::from(x * x)).sum();
            assert_eq!(square_sum(&x), exact);
        }
    }
}

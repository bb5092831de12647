//! The Gaussian error linear unit in its exact form, Hendrycks and Gimpel 2016, arXiv 1606.08415.
//!
//! `y = x Φ(x)` with `Φ(x) = (1 + erf(x/√2)) / 2`; backward: `dy/dx = Φ(x) + x φ(x)` with `φ(x) = e^(-x²/2) / √(2π)`.

use super::node::{self, Kernel};
use super::simd::{self, erf, exp};
use super::{fused, naive};
use candle_core::{Result, Shape, Tensor};
use std::f32::consts::FRAC_1_SQRT_2;

/// `x Φ(x)`, elementwise; timm's `nn.GELU()`, not the tanh approximation.
///
/// # Shapes
/// - `x` and the result: any
///
/// # Errors
/// If candle cannot read the tensor.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if !fused(&[x], &[]) {
        return naive::gelu(x);
    }
    node::apply(x, None, Gelu)
}

const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

struct Gelu;

impl Kernel for Gelu {
    const NAME: &'static str = "gelu";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let mut out = x.to_vec();
        in_place(&mut out);
        Ok((out, shape.clone()))
    }

    fn backward(&self, x: &[f32], _: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        let mut dx = vec![0.0; x.len()];
        backward(x, grad, &mut dx);
        Ok(dx)
    }
}

/// `Φ(x)` and `φ(x)`.
#[inline(always)]
fn distribution(x: f32) -> (f32, f32) {
    (cdf(x), FRAC_1_SQRT_TAU * exp(-0.5 * x * x))
}

/// `Φ(x)`
#[inline(always)]
fn cdf(x: f32) -> f32 {
    erf(x * FRAC_1_SQRT_2).mul_add(0.5, 0.5)
}

simd::kernel! {
    /// Replaces `x` by `gelu(x)`.
    pub(super) fn in_place<'a>(x: &'a mut [f32]) {
        for x in x {
            *x *= cdf(*x);
        }
    }
}

simd::kernel! {
    /// Replaces `x` by `gelu(x)` and writes the derivative into `slope`.
    pub(super) fn with_slope<'a>(x: &'a mut [f32], slope: &'a mut [f32]) {
        for (x, slope) in x.iter_mut().zip(slope) {
            let (cdf, density) = distribution(*x);
            *slope = x.mul_add(density, cdf);
            *x *= cdf;
        }
    }
}

simd::kernel! {
    fn backward<'a>(x: &'a [f32], grad: &'a [f32], dx: &'a mut [f32]) {
        for ((dx, &x), &grad) in dx.iter_mut().zip(x).zip(grad) {
            let (cdf, density) = distribution(x);
            *dx = grad * x.mul_add(density, cdf);
        }
    }
}

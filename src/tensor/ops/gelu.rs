//! The Gaussian error linear unit in its exact form, Hendrycks and Gimpel 2016, arXiv 1606.08415.
//!
//! `y = x Φ(x)` with `Φ(x) = (1 + erf(x/√2)) / 2`; backward: `dy/dx = Φ(x) + x φ(x)` with `φ(x) = e^(-x²/2) / √(2π)`.

use super::simd::{self, erf, exp};
use super::{fused, naive, new_tensor, slice, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
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
    x.contiguous()?.apply_op1(Gelu)
}

const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut out = vec![0.0; x.len()];
        forward(x, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (x_storage, x_layout) = x.storage_and_layout();
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let mut dx = vec![0.0; x.elem_count()];
        backward(values(&x_storage, x_layout)?, values(&grad_storage, grad_layout)?, &mut dx);
        Ok(Some(new_tensor(dx, x.shape())?))
    }
}

simd::kernel! {
    fn forward<'a>(x: &'a [f32], out: &'a mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            let half = 0.5 * x;
            *out = half.mul_add(erf(x * FRAC_1_SQRT_2), half);
        }
    }
}

simd::kernel! {
    /// Replaces `x` by `gelu(x)`.
    pub(super) fn in_place<'a>(x: &'a mut [f32]) {
        for x in x {
            *x *= erf(*x * FRAC_1_SQRT_2).mul_add(0.5, 0.5);
        }
    }
}

simd::kernel! {
    /// Replaces `x` by `gelu(x)` and writes the derivative there into `slope`.
    pub(super) fn with_slope<'a>(x: &'a mut [f32], slope: &'a mut [f32]) {
        for (x, slope) in x.iter_mut().zip(slope) {
            let cdf = erf(*x * FRAC_1_SQRT_2).mul_add(0.5, 0.5);
            let density = FRAC_1_SQRT_TAU * exp(-0.5 * *x * *x);
            *slope = x.mul_add(density, cdf);
            *x *= cdf;
        }
    }
}

simd::kernel! {
    fn backward<'a>(x: &'a [f32], grad: &'a [f32], dx: &'a mut [f32]) {
        for ((dx, &x), &grad) in dx.iter_mut().zip(x).zip(grad) {
            let cdf = erf(x * FRAC_1_SQRT_2).mul_add(0.5, 0.5);
            let density = FRAC_1_SQRT_TAU * exp(-0.5 * x * x);
            *dx = grad * x.mul_add(density, cdf);
        }
    }
}

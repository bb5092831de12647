//! Root-mean-square normalisation over the last axis, Zhang and Sennrich 2019, arXiv 1910.07467, eq. (4).
//!
//! `y = x̂ w` with `x̂ = x r` and `r = 1 / √(mean(x²) + eps)`; no mean is subtracted. Backward, with `g = ∂L/∂y` and
//! `h = g w`: `∂L/∂x = r (h - x̂ mean(h x̂))`, `∂L/∂w = Σ_rows g x̂`. Deviation: the paper has no `eps`.
//! `r` is computed again in the backward pass, as in `layer_norm`.

use super::node::{self, Kernel};
use super::simd::{self, dot, sum_of_squares};
use super::{fused, naive};
use crate::tensor::Weight;
use candle_core::{Result, Shape, Tensor, bail};

/// `x / √(mean(x²) + eps) · weight` over the last axis.
///
/// # Shapes
/// - `x` and the result: `[.., width]`; `weight`: `[width]`
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn rms_norm(x: &Tensor, weight: &Weight, eps: f64) -> Result<Tensor> {
    if weight.dims().len() != 1 || x.dims().last() != weight.dims().first() {
        bail!("rms_norm: x {:?} and weight {:?} do not fit", x.dims(), weight.dims());
    }
    if !fused(&[x], &[weight]) {
        return naive::rms_norm(x, &weight.tensor()?, eps);
    }
    node::apply(x, node::tape(&[weight]).as_ref(), RmsNorm { weight: weight.clone(), eps: eps as f32 })
}

struct RmsNorm {
    weight: Weight,
    eps: f32,
}

impl Kernel for RmsNorm {
    const NAME: &'static str = "rms-norm";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let mut out = vec![0.0; x.len()];
        forward(x, &self.weight.values().to_vec()?, self.eps, &mut out);
        Ok((out, shape.clone()))
    }

    fn backward(&self, x: &[f32], _: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; self.weight.elem_count()]);
        backward(x, &self.weight.values().to_vec()?, grad, self.eps, &mut dx, &mut dw);
        self.weight.add_values(&dw)?;
        Ok(dx)
    }
}

/// The reciprocal root mean square of a row.
#[inline(always)]
fn reciprocal(row: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(row, 0.0) / row.len() as f32 + eps).sqrt()
}

simd::kernel! {
    /// Overwrites `out`, which has the shape of `x`, `[rows, width]`.
    fn forward<'a>(x: &'a [f32], weight: &'a [f32], eps: f32, out: &'a mut [f32]) {
        let width = weight.len().max(1);
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let r = reciprocal(x, eps);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * r * weight;
            }
        }
    }
}

simd::kernel! {
    /// Overwrites `dx`, `[rows, width]`, and adds to `dw`, `[width]`.
    fn backward<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        grad: &'a [f32],
        eps: f32,
        dx: &'a mut [f32],
        dw: &'a mut [f32],
    ) {
        let width = weight.len().max(1);
        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width));
        for ((dx, x), g) in rows {
            let r = reciprocal(x, eps);
            for ((((x, g), h), dw), weight) in x.iter().zip(g).zip(dx.iter_mut()).zip(dw.iter_mut()).zip(weight) {
                *h = g * weight;
                *dw = (g * r).mul_add(*x, *dw);
            }
            // x̂ mean(h x̂) = x r² mean(h x)
            let along = r * r * dot(dx, x) / width as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = r * x.mul_add(-along, *dx);
            }
        }
    }
}

//! Layer normalisation over the last axis, Ba et al. 2016, arXiv 1607.06450.
//!
//! `y = x̂ w + b` with `x̂ = (x - mean) r` and `r = 1 / √(variance + eps)`. Backward, with `g = ∂L/∂y` and `h = g w`:
//! `∂L/∂x = r (h - mean(h) - x̂ mean(h x̂))`, `∂L/∂w = Σ_rows g x̂`, `∂L/∂b = Σ_rows g`.
//! The backward pass computes the moments again: by then the row is in the first-level cache, and storing them would
//! need a second result.

use super::node::{self, Kernel};
use super::parameter::Affine;
use super::simd::{self, dot, sum, sum_of_squares};
use super::{fused, naive};
use candle_core::{Result, Shape, Tensor, bail};

/// `(x - mean) / √(variance + eps) · weight + bias` over the last axis, with the biased variance.
///
/// # Shapes
/// - `x` and the result: `[.., width]`; weight, bias: `[width]`
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn layer_norm(x: &Tensor, norm: &Affine, eps: f64) -> Result<Tensor> {
    let (weight, bias) = (norm.weight.dims(), norm.bias.dims());
    if weight.len() != 1 || x.dims().last() != weight.first() || bias != weight {
        bail!("layer_norm: x {:?}, weight {weight:?} and bias {bias:?} do not fit", x.dims());
    }
    if !fused(&[x], &norm.weights()) {
        return naive::layer_norm(x, &norm.weight.tensor()?, &norm.bias.tensor()?, eps);
    }
    let kernel = LayerNorm { norm: norm.clone(), eps: eps as f32 };
    node::apply(x, node::tape(&norm.weights()).as_ref(), kernel)
}

struct LayerNorm {
    norm: Affine,
    eps: f32,
}

impl Kernel for LayerNorm {
    const NAME: &'static str = "layer-norm";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let mut out = vec![0.0; x.len()];
        forward(&self.norm, x, self.eps, &mut out)?;
        Ok((out, shape.clone()))
    }

    fn backward(&self, x: &[f32], _: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        let mut dx = vec![0.0; x.len()];
        backward(&self.norm, x, grad, None, self.eps, &mut dx)?;
        Ok(dx)
    }
}

/// `out ← LN(x)`
pub(super) fn forward(norm: &Affine, x: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    normalize(x, &norm.weight.values().to_vec()?, &norm.bias.values().to_vec()?, eps, out);
    Ok(())
}

/// `dx ← residual + ∂L/∂x`, or `dx ← ∂L/∂x` without a residual. Adds to the gradients of the norm.
pub(super) fn backward(
    norm: &Affine,
    x: &[f32],
    grad: &[f32],
    residual: Option<&[f32]>,
    eps: f32,
    dx: &mut [f32],
) -> Result<()> {
    let weight = norm.weight.values().to_vec()?;
    let (mut dw, mut db) = (vec![0.0; weight.len()], vec![0.0; weight.len()]);
    differentiate(x, &weight, grad, residual.unwrap_or_default(), eps, dx, [&mut dw, &mut db]);
    norm.weight.add_values(&dw)?;
    norm.bias.add_values(&db)
}

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let scale = 1.0 / row.len() as f32;
    let mean = sum(row) * scale;
    let variance = sum_of_squares(row, mean) * scale;
    (mean, 1.0 / (variance + eps).sqrt())
}

simd::kernel! {
    fn normalize<'a>(x: &'a [f32], weight: &'a [f32], bias: &'a [f32], eps: f32, out: &'a mut [f32]) {
        let width = weight.len().max(1);
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, r) = moments(x, eps);
            for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = ((x - mean) * r).mul_add(*weight, *bias);
            }
        }
    }
}

simd::kernel! {
    fn differentiate<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        grad: &'a [f32],
        residual: &'a [f32],
        eps: f32,
        dx: &'a mut [f32],
        sums: [&'a mut [f32]; 2],
    ) {
        let [dw, db] = sums;
        let width = weight.len().max(1);
        let scale = 1.0 / width as f32;
        let mut normal = vec![0.0; width];
        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width));
        for (row, ((dx, x), g)) in rows.enumerate() {
            let (mean, r) = moments(x, eps);
            let parameters = dw.iter_mut().zip(db.iter_mut()).zip(weight);
            for ((((x, g), normal), h), ((dw, db), weight)) in
                x.iter().zip(g).zip(normal.iter_mut()).zip(dx.iter_mut()).zip(parameters)
            {
                *normal = (x - mean) * r;
                *h = g * weight;
                *dw = g.mul_add(*normal, *dw);
                *db += g;
            }
            let mean_h = sum(dx) * scale;
            let mean_h_normal = dot(dx, &normal) * scale;
            if residual.is_empty() {
                for (dx, normal) in dx.iter_mut().zip(&normal) {
                    *dx = r * (*dx - mean_h - normal * mean_h_normal);
                }
            } else {
                let residual = &residual[row * width..][..width];
                for ((dx, normal), residual) in dx.iter_mut().zip(&normal).zip(residual) {
                    *dx = r.mul_add(*dx - mean_h - normal * mean_h_normal, *residual);
                }
            }
        }
    }
}

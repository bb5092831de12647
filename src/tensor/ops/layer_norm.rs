//! Layer normalisation over the last axis, Ba et al. 2016, arXiv 1607.06450.
//!
//! `y = x̂ w + b` with `x̂ = (x - mean) r` and `r = 1 / √(variance + eps)`. Backward, with `g = ∂L/∂y` and `h = g w`:
//! `∂L/∂x = r (h - mean(h) - x̂ mean(h x̂))`, `∂L/∂w = Σ_rows g x̂`, `∂L/∂b = Σ_rows g`.
//! The moments are computed again in the backward pass: a row is in the nearest cache then, and storing them would
//! need a second result.

use super::simd::{self, dot, sum, sum_of_squares};
use super::{fused, naive, new_tensor, slice, values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// `(x - mean) / √(variance + eps) · weight + bias` over the last axis, with the biased variance.
///
/// # Shapes
/// - `x` and the result: `[.., width]`; `weight`, `bias`: `[width]`
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = weight.dims1()?;
    if x.dims().last() != Some(&width) || bias.dims() != [width] {
        bail!(
            "layer_norm: x {:?}, weight {:?} and bias {:?} do not fit",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    if !fused(&[x, weight, bias]) {
        return naive::layer_norm(x, weight, bias, eps);
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps: eps as f32 })
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, x_layout)?;
        let mut out = vec![0.0; x.len()];
        forward(x, slice(weight, weight_layout)?, slice(bias, bias_layout)?, self.eps, &mut out);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = weight.dims1()?;
        let grad = grad.contiguous()?;
        let (x_storage, x_layout) = x.storage_and_layout();
        let (weight_storage, weight_layout) = weight.storage_and_layout();
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let (mut dx, mut dw, mut db) = (vec![0.0; x.elem_count()], vec![0.0; width], vec![0.0; width]);
        backward(
            values(&x_storage, x_layout)?,
            values(&weight_storage, weight_layout)?,
            values(&grad_storage, grad_layout)?,
            self.eps,
            &mut dx,
            &mut dw,
            &mut db,
        );
        let dx = new_tensor(dx, x.shape())?;
        let dw = new_tensor(dw, weight.shape())?;
        let db = new_tensor(db, bias.shape())?;
        Ok((x.track_op().then_some(dx), weight.track_op().then_some(dw), bias.track_op().then_some(db)))
    }
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
    fn forward<'a>(x: &'a [f32], weight: &'a [f32], bias: &'a [f32], eps: f32, out: &'a mut [f32]) {
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
    fn backward<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        grad: &'a [f32],
        eps: f32,
        dx: &'a mut [f32],
        dw: &'a mut [f32],
        db: &'a mut [f32],
    ) {
        let width = weight.len().max(1);
        let scale = 1.0 / width as f32;
        let mut normal = vec![0.0; width];
        let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width));
        for ((dx, x), g) in rows {
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
            for (dx, normal) in dx.iter_mut().zip(&normal) {
                *dx = r * (*dx - mean_h - normal * mean_h_normal);
            }
        }
    }
}

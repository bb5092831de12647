//! The sigmoid linear unit, Elfwing et al. 2017, arXiv 1702.03118, and the gated unit over it, Shazeer 2020, arXiv
//! 2002.05202, eq. (6).
//!
//! `silu(x) = x σ(x)`, `silu'(x) = σ(x) (1 + x (1 - σ(x)))`. With the gate `a` and the value `u` in one array:
//! `y = silu(a) u`; backward, with `g = ∂L/∂y`: `∂L/∂a = g u silu'(a)`, `∂L/∂u = g silu(a)`. The products with the
//! weights are not part of the operation.

use super::node::{self, Kernel};
use super::simd::{self, sigmoid};
use super::{fused, naive};
use candle_core::{Result, Shape, Tensor, bail};

/// `x σ(x)`, elementwise.
///
/// # Shapes
/// - `x` and the result: any
///
/// # Errors
/// If candle cannot read the tensor.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if !fused(&[x], &[]) {
        return naive::silu(x);
    }
    node::apply(x, None, Silu)
}

/// `silu(gate) · up`, elementwise.
///
/// # Shapes
/// - `gate_up`: `[.., 2 * hidden]`, where the last axis holds the gates, then the values
/// - result: `[.., hidden]`
///
/// # Errors
/// If the last axis is not even.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    if gate_up.dims().last().is_none_or(|packed| *packed == 0 || packed % 2 != 0) {
        bail!("swiglu: the last axis of {:?} is not gates and values", gate_up.dims());
    }
    if !fused(&[gate_up], &[]) {
        return naive::swiglu(gate_up);
    }
    node::apply(gate_up, None, Swiglu)
}

struct Silu;

impl Kernel for Silu {
    const NAME: &'static str = "silu";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let mut out = vec![0.0; x.len()];
        silu_forward(x, &mut out);
        Ok((out, shape.clone()))
    }

    fn backward(&self, x: &[f32], _: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        let mut dx = vec![0.0; x.len()];
        silu_backward(x, grad, &mut dx);
        Ok(dx)
    }
}

struct Swiglu;

impl Kernel for Swiglu {
    const NAME: &'static str = "swiglu";

    fn forward(&self, gate_up: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let mut dims = shape.dims().to_vec();
        let hidden = halve(&mut dims);
        let mut out = vec![0.0; gate_up.len() / 2];
        forward(gate_up, hidden, &mut out);
        Ok((out, Shape::from(dims)))
    }

    fn backward(&self, gate_up: &[f32], shape: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        let mut dx = vec![0.0; gate_up.len()];
        backward(gate_up, grad, halve(&mut shape.dims().to_vec()), &mut dx);
        Ok(dx)
    }
}

/// Halves the last axis and returns it.
fn halve(dims: &mut [usize]) -> usize {
    dims.last_mut().map_or(0, |last| {
        *last /= 2;
        *last
    })
}

/// The derivative of `x σ(x)` where `σ(x)` is `s`.
#[inline(always)]
fn slope(x: f32, s: f32) -> f32 {
    s * x.mul_add(1.0 - s, 1.0)
}

simd::kernel! {
    fn silu_forward<'a>(x: &'a [f32], out: &'a mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid(x);
        }
    }
}

simd::kernel! {
    fn silu_backward<'a>(x: &'a [f32], grad: &'a [f32], dx: &'a mut [f32]) {
        for ((dx, &x), &grad) in dx.iter_mut().zip(x).zip(grad) {
            *dx = grad * slope(x, sigmoid(x));
        }
    }
}

simd::kernel! {
    /// Overwrites `out`, `[rows, hidden]`, from `gate_up`, `[rows, 2 * hidden]`.
    fn forward<'a>(gate_up: &'a [f32], hidden: usize, out: &'a mut [f32]) {
        let hidden = hidden.max(1);
        for (out, row) in out.chunks_exact_mut(hidden).zip(gate_up.chunks_exact(2 * hidden)) {
            let (gate, up) = row.split_at(hidden);
            for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid(gate) * up;
            }
        }
    }
}

simd::kernel! {
    /// Overwrites `dx`, which has the shape of `gate_up`, from `grad`, `[rows, hidden]`.
    fn backward<'a>(gate_up: &'a [f32], grad: &'a [f32], hidden: usize, dx: &'a mut [f32]) {
        let hidden = hidden.max(1);
        let rows = gate_up.chunks_exact(2 * hidden).zip(grad.chunks_exact(hidden));
        for (dx, (row, grad)) in dx.chunks_exact_mut(2 * hidden).zip(rows) {
            let ((gate, up), (da, du)) = (row.split_at(hidden), dx.split_at_mut(hidden));
            for ((((da, du), &gate), up), grad) in da.iter_mut().zip(du).zip(gate).zip(up).zip(grad) {
                let s = sigmoid(gate);
                *da = grad * up * slope(gate, s);
                *du = grad * gate * s;
            }
        }
    }
}

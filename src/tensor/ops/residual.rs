//! Residual addition, and stochastic depth, Huang et al. 2016, arXiv 1603.09382, as a factor for each image.
//!
//! `y_b = x_b + f_b z_b`; backward, with `g = ∂L/∂y`: `∂L/∂x = g`, `∂L/∂z_b = f_b g_b`. The factor is a constant: 0 for
//! an image whose branch is dropped, and `1 / (1 - p)` for the others.

use super::node::{self, Kernel};
use super::{fused, naive, new_tensor, simd, slice, values};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

/// `x · factor`, one factor for each image.
///
/// # Shapes
/// - `x` and the result: `[batch, ..]`; `factor`: `[batch]` or `[batch, 1, ..]`, a constant
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn drop_path(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    check("drop_path", x, Some(factor))?;
    if !fused(&[x, factor], &[]) {
        return naive::drop_path(x, factor);
    }
    node::apply(x, None, DropPath { factor: constant(factor)? })
}

/// `x + branch · factor`, one factor for each image, or 1 without.
///
/// # Shapes
/// - `x`, `branch` and the result: `[batch, ..]`; `factor`: `[batch]` or `[batch, 1, ..]`, a constant
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn residual(x: &Tensor, branch: &Tensor, factor: Option<&Tensor>) -> Result<Tensor> {
    check("residual", x, factor)?;
    if x.dims() != branch.dims() {
        bail!("residual: x {:?} and branch {:?} do not fit", x.dims(), branch.dims());
    }
    if !fused(&[x, branch], &[]) || factor.is_some_and(|factor| !fused(&[factor], &[])) {
        return naive::residual(x, branch, factor);
    }
    let factor = factor.map(constant).transpose()?;
    x.contiguous()?.apply_op2(&branch.contiguous()?, Residual { factor })
}

fn check(op: &str, x: &Tensor, factor: Option<&Tensor>) -> Result<()> {
    let Some(batch) = x.dims().first() else {
        bail!("{op}: a scalar is no batch");
    };
    if let Some(factor) = factor
        && (factor.dims().first() != Some(batch) || factor.elem_count() != *batch)
    {
        bail!("{op}: x {:?} and factor {:?} do not fit", x.dims(), factor.dims());
    }
    Ok(())
}

/// The factors as a contiguous vector outside the graph.
fn constant(factor: &Tensor) -> Result<Tensor> {
    factor.detach().to_dtype(DType::F32)?.flatten_all()?.contiguous()
}

struct DropPath {
    factor: Tensor,
}

impl Kernel for DropPath {
    const NAME: &'static str = "drop-path";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        Ok((scaled(x, &self.factor)?, shape.clone()))
    }

    fn backward(&self, _: &[f32], _: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        scaled(grad, &self.factor)
    }
}

struct Residual {
    factor: Option<Tensor>,
}

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        branch: &CpuStorage,
        branch_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, branch) = (slice(x, x_layout)?, slice(branch, branch_layout)?);
        let mut out = vec![0.0; x.len()];
        match &self.factor {
            None => add(x, branch, &[1.0], &mut out),
            Some(factor) => {
                let (storage, layout) = factor.storage_and_layout();
                add(x, branch, values(&storage, layout)?, &mut out);
            }
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        branch: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_branch = match &self.factor {
            _ if !branch.track_op() => None,
            None => Some(grad.clone()),
            Some(factor) => Some(scaled_tensor(grad, factor)?),
        };
        Ok((x.track_op().then(|| grad.clone()), to_branch))
    }
}

fn scaled_tensor(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    new_tensor(scaled(values(&storage, layout)?, factor)?, x.shape())
}

fn scaled(x: &[f32], factor: &Tensor) -> Result<Vec<f32>> {
    let (storage, layout) = factor.storage_and_layout();
    let mut out = vec![0.0; x.len()];
    scale(x, values(&storage, layout)?, &mut out);
    Ok(out)
}

simd::kernel! {
    /// Overwrites `out`, `[batch, ..]`, like `x`; `factor` is `[batch]`.
    fn scale<'a>(x: &'a [f32], factor: &'a [f32], out: &'a mut [f32]) {
        let size = (x.len() / factor.len().max(1)).max(1);
        for ((out, x), factor) in out.chunks_exact_mut(size).zip(x.chunks_exact(size)).zip(factor) {
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * factor;
            }
        }
    }
}

simd::kernel! {
    /// Overwrites `out`, `[batch, ..]`, like `x` and `branch`; `factor` is `[batch]`.
    fn add<'a>(x: &'a [f32], branch: &'a [f32], factor: &'a [f32], out: &'a mut [f32]) {
        let size = (x.len() / factor.len().max(1)).max(1);
        let images = x.chunks_exact(size).zip(branch.chunks_exact(size)).zip(factor);
        for (out, ((x, branch), factor)) in out.chunks_exact_mut(size).zip(images) {
            for ((out, x), branch) in out.iter_mut().zip(x).zip(branch) {
                *out = branch.mul_add(*factor, *x);
            }
        }
    }
}

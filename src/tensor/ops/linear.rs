//! The affine map of a layer.
//!
//! `y = x Wᵀ + b`; backward, with `g = ∂L/∂y`: `∂L/∂x = g W`, `∂L/∂W = gᵀ x`, `∂L/∂b = Σ_rows g`.

use super::gemm::{Matrix, add_product, product};
use super::{fused, naive, new_tensor, simd, slice, values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// `x Wᵀ + b` over the last axis.
///
/// # Shapes
/// - `x`: `[.., in]`; `weight`: `[out, in]`; `bias`: `[out]`
/// - result: `[.., out]`
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    if x.dims().last() != Some(&inputs) || bias.dims() != [outputs] {
        bail!("linear: x {:?}, weight {:?} and bias {:?} do not fit", x.dims(), weight.dims(), bias.dims());
    }
    if !fused(&[x, weight, bias]) {
        return naive::linear(x, weight, bias);
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let mut dims = x_layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let shape = Shape::from(dims);
        let rows = x_layout.shape().elem_count() / inputs.max(1);
        let x = slice(x, x_layout)?;
        let weight = slice(weight, weight_layout)?;
        let bias = slice(bias, bias_layout)?;

        // Starting from the bias makes its addition free: the product is accumulated onto it.
        let mut out = Vec::with_capacity(rows * outputs);
        for _ in 0..rows {
            out.extend_from_slice(bias);
        }
        add_product(
            &mut out,
            Matrix::new(x, rows, inputs),
            Matrix::new(weight, outputs, inputs).transposed(),
        );
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let rows = x.elem_count() / inputs.max(1);
        let grad = grad.contiguous()?;
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let g = values(&grad_storage, grad_layout)?;

        let dx = if x.track_op() {
            let (storage, layout) = weight.storage_and_layout();
            let w = values(&storage, layout)?;
            let dx = product(Matrix::new(g, rows, outputs), Matrix::new(w, outputs, inputs));
            Some(new_tensor(dx, x.shape())?)
        } else {
            None
        };
        let dw = if weight.track_op() {
            let (storage, layout) = x.storage_and_layout();
            let x = values(&storage, layout)?;
            let dw = product(Matrix::new(g, rows, outputs).transposed(), Matrix::new(x, rows, inputs));
            Some(new_tensor(dw, weight.shape())?)
        } else {
            None
        };
        let db = if bias.track_op() {
            let mut db = vec![0.0; outputs];
            add_rows(g, &mut db);
            Some(new_tensor(db, bias.shape())?)
        } else {
            None
        };
        Ok((dx, dw, db))
    }
}

simd::kernel! {
    /// Adds every row of `x` to `sum`.
    fn add_rows<'a>(x: &'a [f32], sum: &'a mut [f32]) {
        for row in x.chunks_exact(sum.len().max(1)) {
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

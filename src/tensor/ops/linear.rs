//! The affine map of a layer.
//!
//! `y = x Wᵀ + b`; backward, with `g = ∂L/∂y`: `∂L/∂x = g W`, `∂L/∂W = gᵀ x`, `∂L/∂b = Σ_rows g`.

use super::gemm::{Matrix, MatrixMut};
use super::node::{self, Kernel};
use super::parameter::Affine;
use super::{fused, naive, simd};
use crate::tensor::matrix_view;
use candle_core::{Result, Shape, Tensor, bail};

/// `x Wᵀ + b` over the last axis.
///
/// # Shapes
/// - `x`: `[.., in]`; weight: `[out, in]`; bias: `[out]`
/// - result: `[.., out]`
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn linear(x: &Tensor, layer: &Affine) -> Result<Tensor> {
    let [outputs, inputs] = matrix_view(layer.weight.dims());
    if x.dims().last() != Some(&inputs) || layer.bias.dims() != [outputs] {
        let (weight, bias) = (layer.weight.dims(), layer.bias.dims());
        bail!("linear: x {:?}, weight {weight:?} and bias {bias:?} do not fit", x.dims());
    }
    if !fused(&[x], &layer.weights()) {
        return naive::linear(x, &layer.weight.matrix()?, &layer.bias.tensor()?);
    }
    node::apply(x, node::tape(&layer.weights()).as_ref(), Linear { layer: layer.clone() })
}

struct Linear {
    layer: Affine,
}

impl Kernel for Linear {
    const NAME: &'static str = "linear";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let [outputs, inputs] = matrix_view(self.layer.weight.dims());
        let mut dims = shape.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let mut out = vec![0.0; x.len() / inputs.max(1) * outputs];
        forward(&self.layer, x, &mut out)?;
        Ok((out, Shape::from(dims)))
    }

    fn backward(&self, x: &[f32], _: &Shape, grad: &[f32], wanted: bool) -> Result<Vec<f32>> {
        let mut dx = Vec::new();
        if wanted {
            dx = vec![0.0; x.len()];
            backward_input(&self.layer, grad, &mut dx)?;
        }
        backward_weights(&self.layer, x, grad)?;
        Ok(dx)
    }
}

/// `out ← x Wᵀ + b`
pub(super) fn forward(layer: &Affine, x: &[f32], out: &mut [f32]) -> Result<()> {
    // Starting from the bias makes its addition free: the product is accumulated onto it.
    let bias = layer.bias.values().to_vec()?;
    for row in out.chunks_exact_mut(bias.len().max(1)) {
        row.copy_from_slice(&bias);
    }
    add_forward(layer, x, out)
}

/// `out ← out + x Wᵀ`
pub(super) fn add_forward(layer: &Affine, x: &[f32], out: &mut [f32]) -> Result<()> {
    let weight = layer.weight.values();
    let rows = x.len() / weight.cols().max(1);
    let x = Matrix::new(x, rows, weight.cols());
    for (first, piece) in weight.matrices()? {
        let first = first.min(out.len());
        MatrixMut::strided(&mut out[first..], rows, piece.rows(), weight.rows())
            .add_product(x, piece.transposed());
    }
    Ok(())
}

/// `dx ← g W`
pub(super) fn backward_input(layer: &Affine, g: &[f32], dx: &mut [f32]) -> Result<()> {
    let weight = layer.weight.values();
    let rows = g.len() / weight.rows().max(1);
    for (i, (first, piece)) in weight.matrices()?.into_iter().enumerate() {
        let g = Matrix::strided(&g[first.min(g.len())..], rows, piece.rows(), weight.rows());
        let dx = MatrixMut::new(dx, rows, weight.cols());
        if i == 0 { dx.set_product(g, piece) } else { dx.add_product(g, piece) }
    }
    Ok(())
}

/// Adds `gᵀ x` and `Σ_rows g` to the gradients of the layer.
pub(super) fn backward_weights(layer: &Affine, x: &[f32], g: &[f32]) -> Result<()> {
    backward_product(layer, x, g)?;
    backward_bias(layer, g, &[])
}

/// Adds `gᵀ x` to the gradient of the weights.
pub(super) fn backward_product(layer: &Affine, x: &[f32], g: &[f32]) -> Result<()> {
    let [outputs, _] = matrix_view(layer.weight.dims());
    layer.weight.add_product(g, x, g.len() / outputs.max(1))
}

/// Adds `Σ_rows factor g` to the gradient of the bias; without factors, each is 1.
pub(super) fn backward_bias(layer: &Affine, g: &[f32], factors: &[f32]) -> Result<()> {
    if layer.bias.tape().is_some() {
        let mut db = vec![0.0; matrix_view(layer.weight.dims())[0]];
        add_rows(g, factors, &mut db);
        layer.bias.add_values(&db)?;
    }
    Ok(())
}

simd::kernel! {
    /// Adds every row of `x` to `sum`, multiplied by its factor if it has one.
    fn add_rows<'a>(x: &'a [f32], factors: &'a [f32], sum: &'a mut [f32]) {
        for (row, x) in x.chunks_exact(sum.len().max(1)).enumerate() {
            match factors.get(row) {
                None => {
                    for (sum, x) in sum.iter_mut().zip(x) {
                        *sum += x;
                    }
                }
                Some(factor) => {
                    for (sum, x) in sum.iter_mut().zip(x) {
                        *sum = factor.mul_add(*x, *sum);
                    }
                }
            }
        }
    }
}

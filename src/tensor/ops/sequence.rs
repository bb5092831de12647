//! From patches to the token sequence of a vision transformer, Dosovitskiy et al. 2021, eq. (1), arXiv 2010.11929.
//!
//! `z₀ = [cls; x₁; …; x_N] + E_pos`; backward, with `g = ∂L/∂z₀`: `∂L/∂x = g[1..]`, `∂L/∂cls = Σ_images g[0]`,
//! `∂L/∂E_pos = Σ_images g`.

use super::node::{self, Kernel};
use super::{add_to, fused, naive};
use crate::tensor::{Weight, matrix_view};
use candle_core::{Result, Shape, Tensor, bail};

/// The class token followed by the embedded patches, plus the position embedding.
///
/// # Shapes
/// - `x`: `[batch, patches, width]`; `class`: `[1, 1, width]`; `positions`: `[1, 1 + patches, width]`
/// - result: `[batch, 1 + patches, width]`
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn sequence(x: &Tensor, class: &Weight, positions: &Weight) -> Result<Tensor> {
    let (_, patches, width) = x.dims3()?;
    if matrix_view(class.dims()) != [1, width] || matrix_view(positions.dims()) != [patches + 1, width] {
        let (class, positions) = (class.dims(), positions.dims());
        bail!("sequence: x {:?}, class token {class:?} and positions {positions:?} do not fit", x.dims());
    }
    if !fused(&[x], &[class, positions]) {
        return naive::sequence(x, &class.tensor()?, &positions.tensor()?);
    }
    let kernel = Sequence { class: class.clone(), positions: positions.clone() };
    node::apply(x, node::tape(&[class, positions]).as_ref(), kernel)
}

struct Sequence {
    class: Weight,
    positions: Weight,
}

impl Kernel for Sequence {
    const NAME: &'static str = "sequence";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let (batch, patches, width) = shape.dims3()?;
        let (class, positions) = (self.class.values().to_vec()?, self.positions.values().to_vec()?);
        let mut out = Vec::with_capacity(batch * positions.len());
        for image in x.chunks_exact((patches * width).max(1)) {
            let start = out.len();
            out.extend_from_slice(&class);
            out.extend_from_slice(image);
            add_to(&mut out[start..], &positions);
        }
        Ok((out, Shape::from((batch, patches + 1, width))))
    }

    fn backward(&self, x: &[f32], shape: &Shape, grad: &[f32], wanted: bool) -> Result<Vec<f32>> {
        let (_, patches, width) = shape.dims3()?;
        let mut sum = vec![0.0; (patches + 1) * width];
        let mut dx = Vec::with_capacity(if wanted { x.len() } else { 0 });
        for image in grad.chunks_exact(sum.len().max(1)) {
            add_to(&mut sum, image);
            if wanted {
                dx.extend_from_slice(&image[width..]);
            }
        }
        self.class.add_values(&sum[..width])?;
        self.positions.add_values(&sum)?;
        Ok(dx)
    }
}

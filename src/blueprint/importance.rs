//! The order of a network's channels, heads and hidden units by importance, so that a smaller model keeps the most
//! important ones.
//!
//! Any order of the channels of the residual stream, of the heads of a layer and of its hidden units gives the same
//! function: a permutation of rows here is undone by one of columns there. Scores need no data:
//!
//! ```text
//! channel c:  Σ_norms γ_c² + β_c²          the mean square of a normed state, if x̂ has mean 0 and variance 1
//! head h:     ‖W_O,h W_V,h‖²_F = ⟨W_V,h W_V,hᵀ, W_O,hᵀ W_O,h⟩
//! unit u:     ‖(W_1)_u‖ ‖(W_2)^u‖          row of the first matrix, column of the second
//! ```
//!
//! Source of ranking structures by weights: Michel et al. 2019 (arXiv 1905.10650) for heads, Muralidharan et al. 2024
//! (Minitron, arXiv 2407.14679, section 2.2) for channels by normed activations.

use crate::{
    error::Result,
    nn::{Axis, Dims, Role, Schema, Spec},
    tensor::{TensorFile, row_axes},
};

/// The order of one network, the most important first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    channels: Vec<u32>,
    layers: Vec<LayerOrder>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LayerOrder {
    heads: Vec<u32>,
    units: Vec<u32>,
}

impl Order {
    /// The order of the network of `schema` whose tensors are those of `file`.
    ///
    /// # Errors
    /// [`crate::error::Error::MissingTensor`], which a checked file never gives.
    pub fn of(schema: &Schema, file: &TensorFile) -> Result<Self> {
        let mut channels = vec![0.0; schema.dims.width];
        for spec in schema.specs().iter().filter(|spec| spec.role.of_norm() && spec.axes == [Axis::Width]) {
            for (score, value) in channels.iter_mut().zip(values(file, &spec.name)?) {
                *score += f64::from(value) * f64::from(value);
            }
        }
        let layers = (0..schema.dims.depth).map(|layer| LayerOrder::of(schema, layer, file));
        Ok(Self { channels: descending(&channels), layers: layers.collect::<Result<_>>()? })
    }

    /// The rows and columns, in the matrix view, that a network of the sizes `target` keeps of parameter `spec` of a
    /// network of the sizes `own`. `layer` is the one that the parameter belongs to.
    pub fn kept(&self, spec: &Spec, layer: Option<usize>, [own, target]: [&Dims; 2]) -> [Vec<u32>; 2] {
        let (rows, cols) = spec.axes.split_at(row_axes(spec.axes.len()));
        [rows, cols].map(|axes| {
            axes.iter().fold(vec![0], |before, axis| {
                let along = self.along(*axis, layer, [own, target]);
                let len = axis.len(own) as u32;
                before.iter().flat_map(|outer| along.iter().map(move |inner| outer * len + inner)).collect()
            })
        })
    }

    /// The indices that are kept along `axis`.
    fn along(&self, axis: Axis, layer: Option<usize>, [own, target]: [&Dims; 2]) -> Vec<u32> {
        match (axis, layer.and_then(|layer| self.layers.get(layer))) {
            (Axis::Width, _) => self.channels[..target.width].to_vec(),
            (Axis::Hidden, Some(layer)) => layer.units[..target.hidden].to_vec(),
            (Axis::Inner | Axis::KeyValue, Some(layer)) => {
                let dim = own.head_dim as u32;
                let heads = &layer.heads[..target.heads];
                heads.iter().flat_map(|head| head * dim..(head + 1) * dim).collect()
            }
            (Axis::Fused(axes), _) => {
                let mut first = 0;
                let part = |axis: &Axis| {
                    let indices = self.along(*axis, layer, [own, target]);
                    let part: Vec<u32> = indices.into_iter().map(|index| first + index).collect();
                    first += axis.len(own) as u32;
                    part
                };
                axes.iter().flat_map(part).collect()
            }
            (Axis::Fixed(_) | Axis::Hidden | Axis::Inner | Axis::KeyValue, _) => {
                (0..axis.len(own) as u32).collect()
            }
        }
    }
}

impl LayerOrder {
    fn of(schema: &Schema, layer: usize, file: &TensorFile) -> Result<Self> {
        let Dims { width, heads, head_dim, hidden, .. } = schema.dims;
        let mut value_rows = Vec::new();
        let (mut out, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
        for spec in schema.layers[layer].iter().filter(|spec| spec.role == Role::Matrix) {
            let read = || values(file, &schema.layer_name(layer, &spec.name));
            match spec.axes.as_slice() {
                // The values are the last part of a fused projection, and the last of separate ones.
                [Axis::Fused(_) | Axis::KeyValue, Axis::Width] => {
                    let all = read()?;
                    value_rows = all[all.len() - heads * head_dim * width..].to_vec();
                }
                [Axis::Width, Axis::Inner] => out = transposed(&read()?, heads * head_dim),
                [Axis::Hidden, Axis::Width] => first = read()?,
                [Axis::Width, Axis::Hidden] => second = transposed(&read()?, hidden),
                _ => {}
            }
        }
        let row = |rows: &'_ [f32], index: usize| rows[index * width..][..width].to_vec();
        let head = |head: usize| {
            let rows: Vec<_> = (head * head_dim..(head + 1) * head_dim)
                .map(|i| (row(&value_rows, i), row(&out, i)))
                .collect();
            let pair = |i: usize, j: usize| dot(&rows[i].0, &rows[j].0) * dot(&rows[i].1, &rows[j].1);
            // Both products are symmetric, so half of the pairs suffices.
            (0..head_dim).map(|i| pair(i, i) + 2.0 * (0..i).map(|j| pair(i, j)).sum::<f64>()).sum::<f64>()
        };
        let unit = |unit: usize| {
            let (row, column) = (&first[unit * width..][..width], &second[unit * width..][..width]);
            dot(row, row) * dot(column, column)
        };
        Ok(Self {
            heads: descending(&(0..heads).map(head).collect::<Vec<_>>()),
            units: descending(&(0..hidden).map(unit).collect::<Vec<_>>()),
        })
    }
}

fn values(file: &TensorFile, name: &str) -> Result<Vec<f32>> {
    let tensor = file.tensor(name)?;
    Ok(tensor.dtype.read(&tensor.bytes))
}

/// The columns of a matrix of `cols` columns, one after another.
fn transposed(matrix: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| matrix.iter().skip(col).step_by(cols).copied()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Indices by falling score; the first of equals comes first.
fn descending(scores: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_keep_their_order() {
        assert_eq!(descending(&[1.0, 3.0, 1.0, 2.0]), [1, 3, 0, 2]);
    }

    #[test]
    fn columns_become_rows() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}

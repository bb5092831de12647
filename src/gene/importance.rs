//! The order of an ancestor's channels, heads and hidden units by importance, so that a smaller model keeps the most
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
//! (Minitron, arXiv 2407.14679, section 2.2) for channels by normed activations. A model of fewer layers keeps the first,
//! the last, and those that halve the widest gap.

use crate::{
    blueprint::{Ancestor, Entry, Source},
    error::Result,
    nn::{Axis, Dims, Role, Schema, Spec},
    tensor::{Dtype, TensorFile, matrix_view, row_axes},
};

use super::DepthRule;

/// The order of one ancestor, the most important first.
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
    /// The order of `ancestor`.
    ///
    /// # Errors
    /// [`crate::error::Error::MissingTensor`], which a checked file never gives.
    pub fn of(ancestor: &Ancestor) -> Result<Self> {
        let (schema, file) = (ancestor.info().config.schema(), ancestor.file());
        let mut channels = vec![0.0; schema.dims.width];
        for spec in schema.specs().iter().filter(|spec| spec.role.of_norm() && spec.axes == [Axis::Width]) {
            for (score, value) in channels.iter_mut().zip(values(file, &spec.name)?) {
                *score += f64::from(value) * f64::from(value);
            }
        }
        let layers = (0..schema.dims.depth).map(|layer| LayerOrder::of(&schema, layer, file));
        Ok(Self { channels: descending(&channels), layers: layers.collect::<Result<_>>()? })
    }

    /// The entries of the model of `sized`'s shape, chosen from an ancestor of the shape `own`.
    pub fn entries(&self, own: &Schema, sized: &Schema, dtype: Dtype) -> Vec<Entry> {
        let entry = |spec: &Spec, name: String, stored: String, layer: Option<&LayerOrder>| {
            let (shape, of) = (spec.shape(&sized.dims), matrix_view(&spec.shape(&own.dims)));
            let (rows, cols) = spec.axes.split_at(row_axes(spec.axes.len()));
            let choose = |axes: &[Axis]| {
                axes.iter().fold(vec![0], |before, axis| {
                    self.product(&before, *axis, layer, [&own.dims, &sized.dims])
                })
            };
            let source = Source::Selected { tensor: stored, of, rows: choose(rows), cols: choose(cols) };
            Entry { name, shape, dtype, source }
        };
        let shared = |spec: &Spec| entry(spec, spec.name.clone(), spec.name.clone(), None);
        let mut entries: Vec<_> = sized.stem.iter().map(shared).collect();
        for (index, layer) in kept_layers(own.dims.depth, sized.dims.depth).into_iter().enumerate() {
            entries.extend(sized.layers[index].iter().map(|spec| {
                let (name, stored) = (sized.layer_name(index, &spec.name), own.layer_name(layer, &spec.name));
                entry(spec, name, stored, self.layers.get(layer))
            }));
        }
        entries.extend(sized.tail.iter().map(shared));
        entries
    }

    /// Extends the row-major indices `before` by one more axis of a tensor of `layer`.
    fn product(&self, before: &[u32], axis: Axis, layer: Option<&LayerOrder>, dims: [&Dims; 2]) -> Vec<u32> {
        let along = self.along(axis, layer, dims);
        let len = axis.len(dims[0]) as u32;
        before.iter().flat_map(|outer| along.iter().map(move |inner| outer * len + inner)).collect()
    }

    /// The indices that are kept along `axis`.
    fn along(&self, axis: Axis, layer: Option<&LayerOrder>, [own, target]: [&Dims; 2]) -> Vec<u32> {
        let all = || (0..axis.len(own) as u32).collect();
        match (axis, layer) {
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
            (Axis::Fixed(_) | Axis::Hidden | Axis::Inner | Axis::KeyValue, _) => all(),
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
                [Axis::Width, Axis::Inner] => out = read()?,
                [Axis::Hidden, Axis::Width] => first = read()?,
                [Axis::Width, Axis::Hidden] => second = read()?,
                _ => {}
            }
        }
        let head = |head: usize| {
            let row = |i: usize| &value_rows[(head * head_dim + i) * width..][..width];
            let column = |i: usize| out.iter().skip(head * head_dim + i).step_by(heads * head_dim);
            let pairs = (0..head_dim).flat_map(|i| (0..head_dim).map(move |j| (i, j)));
            pairs.map(|(i, j)| dot(row(i), row(j)) * dot(column(i), column(j))).sum::<f64>()
        };
        let unit = |unit: usize| {
            let row = &first[unit * width..][..width];
            let column = || second.iter().skip(unit).step_by(hidden);
            dot(row, row) * dot(column(), column())
        };
        let scores = |count: usize, score: &dyn Fn(usize) -> f64| (0..count).map(score).collect::<Vec<_>>();
        Ok(Self { heads: descending(&scores(heads, &head)), units: descending(&scores(hidden, &unit)) })
    }
}

/// The layers of an ancestor of `own` layers that a model of `depth` keeps.
fn kept_layers(own: usize, depth: usize) -> Vec<usize> {
    let layers = DepthRule::Trained.layers(depth, &vec![1; own]);
    layers.into_iter().enumerate().flat_map(|(layer, count)| std::iter::repeat_n(layer, count)).collect()
}

fn values(file: &TensorFile, name: &str) -> Result<Vec<f32>> {
    let tensor = file.tensor(name)?;
    Ok(tensor.dtype.read(&tensor.bytes))
}

fn dot<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> f64 {
    a.into_iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
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
    fn equals_keep_their_order_and_depth_keeps_both_ends() {
        assert_eq!(descending(&[1.0, 3.0, 1.0, 2.0]), [1, 3, 0, 2]);
        assert_eq!(kept_layers(6, 3), [0, 2, 5]);
        assert_eq!(kept_layers(6, 1), [0]);
        assert_eq!(kept_layers(4, 4), [0, 1, 2, 3]);
    }
}

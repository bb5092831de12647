//! Narrower models: a prefix of every axis that grows with the width.
//!
//! The heads of query, key and value, the residual stream and the hidden units are ordered. A narrower model keeps the
//! first of each, and only whole heads (nested width; Devvrit et al. 2023, arXiv 2310.07707, section 3).

use crate::{
    blueprint::{Piece, Span},
    nn::{Dims, Spec},
    tensor::{matrix_view, row_axes},
};

/// The rectangles of the stored tensor `name` that form parameter `spec` of a network of shape `target`.
///
/// A fused axis is cut part by part: qkv at width `w` is rows `{0..w, D..D+w, 2D..2D+w}` of `3D`.
pub fn pieces(spec: &Spec, name: &str, trained: &Dims, target: &Dims) -> Vec<Piece> {
    let shape = spec.shape(trained);
    if spec.axes.iter().all(|axis| axis.len(trained) == axis.len(target)) {
        return vec![Piece::whole(name, &shape)];
    }
    let (rows, cols) = spec.axes.split_at(row_axes(spec.axes.len()));
    let cols = Span::new(0, cols.iter().map(|axis| axis.len(target)).product());
    let spans: Vec<_> = match rows {
        [axis] => {
            let mut first = 0;
            let parts = axis.parts(trained).into_iter().zip(axis.parts(target));
            let prefix = |(stored, kept): (usize, usize)| {
                let span = Span::new(first, first + kept);
                first += stored;
                span
            };
            parts.map(prefix).collect()
        }
        axes => vec![Span::new(0, axes.iter().map(|axis| axis.len(target)).product())],
    };
    let of = matrix_view(&shape);
    spans.into_iter().map(|rows| Piece { tensor: name.to_owned(), of, rows, cols }).collect()
}

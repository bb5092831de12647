//! Width: the prefix of every axis that grows with it.
//!
//! Whole heads of query, key and value, the residual stream and the hidden units are ordered, and a narrower
//! model keeps the first of each (nested width; Devvrit et al. 2023, arXiv 2310.07707, section 3).

use crate::{
    blueprint::{Piece, Span},
    nn::{ParamSpec, VitConfig},
    tensor::{matrix_view, row_axes},
};

/// The rectangles of the stored tensor `name` that make parameter `spec` of a network of shape `target`.
///
/// A fused axis is cut group by group: qkv at width `w` is rows `{0..w, D..D+w, 2D..2D+w}` of `3D`.
pub fn pieces(spec: &ParamSpec, name: &str, trained: &VitConfig, target: &VitConfig) -> Vec<Piece> {
    let shape = spec.shape(trained);
    if shape == spec.shape(target) {
        return vec![Piece::whole(name, &shape)];
    }
    let (rows, cols) = spec.axes.split_at(row_axes(spec.axes.len()));
    let cols = Span::new(0, cols.iter().map(|axis| axis.len(target)).product());
    let spans = match rows {
        [axis] => {
            let (groups, stored) = axis.groups(trained);
            let (_, kept) = axis.groups(target);
            (0..groups).map(|g| Span::new(g * stored, g * stored + kept)).collect()
        }
        axes => vec![Span::new(0, axes.iter().map(|axis| axis.len(target)).product())],
    };
    let of = matrix_view(&shape);
    spans.into_iter().map(|rows| Piece { tensor: name.to_owned(), of, rows, cols }).collect()
}

//! The softmax of one head and its derivative, down the columns of transposed scores.
//!
//! A column is a query and a row is a key. A masked score is `-∞` and its weight is exactly zero; if a query sees no
//! key, all its weights are zero. Columns are processed a few vectors at a time, so that their maximum and sum stay in
//! registers. With a causal mask, the last query of such a block bounds the keys that are read, and the weights below
//! are set to zero.

use crate::tensor::ops::simd::{LANES, exp};

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visible<'a> {
    /// Whether a query sees only keys up to its own position.
    pub(super) causal: bool,
    /// A query sees only keys whose value here is not zero.
    pub(super) keys: Option<&'a [f32]>,
}

impl Visible<'_> {
    /// Number of rows that at least one column of a block sees.
    #[inline(always)]
    fn rows<const N: usize>(self, column: usize, rows: usize) -> usize {
        if self.causal { rows.min(column + N) } else { rows }
    }

    /// Writes the mask into the scores that a block reads.
    #[inline(always)]
    fn write(self, scores: &mut [f32], width: usize) {
        for (key, row) in scores.chunks_exact_mut(width).enumerate() {
            if self.keys.is_some_and(|keys| keys[key] == 0.0) {
                row.fill(f32::NEG_INFINITY);
            } else if self.causal {
                row[key / LANES * LANES..key].fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// Replaces each column by `softmax(scale * column)`; the rows have `width` values, a multiple of 8.
#[inline(always)]
pub(super) fn softmax(weights: &mut [f32], width: usize, scale: f32, visible: Visible<'_>) {
    if visible.causal || visible.keys.is_some() {
        visible.write(weights, width);
        columns::<true>(weights, width, scale, visible);
    } else {
        columns::<false>(weights, width, scale, visible);
    }
}

#[inline(always)]
fn columns<const MASKED: bool>(weights: &mut [f32], width: usize, scale: f32, visible: Visible<'_>) {
    let whole = width / LANES * LANES;
    for column in (0..whole).step_by(LANES) {
        block::<LANES, MASKED>(weights, width, column, scale, visible);
    }
    for column in (whole..width).step_by(8) {
        block::<8, MASKED>(weights, width, column, scale, visible);
    }
}

/// The softmax of `N` columns.
#[inline(always)]
fn block<const N: usize, const MASKED: bool>(
    weights: &mut [f32],
    width: usize,
    column: usize,
    scale: f32,
    visible: Visible<'_>,
) {
    let rows = if MASKED { visible.rows::<N>(column, weights.len() / width) } else { weights.len() / width };
    let (seen, unseen) = weights.split_at_mut(rows * width);
    let mut max = [f32::NEG_INFINITY; N];
    for row in seen.chunks_exact_mut(width) {
        let score = *part::<N>(row, column);
        for lane in 0..N {
            max[lane] = if score[lane] > max[lane] { score[lane] } else { max[lane] };
        }
    }
    let mut total = [0.0; N];
    for row in seen.chunks_exact_mut(width) {
        let part = part::<N>(row, column);
        let score = *part;
        let mut e = [0.0; N];
        for lane in 0..N {
            e[lane] = exp((score[lane] - max[lane]) * scale);
        }
        if MASKED {
            for lane in 0..N {
                e[lane] = if score[lane] == f32::NEG_INFINITY { 0.0 } else { e[lane] };
            }
        }
        for lane in 0..N {
            total[lane] += e[lane];
        }
        *part = e;
    }
    for total in &mut total {
        *total = if MASKED && *total == 0.0 { 0.0 } else { 1.0 / *total };
    }
    for row in seen.chunks_exact_mut(width) {
        let part = part::<N>(row, column);
        let mut weight = *part;
        for lane in 0..N {
            weight[lane] *= total[lane];
        }
        *part = weight;
    }
    for row in unseen.chunks_exact_mut(width) {
        *part::<N>(row, column) = [0.0; N];
    }
}

/// Replaces `D` by `scale * P ∘ (D - sum(P ∘ D))`, the sum running down each column.
#[inline(always)]
pub(super) fn backward(weights: &[f32], scores: &mut [f32], width: usize, scale: f32, visible: Visible<'_>) {
    let whole = width / LANES * LANES;
    for column in (0..whole).step_by(LANES) {
        backward_block::<LANES>(weights, scores, width, column, scale, visible);
    }
    for column in (whole..width).step_by(8) {
        backward_block::<8>(weights, scores, width, column, scale, visible);
    }
}

#[inline(always)]
fn backward_block<const N: usize>(
    weights: &[f32],
    scores: &mut [f32],
    width: usize,
    column: usize,
    scale: f32,
    visible: Visible<'_>,
) {
    let rows = visible.rows::<N>(column, weights.len() / width);
    let (seen, unseen) = scores.split_at_mut(rows * width);
    let mut total = [0.0_f32; N];
    for (p, d) in weights.chunks_exact(width).zip(seen.chunks_exact_mut(width)) {
        let (p, d) = (constant_part::<N>(p, column), part::<N>(d, column));
        for lane in 0..N {
            total[lane] = p[lane].mul_add(d[lane], total[lane]);
        }
    }
    for (p, d) in weights.chunks_exact(width).zip(seen.chunks_exact_mut(width)) {
        let (p, d) = (constant_part::<N>(p, column), part::<N>(d, column));
        let mut ds = *d;
        for lane in 0..N {
            ds[lane] = scale * p[lane] * (ds[lane] - total[lane]);
        }
        *d = ds;
    }
    for row in unseen.chunks_exact_mut(width) {
        *part::<N>(row, column) = [0.0; N];
    }
}

/// The values of a row in a block of columns.
#[inline(always)]
fn part<const N: usize>(row: &mut [f32], column: usize) -> &mut [f32; N] {
    row[column..].first_chunk_mut().expect("a row is whole vectors")
}

#[inline(always)]
fn constant_part<const N: usize>(row: &[f32], column: usize) -> &[f32; N] {
    row[column..].first_chunk().expect("a row is whole vectors")
}

//! Bidirectional softmax attention from packed queries, keys and values, Vaswani et al. 2017, eq. (1), arXiv 1706.03762.
//!
//! Per head, with `c = 1/√head_dim`: `P = softmax(c q kᵀ)`, `o = P v`. Backward, with `g = ∂L/∂o`:
//! `∂L/∂v = Pᵀ g`, `D = g vᵀ`, `∂L/∂s = P ∘ (D - rowsum(P ∘ D))`, `∂L/∂q = c ∂L/∂s k`, `∂L/∂k = c (∂L/∂s)ᵀ q`.
//!
//! | symbol | scratch | shape |
//! | --- | --- | --- |
//! | Pᵀ; Dᵀ, then ∂L/∂sᵀ | `weights`; `scores` | `[tokens (keys), padded tokens (queries)]` |
//! | qᵀ, gᵀ | `across` | `[head_dim, padded tokens]` |
//! | v, g, k, q | `along` | `[tokens, padded head_dim]` |
//!
//! The token matrices are stored transposed, queries along the vector, so that the maximum and the sums of a
//! softmax run down the rows, a vector of queries at a time; no padded query reaches a result.
//!
//! The backward pass computes P again: one of six small products, all in the nearest cache, against writing and
//! reading `heads · tokens²` values per image. Only one head is in scratch at a time; `qkv` is read in place.

use super::multiply::Multiply;
use super::simd::{LANES, arch, exp};
use super::{fused, naive, new_tensor, slice, values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use pulp::{Simd, WithSimd};

/// `softmax(q kᵀ / √head_dim) v` for each head, every token attending to every token.
///
/// # Shapes
/// - `qkv`: `[batch, tokens, 3 * width]`, the last axis being `(3, heads, head_dim)` as in timm
/// - result: `[batch, tokens, width]`
///
/// # Errors
/// If the last axis cannot be split that way.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, _, packed) = qkv.dims3()?;
    if heads == 0 || packed == 0 || packed % (3 * heads) != 0 {
        bail!("attention: the last axis of {:?} is not 3 x {heads} heads", qkv.dims());
    }
    if !fused(&[qkv], &[]) {
        return naive::attention(qkv, heads);
    }
    qkv.contiguous()?.apply_op1(Attention { heads })
}

struct Attention {
    heads: usize,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, tokens, packed) = layout.shape().dims3()?;
        let qkv = slice(qkv, layout)?;
        let mut out = vec![0.0; qkv.len() / 3];
        forward(tokens, packed / 3, self.heads, qkv, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((batch, tokens, packed / 3))))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, tokens, packed) = qkv.dims3()?;
        let grad = grad.contiguous()?;
        let (qkv_storage, qkv_layout) = qkv.storage_and_layout();
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let mut dqkv = vec![0.0; qkv.elem_count()];
        let (qkv_values, grad) = (values(&qkv_storage, qkv_layout)?, values(&grad_storage, grad_layout)?);
        backward(tokens, packed / 3, self.heads, qkv_values, grad, &mut dqkv);
        Ok(Some(new_tensor(dqkv, qkv.shape())?))
    }
}

/// `out ← softmax(q kᵀ / √head_dim) v` of every image.
pub(super) fn forward(tokens: usize, width: usize, heads: usize, qkv: &[f32], out: &mut [f32]) {
    arch().dispatch(Forward { sizes: Sizes::new(tokens, width, heads), qkv, out });
}

/// Overwrites `dqkv` with the gradient to `qkv`.
pub(super) fn backward(
    tokens: usize,
    width: usize,
    heads: usize,
    qkv: &[f32],
    grad: &[f32],
    dqkv: &mut [f32],
) {
    arch().dispatch(Backward { sizes: Sizes::new(tokens, width, heads), qkv, grad, dqkv });
}

#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    width: usize,
    head_dim: usize,
    padded_tokens: usize,
    padded_dim: usize,
    scale: f32,
}

impl Sizes {
    fn new(tokens: usize, width: usize, heads: usize) -> Self {
        let head_dim = width / heads;
        Self {
            tokens,
            width,
            head_dim,
            padded_tokens: tokens.next_multiple_of(LANES),
            padded_dim: head_dim.next_multiple_of(LANES),
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        }
    }
}

struct Forward<'a> {
    sizes: Sizes,
    qkv: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, qkv, out } = self;
        let Sizes { tokens, width, head_dim, padded_tokens, padded_dim, scale } = sizes;
        let packed = 3 * width;
        let mut scratch = Scratch::new(sizes);
        let Buffers { weights, across, along, tile, max, total, .. } = scratch.buffers(sizes);
        let images =
            qkv.chunks_exact((tokens * packed).max(1)).zip(out.chunks_exact_mut((tokens * width).max(1)));
        for (qkv, out) in images {
            for head in (0..width).step_by(head_dim) {
                let (q, k, v) = (&qkv[head..], &qkv[width + head..], &qkv[2 * width + head..]);
                pack_across(across, q, packed, sizes);
                simd.vectorize(Multiply::<false>::new(weights, k, packed, across, padded_tokens));
                softmax(weights, scale, max, total);
                pack_along(along, v, packed, sizes);
                simd.vectorize(Multiply::<true>::new(tile, weights, padded_tokens, along, padded_dim));
                unpack(&mut out[head..], width, tile, sizes);
            }
        }
    }
}

struct Backward<'a> {
    sizes: Sizes,
    qkv: &'a [f32],
    grad: &'a [f32],
    dqkv: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, qkv, grad, dqkv } = self;
        let Sizes { tokens, width, head_dim, padded_tokens, padded_dim, scale } = sizes;
        let packed = 3 * width;
        let mut scratch = Scratch::new(sizes);
        let Buffers { weights, scores, across, along, tile, max, total } = scratch.buffers(sizes);
        let images = qkv
            .chunks_exact((tokens * packed).max(1))
            .zip(grad.chunks_exact((tokens * width).max(1)))
            .zip(dqkv.chunks_exact_mut((tokens * packed).max(1)));
        for ((qkv, grad), dqkv) in images {
            for head in (0..width).step_by(head_dim) {
                let (q, k, v) = (&qkv[head..], &qkv[width + head..], &qkv[2 * width + head..]);
                let g = &grad[head..];
                pack_across(across, q, packed, sizes);
                simd.vectorize(Multiply::<false>::new(weights, k, packed, across, padded_tokens));
                softmax(weights, scale, max, total);

                pack_along(along, g, width, sizes);
                simd.vectorize(Multiply::<false>::new(tile, weights, padded_tokens, along, padded_dim));
                unpack(&mut dqkv[2 * width + head..], packed, tile, sizes);

                pack_across(across, g, width, sizes);
                simd.vectorize(Multiply::<false>::new(scores, v, packed, across, padded_tokens));
                softmax_backward(weights, scores, scale, total);

                pack_along(along, k, packed, sizes);
                simd.vectorize(Multiply::<true>::new(tile, scores, padded_tokens, along, padded_dim));
                unpack(&mut dqkv[head..], packed, tile, sizes);

                pack_along(along, q, packed, sizes);
                simd.vectorize(Multiply::<false>::new(tile, scores, padded_tokens, along, padded_dim));
                unpack(&mut dqkv[width + head..], packed, tile, sizes);
            }
        }
    }
}

/// Memory for one head; padding is zero at first and no kernel changes that where a product reads it.
struct Scratch {
    memory: Vec<f32>,
}

struct Buffers<'a> {
    weights: &'a mut [f32],
    scores: &'a mut [f32],
    across: &'a mut [f32],
    along: &'a mut [f32],
    tile: &'a mut [f32],
    max: &'a mut [f32],
    total: &'a mut [f32],
}

impl Scratch {
    fn new(sizes: Sizes) -> Self {
        let Sizes { tokens, head_dim, padded_tokens, padded_dim, .. } = sizes;
        let len = (2 * tokens + head_dim + 2) * padded_tokens + 2 * tokens * padded_dim;
        Self { memory: vec![0.0; len + LANES] }
    }

    fn buffers(&mut self, sizes: Sizes) -> Buffers<'_> {
        let Sizes { tokens, head_dim, padded_tokens, padded_dim, .. } = sizes;
        // Every buffer is a whole number of cache lines; starting on one keeps each vector within a line.
        let start = self.memory.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
        let (weights, rest) = self.memory[start..].split_at_mut(tokens * padded_tokens);
        let (scores, rest) = rest.split_at_mut(tokens * padded_tokens);
        let (across, rest) = rest.split_at_mut(head_dim * padded_tokens);
        let (along, rest) = rest.split_at_mut(tokens * padded_dim);
        let (tile, rest) = rest.split_at_mut(tokens * padded_dim);
        let (max, rest) = rest.split_at_mut(padded_tokens);
        Buffers { weights, scores, across, along, tile, max, total: &mut rest[..padded_tokens] }
    }
}

/// `to[d, t] = from[t, d]`, tokens along the padded axis.
#[inline(always)]
fn pack_across(to: &mut [f32], from: &[f32], stride: usize, sizes: Sizes) {
    for t in 0..sizes.tokens {
        let from = &from[t * stride..][..sizes.head_dim];
        for (d, from) in from.iter().enumerate() {
            to[d * sizes.padded_tokens + t] = *from;
        }
    }
}

/// `to[t, d] = from[t, d]`, channels along the padded axis.
#[inline(always)]
fn pack_along(to: &mut [f32], from: &[f32], stride: usize, sizes: Sizes) {
    for (t, to) in to.chunks_exact_mut(sizes.padded_dim).enumerate() {
        to[..sizes.head_dim].copy_from_slice(&from[t * stride..][..sizes.head_dim]);
    }
}

/// The inverse of [`pack_along`].
#[inline(always)]
fn unpack(to: &mut [f32], stride: usize, from: &[f32], sizes: Sizes) {
    for (t, from) in from.chunks_exact(sizes.padded_dim).enumerate() {
        to[t * stride..][..sizes.head_dim].copy_from_slice(&from[..sizes.head_dim]);
    }
}

/// Replaces each column by `softmax(scale * column)`; `max` and `total` hold one value per column.
#[inline(always)]
fn softmax(weights: &mut [f32], scale: f32, max: &mut [f32], total: &mut [f32]) {
    let width = max.len();
    max.fill(f32::NEG_INFINITY);
    for row in weights.chunks_exact(width) {
        for (max, value) in vectors(max).zip(row.as_chunks::<LANES>().0) {
            let (mut m, value) = (*max, *value);
            for lane in 0..LANES {
                m[lane] = if value[lane] > m[lane] { value[lane] } else { m[lane] };
            }
            *max = m;
        }
    }
    total.fill(0.0);
    for row in weights.chunks_exact_mut(width) {
        for ((value, total), max) in vectors(row).zip(vectors(total)).zip(max.as_chunks::<LANES>().0) {
            let (mut e, mut sum, max) = (*value, *total, *max);
            for lane in 0..LANES {
                e[lane] = exp((e[lane] - max[lane]) * scale);
            }
            for lane in 0..LANES {
                sum[lane] += e[lane];
            }
            (*value, *total) = (e, sum);
        }
    }
    for total in total.iter_mut() {
        *total = 1.0 / *total;
    }
    for row in weights.chunks_exact_mut(width) {
        for (value, inverse) in vectors(row).zip(total.as_chunks::<LANES>().0) {
            let (mut weight, inverse) = (*value, *inverse);
            for lane in 0..LANES {
                weight[lane] *= inverse[lane];
            }
            *value = weight;
        }
    }
}

/// Replaces `D` by `scale * P ∘ (D - sum(P ∘ D))`, the sum running down each column; `total` holds one per column.
#[inline(always)]
fn softmax_backward(weights: &[f32], scores: &mut [f32], scale: f32, total: &mut [f32]) {
    let width = total.len();
    total.fill(0.0);
    for (p, d) in weights.chunks_exact(width).zip(scores.chunks_exact(width)) {
        let (p, d) = (p.as_chunks::<LANES>().0, d.as_chunks::<LANES>().0);
        for ((p, d), total) in p.iter().zip(d).zip(vectors(total)) {
            let (p, d, mut sum) = (*p, *d, *total);
            for lane in 0..LANES {
                sum[lane] = p[lane].mul_add(d[lane], sum[lane]);
            }
            *total = sum;
        }
    }
    for (p, d) in weights.chunks_exact(width).zip(scores.chunks_exact_mut(width)) {
        let totals = total.as_chunks::<LANES>().0;
        for ((p, d), total) in p.as_chunks::<LANES>().0.iter().zip(vectors(d)).zip(totals) {
            let (p, mut ds, total) = (*p, *d, *total);
            for lane in 0..LANES {
                ds[lane] = scale * p[lane] * (ds[lane] - total[lane]);
            }
            *d = ds;
        }
    }
}

/// The whole vectors of padded memory.
///
/// The loops above work on copies of them: the compiler keeps a copy in a register, but could not know that two
/// slices do not overlap.
#[inline(always)]
fn vectors(x: &mut [f32]) -> std::slice::IterMut<'_, [f32; LANES]> {
    x.as_chunks_mut::<LANES>().0.iter_mut()
}

//! Bidirectional softmax attention from packed queries, keys and values, Vaswani et al. 2017, eq. (1), arXiv 1706.03762.
//!
//! Per head, with `c = 1/√head_dim`: `P = softmax(c q kᵀ)`, `o = P v`. Backward, with `g = ∂L/∂o`:
//! `∂L/∂v = Pᵀ g`, `D = g vᵀ`, `∂L/∂s = P ∘ (D - rowsum(P ∘ D))`, `∂L/∂q = c ∂L/∂s k`, `∂L/∂k = c (∂L/∂s)ᵀ q`.
//!
//! | symbol | scratch | shape |
//! | --- | --- | --- |
//! | P, then ∂L/∂s | `weights`, `scores` | `[tokens, padded tokens]` |
//! | kᵀ, vᵀ | `across` | `[head_dim, padded tokens]` |
//! | v, g, k, q | `along` | `[tokens, padded head_dim]` |
//!
//! The backward pass computes P again: one of six small products, all in the nearest cache, against writing and
//! reading `heads · tokens²` values per image. Only one head is in scratch at a time; `qkv` is read in place.

use super::multiply::Multiply;
use super::simd::{LANES, arch, dot, exp, sum};
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
    if !fused(&[qkv]) {
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
        let sizes = Sizes::new(tokens, packed / 3, self.heads);
        let qkv = slice(qkv, layout)?;
        let mut out = vec![0.0; qkv.len() / 3];
        arch().dispatch(Forward { sizes, qkv, out: &mut out });
        Ok((CpuStorage::F32(out), Shape::from((batch, tokens, sizes.width))))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, tokens, packed) = qkv.dims3()?;
        let sizes = Sizes::new(tokens, packed / 3, self.heads);
        let grad = grad.contiguous()?;
        let (qkv_storage, qkv_layout) = qkv.storage_and_layout();
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let mut dqkv = vec![0.0; qkv.elem_count()];
        arch().dispatch(Backward {
            sizes,
            qkv: values(&qkv_storage, qkv_layout)?,
            grad: values(&grad_storage, grad_layout)?,
            dqkv: &mut dqkv,
        });
        Ok(Some(new_tensor(dqkv, qkv.shape())?))
    }
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
        let Buffers { weights, across, along, tile, .. } = scratch.buffers(sizes);
        let images =
            qkv.chunks_exact((tokens * packed).max(1)).zip(out.chunks_exact_mut((tokens * width).max(1)));
        for (qkv, out) in images {
            for head in (0..width).step_by(head_dim) {
                let (q, k, v) = (&qkv[head..], &qkv[width + head..], &qkv[2 * width + head..]);
                pack_across(across, k, packed, sizes);
                simd.vectorize(Multiply::<false> {
                    out: weights,
                    a: q,
                    stride: packed,
                    b: across,
                    width: padded_tokens,
                });
                softmax(weights, scale, sizes);
                pack_along(along, v, packed, sizes);
                simd.vectorize(Multiply::<false> {
                    out: tile,
                    a: weights,
                    stride: padded_tokens,
                    b: along,
                    width: padded_dim,
                });
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
        let Buffers { weights, scores, across, along, tile } = scratch.buffers(sizes);
        let images = qkv
            .chunks_exact((tokens * packed).max(1))
            .zip(grad.chunks_exact((tokens * width).max(1)))
            .zip(dqkv.chunks_exact_mut((tokens * packed).max(1)));
        for ((qkv, grad), dqkv) in images {
            for head in (0..width).step_by(head_dim) {
                let (q, k, v) = (&qkv[head..], &qkv[width + head..], &qkv[2 * width + head..]);
                let g = &grad[head..];
                pack_across(across, k, packed, sizes);
                simd.vectorize(Multiply::<false> {
                    out: weights,
                    a: q,
                    stride: packed,
                    b: across,
                    width: padded_tokens,
                });
                softmax(weights, scale, sizes);

                pack_along(along, g, width, sizes);
                simd.vectorize(Multiply::<true> {
                    out: tile,
                    a: weights,
                    stride: padded_tokens,
                    b: along,
                    width: padded_dim,
                });
                unpack(&mut dqkv[2 * width + head..], packed, tile, sizes);

                pack_across(across, v, packed, sizes);
                simd.vectorize(Multiply::<false> {
                    out: scores,
                    a: g,
                    stride: width,
                    b: across,
                    width: padded_tokens,
                });
                softmax_backward(weights, scores, scale, sizes);

                pack_along(along, k, packed, sizes);
                simd.vectorize(Multiply::<false> {
                    out: tile,
                    a: scores,
                    stride: padded_tokens,
                    b: along,
                    width: padded_dim,
                });
                unpack(&mut dqkv[head..], packed, tile, sizes);

                pack_along(along, q, packed, sizes);
                simd.vectorize(Multiply::<true> {
                    out: tile,
                    a: scores,
                    stride: padded_tokens,
                    b: along,
                    width: padded_dim,
                });
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
}

impl Scratch {
    fn new(sizes: Sizes) -> Self {
        let Sizes { tokens, head_dim, padded_tokens, padded_dim, .. } = sizes;
        let len = 2 * tokens * padded_tokens + head_dim * padded_tokens + 2 * tokens * padded_dim;
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
        Buffers { weights, scores, across, along, tile: &mut rest[..tokens * padded_dim] }
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

/// Replaces each row by `softmax(scale * row)`, zero in the padding.
#[inline(always)]
fn softmax(rows: &mut [f32], scale: f32, sizes: Sizes) {
    for row in rows.chunks_exact_mut(sizes.padded_tokens) {
        row[sizes.tokens..].fill(f32::NEG_INFINITY);
        let (chunks, _) = row.as_chunks_mut::<LANES>();
        let mut max = [f32::NEG_INFINITY; LANES];
        for chunk in chunks.iter() {
            for lane in 0..LANES {
                max[lane] = if chunk[lane] > max[lane] { chunk[lane] } else { max[lane] };
            }
        }
        let max = max.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        for chunk in chunks.iter_mut() {
            for value in chunk {
                *value = exp((*value - max) * scale);
            }
        }
        row[sizes.tokens..].fill(0.0);
        let inverse = 1.0 / sum(row);
        for value in row {
            *value *= inverse;
        }
    }
}

/// Replaces `D` by `scale * P ∘ (D - rowsum(P ∘ D))`.
#[inline(always)]
fn softmax_backward(weights: &[f32], scores: &mut [f32], scale: f32, sizes: Sizes) {
    let rows = weights.chunks_exact(sizes.padded_tokens).zip(scores.chunks_exact_mut(sizes.padded_tokens));
    for (p, d) in rows {
        let mean = dot(p, d);
        for (d, p) in d.iter_mut().zip(p) {
            *d = scale * p * (*d - mean);
        }
    }
}

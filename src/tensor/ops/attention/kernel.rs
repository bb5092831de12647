//! The kernels of [`super::attention_with`], over slices.

use super::softmax::{self, Visible, softmax};
use crate::tensor::ops::multiply::{Multiply, Part, Rows, unit};
use crate::tensor::ops::simd::{LANES, arch};
use crate::tensor::ops::transpose::Transpose;
use pulp::{Simd, WithSimd};

/// The sizes of one image's attention, and whether a token sees only itself and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tensor::ops) struct Geometry {
    pub(in crate::tensor::ops) tokens: usize,
    pub(in crate::tensor::ops) heads: usize,
    /// A divisor of `heads`; query head `h` reads key and value head `h / (heads / kv_heads)`.
    pub(in crate::tensor::ops) kv_heads: usize,
    pub(in crate::tensor::ops) head_dim: usize,
    pub(in crate::tensor::ops) causal: bool,
}

impl Geometry {
    /// Channels of the result, and of its gradient.
    pub(in crate::tensor::ops) fn width(self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of queries, keys and values together.
    pub(in crate::tensor::ops) fn packed(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Number of images. Panics if the sizes do not fit each other and the slices.
    fn images(self, qkv: &[f32], keys: Option<&[f32]>, out: &[f32]) -> usize {
        assert!(
            self.head_dim > 0 && self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "no attention has {self:?}"
        );
        let images = qkv.len() / (self.tokens * self.packed()).max(1);
        assert_eq!(
            qkv.len(),
            images * self.tokens * self.packed(),
            "queries, keys and values are whole images"
        );
        assert_eq!(out.len(), images * self.tokens * self.width(), "there is a result for every query");
        assert!(keys.is_none_or(|keys| keys.len() == images * self.tokens), "there is a mask for every key");
        images
    }
}

/// Overwrites `out`, `[images, tokens, width]`, with the attention of `qkv`, `[images, tokens, packed]`.
///
/// `keys`, `[images, tokens]`, is zero for each token that no query sees. A query that sees no key has the result zero.
///
/// # Panics
/// If the slices do not have these sizes.
pub(in crate::tensor::ops) fn forward(
    geometry: Geometry,
    qkv: &[f32],
    keys: Option<&[f32]>,
    out: &mut [f32],
) {
    if geometry.images(qkv, keys, out) * geometry.tokens > 0 {
        arch().dispatch(Forward { geometry, qkv, keys, out });
    }
}

/// Overwrites `dqkv`, in the shape of `qkv`, with the gradient of `qkv`. `grad`, `[images, tokens, width]`, is the
/// gradient of the result.
///
/// # Panics
/// If the slices do not have these sizes.
pub(in crate::tensor::ops) fn backward(
    geometry: Geometry,
    qkv: &[f32],
    keys: Option<&[f32]>,
    grad: &[f32],
    dqkv: &mut [f32],
) {
    assert_eq!(qkv.len(), dqkv.len(), "there is a gradient to every value");
    if geometry.images(qkv, keys, grad) * geometry.tokens > 0 {
        arch().dispatch(Backward { geometry, qkv, keys, grad, dqkv });
    }
}

/// A [`Geometry`] padded to the vectors of an instruction set.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tokens: usize,
    head_dim: usize,
    /// Query heads for each key and value head.
    group: usize,
    width: usize,
    packed: usize,
    /// Where the keys begin within a token, and then where the values begin.
    keys: usize,
    values: usize,
    padded_tokens: usize,
    padded_dim: usize,
    scale: f32,
}

impl Sizes {
    fn new(geometry: Geometry, unit: usize) -> Self {
        let Geometry { tokens, heads, kv_heads, head_dim, .. } = geometry;
        Self {
            tokens,
            head_dim,
            group: heads / kv_heads,
            width: geometry.width(),
            packed: geometry.packed(),
            keys: heads * head_dim,
            values: (heads + kv_heads) * head_dim,
            padded_tokens: tokens.next_multiple_of(unit),
            padded_dim: head_dim.next_multiple_of(unit),
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        }
    }
}

/// The parts of the products that a causal mask leaves: for the scores, for a product of the weights per query, and for
/// one per key.
fn parts(causal: bool) -> [Part; 3] {
    if causal { [Part::Upper, Part::LowerFactor, Part::UpperFactor] } else { [Part::Whole; 3] }
}

/// The mask of image `image`.
fn visible(geometry: Geometry, keys: Option<&[f32]>, image: usize) -> Visible<'_> {
    let keys = keys.map(|keys| &keys[image * geometry.tokens..][..geometry.tokens]);
    Visible { causal: geometry.causal, keys }
}

struct Forward<'a> {
    geometry: Geometry,
    qkv: &'a [f32],
    keys: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, qkv, keys, out } = self;
        let sizes = Sizes::new(geometry, unit::<S>());
        let Sizes { tokens, head_dim, width, packed, padded_tokens, scale, .. } = sizes;
        let [of_scores, of_queries, _] = parts(geometry.causal);
        let mut scratch = Scratch::new(sizes);
        let Buffers { weights, across, along, tile, .. } = scratch.buffers(sizes);
        let images = qkv.chunks_exact(tokens * packed).zip(out.chunks_exact_mut(tokens * width));
        for (image, (qkv, out)) in images.enumerate() {
            let visible = visible(geometry, keys, image);
            for head in 0..geometry.heads {
                let (q, kv) = (head * head_dim, head / sizes.group * head_dim);
                let (k, v) = (&qkv[sizes.keys + kv..], &qkv[sizes.values + kv..]);
                pack_across(across, &qkv[q..], packed, sizes);
                let rows = Rows::new(weights, padded_tokens);
                simd.vectorize(Multiply::<false>::new(rows, k, packed, across, padded_tokens, of_scores));
                softmax(weights, padded_tokens, scale, visible);
                if head % sizes.group == 0 {
                    pack_along(along, v, packed, sizes);
                }
                let to = Target { values: &mut out[q..], stride: width, add: false };
                product::<S, true>(simd, to, weights, along, of_queries, tile, sizes);
            }
        }
    }
}

struct Backward<'a> {
    geometry: Geometry,
    qkv: &'a [f32],
    keys: Option<&'a [f32]>,
    grad: &'a [f32],
    dqkv: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, qkv, keys, grad, dqkv } = self;
        let sizes = Sizes::new(geometry, unit::<S>());
        let Sizes { tokens, head_dim, width, packed, padded_tokens, scale, .. } = sizes;
        let [of_scores, of_queries, of_keys] = parts(geometry.causal);
        let mut scratch = Scratch::new(sizes);
        let Buffers { weights, scores, across, along, tile } = scratch.buffers(sizes);
        let images = qkv
            .chunks_exact(tokens * packed)
            .zip(grad.chunks_exact(tokens * width))
            .zip(dqkv.chunks_exact_mut(tokens * packed));
        for (image, ((qkv, grad), dqkv)) in images.enumerate() {
            let visible = visible(geometry, keys, image);
            for head in 0..geometry.heads {
                let (q, kv) = (head * head_dim, head / sizes.group * head_dim);
                let (k, v, g) = (&qkv[sizes.keys + kv..], &qkv[sizes.values + kv..], &grad[q..]);
                // The heads of a group add their gradients to the key and the value that they share.
                let add = !head.is_multiple_of(sizes.group);
                pack_across(across, &qkv[q..], packed, sizes);
                let rows = Rows::new(weights, padded_tokens);
                simd.vectorize(Multiply::<false>::new(rows, k, packed, across, padded_tokens, of_scores));
                softmax(weights, padded_tokens, scale, visible);

                pack_along(along, g, width, sizes);
                let to = Target { values: &mut dqkv[sizes.values + kv..], stride: packed, add };
                product::<S, false>(simd, to, weights, along, of_keys, tile, sizes);

                pack_across(across, g, width, sizes);
                let rows = Rows::new(scores, padded_tokens);
                simd.vectorize(Multiply::<false>::new(rows, v, packed, across, padded_tokens, of_scores));
                softmax::backward(weights, scores, padded_tokens, scale, visible);

                pack_along(along, k, packed, sizes);
                let to = Target { values: &mut dqkv[q..], stride: packed, add: false };
                product::<S, true>(simd, to, scores, along, of_queries, tile, sizes);

                pack_along(along, &qkv[q..], packed, sizes);
                let to = Target { values: &mut dqkv[sizes.keys + kv..], stride: packed, add };
                product::<S, false>(simd, to, scores, along, of_keys, tile, sizes);
            }
        }
    }
}

/// The channels of one head in an array of tokens.
struct Target<'a> {
    values: &'a mut [f32],
    stride: usize,
    add: bool,
}

/// Multiplies one head's weights, or their transpose, by `along`. The product goes through `tile` if its rows are
/// padded.
#[inline(always)]
fn product<S: Simd, const TRANSPOSED: bool>(
    simd: S,
    to: Target<'_>,
    weights: &[f32],
    along: &[f32],
    part: Part,
    tile: &mut [f32],
    sizes: Sizes,
) {
    let Sizes { tokens, head_dim, padded_tokens, padded_dim, .. } = sizes;
    let Target { values, stride, add } = to;
    if head_dim == padded_dim {
        let rows = Rows { values, stride, count: tokens, add };
        simd.vectorize(Multiply::<TRANSPOSED>::new(rows, weights, padded_tokens, along, padded_dim, part));
        return;
    }
    let rows = Rows::new(tile, padded_dim);
    simd.vectorize(Multiply::<TRANSPOSED>::new(rows, weights, padded_tokens, along, padded_dim, part));
    for (t, tile) in tile.chunks_exact(padded_dim).enumerate() {
        for (to, tile) in values[t * stride..][..head_dim].iter_mut().zip(tile) {
            *to = if add { *to + tile } else { *tile };
        }
    }
}

/// Memory for one head. Padding starts at zero, and no kernel changes it where a product reads it.
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
        let len = (2 * tokens + head_dim) * padded_tokens + 2 * tokens * padded_dim;
        Self { memory: vec![0.0; len + LANES] }
    }

    fn buffers(&mut self, sizes: Sizes) -> Buffers<'_> {
        let Sizes { tokens, head_dim, padded_tokens, padded_dim, .. } = sizes;
        // Every buffer is a whole number of vectors, so starting on a cache line keeps each vector within one line.
        let start = self.memory.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
        let (weights, rest) = self.memory[start..].split_at_mut(tokens * padded_tokens);
        let (scores, rest) = rest.split_at_mut(tokens * padded_tokens);
        let (across, rest) = rest.split_at_mut(head_dim * padded_tokens);
        let (along, rest) = rest.split_at_mut(tokens * padded_dim);
        Buffers { weights, scores, across, along, tile: &mut rest[..tokens * padded_dim] }
    }
}

/// `to[d, t] = from[t, d]`, tokens along the padded axis.
fn pack_across(to: &mut [f32], from: &[f32], stride: usize, sizes: Sizes) {
    Transpose {
        to,
        to_stride: sizes.padded_tokens,
        from,
        from_stride: stride,
        rows: sizes.tokens,
        columns: sizes.head_dim,
    }
    .run();
}

/// `to[t, d] = from[t, d]`, channels along the padded axis.
#[inline(always)]
fn pack_along(to: &mut [f32], from: &[f32], stride: usize, sizes: Sizes) {
    for (t, to) in to.chunks_exact_mut(sizes.padded_dim).enumerate() {
        to[..sizes.head_dim].copy_from_slice(&from[t * stride..][..sizes.head_dim]);
    }
}

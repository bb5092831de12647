//! Attention for the first token only.
//!
//! A classifier that reads one token needs, from the last block, the keys and values of every token but everything else
//! only for that token. With `n = LN(x)`, `c = 1/√head_dim`, and index 0 for the first token:
//!
//! ```text
//! q = n₀ W_qᵀ + b_q, [K V] = n W_kvᵀ + b_kv, w = softmax(c q Kᵀ), a = w V
//! ```
//!
//! Backward, from `∂a`: `∂V = wᵀ ∂a`, `∂s = w ∘ (∂a Vᵀ - w · ∂a Vᵀ)`, `∂q = c ∂s K`, `∂K = c ∂sᵀ q`.

use crate::tensor::ops::simd::{self, dot, exp};

/// Sizes of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tokens: usize,
    pub(super) inner: usize,
    pub(super) head_dim: usize,
}

impl Sizes {
    fn scale(self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }
}

simd::kernel! {
    /// `a ← softmax(c q Kᵀ)`, `o ← a V`, head by head: the `w` and the `a` of the equations above.
    pub(super) fn attend<'a>(q: &'a [f32], keys_values: &'a [f32], sizes: Sizes, a: &'a mut [f32], o: &'a mut [f32]) {
        let Sizes { tokens, inner, head_dim } = sizes;
        let mut heads = q.chunks_exact(head_dim).zip(o.chunks_exact_mut(head_dim)).zip(a.chunks_exact_mut(tokens));
        for image in keys_values.chunks_exact(tokens * 2 * inner) {
            for channel in (0..inner).step_by(head_dim) {
                let Some(((q, o), a)) = heads.next() else { return };
                let mut largest = f32::NEG_INFINITY;
                for (a, token) in a.iter_mut().zip(image.chunks_exact(2 * inner)) {
                    *a = sizes.scale() * dot(q, &token[channel..][..head_dim]);
                    largest = largest.max(*a);
                }
                let mut sum = 0.0;
                for a in a.iter_mut() {
                    *a = exp(*a - largest);
                    sum += *a;
                }
                let share = 1.0 / sum;
                o.fill(0.0);
                for (a, token) in a.iter_mut().zip(image.chunks_exact(2 * inner)) {
                    *a *= share;
                    for (o, v) in o.iter_mut().zip(&token[inner + channel..][..head_dim]) {
                        *o = a.mul_add(*v, *o);
                    }
                }
            }
        }
    }
}

simd::kernel! {
    /// `[∂q, [∂K ∂V]]` from `g = ∂o`.
    pub(super) fn differentiate<'a>(
        q: &'a [f32],
        keys_values: &'a [f32],
        a: &'a [f32],
        g: &'a [f32],
        sizes: Sizes,
        grads: [&'a mut [f32]; 2],
    ) {
        let [dq, dkv] = grads;
        let Sizes { tokens, inner, head_dim } = sizes;
        let image = tokens * 2 * inner;
        let mut heads = q
            .chunks_exact(head_dim)
            .zip(g.chunks_exact(head_dim))
            .zip(a.chunks_exact(tokens))
            .zip(dq.chunks_exact_mut(head_dim));
        let mut products = vec![0.0; tokens];
        for (image, dkv) in keys_values.chunks_exact(image).zip(dkv.chunks_exact_mut(image)) {
            for channel in (0..inner).step_by(head_dim) {
                let Some((((q, g), a), dq)) = heads.next() else { return };
                for (product, token) in products.iter_mut().zip(image.chunks_exact(2 * inner)) {
                    *product = dot(g, &token[inner + channel..][..head_dim]);
                }
                let mean = dot(a, &products);
                dq.fill(0.0);
                let tokens = image.chunks_exact(2 * inner).zip(dkv.chunks_exact_mut(2 * inner));
                for ((a, product), (token, d)) in a.iter().zip(&products).zip(tokens) {
                    let ds = a * (product - mean) * sizes.scale();
                    let (dk, dv) = d.split_at_mut(inner);
                    for ((dk, dq), (q, k)) in
                        dk[channel..][..head_dim].iter_mut().zip(dq.iter_mut()).zip(q.iter().zip(&token[channel..]))
                    {
                        *dk = ds * q;
                        *dq = ds.mul_add(*k, *dq);
                    }
                    for (dv, g) in dv[channel..][..head_dim].iter_mut().zip(g) {
                        *dv = a * g;
                    }
                }
            }
        }
    }
}

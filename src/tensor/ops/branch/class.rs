//! The attention branch for the class token alone.
//!
//! A classifier reads one token of the last block, and only attention mixes tokens: that block needs keys and values of
//! every token, and everything else of one. With `n = LN(x)`, `c = 1/√head_dim`, index 0 for the class token, and `k` for
//! stochastic depth in the last term:
//!
//! ```text
//! q = n₀ W_qᵀ + b_q, [K V] = n W_kvᵀ + b_kv, a = softmax(c q Kᵀ), o = a V, y = x₀ + k (o W_projᵀ + b_proj)
//! ```
//!
//! Backward, with `u = k ∂L/∂y` and `∂o = u W_proj`: `∂V = aᵀ ∂o`, `∂s = a ∘ (∂o Vᵀ - a · ∂o Vᵀ)`, `∂q = c ∂s K`,
//! `∂K = c ∂sᵀ q`, and those of the linear maps and of the norm as in the whole branch.

use super::{AttentionBranch, Branch, attention, check, layer_norm, linear, naive};
use crate::tensor::ops::{
    add_to, fused,
    node::{self, Kernel},
    parameter::Affine,
    simd::{self, dot, exp},
};
use crate::tensor::{matrix_view, tape::Buffer};
use candle_core::{Result, Shape, Tensor, bail};
use std::sync::{Mutex, PoisonError};

/// The first token of [`super::attention_branch`]: `x₀ + keep · Proj(Attention(LayerNorm(x))₀)`.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`; result: `[batch, 1, width]`; the rest as of [`super::attention_branch`]
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn class_attention_branch(
    x: &Tensor,
    norm: &Affine,
    eps: f64,
    [qkv, proj]: [&Affine; 2],
    heads: usize,
    keep: Option<&Tensor>,
) -> Result<Tensor> {
    AttentionBranch::check_heads(qkv, proj, heads)?;
    if x.dims3()?.1 == 0 {
        bail!("attention: {:?} has no class token", x.dims());
    }
    check("attention", x, norm, [qkv, proj], keep)?;
    let weights = [norm, qkv, proj].map(Affine::weights).concat();
    if !fused(&[x], &weights) {
        let n = layer_norm::layer_norm(x, norm, eps)?;
        let o = attention::attention(&linear::linear(&n, qkv)?, heads)?;
        let [class, o] = [x, &o].map(|t| t.narrow(1, 0, 1));
        return naive::residual(&class?, &linear::linear(&o?, proj)?, keep);
    }
    let tape = node::tape(&weights);
    let inner = matrix_view(proj.weight.dims())[1];
    let kernel = ClassAttention {
        branch: Branch::new(norm, eps, keep, tape.clone())?,
        query: qkv.rows(0..inner)?,
        keys_values: qkv.rows(inner..3 * inner)?,
        proj: proj.clone(),
        heads,
        kept: Mutex::default(),
    };
    node::apply(x, tape.as_ref(), kernel)
}

struct ClassAttention {
    branch: Branch,
    query: Affine,
    keys_values: Affine,
    proj: Affine,
    heads: usize,
    kept: Mutex<Option<Inner>>,
}

/// What the backward pass reads.
struct Inner {
    q: Buffer,           // [batch, inner]
    keys_values: Buffer, // [batch, tokens, 2 * inner]
    a: Buffer,           // [batch, heads, tokens]
    o: Buffer,           // [batch, inner]
}

impl ClassAttention {
    fn sizes(&self, tokens: usize) -> Sizes {
        let inner = matrix_view(self.proj.weight.dims())[1];
        Sizes { tokens, inner, head_dim: inner / self.heads }
    }

    /// The class tokens of `x`, one below the other.
    fn class_rows(&self, x: &[f32], shape: &Shape) -> Result<Buffer> {
        let (batch, tokens, width) = shape.dims3()?;
        let mut rows = self.branch.buffer(batch * width);
        for (row, image) in rows.chunks_exact_mut(width.max(1)).zip(x.chunks_exact((tokens * width).max(1))) {
            row.copy_from_slice(&image[..width]);
        }
        Ok(rows)
    }

    fn inner(&self, x: &[f32], shape: &Shape) -> Result<Inner> {
        let (batch, tokens, _) = shape.dims3()?;
        let sizes = self.sizes(tokens);
        let n = self.branch.norm(x)?;
        let buffer = |len| self.branch.buffer(len);
        let mut inner = Inner {
            q: buffer(batch * sizes.inner),
            keys_values: buffer(batch * tokens * 2 * sizes.inner),
            a: buffer(batch * self.heads * tokens),
            o: buffer(batch * sizes.inner),
        };
        linear::forward(&self.query, &self.class_rows(&n, shape)?, &mut inner.q)?;
        linear::forward(&self.keys_values, &n, &mut inner.keys_values)?;
        attend(&inner.q, &inner.keys_values, sizes, &mut inner.a, &mut inner.o);
        Ok(inner)
    }
}

impl Kernel for ClassAttention {
    const NAME: &'static str = "class-attention-branch";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let (batch, _, width) = shape.dims3()?;
        let inner = self.inner(x, shape)?;
        let y = self.branch.residual(&self.class_rows(x, shape)?, &inner.o, &self.proj)?;
        if self.branch.keeps() {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(inner);
        }
        Ok((y, Shape::from((batch, 1, width))))
    }

    fn backward(&self, x: &[f32], shape: &Shape, g: &[f32], _: bool) -> Result<Vec<f32>> {
        let (_, tokens, width) = shape.dims3()?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Inner { q, keys_values, a, mut o } = kept.map_or_else(|| self.inner(x, shape), Ok)?;
        let scaled = self.branch.scaled(g);
        let u = scaled.as_deref().unwrap_or(g);
        linear::backward_weights(&self.proj, &o, u)?;
        linear::backward_input(&self.proj, u, &mut o)?;
        let (mut dq, mut dkv) = (self.branch.buffer(q.len()), self.branch.buffer(keys_values.len()));
        let grads: [&mut [f32]; 2] = [&mut dq, &mut dkv];
        differentiate(&q, &keys_values, &a, &o, self.sizes(tokens), grads);

        let mut n = self.branch.norm(x)?;
        let mut class = self.class_rows(&n, shape)?;
        linear::backward_weights(&self.query, &class, &dq)?;
        linear::backward_weights(&self.keys_values, &n, &dkv)?;
        linear::backward_input(&self.keys_values, &dkv, &mut n)?;
        linear::backward_input(&self.query, &dq, &mut class)?;
        let first = |all: &mut [f32], rows: &[f32]| {
            let images = all.chunks_exact_mut((tokens * width).max(1));
            images
                .zip(rows.chunks_exact(width.max(1)))
                .for_each(|(image, row)| add_to(&mut image[..width], row));
        };
        first(&mut n, &class);
        let mut dx = vec![0.0; x.len()];
        layer_norm::backward(&self.branch.norm, x, &n, None, self.branch.eps, &mut dx)?;
        first(&mut dx, g);
        Ok(dx)
    }
}

/// Sizes of one image.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tokens: usize,
    inner: usize,
    head_dim: usize,
}

impl Sizes {
    fn scale(self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }
}

simd::kernel! {
    /// `a ← softmax(c q Kᵀ)`, `o ← a V`, head by head.
    fn attend<'a>(q: &'a [f32], keys_values: &'a [f32], sizes: Sizes, a: &'a mut [f32], o: &'a mut [f32]) {
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
    fn differentiate<'a>(
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

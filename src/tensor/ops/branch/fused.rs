//! A branch as one operation on the CPU in f32.
//!
//! Backward, with `c = g h`, one factor per row and group of `a`:
//!
//! ```text
//! both:       ∂W_o = dᵀ (c ∘ a), ∂b_o = Σ g d, ∂a = c ∘ (d W_o)
//! attention:  p = W_qkv n + b_qkv, ∂p = attention'(p, ∂a)
//! mlp:        p = W_1 n + b_1,     ∂p = ∂a ∘ GELU'(p)
//! both:       ∂W = ∂pᵀ n, ∂n = ∂p W, ∂b the sums over rows
//! pre-norm:   n = LN(x),  d = ∂L/∂y,         ∂x = d + LN'(x, ∂n)
//! post-norm:  n = x,      d = LN'(s, ∂L/∂y), ∂x = d + ∂n, with s = x + g ∘ f(x)
//! ```
//!
//! As one operation, a branch keeps between the passes only what the products read (`c ∘ a`, and `p` or `GELU'(p)`). It
//! adds the residual for free and hands candle one gradient instead of six. A pre-norm's `n` is computed again; a
//! post-norm keeps `s`.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Result, Shape, Tensor};

use super::{
    data::{Branch, Core, Gate, Rows},
    first::{self, Sizes},
};
use crate::tensor::{
    Tape, matrix_view,
    ops::{
        Affine, add_to,
        attention::{self, Geometry},
        gelu, layer_norm, linear,
        node::Kernel,
        simd,
    },
    tape::Buffer,
};

/// `x + g ∘ f(LN(x))`
pub(super) struct PreNorm {
    norm: Affine,
    eps: f32,
    residual: Residual,
    kept: Mutex<Option<Kept>>,
}

/// `LN(x + g ∘ f(x))`
pub(super) struct PostNorm {
    norm: Affine,
    eps: f32,
    residual: Residual,
    /// With it, the sum that is normalised: `[rows, width]`.
    kept: Mutex<Option<(Kept, Buffer)>>,
}

/// `x + g ∘ f(n)` with `f(n) = W_o (h ∘ core(n)) + b_o`: a branch without its norm.
struct Residual {
    inner: Inner,
    last: Affine,
    factors: Option<Factors>,
    tape: Option<Arc<Tape>>,
}

/// The layers from `n` to `a`.
enum Inner {
    Attention { qkv: Affine, heads: usize, keys: Option<Vec<f32>> },
    FirstToken { query: Affine, keys_values: Affine, heads: usize },
    Gelu { fc1: Affine },
}

/// What the backward pass reads.
struct Kept {
    /// `c ∘ a`, `[rows, inner]`.
    a: Buffer,
    inputs: Inputs,
}

/// What the derivative of `a` reads.
enum Inputs {
    /// `p`, `[batch, tokens, 3 * inner]`.
    Packed(Buffer),
    FirstToken {
        q: Buffer,           // [batch, inner]
        keys_values: Buffer, // [batch, tokens, 2 * inner]
        weights: Buffer,     // [batch, heads, tokens]
    },
    /// `GELU'(p)`, `[rows, hidden]`; empty if no backward pass follows.
    Slope(Buffer),
}

/// The factors of a [`Gate`], row by row of the result.
struct Factors {
    /// `g`, `[rows]`; empty if it is 1 everywhere.
    out: Vec<f32>,
    /// `g h`, `[rows, groups]`.
    inner: Vec<f32>,
    groups: usize,
}

impl Residual {
    fn new(x: &Tensor, branch: &Branch<'_>, tape: Option<Arc<Tape>>) -> Result<Self> {
        let (batch, tokens, _) = x.dims3()?;
        let [_, last] = branch.core.layers();
        let inner = match branch.core {
            Core::Attention { qkv, heads, rows: Rows::All, keys, .. } => {
                let values = |keys: &Tensor| keys.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1();
                Inner::Attention { qkv: qkv.clone(), heads, keys: keys.map(values).transpose()? }
            }
            Core::Attention { qkv, proj, heads, rows: Rows::First, .. } => {
                let inner = matrix_view(proj.weight.dims())[1];
                let (query, keys_values) = (qkv.rows(0..inner)?, qkv.rows(inner..3 * inner)?);
                Inner::FirstToken { query, keys_values, heads }
            }
            Core::Gelu { fc1, .. } => Inner::Gelu { fc1: fc1.clone() },
        };
        let rows = match branch.core.rows() {
            Rows::All => tokens,
            Rows::First => 1,
        };
        Ok(Self { inner, last: last.clone(), factors: Factors::new(branch.gate, [batch, rows])?, tape })
    }

    fn buffer(&self, len: usize) -> Buffer {
        Buffer::new(self.tape.as_ref(), len)
    }

    /// Whether something is kept for a backward pass.
    fn keeps(&self) -> bool {
        self.tape.as_ref().is_some_and(|tape| !tape.recompute())
    }

    /// Channels of `a`.
    fn channels(&self) -> usize {
        matrix_view(self.last.weight.dims())[1]
    }

    /// Whether the branch computes only the first token of each image.
    fn is_first(&self) -> bool {
        matches!(self.inner, Inner::FirstToken { .. })
    }

    /// `c ∘ a` and what its derivative reads.
    fn inner(&self, n: &[f32], shape: &Shape, slope: bool) -> Result<Kept> {
        let (batch, tokens, width) = shape.dims3()?;
        let channels = self.channels();
        let mut kept = match &self.inner {
            Inner::Attention { qkv, heads, keys } => {
                let mut p = self.buffer(batch * tokens * 3 * channels);
                linear::forward(qkv, n, &mut p)?;
                let mut a = self.buffer(batch * tokens * channels);
                attention::forward(geometry(tokens, *heads, channels), &p, keys.as_deref(), &mut a);
                Kept { a, inputs: Inputs::Packed(p) }
            }
            Inner::FirstToken { query, keys_values, heads } => {
                let sizes = Sizes { tokens, inner: channels, head_dim: channels / heads };
                let (mut q, mut a) = (self.buffer(batch * channels), self.buffer(batch * channels));
                let mut packed = self.buffer(batch * tokens * 2 * channels);
                let mut weights = self.buffer(batch * heads * tokens);
                linear::forward(query, &self.first_rows(n, tokens, width), &mut q)?;
                linear::forward(keys_values, n, &mut packed)?;
                first::attend(&q, &packed, sizes, &mut weights, &mut a);
                Kept { a, inputs: Inputs::FirstToken { q, keys_values: packed, weights } }
            }
            Inner::Gelu { fc1 } => {
                let mut a = self.buffer(batch * tokens * channels);
                linear::forward(fc1, n, &mut a)?;
                let mut derivative = self.buffer(if slope { a.len() } else { 0 });
                if slope {
                    gelu::with_slope(&mut a, &mut derivative);
                } else {
                    gelu::in_place(&mut a);
                }
                Kept { a, inputs: Inputs::Slope(derivative) }
            }
        };
        if let Some(factors) = &self.factors {
            factors.scale(&mut kept.a);
        }
        Ok(kept)
    }

    /// `(x + g b_o) + W_o (c ∘ a)` for the rows that are computed, and its shape.
    fn sum(&self, x: &[f32], shape: &Shape, a: &[f32]) -> Result<(Vec<f32>, Shape)> {
        let (batch, tokens, width) = shape.dims3()?;
        if self.is_first() {
            let rows = self.first_rows(x, tokens, width);
            return Ok((self.rows_sum(&rows, a)?, Shape::from((batch, 1, width))));
        }
        Ok((self.rows_sum(x, a)?, shape.clone()))
    }

    fn rows_sum(&self, x: &[f32], a: &[f32]) -> Result<Vec<f32>> {
        let mut y = vec![0.0; x.len()];
        let bias = self.last.bias.values().to_vec()?;
        shift_rows(x, &bias, self.factors.as_ref().map_or(&[], |factors| &factors.out), &mut y);
        linear::add_forward(&self.last, a, &mut y)?;
        Ok(y)
    }

    /// The first row of each image, stacked.
    fn first_rows(&self, x: &[f32], tokens: usize, width: usize) -> Buffer {
        let mut rows = self.buffer(x.len() / tokens.max(1));
        for (row, image) in rows.chunks_exact_mut(width.max(1)).zip(x.chunks_exact((tokens * width).max(1))) {
            row.copy_from_slice(&image[..width]);
        }
        rows
    }

    /// Overwrites `a` with `∂a`, computed from `d`, and adds to the gradients of the last layer.
    fn backward_last(&self, a: &mut Buffer, d: &[f32]) -> Result<()> {
        linear::backward_product(&self.last, a, d)?;
        linear::backward_bias(&self.last, d, self.factors.as_ref().map_or(&[], |factors| &factors.out))?;
        linear::backward_input(&self.last, d, a)?;
        if let Some(factors) = &self.factors {
            factors.scale(a);
        }
        Ok(())
    }

    /// Overwrites `n` with `∂n`, computed from `∂a`, and adds to the gradients of the first layer.
    fn backward_inner(&self, n: &mut Buffer, kept: Inputs, da: Buffer, shape: &Shape) -> Result<()> {
        let (_, tokens, width) = shape.dims3()?;
        let channels = self.channels();
        match (&self.inner, kept) {
            (Inner::Attention { qkv, heads, keys }, Inputs::Packed(p)) => {
                let mut dp = self.buffer(p.len());
                let geometry = geometry(tokens, *heads, channels);
                attention::backward(geometry, &p, keys.as_deref(), &da, &mut dp);
                linear::backward_weights(qkv, n, &dp)?;
                linear::backward_input(qkv, &dp, n)
            }
            (
                Inner::FirstToken { query, keys_values, heads },
                Inputs::FirstToken { q, keys_values: packed, weights },
            ) => {
                let sizes = Sizes { tokens, inner: channels, head_dim: channels / heads };
                let (mut dq, mut dkv) = (self.buffer(q.len()), self.buffer(packed.len()));
                first::differentiate(&q, &packed, &weights, &da, sizes, [&mut dq, &mut dkv]);
                let mut row = self.first_rows(n, tokens, width);
                linear::backward_weights(query, &row, &dq)?;
                linear::backward_weights(keys_values, n, &dkv)?;
                linear::backward_input(keys_values, &dkv, n)?;
                linear::backward_input(query, &dq, &mut row)?;
                add_to_first(n, &row, tokens, width);
                Ok(())
            }
            (Inner::Gelu { fc1 }, Inputs::Slope(slope)) => {
                let mut dp = da;
                multiply_by(&mut dp, &slope);
                linear::backward_weights(fc1, n, &dp)?;
                linear::backward_input(fc1, &dp, n)
            }
            _ => candle_core::bail!("a branch kept the inputs of another"),
        }
    }
}

const fn geometry(tokens: usize, heads: usize, channels: usize) -> Geometry {
    Geometry { tokens, heads, kv_heads: heads, head_dim: channels / heads, causal: false }
}

/// Adds one row per image to the first row of that image.
fn add_to_first(all: &mut [f32], rows: &[f32], tokens: usize, width: usize) {
    let images = all.chunks_exact_mut((tokens * width).max(1)).zip(rows.chunks_exact(width.max(1)));
    images.for_each(|(image, row)| add_to(&mut image[..width], row));
}

/// What was kept by the forward pass, if it was.
fn take<T>(kept: &Mutex<Option<T>>) -> Option<T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn keep<T>(kept: &Mutex<Option<T>>, values: T) {
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(values);
}

impl PreNorm {
    pub(super) fn new(x: &Tensor, branch: &Branch<'_>, tape: Option<Arc<Tape>>) -> Result<Self> {
        let (norm, eps) = (branch.norm.affine.clone(), branch.norm.eps as f32);
        Ok(Self { norm, eps, residual: Residual::new(x, branch, tape)?, kept: Mutex::default() })
    }

    /// `n = LN(x)`
    fn normalized(&self, x: &[f32]) -> Result<Buffer> {
        let mut n = self.residual.buffer(x.len());
        layer_norm::forward(&self.norm, x, self.eps, &mut n)?;
        Ok(n)
    }
}

impl Kernel for PreNorm {
    const NAME: &'static str = "pre-norm";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let kept = self.residual.inner(&self.normalized(x)?, shape, self.residual.keeps())?;
        let result = self.residual.sum(x, shape, &kept.a)?;
        if self.residual.keeps() {
            keep(&self.kept, kept);
        }
        Ok(result)
    }

    fn backward(&self, x: &[f32], shape: &Shape, d: &[f32], _: bool) -> Result<Vec<f32>> {
        let (_, tokens, width) = shape.dims3()?;
        let again = || self.residual.inner(&self.normalized(x)?, shape, true);
        let Kept { mut a, inputs } = take(&self.kept).map_or_else(again, Ok)?;
        self.residual.backward_last(&mut a, d)?;
        let mut n = self.normalized(x)?;
        self.residual.backward_inner(&mut n, inputs, a, shape)?;
        let mut dx = vec![0.0; x.len()];
        let is_first = self.residual.is_first();
        layer_norm::backward(&self.norm, x, &n, (!is_first).then_some(d), self.eps, &mut dx)?;
        if is_first {
            add_to_first(&mut dx, d, tokens, width);
        }
        Ok(dx)
    }
}

impl PostNorm {
    pub(super) fn new(x: &Tensor, branch: &Branch<'_>, tape: Option<Arc<Tape>>) -> Result<Self> {
        let (norm, eps) = (branch.norm.affine.clone(), branch.norm.eps as f32);
        Ok(Self { norm, eps, residual: Residual::new(x, branch, tape)?, kept: Mutex::default() })
    }

    /// What the backward pass reads, `s = x + g ∘ f(x)`, and its shape.
    fn sum(&self, x: &[f32], shape: &Shape, slope: bool) -> Result<(Kept, Vec<f32>, Shape)> {
        let kept = self.residual.inner(x, shape, slope)?;
        let (s, shape) = self.residual.sum(x, shape, &kept.a)?;
        Ok((kept, s, shape))
    }
}

impl Kernel for PostNorm {
    const NAME: &'static str = "post-norm";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let (kept, mut s, shape) = self.sum(x, shape, self.residual.keeps())?;
        let mut y = self.residual.buffer(s.len());
        layer_norm::forward(&self.norm, &s, self.eps, &mut y)?;
        // The result leaves the pool, so the buffer keeps the sum.
        y.swap_with_slice(&mut s);
        if self.residual.keeps() {
            keep(&self.kept, (kept, y));
        }
        Ok((s, shape))
    }

    fn backward(&self, x: &[f32], shape: &Shape, d: &[f32], _: bool) -> Result<Vec<f32>> {
        let (_, tokens, width) = shape.dims3()?;
        let mut ds = self.residual.buffer(d.len());
        let again = || {
            let (kept, sum, _) = self.sum(x, shape, true)?;
            let mut s = self.residual.buffer(sum.len());
            s.copy_from_slice(&sum);
            Ok::<_, candle_core::Error>((kept, s))
        };
        let (Kept { mut a, inputs }, s) = take(&self.kept).map_or_else(again, Ok)?;
        layer_norm::backward(&self.norm, &s, d, None, self.eps, &mut ds)?;
        self.residual.backward_last(&mut a, &ds)?;
        let mut dn = self.residual.buffer(x.len());
        dn.copy_from_slice(x);
        self.residual.backward_inner(&mut dn, inputs, a, shape)?;
        if self.residual.is_first() {
            add_to_first(&mut dn, &ds, tokens, width);
        } else {
            add_to(&mut dn, &ds);
        }
        Ok(dn.to_vec())
    }
}

impl Factors {
    /// The factors of `gate` for a result of `[batch, tokens]` rows; `None` if the gate is open.
    fn new(gate: &Gate, [batch, tokens]: [usize; 2]) -> Result<Option<Self>> {
        let rows = |tensor: &Tensor| -> Result<Vec<f32>> {
            let (_, given, groups) = tensor.dims3()?;
            // A branch that computes one token uses only that token's factor.
            let tensor = if given > tokens { tensor.narrow(1, 0, tokens)? } else { tensor.clone() };
            tensor
                .detach()
                .to_dtype(DType::F32)?
                .broadcast_as((batch, tokens, groups))?
                .flatten_all()?
                .to_vec1()
        };
        let Gate { out, inner } = gate;
        let out = out.as_ref().map(rows).transpose()?;
        let Some(inner) = inner else {
            return Ok(out.map(|out| Self { inner: out.clone(), out, groups: 1 }));
        };
        let (groups, mut factors) = (inner.dims3()?.2, rows(inner)?);
        let out = out.unwrap_or_default();
        for (factors, g) in factors.chunks_exact_mut(groups).zip(&out) {
            for h in factors {
                *h *= g;
            }
        }
        Ok(Some(Self { out, inner: factors, groups }))
    }

    /// `a ← c ∘ a`
    fn scale(&self, a: &mut [f32]) {
        let rows = self.inner.len() / self.groups;
        scale_groups(&self.inner, a.len() / (rows * self.groups).max(1), a);
    }
}

simd::kernel! {
    /// `y ← x + g b` on every row; a missing `g` counts as 1.
    fn shift_rows<'a>(x: &'a [f32], b: &'a [f32], g: &'a [f32], y: &'a mut [f32]) {
        let width = b.len().max(1);
        for (row, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
            match g.get(row) {
                None => {
                    for ((y, x), b) in y.iter_mut().zip(x).zip(b) {
                        *y = x + b;
                    }
                }
                Some(g) => {
                    for ((y, x), b) in y.iter_mut().zip(x).zip(b) {
                        *y = g.mul_add(*b, *x);
                    }
                }
            }
        }
    }
}

simd::kernel! {
    /// Multiplies each run of `channels` values by its factor.
    fn scale_groups<'a>(factors: &'a [f32], channels: usize, a: &'a mut [f32]) {
        for (group, factor) in a.chunks_exact_mut(channels.max(1)).zip(factors) {
            for a in group {
                *a *= factor;
            }
        }
    }
}

simd::kernel! {
    /// `x ← x ∘ by`
    fn multiply_by<'a>(x: &'a mut [f32], by: &'a [f32]) {
        for (x, by) in x.iter_mut().zip(by) {
            *x *= by;
        }
    }
}

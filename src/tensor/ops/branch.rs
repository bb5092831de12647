//! The two residual branches of a pre-norm transformer block, one operation each.
//!
//! Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eqs. (2) and (3); `k` is stochastic depth, Huang et al. 2016
//! (arXiv 1603.09382): a factor per image, or 1.
//!
//! ```text
//! attention: n = LN(x), p = n W_qkvᵀ + b_qkv, o = softmax-attention(p),  y = x + k (o W_projᵀ + b_proj)
//! mlp:       n = LN(x), h = n W₁ᵀ + b₁,       a = GELU(h),               y = x + k (a W₂ᵀ + b₂)
//! ```
//!
//! Backward, with `g = ∂L/∂y` and `u = k g`:
//!
//! ```text
//! attention: ∂W_proj = uᵀ o, ∂o = u W_proj, ∂p = attention'(p, ∂o), ∂W_qkv = ∂pᵀ n, ∂n = ∂p W_qkv
//! mlp:       ∂W₂ = uᵀ a,     ∂a = u W₂,     ∂h = ∂a ∘ GELU'(h),     ∂W₁ = ∂hᵀ n,     ∂n = ∂h W₁
//! both:      ∂x = g + LN'(x, ∂n), ∂b the sums over rows
//! ```
//!
//! As one operation a branch keeps between the passes what the products read (`p`, `o`; `a`, `GELU'(h)`) and nothing
//! else, adds the residual for free, and hands candle one gradient instead of six. `n` is computed again.

mod class;

pub use class::class_attention_branch;

use super::attention::Geometry;
use super::node::{self, Kernel};
use super::parameter::Affine;
use super::{attention, fused, gelu, layer_norm, linear, naive, simd};
use crate::tensor::{Tape, Weight, matrix_view, tape::Buffer};
use candle_core::{Result, Shape, Tensor, bail};
use std::sync::{Arc, Mutex, PoisonError};

/// `x + keep · Proj(Attention(LayerNorm(x)))`
///
/// # Shapes
/// - `x` and the result: `[batch, tokens, width]`; `qkv`: `[3 * inner, width]`, rows being `(3, heads, head_dim)` as
///   in timm; `proj`: `[width, inner]`; `keep`: `[batch, 1, 1]`, constant
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn attention_branch(
    x: &Tensor,
    norm: &Affine,
    eps: f64,
    [qkv, proj]: [&Affine; 2],
    heads: usize,
    keep: Option<&Tensor>,
) -> Result<Tensor> {
    AttentionBranch::check_heads(qkv, proj, heads)?;
    check("attention", x, norm, [qkv, proj], keep)?;
    let weights = [norm, qkv, proj].map(Affine::weights).concat();
    if !fused(&[x], &weights) {
        let n = layer_norm::layer_norm(x, norm, eps)?;
        let o = attention::attention(&linear::linear(&n, qkv)?, heads)?;
        return naive::residual(x, &linear::linear(&o, proj)?, keep);
    }
    let tape = node::tape(&weights);
    let branch = Branch::new(norm, eps, keep, tape.clone())?;
    let kernel =
        AttentionBranch { branch, qkv: qkv.clone(), proj: proj.clone(), heads, kept: Mutex::default() };
    node::apply(x, tape.as_ref(), kernel)
}

/// `x + keep · Fc2(GELU(Fc1(LayerNorm(x))))`
///
/// # Shapes
/// - `x` and the result: `[batch, tokens, width]`; `fc1`: `[hidden, width]`; `fc2`: `[width, hidden]`; `keep`:
///   `[batch, 1, 1]`, constant
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn mlp_branch(
    x: &Tensor,
    norm: &Affine,
    eps: f64,
    [fc1, fc2]: [&Affine; 2],
    keep: Option<&Tensor>,
) -> Result<Tensor> {
    let (hidden, read) = (matrix_view(fc1.weight.dims())[0], matrix_view(fc2.weight.dims())[1]);
    if hidden != read {
        bail!("mlp: {hidden} rows of fc1 and {read} columns of fc2 do not fit");
    }
    check("mlp", x, norm, [fc1, fc2], keep)?;
    let weights = [norm, fc1, fc2].map(Affine::weights).concat();
    if !fused(&[x], &weights) {
        let h = linear::linear(&layer_norm::layer_norm(x, norm, eps)?, fc1)?;
        return naive::residual(x, &linear::linear(&gelu::gelu(&h)?, fc2)?, keep);
    }
    let tape = node::tape(&weights);
    let branch = Branch::new(norm, eps, keep, tape.clone())?;
    let kernel = MlpBranch { branch, fc1: fc1.clone(), fc2: fc2.clone(), kept: Mutex::default() };
    node::apply(x, tape.as_ref(), kernel)
}

fn check(
    op: &str,
    x: &Tensor,
    norm: &Affine,
    [first, last]: [&Affine; 2],
    keep: Option<&Tensor>,
) -> Result<()> {
    let (batch, _, width) = x.dims3()?;
    let of = |weight: &Weight| weight.dims().to_vec();
    let biases = [first, last].iter().all(|layer| layer.bias.dims() == [matrix_view(layer.weight.dims())[0]]);
    let ok = matrix_view(first.weight.dims())[1] == width
        && matrix_view(last.weight.dims())[0] == width
        && norm.weight.dims() == [width]
        && norm.bias.dims() == [width]
        && biases
        && keep.is_none_or(|keep| keep.elem_count() == batch);
    if !ok {
        let (norm, first, last) = (of(&norm.weight), of(&first.weight), of(&last.weight));
        bail!("{op}: x {:?}, norm {norm:?} and weights {first:?}, {last:?} do not fit", x.dims());
    }
    Ok(())
}

/// What the branches have in common.
struct Branch {
    norm: Affine,
    eps: f32,
    keep: Option<Vec<f32>>,
    tape: Option<Arc<Tape>>,
}

impl Branch {
    fn new(norm: &Affine, eps: f64, keep: Option<&Tensor>, tape: Option<Arc<Tape>>) -> Result<Self> {
        let keep = keep.map(|keep| keep.flatten_all()?.to_vec1()).transpose()?;
        Ok(Self { norm: norm.clone(), eps: eps as f32, keep, tape })
    }

    fn buffer(&self, len: usize) -> Buffer {
        Buffer::new(self.tape.as_ref(), len)
    }

    /// Whether something is kept for a backward pass.
    fn keeps(&self) -> bool {
        self.tape.as_ref().is_some_and(|tape| !tape.recompute())
    }

    /// `n = LN(x)`
    fn norm(&self, x: &[f32]) -> Result<Buffer> {
        let mut n = self.buffer(x.len());
        layer_norm::forward(&self.norm, x, self.eps, &mut n)?;
        Ok(n)
    }

    /// `y = x + k (z Wᵀ + b)`
    fn residual(&self, x: &[f32], z: &[f32], last: &Affine) -> Result<Vec<f32>> {
        let mut y = vec![0.0; x.len()];
        let Some(keep) = &self.keep else {
            shift_rows(x, &last.bias.values().to_vec()?, &mut y);
            linear::add_forward(last, z, &mut y)?;
            return Ok(y);
        };
        linear::forward(last, z, &mut y)?;
        let image = (x.len() / keep.len().max(1)).max(1);
        for ((y, x), k) in y.chunks_exact_mut(image).zip(x.chunks_exact(image)).zip(keep) {
            scale_and_add(x, *k, y);
        }
        Ok(y)
    }

    /// `u = k g`; `None` where it is `g`.
    fn scaled(&self, g: &[f32]) -> Option<Buffer> {
        let keep = self.keep.as_ref()?;
        let mut u = self.buffer(g.len());
        let image = (g.len() / keep.len().max(1)).max(1);
        for ((u, g), k) in u.chunks_exact_mut(image).zip(g.chunks_exact(image)).zip(keep) {
            u.iter_mut().zip(g).for_each(|(u, g)| *u = k * g);
        }
        Some(u)
    }

    /// The gradient to `x` from the one to the first layer's result.
    fn backward(&self, x: &[f32], g: &[f32], first: &Affine, d: &[f32]) -> Result<Vec<f32>> {
        let mut n = self.norm(x)?;
        linear::backward_weights(first, &n, d)?;
        linear::backward_input(first, d, &mut n)?;
        let mut dx = vec![0.0; x.len()];
        layer_norm::backward(&self.norm, x, &n, Some(g), self.eps, &mut dx)?;
        Ok(dx)
    }
}

struct AttentionBranch {
    branch: Branch,
    qkv: Affine,
    proj: Affine,
    heads: usize,
    kept: Mutex<Option<[Buffer; 2]>>,
}

impl AttentionBranch {
    fn check_heads(qkv: &Affine, proj: &Affine, heads: usize) -> Result<()> {
        let (packed, inner) = (matrix_view(qkv.weight.dims())[0], matrix_view(proj.weight.dims())[1]);
        if heads == 0 || inner == 0 || packed != 3 * inner || !inner.is_multiple_of(heads) {
            bail!("attention: {packed} rows of qkv and {inner} columns of proj do not make {heads} heads");
        }
        Ok(())
    }

    fn geometry(&self, tokens: usize) -> Geometry {
        let head_dim = matrix_view(self.proj.weight.dims())[1] / self.heads;
        Geometry { tokens, heads: self.heads, kv_heads: self.heads, head_dim, causal: false }
    }

    /// `[p, o]`
    fn inner(&self, x: &[f32], tokens: usize) -> Result<[Buffer; 2]> {
        let [inputs, inner] =
            [matrix_view(self.qkv.weight.dims())[1], matrix_view(self.proj.weight.dims())[1]];
        let rows = x.len() / inputs.max(1);
        let mut p = self.branch.buffer(rows * 3 * inner);
        linear::forward(&self.qkv, &self.branch.norm(x)?, &mut p)?;
        let mut o = self.branch.buffer(rows * inner);
        attention::forward(self.geometry(tokens), &p, None, &mut o);
        Ok([p, o])
    }
}

impl Kernel for AttentionBranch {
    const NAME: &'static str = "attention-branch";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let inner = self.inner(x, shape.dims3()?.1)?;
        let y = self.branch.residual(x, &inner[1], &self.proj)?;
        if self.branch.keeps() {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(inner);
        }
        Ok((y, shape.clone()))
    }

    fn backward(&self, x: &[f32], shape: &Shape, g: &[f32], _: bool) -> Result<Vec<f32>> {
        let tokens = shape.dims3()?.1;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let [p, mut o] = kept.map_or_else(|| self.inner(x, tokens), Ok)?;
        let scaled = self.branch.scaled(g);
        let u = scaled.as_deref().unwrap_or(g);
        linear::backward_weights(&self.proj, &o, u)?;
        linear::backward_input(&self.proj, u, &mut o)?;
        let mut dp = self.branch.buffer(p.len());
        attention::backward(self.geometry(tokens), &p, None, &o, &mut dp);
        self.branch.backward(x, g, &self.qkv, &dp)
    }
}

struct MlpBranch {
    branch: Branch,
    fc1: Affine,
    fc2: Affine,
    kept: Mutex<Option<[Buffer; 2]>>,
}

impl MlpBranch {
    /// `h`
    fn hidden(&self, x: &[f32]) -> Result<Buffer> {
        let [hidden, inputs] = matrix_view(self.fc1.weight.dims());
        let mut h = self.branch.buffer(x.len() / inputs.max(1) * hidden);
        linear::forward(&self.fc1, &self.branch.norm(x)?, &mut h)?;
        Ok(h)
    }

    /// `[a, GELU'(h)]`
    fn inner(&self, x: &[f32]) -> Result<[Buffer; 2]> {
        let mut h = self.hidden(x)?;
        let mut slope = self.branch.buffer(h.len());
        gelu::with_slope(&mut h, &mut slope);
        Ok([h, slope])
    }
}

impl Kernel for MlpBranch {
    const NAME: &'static str = "mlp-branch";

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        if !self.branch.keeps() {
            let mut h = self.hidden(x)?;
            gelu::in_place(&mut h);
            return Ok((self.branch.residual(x, &h, &self.fc2)?, shape.clone()));
        }
        let inner = self.inner(x)?;
        let y = self.branch.residual(x, &inner[0], &self.fc2)?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(inner);
        Ok((y, shape.clone()))
    }

    fn backward(&self, x: &[f32], _: &Shape, g: &[f32], _: bool) -> Result<Vec<f32>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let [mut a, slope] = kept.map_or_else(|| self.inner(x), Ok)?;
        let scaled = self.branch.scaled(g);
        let u = scaled.as_deref().unwrap_or(g);
        linear::backward_weights(&self.fc2, &a, u)?;
        linear::backward_input(&self.fc2, u, &mut a)?;
        multiply_by(&mut a, &slope);
        self.branch.backward(x, g, &self.fc1, &a)
    }
}

simd::kernel! {
    /// `y ← x + b` on every row.
    fn shift_rows<'a>(x: &'a [f32], b: &'a [f32], y: &'a mut [f32]) {
        let width = b.len().max(1);
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for ((y, x), b) in y.iter_mut().zip(x).zip(b) {
                *y = x + b;
            }
        }
    }
}

simd::kernel! {
    /// `y ← x + k y`
    fn scale_and_add<'a>(x: &'a [f32], k: f32, y: &'a mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = k.mul_add(*y, *x);
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

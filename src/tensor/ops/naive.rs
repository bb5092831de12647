//! The same operations as compositions of stock differentiable candle operations.
//!
//! They serve other devices and dtypes, and in `f64` they are the oracle of the tests. None of them uses an
//! operation of candle that cuts the graph (`LayerNorm`, `softmax_last_dim`, `sdpa`), and GELU is written with
//! `erf` because the derivative of candle's `gelu_erf` rounds `1/√(2π)` to six digits.

use candle_core::{D, Result, Tensor};

/// `x Wᵀ + b`; see [`super::linear`].
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    x.reshape(((), inputs))?.matmul(&weight.t()?)?.broadcast_add(bias)?.reshape(dims)
}

/// `(x - mean) / √(variance + eps) · w + b`; see [`super::layer_norm`].
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centered.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normal.broadcast_mul(weight)?.broadcast_add(bias)
}

/// `x Φ(x)`; see [`super::gelu`].
pub(super) fn gelu(x: &Tensor) -> Result<Tensor> {
    let normal_cdf = (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
    x * normal_cdf
}

/// `softmax(q kᵀ / √head_dim) v`; see [`super::attention`].
pub(super) fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, packed) = qkv.dims3()?;
    let width = packed / 3;
    let head_dim = width / heads;
    let qkv = qkv.reshape((batch, tokens, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| qkv.get(i)?.contiguous(); // [batch, heads, tokens, head_dim]
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (head_dim as f64).sqrt())?;
    let weights = log_softmax(&scores)?.exp()?;
    weights.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((batch, tokens, width))
}

/// `[class; x] + positions`; see [`super::sequence()`].
pub(super) fn sequence(x: &Tensor, class: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let (batch, _, width) = x.dims3()?;
    Tensor::cat(&[&class.expand((batch, 1, width))?, x], 1)?.broadcast_add(positions)
}

/// `x + keep · branch`, with a factor per image.
pub(super) fn residual(x: &Tensor, branch: &Tensor, keep: Option<&Tensor>) -> Result<Tensor> {
    match keep {
        Some(keep) => x + branch.broadcast_mul(&keep.detach())?,
        None => x + branch,
    }
}

/// Mean over the batch of `-Σ t log softmax(z)`; see [`super::cross_entropy`].
pub(super) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let batch = logits.dims2()?.0;
    (log_softmax(logits)? * targets.detach())?.sum_all()? * (-1.0 / batch as f64)
}

/// `T²` times the mean over the batch of `KL(softmax(t/T) ‖ softmax(s/T))`; see [`super::kl_divergence`].
pub(super) fn kl_divergence(teacher: &Tensor, student: &Tensor, temperature: f64) -> Result<Tensor> {
    let batch = student.dims2()?.0;
    let teacher = log_softmax(&(teacher.detach() / temperature)?)?;
    let student = log_softmax(&(student / temperature)?)?;
    let difference = (&teacher - student)?;
    (teacher.exp()? * difference)?.sum_all()? * (temperature * temperature / batch as f64)
}

/// `z - log Σ eᶻ` over the last axis.
fn log_softmax(z: &Tensor) -> Result<Tensor> {
    // The value does not depend on the shift, so the maximum needs no gradient.
    let shifted = z.broadcast_sub(&z.max_keepdim(D::Minus1)?.detach())?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

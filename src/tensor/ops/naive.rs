//! The same operations as compositions of stock differentiable candle operations.
//!
//! They serve other devices and dtypes, and in `f64` they are the oracle of the tests. None of them uses a candle
//! operation that cuts the graph (`LayerNorm`, `softmax_last_dim`, `sdpa`). GELU is written with `erf` because the
//! derivative of candle's `gelu_erf` rounds `1/√(2π)` to six digits.

use super::attention::Geometry;
use super::rotary::Rotary;
use candle_core::{D, DType, Result, Tensor};

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
    if let Some(wide) = widened(x)? {
        let (weight, bias) = (weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?);
        return layer_norm(&wide, &weight, &bias, eps)?.to_dtype(x.dtype());
    }
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

/// `x / √(mean(x²) + eps) · w`; see [`super::rms_norm`].
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// `x σ(x)`; see [`super::silu`].
pub(super) fn silu(x: &Tensor) -> Result<Tensor> {
    // σ(x) = (1 + tanh(x/2)) / 2 never overflows.
    x * (((x * 0.5)?.tanh()? + 1.0)? * 0.5)?
}

/// `silu(gate) · up`; see [`super::swiglu`].
pub(super) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let hidden = gate_up.dim(D::Minus1)? / 2;
    silu(&gate_up.narrow(D::Minus1, 0, hidden)?)? * gate_up.narrow(D::Minus1, hidden, hidden)?
}

/// Each pair of channels turned by its angle; see [`super::rope`].
pub(super) fn rope(x: &Tensor, heads: usize, rotary: &Rotary) -> Result<Tensor> {
    let (batch, tokens, channels) = x.dims3()?;
    let (head_dim, half) = (rotary.head_dim(), rotary.head_dim() / 2);
    let turned = heads * head_dim;
    let angles = Tensor::new(&rotary.table()[..tokens * head_dim], x.device())?
        .to_dtype(x.dtype())?
        .reshape((tokens, 1, head_dim))?;
    let (cos, sin) = (angles.narrow(2, 0, half)?, angles.narrow(2, half, half)?);
    let pairs = x.narrow(2, 0, turned)?.reshape((batch, tokens, heads, head_dim))?;
    let (a, b) = (pairs.narrow(3, 0, half)?, pairs.narrow(3, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let out = Tensor::cat(&[first, second], 3)?.reshape((batch, tokens, turned))?;
    if turned == channels {
        return Ok(out);
    }
    Tensor::cat(&[out, x.narrow(2, turned, channels - turned)?], 2)
}

/// `softmax(q kᵀ / √head_dim + mask) v`; see [`super::attention_with`].
pub(super) fn attention(qkv: &Tensor, geometry: Geometry, keys: Option<&Tensor>) -> Result<Tensor> {
    let Geometry { tokens, heads, kv_heads, head_dim, causal } = geometry;
    let batch = qkv.dims3()?.0;
    // [batch, heads, tokens, head_dim], each key and value head repeated for its group of queries
    let part = |first: usize, count: usize| {
        qkv.narrow(2, first * head_dim, count * head_dim)?
            .reshape((batch, tokens, count, 1, head_dim))?
            .permute((0, 2, 3, 1, 4))?
            .expand((batch, count, heads / count, tokens, head_dim))?
            .reshape((batch, heads, tokens, head_dim))
    };
    let (q, k, v) = (part(0, heads)?, part(heads, kv_heads)?, part(heads + kv_heads, kv_heads)?);
    let mut scores = (q.matmul(&k.t()?.contiguous()?)? / (head_dim as f64).sqrt())?;
    let visible = visible(qkv, tokens, causal, keys)?;
    if let Some(visible) = &visible {
        // Below every score but finite, so that a query that sees no key does not produce NaN.
        let hidden = if qkv.dtype() == DType::F16 { 6e4 } else { 1e30 };
        scores = scores.broadcast_mul(visible)?.broadcast_add(&((visible - 1.0)? * hidden)?)?;
    }
    let mut weights = log_softmax(&scores)?.exp()?;
    if let Some(visible) = &visible {
        weights = weights.broadcast_mul(visible)?;
    }
    weights.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((batch, tokens, heads * head_dim))
}

/// 1 where a query sees a key and 0 elsewhere, `[batch or 1, 1, tokens or 1 (queries), tokens (keys)]`.
fn visible(qkv: &Tensor, tokens: usize, causal: bool, keys: Option<&Tensor>) -> Result<Option<Tensor>> {
    let keys = keys
        .map(|keys| keys.detach().ne(0.0)?.to_dtype(qkv.dtype())?.reshape(((), 1, 1, tokens)))
        .transpose()?;
    if !causal {
        return Ok(keys);
    }
    let lower = Tensor::tril2(tokens, qkv.dtype(), qkv.device())?.reshape((1, 1, tokens, tokens))?;
    keys.map_or(Ok(lower.clone()), |keys| keys.broadcast_mul(&lower)).map(Some)
}

/// `[class; x] + positions`; see [`super::sequence()`].
pub(super) fn sequence(x: &Tensor, class: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let (batch, _, width) = x.dims3()?;
    Tensor::cat(&[&class.expand((batch, 1, width))?, x], 1)?.broadcast_add(positions)
}

/// `word[id] + kind[0] + position`; see [`super::embedding()`].
pub(super) fn embedding(ids: &Tensor, words: &Tensor, positions: &Tensor, kinds: &Tensor) -> Result<Tensor> {
    let ((batch, tokens), width) = (ids.dims2()?, words.dim(1)?);
    let words = words.index_select(&ids.flatten_all()?, 0)?.reshape((batch, tokens, width))?;
    words.broadcast_add(&kinds.narrow(0, 0, 1)?)?.broadcast_add(&positions.narrow(0, 0, tokens)?)
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

/// Half-precision values as `f32`; `None` for other dtypes.
fn widened(x: &Tensor) -> Result<Option<Tensor>> {
    let half = matches!(x.dtype(), DType::BF16 | DType::F16);
    half.then(|| x.to_dtype(DType::F32)).transpose()
}

/// `z - log Σ eᶻ` over the last axis.
fn log_softmax(z: &Tensor) -> Result<Tensor> {
    if let Some(wide) = widened(z)? {
        return log_softmax(&wide)?.to_dtype(z.dtype());
    }
    // The value does not depend on the shift, so the maximum needs no gradient.
    let shifted = z.broadcast_sub(&z.max_keepdim(D::Minus1)?.detach())?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

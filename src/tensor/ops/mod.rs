//! Stock operations, for the first path through the whole program.

use candle_core::{D, Result, Tensor};

/// `y = x Wᵀ + b`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let (rows, inner) = (x.elem_count() / dims[dims.len() - 1], dims[dims.len() - 1]);
    let y = x.reshape((rows, inner))?.matmul(&weight.t()?)?.broadcast_add(bias)?;
    let mut shape = dims;
    *shape.last_mut().expect("rank") = weight.dim(0)?;
    y.reshape(shape)
}

/// LayerNorm.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let c = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let v = c.sqr()?.mean_keepdim(D::Minus1)?;
    c.broadcast_div(&(v + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// erf GELU.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// attention
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, w3) = qkv.dims3()?;
    let d = w3 / 3 / heads;
    let x = qkv.reshape((b, n, 3, heads, d))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
    let (q, k, v) = (x.get(0)?, x.get(1)?, x.get(2)?);
    let s = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * (1.0 / (d as f64).sqrt()))?;
    softmax(&s)?.matmul(&v)?.transpose(1, 2)?.reshape((b, n, w3 / 3))
}

fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let c = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    c.broadcast_sub(&c.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// cross entropy
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    (log_softmax(logits)? * targets)?.sum(D::Minus1)?.neg()?.mean_all()
}

/// kl
pub fn kl_divergence(teacher: &Tensor, student: &Tensor, temperature: f64) -> Result<Tensor> {
    let t = log_softmax(&(teacher / temperature)?)?.detach();
    let s = log_softmax(&(student / temperature)?)?;
    (t.exp()? * (t - s)?)?.sum(D::Minus1)?.mean_all()? * (temperature * temperature)
}

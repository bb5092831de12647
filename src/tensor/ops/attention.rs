//! Softmax attention on packed queries, keys and values, Vaswani et al. 2017, eq. (1), arXiv 1706.03762. There may be
//! fewer key and value heads than query heads, Ainslie et al. 2023, arXiv 2305.13245.
//!
//! Per head, with `c = 1/√head_dim`: `P = softmax(c q kᵀ + M)`, `o = P v`, where `M` is `-∞` for the keys that a query
//! does not see and 0 for the others; a query that sees no key has `P = 0`. Backward, with `g = ∂L/∂o`: `∂L/∂v = Pᵀ g`,
//! `D = g vᵀ`, `∂L/∂s = P ∘ (D - rowsum(P ∘ D))`, `∂L/∂q = c ∂L/∂s k`, `∂L/∂k = c (∂L/∂s)ᵀ q`. The gradients of `k` and
//! `v` are summed over the query heads of a group.
//!
//! | symbol | scratch | shape |
//! | --- | --- | --- |
//! | Pᵀ; Dᵀ, then ∂L/∂sᵀ | `weights`; `scores` | `[tokens (keys), padded tokens (queries)]` |
//! | qᵀ, gᵀ | `across` | `[head_dim, padded tokens]` |
//! | v, g, k, q | `along` | `[tokens, padded head_dim]` |
//!
//! The token matrices are stored transposed, with queries along the vector. The maximum and the sums of a softmax then
//! run down the rows for a whole vector of queries at a time. Padded queries never reach a result.
//!
//! The backward pass computes P again. That is one of six small products, all in the first-level cache; storing P would
//! mean writing and reading `heads · tokens²` values per image. Scratch holds one head at a time, and `qkv` is read in
//! place.

mod kernel;
mod softmax;

pub(super) use kernel::{Geometry, backward, forward};

use super::node::{self, Kernel};
use super::{fused, naive, values};
use candle_core::{DType, Result, Shape, Tensor, bail};

/// Which keys a query sees; by default all.
#[derive(Debug, Clone, Default)]
pub struct Mask {
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// A query sees only keys that are not zero here: `[batch, tokens]`, a constant of any dtype.
    pub keys: Option<Tensor>,
}

/// How an attention divides its packed channels into heads, and what its queries see.
#[derive(Debug, Clone)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`. Each serves a group of `heads / kv_heads` neighbouring query heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Which keys a query sees.
    pub mask: Mask,
}

/// `softmax(q kᵀ / √head_dim) v` for each head, every token attending to every token.
///
/// # Shapes
/// - `qkv`: `[batch, tokens, 3 * width]`, where the last axis is `(3, heads, head_dim)` as in timm
/// - result: `[batch, tokens, width]`
///
/// # Errors
/// If the last axis cannot be split that way.
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, _, packed) = qkv.dims3()?;
    if heads == 0 || packed == 0 || packed % (3 * heads) != 0 {
        bail!("attention: the last axis of {:?} is not 3 x {heads} heads", qkv.dims());
    }
    let head_dim = packed / (3 * heads);
    attention_with(qkv, &AttentionShape { heads, kv_heads: heads, head_dim, mask: Mask::default() })
}

/// `softmax(q kᵀ / √head_dim + mask) v` for each head; zero for a query that sees no key.
///
/// # Shapes
/// - `qkv`: `[batch, tokens, (heads + 2 * kv_heads) * head_dim]`, where the last axis holds the query heads, then the
///   key heads, then the value heads
/// - result: `[batch, tokens, heads * head_dim]`
///
/// # Errors
/// If the last axis cannot be split that way, or the mask has the wrong shape.
pub fn attention_with(qkv: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let (batch, tokens, packed) = qkv.dims3()?;
    let AttentionShape { heads, kv_heads, head_dim, mask: Mask { causal, keys } } = shape;
    let (heads, kv_heads, head_dim, causal) = (*heads, *kv_heads, *head_dim, *causal);
    let channels = kv_heads
        .checked_mul(2)
        .and_then(|kv| heads.checked_add(kv))
        .and_then(|all| all.checked_mul(head_dim));
    if kv_heads == 0 || packed == 0 || !heads.is_multiple_of(kv_heads) || channels != Some(packed) {
        bail!(
            "attention: the last axis of {:?} is not {heads} + 2 x {kv_heads} heads of {head_dim}",
            qkv.dims()
        );
    }
    if let Some(keys) = keys
        && keys.dims() != [batch, tokens]
    {
        bail!("attention: the mask {:?} is not one of the keys of {:?}", keys.dims(), qkv.dims());
    }
    let geometry = Geometry { tokens, heads, kv_heads, head_dim, causal };
    if !fused(&[qkv], &[]) || keys.as_ref().is_some_and(|keys| !keys.device().is_cpu()) {
        return naive::attention(qkv, geometry, keys.as_ref());
    }
    let keys = keys.as_ref().map(|keys| keys.detach().to_dtype(DType::F32)?.contiguous()).transpose()?;
    node::apply(qkv, None, Attention { geometry, keys })
}

struct Attention {
    geometry: Geometry,
    keys: Option<Tensor>,
}

impl Attention {
    /// Calls `kernel` with the mask.
    fn with_keys(&self, kernel: impl FnOnce(Option<&[f32]>)) -> Result<()> {
        match &self.keys {
            None => kernel(None),
            Some(keys) => {
                let (storage, layout) = keys.storage_and_layout();
                kernel(Some(values(&storage, layout)?));
            }
        }
        Ok(())
    }
}

impl Kernel for Attention {
    const NAME: &'static str = "attention";

    fn forward(&self, qkv: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)> {
        let (batch, tokens, _) = shape.dims3()?;
        let shape = Shape::from((batch, tokens, self.geometry.width()));
        let mut out = vec![0.0; shape.elem_count()];
        self.with_keys(|keys| forward(self.geometry, qkv, keys, &mut out))?;
        Ok((out, shape))
    }

    fn backward(&self, qkv: &[f32], _: &Shape, grad: &[f32], _: bool) -> Result<Vec<f32>> {
        let mut dqkv = vec![0.0; qkv.len()];
        self.with_keys(|keys| backward(self.geometry, qkv, keys, grad, &mut dqkv))?;
        Ok(dqkv)
    }
}

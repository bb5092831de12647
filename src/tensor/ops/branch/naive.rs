//! A branch composed of single operations.
//!
//! Gradients reach everything that is tracked, including the gates.

use candle_core::{Result, Tensor};

use super::data::{Branch, Core, Gate, Norm, Rows};
use crate::tensor::ops::{AttentionShape, Mask, attention_with, gelu, layer_norm, linear};

/// See [`super::pre_norm`].
pub(super) fn pre_norm(x: &Tensor, branch: &Branch<'_>) -> Result<Tensor> {
    let Norm { affine, eps } = branch.norm;
    sum(x, &layer_norm(x, affine, eps)?, branch)
}

/// See [`super::post_norm`].
pub(super) fn post_norm(x: &Tensor, branch: &Branch<'_>) -> Result<Tensor> {
    let Norm { affine, eps } = branch.norm;
    layer_norm(&sum(x, x, branch)?, affine, eps)
}

/// `x + g ∘ f(n)`
fn sum(x: &Tensor, n: &Tensor, Branch { core, gate, .. }: &Branch<'_>) -> Result<Tensor> {
    let [first, last] = core.layers();
    let inputs = linear(n, first)?;
    let a = match core {
        Core::Attention { heads, keys, .. } => {
            let head_dim = inputs.dim(2)? / (3 * heads);
            let mask = Mask { causal: false, keys: keys.cloned() };
            attention_with(&inputs, &AttentionShape { heads: *heads, kv_heads: *heads, head_dim, mask })?
        }
        Core::Gelu { .. } => gelu(&inputs)?,
    };
    let rows = |t: &Tensor| match core.rows() {
        Rows::All => Ok(t.clone()),
        Rows::First => t.narrow(1, 0, 1),
    };
    let Gate { out, inner } = gate;
    let a = match inner {
        None => rows(&a)?,
        Some(h) => grouped(&rows(&a)?, &row_factors(h, core.rows())?)?,
    };
    let branch = linear(&a, last)?;
    match out {
        None => rows(x)? + branch,
        Some(g) => rows(x)? + branch.broadcast_mul(&row_factors(g, core.rows())?.to_dtype(x.dtype())?)?,
    }
}

/// The gate's factors for the rows that are computed.
fn row_factors(gate: &Tensor, rows: Rows) -> Result<Tensor> {
    match rows {
        Rows::All => Ok(gate.clone()),
        Rows::First => gate.narrow(1, 0, 1),
    }
}

/// `h ∘ a`, with one factor for each of the equal groups of channels.
///
/// # Shapes
/// - `a`: `[batch, tokens, inner]`; `h`: `[batch or 1, tokens or 1, groups]`
fn grouped(a: &Tensor, h: &Tensor) -> Result<Tensor> {
    let ((batch, tokens, inner), groups) = (a.dims3()?, h.dims3()?.2);
    let a = a.reshape((batch, tokens, groups, inner / groups))?;
    a.broadcast_mul(&h.to_dtype(a.dtype())?.unsqueeze(3)?)?.reshape((batch, tokens, inner))
}

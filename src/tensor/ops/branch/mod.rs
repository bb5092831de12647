//! A residual branch as data, and its two executors: [`fused`] (one operation on the CPU in f32) and [`naive`] (stock
//! operations, for other devices and dtypes and for learned gates).
//!
//! Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eqs. (2) and (3); post-norm as in Vaswani et al. 2017
//! (arXiv 1706.03762), section 3.1.
//!
//! ```text
//! f(n) = W_o (h ∘ a) + b_o       a = core(n)
//! pre-norm:   y = x + g ∘ f(LN(x))
//! post-norm:  y = LN(x + g ∘ f(x))
//!
//! attention:  a = softmax-attention(W_qkv n + b_qkv)
//! mlp:        a = GELU(W_1 n + b_1)
//! ```
//!
//! | symbol | here | shape |
//! | --- | --- | --- |
//! | `x`, `y` | argument and result of [`pre_norm`] and [`post_norm`] | `[batch, tokens, width]` |
//! | `a` | what the last layer reads | `[batch, tokens, inner]` |
//! | `W_o`, `b_o` | `proj`, `fc2` | `[width, inner]`, `[width]` |
//! | `g` | [`Gate::out`] | `[batch or 1, tokens or 1, 1]` |
//! | `h` | [`Gate::inner`] | `[batch or 1, tokens or 1, groups]` |
//!
//! Values of `g` and `h` express stochastic depth and the routing of tokens, heads and experts. `g` is applied before
//! the last product, `(x + g b_o) + W_o (g h ∘ a)`, so that a gate of ones gives the same bits as no gate.

mod data;
mod first;
mod fused;
mod naive;

pub use data::{Branch, Core, Gate, Norm, Rows};

use candle_core::{Result, Tensor};

use super::{fused as can_fuse, node};

/// `x + g ∘ f(norm(x))`
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`; result: the same, or `[batch, 1, width]` for [`Rows::First`]
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn pre_norm(x: &Tensor, branch: &Branch<'_>) -> Result<Tensor> {
    branch.check(x)?;
    let weights = branch.weights();
    if !can_fuse(&[x], &weights) || branch.gate.is_learned() {
        return naive::pre_norm(x, branch);
    }
    let tape = node::tape(&weights);
    node::apply(x, tape.as_ref(), fused::PreNorm::new(x, branch, tape.clone())?)
}

/// `norm(x + g ∘ f(x))`
///
/// # Shapes
/// - As for [`pre_norm`].
///
/// # Errors
/// If the shapes, dtypes or devices do not fit.
pub fn post_norm(x: &Tensor, branch: &Branch<'_>) -> Result<Tensor> {
    branch.check(x)?;
    let weights = branch.weights();
    if !can_fuse(&[x], &weights) || branch.gate.is_learned() {
        return naive::post_norm(x, branch);
    }
    let tape = node::tape(&weights);
    node::apply(x, tape.as_ref(), fused::PostNorm::new(x, branch, tape.clone())?)
}

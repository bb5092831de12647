//! Linear and LayerNorm: named weights around the operations of [`crate::tensor::ops`].

use candle_core::{Result, Tensor};

use crate::{
    error::{self, Context as _},
    tensor::{
        Weight, Weights,
        ops::{self, Affine, Norm},
    },
};

use super::schema::{BIAS, WEIGHT};

/// `{prefix}.weight` and `{prefix}.bias`.
fn affine(weights: &Weights, prefix: &str) -> error::Result<Affine> {
    let get = |part: &str| weights.get(&format!("{prefix}.{part}")).cloned();
    Ok(Affine { weight: get(WEIGHT)?, bias: get(BIAS)? })
}

/// `y = x Wᵀ + b`.
#[derive(Debug, Clone)]
pub struct Linear(Affine);

impl Linear {
    /// Takes `{prefix}.weight` in its `[out, in]` matrix view, and `{prefix}.bias`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, prefix: &str) -> error::Result<Self> {
        affine(weights, prefix).map(Self)
    }

    /// The layers called `prefixes` as one whose outputs follow one another. Nothing is copied.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`], or [`error::Error::Tensor`] if they differ in their inputs.
    pub fn stacked(weights: &Weights, prefixes: &[String]) -> error::Result<Self> {
        let parts = prefixes.iter().map(|prefix| affine(weights, prefix));
        let parts = parts.collect::<error::Result<Vec<_>>>()?;
        let outputs: usize = parts.iter().map(|part| part.bias.elem_count()).sum();
        let inputs = parts.first().and_then(|part| part.weight.dims().last().copied()).unwrap_or_default();
        let stack = |shape: &[usize], of: fn(&Affine) -> &Weight| {
            Weight::stack(shape, parts.iter().map(|part| of(part).clone()).collect())
                .context("stacked layers")
        };
        let (weight, bias) =
            (stack(&[outputs, inputs], |part| &part.weight)?, stack(&[outputs], |part| &part.bias)?);
        Ok(Self(Affine { weight, bias }))
    }

    /// # Shapes
    /// `x`: `[.., in]`; result: `[.., out]`.
    ///
    /// # Errors
    /// A candle error if shapes disagree.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.0)
    }

    pub(super) const fn affine(&self) -> &Affine {
        &self.0
    }
}

/// `y = (x - mean) / sqrt(var + eps) * weight + bias` over the last axis.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    affine: Affine,
    eps: f64,
}

impl LayerNorm {
    /// Takes `{prefix}.weight` and `{prefix}.bias`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, prefix: &str, eps: f64) -> error::Result<Self> {
        Ok(Self { affine: affine(weights, prefix)?, eps })
    }

    /// # Shapes
    /// `x`: `[.., width]`; result: the same.
    ///
    /// # Errors
    /// A candle error if shapes disagree.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.affine, self.eps)
    }

    /// This norm in the form that a branch takes.
    pub(super) const fn of_branch(&self) -> Norm<'_> {
        Norm { affine: &self.affine, eps: self.eps }
    }
}

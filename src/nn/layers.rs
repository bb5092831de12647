//! Linear and LayerNorm: named weights around the operations of [`crate::tensor::ops`].

use candle_core::{Result, Tensor};

use crate::{
    error,
    tensor::{
        Weights,
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
    pub(super) const fn before(&self) -> Norm<'_> {
        Norm { affine: &self.affine, eps: self.eps }
    }
}

//! Linear and LayerNorm: named weights around the operations of [`crate::tensor::ops`].

use candle_core::{Result, Tensor};

use crate::{
    error,
    tensor::{
        Weights,
        ops::{self, Affine},
    },
};

use super::config::NORM_EPS;

/// `{prefix}.weight` and `{prefix}.bias`.
fn affine(weights: &Weights, prefix: &str) -> error::Result<Affine> {
    let get = |part: &str| weights.get(&format!("{prefix}.{part}")).cloned();
    Ok(Affine { weight: get("weight")?, bias: get("bias")? })
}

/// `y = x Wᵀ + b`.
#[derive(Debug, Clone)]
pub struct Linear(Affine);

impl Linear {
    /// Takes `{prefix}.weight`, as its `[out, in]` matrix view, and `{prefix}.bias`.
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
    /// candle's, where shapes disagree.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.0)
    }

    pub(super) const fn affine(&self) -> &Affine {
        &self.0
    }
}

/// `y = (x - mean) / sqrt(var + eps) * weight + bias` over the last axis.
#[derive(Debug, Clone)]
pub struct LayerNorm(Affine);

impl LayerNorm {
    /// Takes `{prefix}.weight` and `{prefix}.bias`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, prefix: &str) -> error::Result<Self> {
        affine(weights, prefix).map(Self)
    }

    /// # Shapes
    /// `x`: `[.., width]`; result: the same.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.0, NORM_EPS)
    }

    pub(super) const fn affine(&self) -> &Affine {
        &self.0
    }
}

//! Linear and LayerNorm: named weights around the operations of [`crate::tensor::ops`].

use candle_core::{Result, Tensor};

use crate::{
    error,
    tensor::{Weights, ops},
};

use super::config::NORM_EPS;

/// `y = x Wᵀ + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor, // [out, in]
    bias: Tensor,   // [out]
}

impl Linear {
    /// Takes `{prefix}.weight`, flattened to `[out, in]`, and `{prefix}.bias`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`], or [`error::Error::Tensor`] where the weight has no rows.
    pub fn new(weights: &Weights, prefix: &str) -> error::Result<Self> {
        use error::Context as _;
        let weight = weights.get(&format!("{prefix}.weight"))?.flatten_from(1).context(prefix)?;
        Ok(Self { weight, bias: weights.get(&format!("{prefix}.bias"))?.clone() })
    }

    /// # Shapes
    /// `x`: `[.., in]`; result: `[.., out]`.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, &self.bias)
    }
}

/// `y = (x - mean) / sqrt(var + eps) * weight + bias` over the last axis.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor, // [width]
    bias: Tensor,   // [width]
}

impl LayerNorm {
    /// Takes `{prefix}.weight` and `{prefix}.bias`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, prefix: &str) -> error::Result<Self> {
        let get = |part: &str| weights.get(&format!("{prefix}.{part}")).cloned();
        Ok(Self { weight: get("weight")?, bias: get("bias")? })
    }

    /// # Shapes
    /// `x`: `[.., width]`; result: the same.
    ///
    /// # Errors
    /// candle's, where shapes disagree.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, NORM_EPS)
    }
}

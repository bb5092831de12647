//! The MLP of a block.

use crate::{
    error,
    tensor::{
        Weights,
        ops::{Branch, Core, Gate},
    },
};

use super::layers::{LayerNorm, Linear};

/// Two linear layers with an erf-GELU between them: `Fc2(GELU(Fc1(x)))`.
#[derive(Debug, Clone)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    /// Takes the linear layers called `fc1` and `fc2`.
    ///
    /// # Errors
    /// [`error::Error::MissingTensor`].
    pub fn new(weights: &Weights, fc1: &str, fc2: &str) -> error::Result<Self> {
        Ok(Self { fc1: Linear::new(weights, fc1)?, fc2: Linear::new(weights, fc2)? })
    }

    /// The residual branch with `norm`.
    pub(super) fn branch<'a>(&'a self, norm: &'a LayerNorm, gate: &'a Gate) -> Branch<'a> {
        let core = Core::Gelu { fc1: self.fc1.affine(), fc2: self.fc2.affine() };
        Branch { norm: norm.of_branch(), core, gate }
    }
}

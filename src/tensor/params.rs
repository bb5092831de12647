//! Trainable parameters: ordered, strict, and explicit about aliasing.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::error::{Context, Error, Result};

use super::Weights;

/// Trainable variables by name.
#[derive(Debug, Clone, Default)]
pub struct Params(BTreeMap<String, Var>);

impl Params {
    /// A variable for every tensor of `weights`; values are copied, so training never changes `weights`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a copy fails.
    pub fn new(weights: &Weights) -> Result<Self> {
        weights
            .iter()
            .map(|(name, tensor)| {
                // `Var::from_tensor` of a variable aliases it; a forced copy never does.
                let var = tensor.detach().copy().and_then(|t| Var::from_tensor(&t)).context(name)?;
                Ok((name.to_owned(), var))
            })
            .collect::<Result<BTreeMap<_, _>>>()
            .map(Self)
    }

    /// The variables as tensors that share storage and graph: gradients reach the variables.
    pub fn weights(&self) -> Weights {
        self.0.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// Detached copies: a later step does not change them, and they record no graph.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a copy fails.
    pub fn snapshot(&self) -> Result<Weights> {
        self.0
            .iter()
            .map(|(name, var)| Ok((name.clone(), var.as_tensor().detach().copy().context(name)?)))
            .collect()
    }

    /// Names and variables in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The values of `name` in row-major order.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for an unknown name, [`Error::Tensor`] where it cannot be read.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let var = self.0.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        var.as_tensor().detach().flatten_all().and_then(|t| t.to_vec1()).context(name)
    }

    /// Replaces the values of `name`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for an unknown name, [`Error::Tensor`] for another shape.
    pub fn set(&self, name: &str, values: Vec<f32>, device: &Device) -> Result<()> {
        let var = self.0.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        Tensor::from_vec(values, var.shape(), device).and_then(|t| var.set(&t)).context(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_does_not_follow_training() {
        let weights: Weights =
            [("w".to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap())].into_iter().collect();
        let params = Params::new(&weights).unwrap();
        let snapshot = params.snapshot().unwrap();
        params.set("w", vec![5.0, 6.0], &Device::Cpu).unwrap();
        let read = |w: &Weights| w.get("w").unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(read(&snapshot), [1.0, 2.0]);
        assert_eq!(read(&weights), [1.0, 2.0]);
        assert_eq!(read(&params.weights()), [5.0, 6.0]);
        assert!(!snapshot.get("w").unwrap().track_op());
    }
}

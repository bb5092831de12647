//! An operation on one tensor and any number of weights, as a node of candle's graph.

use super::{new_tensor, slice, values};
use crate::tensor::{Tape, Weight};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// The two passes of an operation. Gradients of weights go to their tape.
pub(super) trait Kernel: Send + Sync + 'static {
    const NAME: &'static str;

    fn forward(&self, x: &[f32], shape: &Shape) -> Result<(Vec<f32>, Shape)>;

    /// The gradient of `x`. If it is not `wanted`, nothing reads it and it may be empty.
    fn backward(&self, x: &[f32], shape: &Shape, grad: &[f32], wanted: bool) -> Result<Vec<f32>>;
}

/// The tape of the first weight that lies on one.
pub(super) fn tape(weights: &[&Weight]) -> Option<Arc<Tape>> {
    weights.iter().find_map(|weight| weight.tape()).cloned()
}

/// The result of `kernel` on `x`. It records its backward pass if `x` is tracked or `tape` is given.
pub(super) fn apply<K: Kernel>(x: &Tensor, tape: Option<&Arc<Tape>>, kernel: K) -> Result<Tensor> {
    let x = x.contiguous()?;
    match tape {
        Some(tape) => x.apply_op2(tape.anchor(), Node(kernel)),
        None => x.apply_op1(Node(kernel)),
    }
}

struct Node<K>(K);

impl<K: Kernel> Node<K> {
    fn forward(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (out, shape) = self.0.forward(slice(x, layout)?, layout.shape())?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn backward(&self, x: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (x_storage, x_layout) = x.storage_and_layout();
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let (x_values, grad_values) = (values(&x_storage, x_layout)?, values(&grad_storage, grad_layout)?);
        let wanted = x.track_op();
        let dx = self.0.backward(x_values, x.shape(), grad_values, wanted)?;
        if wanted { new_tensor(dx, x.shape()).map(Some) } else { Ok(None) }
    }
}

impl<K: Kernel> CustomOp1 for Node<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(x, layout)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.backward(x, grad)
    }
}

impl<K: Kernel> CustomOp2 for Node<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _anchor: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(x, layout)
    }

    fn bwd(
        &self,
        x: &Tensor,
        _anchor: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.backward(x, grad)?, None))
    }
}

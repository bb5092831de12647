//! Tensors: differentiable operations.

pub mod ops;

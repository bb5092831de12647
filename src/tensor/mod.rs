//! Tensors and what they are made from.

pub mod rng;

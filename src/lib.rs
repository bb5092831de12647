//! genebank: initialised transformers of any depth and width from compact learngenes.
//!
//! Layers, lowest first; imports point down only (`tests/layering.rs`):
//! [`error`] · [`tensor`] · [`nn`] · [`blueprint`] · [`gene`], [`data`] · [`train`] · [`study`] · [`bank`] ·
//! [`server`], [`client`] · [`cli`].

pub mod error;
pub mod tensor;

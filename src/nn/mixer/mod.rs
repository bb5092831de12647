//! Token mixers: what mixes tokens in a block.

pub mod softmax;

pub use softmax::Attention;

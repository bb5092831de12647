//! Token mixers: the parts of a block that mix tokens.

pub mod softmax;

pub use softmax::Attention;

//! What an import did, for people.

use serde::Serialize;

/// A tensor that was multiplied into another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Folded {
    /// The scale in the checkpoint.
    pub scale: String,
    /// The layer whose rows it multiplied, in this program's names.
    pub into: String,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// What the checkpoint is, for example `transformers vit`.
    pub architecture: String,
    /// Parameters of the model.
    pub parameters: u64,
    /// Tensors that were taken under their own name.
    pub taken: usize,
    /// Tensors that were taken under another name, `theirs -> ours`.
    pub renamed: Vec<String>,
    /// Scales that were multiplied into projections, in f64.
    pub folded: Vec<Folded>,
    /// Parameters that the checkpoint lacks because they are zero.
    pub zero: Vec<String>,
    /// Tensors that are no part of the function, and why.
    pub ignored: Vec<String>,
    /// What was assumed.
    pub assumed: Vec<String>,
}

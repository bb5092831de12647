//! The size of a model, for networks of every kind.

/// Width and depth of a model, ordered by width and then by depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size {
    /// Embedding dimension.
    pub width: usize,
    /// Transformer blocks.
    pub depth: usize,
}

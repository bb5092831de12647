//! The inheritance report: which tensors were copied, repeated, sliced, resized, mixed or fresh. It reads no weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Blueprint, Row, Source};

/// Number of tensors of a model by the source of their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inheritance {
    /// The whole of a stored tensor, used once.
    pub copied: u32,
    /// The whole of a stored tensor, used by more than one layer.
    pub repeated: u32,
    /// A part of a stored tensor.
    pub sliced: u32,
    /// A stored tensor, or a part of it, for images or patches of another size.
    pub resized: u32,
    /// Rows of a stored tensor mixed with fresh rows.
    pub mixed: u32,
    /// Fresh values only.
    pub fresh: u32,
}

impl Inheritance {
    /// Counts the entries of `blueprint`.
    pub fn of(blueprint: &Blueprint) -> Self {
        let mut uses = BTreeMap::new();
        for entry in &blueprint.entries {
            *uses.entry(&entry.source).or_insert(0u32) += 1;
        }
        let mut report = Self::default();
        for entry in &blueprint.entries {
            let count = match &entry.source {
                Source::Fresh { .. } => &mut report.fresh,
                Source::Selected { .. } => &mut report.sliced,
                Source::Resized { .. } => &mut report.resized,
                Source::Rows { rows, .. } => match Row::count_fresh(rows) {
                    0 => &mut report.sliced,
                    fresh if fresh < rows.len() => &mut report.mixed,
                    _ => &mut report.fresh,
                },
                Source::Pieces(pieces) if !pieces.iter().all(super::Piece::is_whole) => &mut report.sliced,
                source @ Source::Pieces(_) if uses[source] > 1 => &mut report.repeated,
                Source::Pieces(_) => &mut report.copied,
            };
            *count += 1;
        }
        report
    }
}

//! The repositories that a list shows: every gene at every measured size.
//!
//! Any other size of a gene exists too and is found by its name; a list of all of them would say nothing.

use std::collections::BTreeSet;

use crate::{export::Layout, gene::GeneMeta, tensor::Dtype};

use super::{Bank, RepositoryName};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The repository, in timm's layout and f32.
    pub name: RepositoryName,
    /// Number of parameters.
    pub parameters: u64,
}

impl Bank {
    /// Every gene at every measured size, narrow and shallow ones first; a gene without a measurement at its trained
    /// size. Made one by one, as far as it is read.
    pub fn catalog(&self) -> impl Iterator<Item = Listed> {
        self.registry.iter().flat_map(|gene| {
            let meta = gene.meta();
            sizes(meta).into_iter().filter_map(move |[width, depth]| listed(meta, depth, width))
        })
    }
}

/// Width and depth of every measured size that is served.
fn sizes(meta: &GeneMeta) -> BTreeSet<[usize; 2]> {
    let [least, greatest] = meta.depth_range;
    let measured = meta.quality.iter().map(|quality| [quality.width, quality.depth]);
    let served =
        |size: &[usize; 2]| meta.trained_widths.contains(&size[0]) && (least..=greatest).contains(&size[1]);
    let sizes: BTreeSet<_> = measured.filter(served).collect();
    if sizes.is_empty() { BTreeSet::from([[meta.config.width(), meta.config.depth()]]) } else { sizes }
}

fn listed(meta: &GeneMeta, depth: usize, width: usize) -> Option<Listed> {
    let config = meta.config.resized(depth, width).ok()?;
    let name = RepositoryName {
        gene: meta.name.clone(),
        depth: depth as u64,
        width: width as u64,
        layout: Layout::Timm,
        dtype: Dtype::F32,
    };
    Some(Listed { name, parameters: config.schema().parameters() })
}

//! The repositories that a list shows: every gene at every measured size.
//!
//! Every other size exists too, under its name. A list of all of them would tell nobody anything.

use std::collections::BTreeSet;

use crate::{export::Layout, gene::GeneMeta, nn::Size, tensor::Dtype};

use super::{Bank, Guard, RepositoryName};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The repository, in timm's layout and f32.
    pub name: RepositoryName,
    /// Number of parameters.
    pub parameters: u64,
    /// Others need a token for it.
    pub private: bool,
}

impl Bank {
    /// Every gene that `guard` sees at every measured size, narrow and shallow ones first; a gene without a measurement
    /// at its trained size. Lines are made one by one, as far as they are read.
    pub fn catalog<'a>(&'a self, guard: Guard<'a>) -> impl Iterator<Item = Listed> + 'a {
        self.registry.iter().filter(move |gene| guard.sees(&gene.meta().name)).flat_map(|gene| {
            let (meta, private) = (gene.meta(), self.is_private(&gene.meta().name));
            sizes(meta).into_iter().filter_map(move |size| listed(meta, size, private))
        })
    }
}

/// Every measured size that is served.
fn sizes(meta: &GeneMeta) -> BTreeSet<Size> {
    let [least, greatest] = meta.depth_range;
    let measured = meta.quality.iter().map(|quality| Size { width: quality.width, depth: quality.depth });
    let served =
        |size: &Size| meta.trained_widths.contains(&size.width) && (least..=greatest).contains(&size.depth);
    let sizes: BTreeSet<_> = measured.filter(served).collect();
    if sizes.is_empty() { BTreeSet::from([meta.config.size()]) } else { sizes }
}

fn listed(meta: &GeneMeta, Size { width, depth }: Size, private: bool) -> Option<Listed> {
    let config = meta.config.resized(depth, width).ok()?;
    let name = RepositoryName {
        gene: meta.name.clone(),
        depth: depth as u64,
        width: width as u64,
        layout: Layout::Timm,
        dtype: Dtype::F32,
    };
    Some(Listed { name, parameters: config.schema().parameters(), private })
}

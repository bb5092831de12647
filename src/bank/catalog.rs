//! The repositories that a list shows: every gene at every measured size.
//!
//! Every other size exists too, under its name. A list of all of them would tell nobody anything.

use std::collections::BTreeSet;

use crate::{gene::GeneMeta, nn::Size};

use super::{Bank, Guard, RepositoryName, repository::Listed};

impl Bank {
    /// Every gene that `guard` sees at every measured size, narrow and shallow ones first; a gene without a measurement
    /// at its trained size. Lines are made one by one, as far as they are read.
    pub fn catalog<'a>(&'a self, guard: Guard<'a>) -> impl Iterator<Item = Listed> + 'a {
        self.registry.iter().filter(move |meta| guard.sees(&meta.name)).flat_map(move |meta| {
            sizes(meta).into_iter().filter_map(move |Size { width, depth }| {
                let config = meta.config.resized(depth, width).ok()?;
                let (depth, width) = (depth as u64, width as u64);
                let name = RepositoryName { depth, width, ..RepositoryName::trained(meta) };
                Some(self.listed(meta, name, config.schema().parameters()))
            })
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

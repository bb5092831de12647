//! The teacher's logits: computed with every batch, or once for every view of every image.

use std::sync::{Arc, atomic::AtomicBool};

use candle_core::Tensor;

use crate::{
    data::Loader,
    error::{Context as _, Error, Result},
    nn::Vit,
};

use super::{Shard, evaluate};

/// Largest table of logits to keep in memory, bytes.
const MAX_BYTES: usize = 1 << 30;

/// The teacher, `g` in the papers.
#[derive(Debug)]
pub enum Teacher {
    /// The network. Its weights are not variables, so no graph is recorded through it.
    Network(Box<Vit>),
    /// Logits computed beforehand.
    Logits(LogitTable),
}

/// Logits of every view of the items of a loader.
#[derive(Debug)]
pub struct LogitTable {
    classes: usize,
    /// One table for each view, `[rows, classes]` in row-major order.
    views: Vec<Vec<f32>>,
    /// The row of each item of the data set, if the loader has it.
    rows: Vec<Option<u32>>,
}

impl Teacher {
    /// The cheaper kind of teacher for a run of `images` images from `loader`. Logits are computed beforehand if
    /// augmentation makes few views of an image, they fit in memory, and the run needs each more than once on average.
    ///
    /// # Errors
    /// Those of an evaluation; [`Error::Cancelled`] once `cancel` is set.
    pub fn new(
        network: Vit,
        loader: &Loader,
        images: u64,
        threads: usize,
        cancel: &AtomicBool,
    ) -> Result<Self> {
        let classes = network.config().classes();
        let values = |views: u8| loader.items().saturating_mul(usize::from(views));
        match loader.views() {
            Some(views)
                if images > values(views) as u64
                    && values(views).saturating_mul(classes * size_of::<f32>()) <= MAX_BYTES =>
            {
                LogitTable::new(&network, loader, views, threads, cancel).map(Self::Logits)
            }
            _ => Ok(Self::Network(Box::new(network))),
        }
    }

    /// The teacher's logits for the images of `shard`, `[images, classes]`.
    ///
    /// # Errors
    /// [`Error::Tensor`], and [`Error::Invalid`] for an item that was not in the loader.
    pub fn logits(&self, shard: &Shard) -> Result<Tensor> {
        match self {
            Self::Network(network) => network.forward(shard.images()?).context("teacher"),
            Self::Logits(table) => table.logits(shard),
        }
    }
}

impl LogitTable {
    fn new(network: &Vit, loader: &Loader, views: u8, threads: usize, cancel: &AtomicBool) -> Result<Self> {
        let logits = |view| evaluate::logits_unless(network, &Arc::new(loader.view(view)), threads, cancel);
        let views = (0..views).map(logits).collect::<Result<_>>()?;
        let mut rows = vec![None; loader.dataset().len()];
        for (row, item) in (0u32..).zip(loader.view(0).epoch(0).order()) {
            rows[*item as usize] = Some(row);
        }
        Ok(Self { classes: network.config().classes(), views, rows })
    }

    fn logits(&self, shard: &Shard) -> Result<Tensor> {
        let mut logits = Vec::with_capacity(shard.items.len() * self.classes);
        for (item, view) in shard.items.iter().zip(&shard.views) {
            let row = self.rows.get(*item as usize).copied().flatten();
            let (Some(row), Some(view)) = (row, self.views.get(usize::from(*view))) else {
                return Err(Error::invalid("teacher", format!("no logits of view {view} of image {item}")));
            };
            logits.extend_from_slice(&view[row as usize * self.classes..][..self.classes]);
        }
        Tensor::from_vec(logits, (shard.items.len(), self.classes), shard.device()).context("teacher")
    }
}

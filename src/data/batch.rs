//! Batches of any kind of data, and reading ahead of them.

use std::{
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::{self, JoinHandle},
};

use crate::error::{Error, Result};

use super::text::{Padded, pad};

/// Items of a data set, ready for a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// What the network reads.
    pub content: Content,
    /// Classes, `[n]`; none for texts.
    pub labels: Vec<u32>,
    /// Item numbers in the data set, `[n]`. A teacher's stored answers are looked up by them.
    pub items: Vec<u32>,
    /// Which of the [`super::Loader::views`] each item is, `[n]`; 0 if views are not counted.
    pub views: Vec<u8>,
}

/// What a network reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Images.
    Images(Pixels),
    /// Texts, as their token ids.
    Texts {
        /// The ids of each text.
        ids: Vec<Vec<u32>>,
        /// The id of padding.
        pad_id: u32,
    },
}

/// Normalised images.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// `[n, channels, height, width]` in row-major order.
    pub values: Vec<f32>,
    /// Shape of one image, `[channels, height, width]`.
    pub shape: [usize; 3],
}

impl Batch {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The images.
    ///
    /// # Errors
    /// [`Error::Invalid`] for texts.
    pub fn pixels(&self) -> Result<&Pixels> {
        match &self.content {
            Content::Images(pixels) => Ok(pixels),
            Content::Texts { .. } => Err(Error::invalid("batch", "it holds texts, not images")),
        }
    }
}

impl Content {
    /// The texts `range`, padded to the longest of them; `None` for images.
    pub fn padded(&self, range: Range<usize>) -> Option<Padded> {
        match self {
            Self::Images(_) => None,
            Self::Texts { ids, pad_id } => Some(pad(&ids[range], *pad_id)),
        }
    }
}

/// Batches of a training run. A run that was stopped goes on at any epoch and number with the same bytes.
pub trait Batches: std::fmt::Debug + Send + Sync {
    /// Number of batches in one epoch.
    fn batches_per_epoch(&self) -> usize;

    /// The batches of epoch `epoch`, starting at number `from_batch`. One thread makes them up to `depth` batches
    /// ahead.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot start a thread.
    fn prefetch(self: Arc<Self>, epoch: u64, from_batch: usize, depth: usize) -> Result<Prefetch>;
}

/// Batches that a thread makes ahead of their use. Dropping this stops the thread.
#[derive(Debug)]
pub struct Prefetch {
    batches: Option<Receiver<Batch>>,
    worker: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Reads `batches` up to `depth` ahead; there are at most `most` of them.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot start a thread.
    pub(super) fn new(
        batches: impl FnOnce(&mut dyn FnMut(Batch) -> bool) + Send + 'static,
        depth: usize,
        most: usize,
    ) -> Result<Self> {
        // The channel allocates all its slots at once, and no more than the rest of the epoch can ever wait in it.
        let (sender, receiver) = sync_channel(depth.min(most));
        let work = move || batches(&mut |batch| sender.send(batch).is_ok());
        let worker = thread::Builder::new()
            .name("genebank-batches".to_owned())
            .spawn(work)
            .map_err(Error::io("thread genebank-batches"))?;
        Ok(Self { batches: Some(receiver), worker: Some(worker) })
    }
}

impl Iterator for Prefetch {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let batch = self.batches.as_ref()?.recv().ok();
        if batch.is_none() {
            self.batches = None;
            // A panic must not look like the end of the epoch.
            if let Some(Err(panic)) = self.worker.take().map(JoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        }
        batch
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // Closing the channel ends the thread at its next batch. Its result no longer matters.
        self.batches = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

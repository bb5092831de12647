//! What a bank needs to open.

use std::path::PathBuf;

use candle_core::Device;

/// What a bank needs to open.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of gene files; without it there is only the gene inside the program.
    pub models: Option<PathBuf>,
    /// Gene of requests that name none; by default the first in name order.
    pub default_gene: Option<String>,
    /// Folder of data sets for tuning; without it there is no tuning.
    pub data: Option<PathBuf>,
    /// Folder of tuned models.
    pub store: PathBuf,
    /// Bytes of cached slices, casts and headers in addition to the genes: an eighth for buffers between two uses, and
    /// half of the rest each for what depths share and for whole models.
    pub cache_bytes: u64,
    /// Bytes for what is made for requests, in addition to the cache: what is being rendered, and what was rendered and
    /// is still read although it is in no cache.
    pub request_bytes: u64,
    /// Models rendered at the same time; one more is [`crate::error::Error::Overloaded`].
    pub renders: usize,
    /// Tuning jobs at the same time; one more is [`crate::error::Error::Overloaded`].
    pub tunings: usize,
    /// Where tuning computes. On any device but the CPU, a copy of every gene is kept there.
    pub device: Device,
}

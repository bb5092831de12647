//! The commands, one file each.

pub(super) mod completions;
pub(super) mod eval;
mod folder;
pub(super) mod import;
pub(super) mod init;
pub(super) mod inspect;
pub(super) mod list;
pub(super) mod plan;
pub(super) mod serve;
pub(super) mod study;
mod subject;
pub(super) mod synthesize;
pub(super) mod train;

use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};

/// A single-threaded runtime, for commands that do one thing at a time.
pub(super) fn small_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().map_err(Error::io("runtime"))
}

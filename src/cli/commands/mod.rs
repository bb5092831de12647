//! One file for each command.

pub(super) mod init;
pub(super) mod inspect;
pub(super) mod list;
pub(super) mod serve;

use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};

/// A runtime for a command that does one thing.
fn small_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().map_err(Error::io("runtime"))
}

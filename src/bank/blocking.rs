//! Work that would hold up an async worker.

use crate::error::{Error, Result};

/// Runs `work` on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|ended| {
        if ended.is_panic() { Error::Panicked { what: "rendering or tuning" } } else { Error::Cancelled }
    })?
}

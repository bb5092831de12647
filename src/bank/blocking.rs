//! Work that would hold up an async worker.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Runs `work` on a thread for blocking work. On Linux the thread gets a smaller share of the processor than those that
/// read requests and send answers, so that a few large requests do not hold up many small ones.
pub fn background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        yield_to_requests();
        work()
    })
}

/// A third of what others get of the processor while they want it. Children inherit it, such as training threads.
#[cfg(target_os = "linux")]
fn yield_to_requests() {
    const NICE: i32 = 5;
    // On Linux the call acts on the one thread that has this number. If it fails, the work is done all the same.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

#[cfg(not(target_os = "linux"))]
const fn yield_to_requests() {}

/// The outcome of `work` on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    background(work).await.map_err(|ended| {
        if ended.is_panic() { Error::Panicked { what: "rendering or tuning" } } else { Error::Cancelled }
    })?
}

/// Tells work to stop when its caller leaves.
#[derive(Debug)]
pub struct CancelOnDrop(pub Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

//! What a server asks of the system that runs it: signals, and enough open files.

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

use super::limits::Limits;

/// Files that a server opens besides its connections.
const OTHER_FILES: u64 = 256;

/// The signals that end a server. SIGHUP does not: whoever started it may leave.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn listen() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let listen = |kind| signal(kind).map_err(Error::io("signals"));
            Ok(Self {
                interrupt: listen(SignalKind::interrupt())?,
                terminate: listen(SignalKind::terminate())?,
                hangup: listen(SignalKind::hangup())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for SIGTERM or ctrl-c.
    async fn next(&mut self) {
        #[cfg(unix)]
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => tracing::info!("SIGHUP is ignored; stop with SIGTERM"),
            }
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Cancels `stop` at the first signal, and returns at the second: whoever sends it does not want to wait for
    /// anything.
    pub async fn until_second(mut self, stop: &CancellationToken) {
        self.next().await;
        tracing::info!("shutting down; a second signal cuts everything off");
        stop.cancel();
        self.next().await;
        tracing::warn!("second signal; cutting everything off");
    }
}

/// Lets this process open as many files as `limits` need, if the system allows it. Each connection is one.
pub(super) fn allow_files(limits: &Limits) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let needed = (limits.connections + limits.spare_connections) as u64 + OTHER_FILES;
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current.is_none_or(|current| current >= needed) {
            return;
        }
        let raised = maximum.map_or(needed, |maximum| maximum.min(needed));
        let set = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum });
        if set.is_err() || raised < needed {
            let connections = limits.connections;
            tracing::warn!(
                connections,
                needed,
                allowed = raised,
                "too few open files for all connections: raise `ulimit -n`"
            );
        }
    }
}

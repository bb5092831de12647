//! Which failures are worth another try, and after what pause.

use std::time::Duration;

use tokio::time::sleep;

use crate::error::{Error, Result};

/// The first pause before another try. Each further pause is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, even if the server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// Another try may succeed, after the pause that the server asks for.
    Again {
        error: Error,
        pause: Option<Duration>,
    },
    Failed(Error),
}

impl Interrupted {
    /// Worth another try, after a pause that this side chooses.
    pub(super) const fn again(error: Error) -> Self {
        Self::Again { error, pause: None }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Again { error, .. } | Self::Failed(error) => error,
        }
    }
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Counts tries in a row without progress.
#[derive(Debug)]
pub(super) struct Patience {
    retries: u32,
    tries: u32,
}

impl Patience {
    /// Allows this many more tries.
    pub(super) const fn new(retries: u32) -> Self {
        Self { retries, tries: 0 }
    }

    /// The pause before the next try, if one is allowed. `progress` says that bytes arrived since the last try.
    pub(super) fn pause(&mut self, progress: bool, asked: Option<Duration>) -> Option<Duration> {
        if !progress && self.tries >= self.retries {
            return None;
        }
        self.tries = if progress { 0 } else { self.tries + 1 };
        Some(asked.unwrap_or(PAUSE * 2u32.saturating_pow(self.tries)).min(LONGEST_PAUSE))
    }
}

/// Repeats `call` until it succeeds, fails for good, or has used up `retries`. `on_retry` gets the reason and the
/// pause.
pub(super) async fn patiently<T, F: Future<Output = Result<T, Interrupted>>>(
    retries: u32,
    mut on_retry: impl FnMut(String, Duration),
    mut call: impl FnMut() -> F,
) -> Result<T, Interrupted> {
    let mut patience = Patience::new(retries);
    loop {
        let (error, pause) = match call().await {
            Err(Interrupted::Again { error, pause }) => (error, pause),
            outcome => return outcome,
        };
        let Some(pause) = patience.pause(false, pause) else { return Err(Interrupted::again(error)) };
        on_retry(error.to_string(), pause);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_earns_new_tries_and_pauses_double() {
        let mut patience = Patience::new(2);
        assert_eq!(patience.pause(false, None), Some(PAUSE * 2));
        assert_eq!(patience.pause(false, None), Some(PAUSE * 4));
        assert_eq!(patience.pause(true, None), Some(PAUSE));
        assert_eq!(patience.pause(false, Some(Duration::from_secs(9))), Some(Duration::from_secs(9)));
        assert_eq!(patience.pause(false, Some(Duration::from_hours(9))), Some(LONGEST_PAUSE));
        assert_eq!(patience.pause(false, None), None);
        let mut endless = Patience { retries: u32::MAX, tries: 1000 };
        assert_eq!(endless.pause(false, None), Some(LONGEST_PAUSE));
    }
}

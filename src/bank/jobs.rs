//! Tuning jobs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    blueprint::{Artifact, Identity},
    error::{Error, Result},
};

use super::{Config, Delivery, Plan};

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps in all.
    pub total_steps: u64,
    /// Loss of the last step that was read.
    pub loss: f64,
}

/// A handle on a running job; clones watch the same one.
#[derive(Debug, Clone)]
pub struct Job {
    identity: Identity,
    progress: watch::Receiver<Progress>,
    done: watch::Receiver<Option<std::result::Result<Arc<Artifact>, Arc<Error>>>>,
}

impl Job {
    /// Name of the tuned model.
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// The next progress, or `None` once the job has ended.
    pub async fn progress(&mut self) -> Option<Progress> {
        self.progress.changed().await.ok()?;
        Some(*self.progress.borrow_and_update())
    }

    /// Waits for the tuned model.
    ///
    /// # Errors
    /// The job's, or [`Error::Cancelled`].
    pub async fn finish(&mut self) -> Result<Arc<Artifact>> {
        match self.done.wait_for(Option::is_some).await.map_err(|_| Error::Cancelled)?.clone() {
            Some(Ok(artifact)) => Ok(artifact),
            Some(Err(error)) => Err(error.into()),
            None => Err(Error::Cancelled),
        }
    }
}

/// Running jobs by identity.
#[derive(Debug)]
pub(super) struct Jobs {}

impl Jobs {
    pub(super) fn new(_config: &Config) -> Self {
        Self {}
    }

    #[expect(clippy::unused_async, reason = "jobs come with the trainer")]
    pub(super) async fn deliver(&self, _plan: &Plan) -> Result<Delivery> {
        Err(Error::invalid("fine_tune", "not built yet"))
    }
}

//! What the handlers of every interface share.

use std::sync::Arc;

use axum::http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::{
    bank::{Bank, Guard},
    error::Result,
};

use super::{auth::credentials, bodies::Bodies, digests::Digests};

/// One for the whole server; clones share everything.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) bank: Arc<Bank>,
    /// Digests of files.
    pub(super) digests: Digests,
    /// Bodies of requests.
    pub(super) bodies: Bodies,
    /// Cancelled once the server shall end.
    pub(super) stop: CancellationToken,
}

impl State {
    /// What the sender of these headers may see.
    ///
    /// # Errors
    /// [`crate::error::Error::BadToken`].
    pub(super) fn guard(&self, headers: &HeaderMap) -> Result<Guard<'_>> {
        self.bank.guard(credentials(headers))
    }
}

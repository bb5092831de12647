//! A model that was downloaded before and must have the same bytes again.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Identity and digest of a model that was downloaded before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// SHA-256 of the canonical request, the gene's digest and the render version, in hex.
    pub identity: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
}

impl Expected {
    /// Checks the identity, which is known before the first byte of the model arrives.
    ///
    /// # Errors
    /// [`Error::Invalid`] if another model would be written.
    pub fn check_identity(&self, found: &str) -> Result<()> {
        let why = "the gene was replaced, or another model is asked for";
        check("identity", &self.identity, found, why)
    }

    /// Checks the whole file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has other bytes.
    pub fn check_sha256(&self, found: &str) -> Result<()> {
        check("SHA-256", &self.sha256, found, "the same request gave other bytes")
    }
}

fn check(what: &str, expected: &str, found: &str, why: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::invalid("lock", format!("{what} {found} is not the locked {expected}: {why}")))
}

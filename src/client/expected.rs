//! What a model must be, to the byte.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Identity and digest of a model that was had before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// SHA-256 of the canonical request, gene digest and render version, hex.
    pub identity: String,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

impl Expected {
    /// Checks what is known before a byte of the model has arrived.
    ///
    /// # Errors
    /// [`Error::Invalid`] where another model would be written.
    pub fn check_identity(&self, found: &str) -> Result<()> {
        let why = "the gene was replaced, or another model is asked for";
        check("identity", &self.identity, found, why)
    }

    /// Checks the whole file.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it has other bytes.
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

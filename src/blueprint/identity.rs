//! Identities: names of requests.

use std::fmt;

use crate::digest::{Canonical, Digest};

/// Name of a request, known before any byte of the answer exists. It is the key for caching and resuming.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Digest);

impl Identity {
    /// Starts the canonical form of a kind of request.
    pub fn form(kind: &str) -> Canonical {
        Canonical::new(kind, super::RENDER_VERSION)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl From<Canonical> for Identity {
    fn from(form: Canonical) -> Self {
        Self(form.finish())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

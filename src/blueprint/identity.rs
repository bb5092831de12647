//! Identities: SHA-256 over a canonical form of integers, enums and length-prefixed UTF-8.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{nn::VitConfig, tensor::hex};

/// Name of a request: known before a byte of the answer exists; the key of cache and resume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub [u8; 32]);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

/// Builds an [`Identity`] field by field. Every field is tagged with its kind and length, so that no two
/// different requests share a form.
#[derive(Debug, Clone)]
pub struct Canonical(Sha256);

impl Canonical {
    /// Starts a form of this kind.
    pub fn new(kind: &str) -> Self {
        Self(Sha256::new()).text(kind).integer(super::RENDER_VERSION)
    }

    /// Adds text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.0.update([b't']);
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds an integer.
    #[must_use]
    pub fn integer(mut self, value: u64) -> Self {
        self.0.update([b'i']);
        self.0.update(value.to_le_bytes());
        self
    }

    /// Adds every number of a network's shape.
    #[must_use]
    pub fn config(self, config: &VitConfig) -> Self {
        [
            config.image_size(),
            config.patch_size(),
            config.channels(),
            config.classes(),
            config.depth(),
            config.width(),
            config.heads(),
            config.mlp_ratio(),
        ]
        .into_iter()
        .fold(self, |form, value| form.integer(value as u64))
    }

    /// The identity.
    pub fn finish(self) -> Identity {
        Identity(self.0.finalize().into())
    }
}

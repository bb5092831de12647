//! SHA-256 digests of contents, and the canonical form that gives requests their names.

use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// A SHA-256 digest. It is displayed as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `content`, for example of a file, a tensor or a token.
    pub fn of(content: &[u8]) -> Self {
        Self(sha256(content))
    }

    /// The digest of the concatenated `parts`.
    pub fn of_parts(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let hash = parts.into_iter().fold(Sha256::new(), Sha256::chain_update);
        Self(hash.finalize().into())
    }

    /// The digest of everything that `reader` gives.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of_reader(mut reader: impl Read) -> io::Result<Self> {
        let (mut hash, mut part) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            match reader.read(&mut part)? {
                0 => return Ok(Self(hash.finalize().into())),
                length => hash.update(&part[..length]),
            }
        }
    }

    /// The digest of a name in the form of text.
    ///
    /// The finished cells of a study and the checkpoints of a run are found by the digest of a text that holds a recipe
    /// as JSON, including floats. Those names must not change, or results on disk would be lost. Every new name must
    /// use [`Canonical`].
    pub fn of_text(text: &str) -> Self {
        Self(sha256(text.as_bytes()))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Parses only the form in which a [`Digest`] is displayed, so that each digest has exactly one spelling.
    fn from_str(text: &str) -> Result<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
        let (pairs, rest) = text.as_bytes().as_chunks();
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        let bytes = bytes.filter(|_| rest.is_empty()).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| Error::invalid("digest", "must be 64 lower-case hex digits"))
    }
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Builds the name of a request, field by field. Every field is tagged with its kind, and text also with its length, so
/// that different requests never have the same form.
#[derive(Debug, Clone)]
pub struct Canonical(Sha256);

impl Canonical {
    /// Starts the form of a request of this kind. `version` must change whenever the same fields begin to mean
    /// different bytes.
    pub fn new(kind: &str, version: u64) -> Self {
        Self(Sha256::new()).text(kind).integer(version)
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

    /// The digest of the form.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_shown() {
        let digest = Digest::of(b"abc");
        let shown = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), shown);
        assert_eq!(shown.parse::<Digest>().unwrap(), digest);
        assert_eq!((Digest::of_parts(["a", "", "bc"]), Digest::of_text("abc")), (digest, digest));
        for text in
            ["", &shown[1..], &shown[2..], &shown.to_uppercase(), &format!("{shown}00"), &"é".repeat(32)]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn fields_are_told_apart() {
        let form = || Canonical::new("test", 1);
        assert_ne!(form().text("ab").text("c").finish(), form().text("a").text("bc").finish());
        assert_ne!(form().text("").integer(0).finish(), form().integer(0).text("").finish());
        assert_ne!(form().finish(), Canonical::new("test", 2).finish());
    }
}

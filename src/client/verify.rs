//! Checks a file while it arrives: its SHA-256, and the manifest over its header and tensors.

use sha2::{Digest as _, Sha256};

use crate::{digest::hex, tensor::codec};

/// The first bytes of a file, which hold the length of its header.
const PREFIX_BYTES: usize = 8;

/// The digests that a server announced for a file, in hex. An empty one was not announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// SHA-256 of the header and of each tensor's SHA-256.
    pub(super) manifest: String,
    /// SHA-256 of the file.
    pub(super) sha256: String,
}

/// The digests of a file that arrived, in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Empty if the tensors were not digested.
    pub(super) manifest: String,
    pub(super) sha256: String,
}

impl Claims {
    /// Checks every digest that was announced.
    ///
    /// # Errors
    /// Which check failed, or that there was nothing to check.
    pub(super) fn check(&self, found: &Found) -> Result<(), String> {
        if self.manifest.is_empty() && self.sha256.is_empty() {
            return Err("neither a SHA-256 nor a manifest was announced to check the file by".to_owned());
        }
        for (what, announced, found) in [
            ("tensors have manifest", &self.manifest, &found.manifest),
            ("file has SHA-256", &self.sha256, &found.sha256),
        ] {
            if !announced.is_empty() && announced != found {
                return Err(format!("the {what} {found}, announced was {announced}"));
            }
        }
        Ok(())
    }
}

/// Digests a file whose bytes are given in order.
#[derive(Debug)]
pub(super) struct Verifier {
    size: u64,
    bytes: u64,
    file: Sha256,
    tensors: Option<Tensors>,
}

impl Verifier {
    /// For a file of `size` bytes. With `tensors` it is a safetensors file, and its manifest is computed too.
    pub(super) fn new(size: u64, tensors: bool) -> Self {
        let tensors = tensors.then(|| Tensors { manifest: Sha256::new(), state: State::Prefix(Vec::new()) });
        Self { size, bytes: 0, file: Sha256::new(), tensors }
    }

    /// Bytes so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.file.update(bytes);
        self.bytes += bytes.len() as u64;
        if let Some(tensors) = &mut self.tensors {
            tensors.update(bytes, self.size);
        }
    }

    /// Why the file cannot be right, as soon as that is known.
    pub(super) fn broken(&self) -> Option<&str> {
        match self.tensors.as_ref()?.state {
            State::Broken(ref reason) => Some(reason),
            State::Prefix(_) | State::Header { .. } | State::Data { .. } => None,
        }
    }

    /// The digests of the whole file.
    ///
    /// # Errors
    /// Why it is not a safetensors file.
    pub(super) fn finish(self) -> Result<Found, String> {
        let manifest = self.tensors.map(Tensors::finish).transpose()?.unwrap_or_default();
        Ok(Found { manifest, sha256: hex(&self.file.finalize()) })
    }
}

/// The manifest so far.
#[derive(Debug)]
struct Tensors {
    manifest: Sha256,
    state: State,
}

/// Which section of a safetensors file the next byte belongs to.
#[derive(Debug)]
enum State {
    /// The length of the header.
    Prefix(Vec<u8>),
    /// The JSON of the header, which has `length` bytes.
    Header { json: Vec<u8>, length: usize },
    /// A tensor, with the number of bytes that are still missing and the digest so far. `lengths` are those of the
    /// tensors after it. At the end of the file there is no tensor.
    Data { tensor: Option<(u64, Sha256)>, lengths: std::vec::IntoIter<u64> },
    /// The header was invalid, so nothing after it is read.
    Broken(String),
}

impl State {
    fn data(lengths: Vec<u64>) -> Self {
        let mut lengths = lengths.into_iter();
        Self::Data { tensor: next(&mut lengths), lengths }
    }
}

fn next(lengths: &mut std::vec::IntoIter<u64>) -> Option<(u64, Sha256)> {
    lengths.next().map(|length| (length, Sha256::new()))
}

/// Moves bytes to `to` until it holds `length`.
fn fill(to: &mut Vec<u8>, length: usize, from: &mut &[u8]) -> bool {
    let (own, rest) = from.split_at(from.len().min(length - to.len()));
    to.extend_from_slice(own);
    *from = rest;
    to.len() == length
}

impl Tensors {
    fn update(&mut self, mut bytes: &[u8], size: u64) {
        loop {
            self.state = match &mut self.state {
                State::Prefix(prefix) => {
                    fill(prefix, PREFIX_BYTES, &mut bytes);
                    let Some(prefix) = prefix.first_chunk().copied() else { return };
                    self.manifest.update(prefix);
                    match codec::header_bytes(prefix, size) {
                        // Memory grows with the bytes that arrive. The announced length is not trusted.
                        Ok(length) => State::Header { json: Vec::new(), length: length as usize },
                        Err(reason) => State::Broken(reason),
                    }
                }
                State::Header { json, length } => {
                    if !fill(json, *length, &mut bytes) {
                        return;
                    }
                    self.manifest.update(&*json);
                    let data_bytes = size.saturating_sub((PREFIX_BYTES + *length) as u64);
                    match codec::lengths(json, data_bytes) {
                        Ok(lengths) => State::data(lengths),
                        Err(reason) => State::Broken(format!("the header of the file: {reason}")),
                    }
                }
                State::Data { tensor, lengths } => {
                    while let Some((left, digest)) = tensor {
                        let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                        let (own, rest) = bytes.split_at(count);
                        digest.update(own);
                        (bytes, *left) = (rest, *left - count as u64);
                        if *left > 0 {
                            return;
                        }
                        self.manifest.update(digest.finalize_reset());
                        *tensor = next(lengths);
                    }
                    return;
                }
                State::Broken(_) => return,
            };
        }
    }

    fn finish(self) -> Result<String, String> {
        match self.state {
            State::Data { tensor: None, .. } => Ok(hex(&self.manifest.finalize())),
            State::Broken(reason) => Err(reason),
            State::Prefix(_) | State::Header { .. } => Err("the file ends within its header".to_owned()),
            State::Data { .. } => Err("the file ends within a tensor".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        digest::sha256,
        tensor::{Dtype, TensorBytes},
    };
    use proptest::prelude::*;

    fn file() -> (Vec<u8>, String) {
        let tensor = |shape: &[usize], value: u8| {
            let bytes = vec![value; shape.iter().product::<usize>() * 4];
            TensorBytes { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.into() }
        };
        let tensors = [
            ("b".to_owned(), tensor(&[2, 3], 1)),
            ("none".to_owned(), tensor(&[0], 0)),
            ("a".to_owned(), tensor(&[5], 2)),
        ];
        let file = codec::render(&BTreeMap::from([("k".to_owned(), "v".to_owned())]), &tensors);
        let header = file.len() - 44;
        let mut manifest = Sha256::new_with_prefix(&file[..header]);
        for (_, tensor) in &tensors {
            manifest.update(sha256(&tensor.bytes));
        }
        (file.to_vec(), hex(&manifest.finalize()))
    }

    fn found(bytes: &[u8], size: u64) -> Result<Found, String> {
        let mut verifier = Verifier::new(size, true);
        verifier.update(bytes);
        verifier.finish()
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_give_the_digests_of_the_whole(cuts in prop::collection::vec(1usize..60, 1..40)) {
            let (file, manifest) = file();
            let mut verifier = Verifier::new(file.len() as u64, true);
            let (mut rest, mut cuts) = (file.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (own, after) = rest.split_at(rest.len().min(cuts.next().unwrap()));
                verifier.update(own);
                rest = after;
            }
            prop_assert_eq!(verifier.broken(), None);
            prop_assert_eq!(verifier.finish(), Ok(Found { manifest, sha256: hex(&sha256(&file)) }));
        }

        #[test]
        fn bytes_of_any_kind_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in any::<u64>()) {
            let _ = found(&bytes, size);
        }
    }

    #[test]
    fn what_is_no_header_is_known_at_once() {
        let (file, _) = file();
        let with = |length: u64| [&length.to_le_bytes()[..], &file[8..]].concat();
        for (bytes, reason) in [
            (with(1 << 60), "header of 1152921504606846976 bytes is beyond the limit of"),
            (with(codec::MAX_HEADER_BYTES + 1), "is beyond the limit of"),
            (with(16), "the header of the file: "),
            (with(0), "the header of the file: "),
        ] {
            let mut verifier = Verifier::new(file.len() as u64, true);
            verifier.update(&bytes);
            let broken = verifier.broken().unwrap().to_owned();
            assert!(broken.contains(reason), "{broken}");
            assert_eq!(verifier.finish(), Err(broken));
        }
        // The codec's limit holds for a file of any length.
        let mut verifier = Verifier::new(u64::MAX, true);
        verifier.update(&(codec::MAX_HEADER_BYTES + 1).to_le_bytes());
        assert!(verifier.broken().unwrap().contains("16777216"));

        let size = file.len() as u64;
        assert!(found(&file, size + 4).unwrap_err().contains("bytes of tensors"));
        assert!(found(&file[..file.len() - 1], size).unwrap_err().contains("within a tensor"));
        assert!(found(&file[..20], size).unwrap_err().contains("within its header"));
    }

    #[test]
    fn everything_that_was_announced_is_checked() {
        let (file, manifest) = file();
        let found = found(&file, file.len() as u64).unwrap();
        let (sha256, other) = (found.sha256.clone(), "0".repeat(64));
        let claims = |manifest: &str, sha256: &str| Claims {
            manifest: manifest.to_owned(),
            sha256: sha256.to_owned(),
        };
        for claims in [claims(&manifest, &sha256), claims("", &sha256), claims(&manifest, "")] {
            claims.check(&found).unwrap();
        }
        for (claims, reason) in [
            (claims(&other, &sha256), "manifest"),
            (claims(&manifest, &other), "SHA-256"),
            (claims("", &other), "SHA-256"),
            (claims(&other, ""), "manifest"),
            (claims("", ""), "neither"),
        ] {
            let failed = claims.check(&found).unwrap_err();
            assert!(failed.contains(reason), "{failed}");
        }
    }
}

//! What a server knows about its callers: the file of private genes, tokens and origins, and what a request says.

use std::{collections::BTreeSet, io::Read as _, path::Path};

use axum::http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

use crate::{
    bank::{Credentials, Policy, Token},
    digest::Digest,
    error::{Error, Result},
};

/// Longest file of tokens, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Which genes are private, whose tokens open them, and which web pages may call.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub(super) policy: Policy,
    pub(super) origins: Origins,
}

/// Origins whose pages may call the gRPC service from a browser; `*`: all.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Origins(BTreeSet<String>);

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    private: BTreeSet<String>,
    #[serde(default)]
    token: Vec<Token>,
    #[serde(default)]
    origins: Origins,
}

impl Access {
    /// Reads a TOML file: `private`, a list of genes, `[[token]]` tables of `name` and `sha256`, and `origins`, a list
    /// of web origins.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] where the file is too long or not of this form, or where a digest or an origin
    /// is malformed.
    pub fn open(path: &Path) -> Result<Self> {
        let corrupt = |reason: String| Error::corrupt(path.display().to_string(), reason);
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(Error::io(path))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(corrupt(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        let File { private, token: tokens, origins } =
            toml::from_str(&text).map_err(|error| corrupt(error.to_string()))?;
        if let Some(origin) = origins.0.iter().find(|origin| !is_origin(origin)) {
            let reason =
                format!("origin \"{origin}\" is neither \"*\" nor of the form https://example.org:8443");
            return Err(corrupt(reason));
        }
        if let Some(token) = tokens.iter().find(|token| token.sha256.parse::<Digest>().is_err()) {
            return Err(corrupt(format!("sha256 of \"{}\" is not 64 lower-case hex digits", token.name)));
        }
        Ok(Self { policy: Policy { private, tokens }, origins })
    }
}

impl Origins {
    /// Whether pages of this origin may call from a browser.
    pub(super) fn allow(&self, origin: &[u8]) -> bool {
        self.0.iter().any(|known| known == "*" || known.as_bytes() == origin)
    }
}

/// What the headers of a request, or the metadata of a call, say about who sends it.
pub(super) fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    let Some(given) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else {
        return Credentials::Absent;
    };
    match given.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Credentials::Token(token),
        Some(_) | None => Credentials::Unknown,
    }
}

/// Whether it is `*`, or an origin as browsers write it: scheme, host in lower case, and no path, not even `/`.
fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*".contains(&byte))
    };
    text == "*" || (rest.is_some_and(is_host) && !text.bytes().any(|byte| byte.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_follows_the_word_bearer() {
        let read = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            match credentials(&headers) {
                Credentials::Token(token) => Some(token.to_vec()),
                Credentials::Absent | Credentials::Unknown => None,
            }
        };
        assert_eq!(read(b"bearer hf_secret"), Some(b"hf_secret".to_vec()));
        assert_eq!(read(b"Bearer hf_secret "), Some(b"hf_secret ".to_vec()));
        assert_eq!(read(b"Bearer "), Some(Vec::new()));
        for value in [&b"Basic aGY6"[..], b"x", b"", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(read(value), None, "{value:?}");
        }
        assert_eq!(credentials(&HeaderMap::new()), Credentials::Absent);
    }

    #[test]
    fn malformed_files_are_refused() {
        for text in [
            "private = 1",
            "other = 1",
            "[[token]]\nname = \"x\"\nsha256 = \"hf_secret\"",
            "[[token]]",
            "origins = 1",
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            crate::tensor::codec::write_atomic(file.path(), [text.as_bytes()]).unwrap();
            assert!(matches!(Access::open(file.path()), Err(Error::Corrupt { .. })), "{text}");
        }
    }

    #[test]
    fn origins_are_those_that_browsers_write() {
        for good in ["*", "https://example.org", "http://localhost:5173", "https://[::1]:8443"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "https://",
            "https://example.org/",
            "https://Example.org",
            "https://*.example.org",
            "ftp://example.org",
            "null",
            "https://a@example.org",
            "https://example.org ",
            "https://é.org",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
        let origins = Origins(["https://a.org".to_owned()].into());
        assert!(origins.allow(b"https://a.org"));
        assert!(!origins.allow(b"https://a.org.evil.org") && !origins.allow(b"null"));
        assert!(!Origins::default().allow(b"https://a.org"));
    }
}

//! Private genes, and the tokens that open them, over every interface.
//!
//! The server keeps SHA-256 digests of tokens, so a file that is read by others opens nothing, and comparing them tells
//! nothing about a token.

use std::{collections::BTreeSet, io::Read as _, path::Path};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{
    bank::Bank,
    error::{Error, Result},
    tensor::{hex, is_digest, sha256},
};

/// Longest file of tokens, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Which genes are private, and whose tokens open them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Names of private genes.
    #[serde(default)]
    private: BTreeSet<String>,
    /// Tokens; each opens every private gene.
    #[serde(default, rename = "token")]
    tokens: Vec<Token>,
    /// Origins whose pages may call the gRPC service from a browser; `*`: all.
    #[serde(default)]
    origins: BTreeSet<String>,
}

/// Somebody's token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    /// Whose.
    name: String,
    /// SHA-256 of the token, lower-case hex.
    sha256: String,
}

impl Access {
    /// Reads a TOML file: `private`, a list of genes, `[[token]]` tables of `name` and `sha256`, and `origins`, a list of
    /// web origins.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] where it is too long, no such file, or a digest or an origin is none.
    pub fn open(path: &Path) -> Result<Self> {
        let corrupt = |reason: String| Error::corrupt(path.display().to_string(), reason);
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(Error::io(path))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(corrupt(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        let access: Self = toml::from_str(&text).map_err(|error| corrupt(error.to_string()))?;
        if let Some(origin) = access.origins.iter().find(|origin| !is_origin(origin)) {
            let reason =
                format!("origin \"{origin}\" is neither \"*\" nor of the form https://example.org:8443");
            return Err(corrupt(reason));
        }
        match access.tokens.iter().find(|token| !is_digest(&token.sha256)) {
            Some(token) => {
                Err(corrupt(format!("sha256 of \"{}\" is not 64 lower-case hex digits", token.name)))
            }
            None => Ok(access),
        }
    }

    /// Checks that every private gene is there: a misspelt one would be open to all.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn check(&self, bank: &Bank) -> Result<()> {
        self.private.iter().try_for_each(|gene| bank.gene(gene).map(drop))
    }

    /// Whether the gene is private.
    pub(super) fn is_private(&self, gene: &str) -> bool {
        self.private.contains(gene)
    }

    /// Whether pages of this origin may call from a browser.
    pub(super) fn shares_with(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|known| known == "*" || known.as_bytes() == origin)
    }

    /// What a request with this value of the header `authorization` may see. A server without tokens asks for none, and ignores those that clients
    /// have for other servers.
    ///
    /// # Errors
    /// [`Error::BadToken`].
    pub(super) fn guard(&self, authorization: Option<&[u8]>) -> Result<Guard<'_>> {
        let given = authorization.filter(|_| !self.tokens.is_empty());
        let Some(given) = given else { return Ok(Guard { access: self, name: None }) };
        let token = given.split_at_checked(7);
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let digest = hex(&sha256(token.ok_or(Error::BadToken)?.1));
        let known = self.tokens.iter().find(|token| same(&token.sha256, &digest));
        known.map(|token| Guard { access: self, name: Some(&token.name) }).ok_or(Error::BadToken)
    }
}

/// What one caller may see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard<'a> {
    access: &'a Access,
    /// Who it is, where there was a token.
    pub(super) name: Option<&'a str>,
}

impl Guard<'_> {
    /// Whether the caller may have models of the gene.
    pub(super) fn sees(&self, gene: &str) -> bool {
        self.name.is_some() || !self.access.is_private(gene)
    }

    /// Refuses a gene that the caller may not see.
    ///
    /// # Errors
    /// [`Error::NoToken`].
    pub(super) fn admit(&self, gene: &str) -> Result<()> {
        if self.sees(gene) {
            return Ok(());
        }
        Err(Error::NoToken { what: "gene", name: gene.to_owned() })
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

/// Whether two digests are equal, in a time that does not depend on where they differ.
fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a) == Sha256::digest(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let digest = hex(&sha256(b"hf_secret"));
        let text = format!("private = [\"a\"]\n[[token]]\nname = \"ci\"\nsha256 = \"{digest}\"\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        crate::tensor::codec::write_atomic(file.path(), [text.as_bytes()]).unwrap();
        Access::open(file.path()).unwrap()
    }

    #[test]
    fn a_token_opens_private_genes() {
        let access = access();
        let anyone = access.guard(None).unwrap();
        assert!(anyone.sees("b") && !anyone.sees("a"));
        assert!(matches!(anyone.admit("a"), Err(Error::NoToken { .. })));
        let known = access.guard(Some(b"bearer hf_secret")).unwrap();
        assert_eq!(known.name, Some("ci"));
        known.admit("a").unwrap();
    }

    #[test]
    fn other_credentials_are_refused() {
        let access = access();
        for value in [
            &b"Bearer "[..],
            b"Bearer hf_secre",
            b"Bearer hf_secret ",
            b"Basic aGY6",
            b"x",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(matches!(access.guard(Some(value)), Err(Error::BadToken)), "{value:?}");
            Access::default().guard(Some(value)).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
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
        let access = Access { origins: ["https://a.org".to_owned()].into(), ..Access::default() };
        assert!(access.shares_with(b"https://a.org"));
        assert!(!access.shares_with(b"https://a.org.evil.org") && !access.shares_with(b"null"));
        assert!(!Access::default().shares_with(b"https://a.org"));
    }
}

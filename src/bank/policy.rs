//! Who may have which gene: private genes and the tokens that open them.
//!
//! Tokens are kept as SHA-256 digests. Whoever reads them learns no token, and the time of a comparison tells nothing
//! either.

use std::collections::BTreeSet;

use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use crate::{
    digest::{hex, sha256},
    error::{Error, Result},
};

/// Which genes are private, and whose tokens open them. The default has no private gene and no token.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Names of private genes.
    pub private: BTreeSet<String>,
    /// Tokens; each opens every private gene.
    pub tokens: Vec<Token>,
}

/// Somebody's token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Whose.
    pub name: String,
    /// SHA-256 of the token, lower-case hex.
    pub sha256: String,
}

/// What a request says about who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// Nothing.
    Absent,
    /// A token.
    Token(&'a [u8]),
    /// Something that is not a token.
    Unknown,
}

/// Who asks, as far as the policy can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller<'a> {
    /// The program that opened the bank.
    Owner,
    /// The holder of the token of this name.
    Holder(&'a str),
    /// Anyone else.
    Anyone,
}

impl Policy {
    /// Whether others need a token for the gene called `gene`.
    pub(super) fn is_private(&self, gene: &str) -> bool {
        self.private.contains(gene)
    }

    /// Who has these credentials. Without tokens all are ignored: clients send those that they have for other servers.
    ///
    /// # Errors
    /// [`Error::BadToken`].
    pub(super) fn caller(&self, credentials: Credentials<'_>) -> Result<Caller<'_>> {
        let token = match credentials {
            _ if self.tokens.is_empty() => return Ok(Caller::Anyone),
            Credentials::Absent => return Ok(Caller::Anyone),
            Credentials::Unknown => return Err(Error::BadToken),
            Credentials::Token(token) => hex(&sha256(token)),
        };
        let known = self.tokens.iter().find(|known| known.sha256.as_bytes().ct_eq(token.as_bytes()).into());
        known.map(|known| Caller::Holder(&known.name)).ok_or(Error::BadToken)
    }

    /// Whether `caller` may start tuning jobs. Where there are tokens, only their holders may: a job takes the machine
    /// from everyone else, also one on a gene that is open to all.
    pub(super) fn allows_tuning(&self, caller: Caller<'_>) -> bool {
        caller != Caller::Anyone || self.tokens.is_empty()
    }

    /// Whether `caller` may have models of `gene`.
    pub(super) fn allows(&self, caller: Caller<'_>, gene: &str) -> bool {
        caller != Caller::Anyone || !self.private.contains(gene)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let token = Token { name: "ci".to_owned(), sha256: hex(&sha256(b"hf_secret")) };
        Policy { private: ["a".to_owned()].into(), tokens: vec![token] }
    }

    #[test]
    fn a_token_opens_private_genes() {
        let policy = policy();
        let anyone = policy.caller(Credentials::Absent).unwrap();
        assert!(policy.allows(anyone, "b") && !policy.allows(anyone, "a"));
        let holder = policy.caller(Credentials::Token(b"hf_secret")).unwrap();
        assert_eq!(holder, Caller::Holder("ci"));
        assert!(policy.allows(holder, "a") && policy.allows(Caller::Owner, "a"));
    }

    #[test]
    fn where_there_are_tokens_tuning_needs_one() {
        let (policy, open) = (policy(), Policy::default());
        assert!(!policy.allows_tuning(Caller::Anyone) && open.allows_tuning(Caller::Anyone));
        assert!(policy.allows_tuning(Caller::Holder("ci")) && policy.allows_tuning(Caller::Owner));
    }

    #[test]
    fn other_credentials_are_refused() {
        for credentials in [
            Credentials::Unknown,
            Credentials::Token(b""),
            Credentials::Token(b"hf_secre"),
            Credentials::Token(b"hf_secret "),
        ] {
            assert!(matches!(policy().caller(credentials), Err(Error::BadToken)), "{credentials:?}");
            assert_eq!(Policy::default().caller(credentials).unwrap(), Caller::Anyone);
        }
    }
}

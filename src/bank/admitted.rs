//! The right to a gene as a type: what a client names goes through [`Guard::admit`], or it does not compile.

use crate::error::{Error, Result};

use super::{
    policy::{Caller, Policy},
    quote::ModelRequest,
    registry::Registry,
};

/// What one caller of a bank may see.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    registry: &'a Registry,
    policy: &'a Policy,
    caller: Caller<'a>,
}

/// A caller's right to one gene.
///
/// Every operation of [`super::Bank`] on a gene that somebody names takes one, and [`Guard::admit`] alone makes one:
///
/// ```
/// use genebank::{
///     bank::{Bank, Credentials, ModelRequest, Quote},
///     error::Result,
/// };
///
/// fn route(bank: &Bank, asked: &ModelRequest, credentials: Credentials<'_>) -> Result<Quote> {
///     let admitted = bank.guard(credentials)?.admit(&asked.gene)?;
///     bank.plan(&admitted, asked)
/// }
/// ```
///
/// A route that forgets the guard has nothing to pass:
///
/// ```compile_fail,E0308
/// use genebank::{
///     bank::{Bank, Credentials, ModelRequest, Quote},
///     error::Result,
/// };
///
/// fn route(bank: &Bank, asked: &ModelRequest, credentials: Credentials<'_>) -> Result<Quote> {
///     let admitted = &asked.gene;
///     bank.plan(&admitted, asked)
/// }
/// ```
///
/// and cannot make it up:
///
/// ```compile_fail,E0451
/// use genebank::{
///     bank::{Admitted, Bank, Credentials, ModelRequest, Quote},
///     error::Result,
/// };
///
/// fn route(bank: &Bank, asked: &ModelRequest, credentials: Credentials<'_>) -> Result<Quote> {
///     let admitted = Admitted { gene: &asked.gene, private: false, may_tune: true };
///     bank.plan(&admitted, asked)
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Admitted<'a> {
    gene: &'a str,
    private: bool,
    may_tune: bool,
}

impl<'a> Guard<'a> {
    pub(super) const fn new(registry: &'a Registry, policy: &'a Policy, caller: Caller<'a>) -> Self {
        Self { registry, policy, caller }
    }

    /// The name of the caller's token, if there was one.
    pub const fn name(&self) -> Option<&'a str> {
        match self.caller {
            Caller::Holder(name) => Some(name),
            Caller::Owner | Caller::Anyone => None,
        }
    }

    /// Whether the caller may have models of the gene called `gene`.
    pub(super) fn sees(&self, gene: &str) -> bool {
        self.policy.allows(self.caller, gene)
    }

    /// Admits the caller to the gene called `gene`; empty: the default one. Whether there is such a gene is for the
    /// operation to say.
    ///
    /// # Errors
    /// [`Error::NoToken`] for a private gene and a caller without a token.
    pub fn admit(&self, gene: &'a str) -> Result<Admitted<'a>> {
        let gene = if gene.is_empty() { self.registry.default_name() } else { gene };
        if !self.sees(gene) {
            return Err(Error::NoToken { what: "gene", name: gene.to_owned() });
        }
        let may_tune = self.policy.allows_tuning(self.caller);
        Ok(Admitted { gene, private: self.policy.is_private(gene), may_tune })
    }
}

impl<'a> Admitted<'a> {
    /// The name of the gene.
    pub const fn gene(&self) -> &'a str {
        self.gene
    }

    /// Whether others need a token for it.
    pub const fn is_private(&self) -> bool {
        self.private
    }

    /// Checks that the caller may have what `request` asks for.
    ///
    /// # Errors
    /// [`Error::NoToken`] for a tuning by a caller without a token, where there are tokens.
    pub(super) fn check_request(&self, request: &ModelRequest) -> Result<()> {
        if self.may_tune || request.tune.is_none() {
            return Ok(());
        }
        Err(Error::NoToken { what: "tuning of gene", name: self.gene.chars().take(80).collect() })
    }
}

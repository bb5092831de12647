//! The error type of the crate, its kinds, and the one table that maps a kind to gRPC code, HTTP status, Hub code and
//! exit code.
//!
//! There is a variant wherever a caller would act differently. Each variant carries data, and its message names the
//! value and the limit.

use std::path::PathBuf;

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with the data that a caller or a user needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A named thing does not exist.
    #[error("{what} \"{name}\" is not known (known: {known})")]
    NotFound {
        /// Sort of thing, for example `gene`.
        what: &'static str,
        /// The requested name.
        name: String,
        /// Names that exist, for the reader.
        known: String,
    },
    /// A repository of the Hub protocol does not exist.
    #[error("repository \"{name}\" does not exist: {reason}")]
    NoRepository {
        /// The requested owner and name.
        name: String,
        /// Why not, and which exist.
        reason: String,
    },
    /// A repository of the Hub protocol has no such revision. The message begins with the Hub's own words.
    #[error("Invalid rev id: {name} (known: {known})")]
    NoRevision {
        /// The requested revision.
        name: String,
        /// Revisions that exist.
        known: String,
    },
    /// A private thing was requested without a token.
    #[error("{what} \"{name}\" is private: give a token")]
    NoToken {
        /// Sort of thing, for example `gene`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The server does not know the token. The message is the Hub's own.
    #[error("Invalid credentials in Authorization header")]
    BadToken,
    /// A number is outside its limits.
    #[error("{what} {found} is beyond {of} ({limit})")]
    OutOfRange {
        /// Name of the number, for example `depth`.
        what: &'static str,
        /// The value that was given.
        found: u64,
        /// What sets the limit, for example `gene "fashion-s"`.
        of: String,
        /// The limit, for example `1..=24`.
        limit: String,
    },
    /// A field of a request or configuration is not acceptable.
    #[error("{field}: {reason}")]
    Invalid {
        /// Name of the field, flag or key.
        field: String,
        /// What is wrong with the value, and which values are right.
        reason: String,
    },
    /// A tensor that the schema requires is absent.
    #[error("tensor \"{name}\" is missing")]
    MissingTensor {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor that the schema does not know is present.
    #[error("tensor \"{name}\" is unexpected")]
    UnexpectedTensor {
        /// Name of the tensor.
        name: String,
    },
    /// The shape of a tensor differs from the schema.
    #[error("tensor \"{name}\" has shape {found:?}, expected {expected:?}")]
    ShapeMismatch {
        /// Name of the tensor.
        name: String,
        /// Shape that the schema requires.
        expected: Vec<usize>,
        /// Shape that was found.
        found: Vec<usize>,
    },
    /// A stored file breaks its format or an invariant.
    #[error("{path}: {reason}")]
    Corrupt {
        /// The file, or a description of the source.
        path: String,
        /// Which invariant is broken, with value and limit.
        reason: String,
    },
    /// The service is at its limit. The same call may succeed later.
    #[error("at the limit of {limit} concurrent {what}; retry in {retry_after_s} s")]
    Overloaded {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// Seconds to wait before a retry.
        retry_after_s: u64,
    },
    /// The caller went away or asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Training produced a value that is not finite.
    #[error("training diverged at step {step}: {what} is {value}")]
    Diverged {
        /// Optimiser step, from 0.
        step: u64,
        /// Name of the value.
        what: String,
        /// The value.
        value: f64,
    },
    /// A tensor operation failed.
    #[error("{context}: {source}")]
    Tensor {
        /// The computation that failed.
        context: String,
        /// candle's error.
        #[source]
        source: candle_core::Error,
    },
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A task of this program panicked, which is a bug.
    #[error("{what} panicked")]
    Panicked {
        /// What the task was doing.
        what: &'static str,
    },
    /// A failure that is reported to several waiting callers.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<Self>),
    /// Another genebank server refused the request or failed. The kind is the one that it reported.
    #[error("{server}: {message}")]
    Remote {
        /// Address of the other side.
        server: String,
        /// Kind that the other side reported.
        kind: Kind,
        /// Its message.
        message: String,
    },
}

/// What a caller can do about an [`enum@Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Change the request.
    Invalid,
    /// Request something that exists.
    NotFound,
    /// Request a repository that exists.
    NoRepository,
    /// Request a revision that exists.
    NoRevision,
    /// Give a token.
    NoToken,
    /// Give another token.
    BadToken,
    /// Wait and repeat.
    Overloaded,
    /// Nothing, because the caller ended the request.
    Cancelled,
    /// Restore the stored file.
    DataLoss,
    /// Report the error.
    Internal,
}

/// One row of the table of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// gRPC status code (`google.rpc.Code`).
    pub grpc: i32,
    /// HTTP status.
    pub http: u16,
    /// `X-Error-Code` of the Hub protocol, for the errors that its clients tell apart by it. For others they use only
    /// the status.
    pub hub: Option<&'static str>,
    /// Exit code of the program.
    pub exit: u8,
    /// Stable name of the kind in `problem+json`, gRPC metadata and logs.
    pub word: &'static str,
}

impl Kind {
    /// Every kind, in table order.
    pub const ALL: [Self; 10] = [
        Self::Invalid,
        Self::NotFound,
        Self::NoRepository,
        Self::NoRevision,
        Self::NoToken,
        Self::BadToken,
        Self::Overloaded,
        Self::Cancelled,
        Self::DataLoss,
        Self::Internal,
    ];

    /// The row of this kind in the table: gRPC code, HTTP status, Hub code, exit code.
    pub const fn codes(self) -> Codes {
        const fn row(grpc: i32, http: u16, hub: Option<&'static str>, exit: u8, word: &'static str) -> Codes {
            Codes { grpc, http, hub, exit, word }
        }
        match self {
            Self::Invalid => row(3, 400, None, 2, "invalid"),
            Self::NotFound => row(5, 404, Some("EntryNotFound"), 3, "not-found"),
            Self::NoRepository => row(5, 404, Some("RepoNotFound"), 3, "no-repository"),
            Self::NoRevision => row(5, 404, Some("RevisionNotFound"), 3, "no-revision"),
            Self::NoToken => row(16, 401, Some("RepoNotFound"), 2, "no-token"),
            Self::BadToken => row(16, 401, None, 2, "bad-token"),
            Self::Overloaded => row(8, 429, None, 4, "overloaded"),
            Self::Cancelled => row(1, 499, None, 1, "cancelled"),
            Self::DataLoss => row(15, 500, None, 1, "data-loss"),
            Self::Internal => row(13, 500, None, 1, "internal"),
        }
    }

    /// The first kind whose gRPC code is `code`, or [`Kind::Internal`] for an unknown code.
    pub fn from_grpc(code: i32) -> Self {
        Self::ALL.into_iter().find(|kind| kind.codes().grpc == code).unwrap_or(Self::Internal)
    }

    /// The first kind whose HTTP status is `status`, or [`Kind::Internal`] for an unknown status.
    pub fn from_http(status: u16) -> Self {
        Self::ALL.into_iter().find(|kind| kind.codes().http == status).unwrap_or(Self::Internal)
    }

    /// The kind with this word in the table.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.codes().word == word)
    }
}

impl Error {
    /// What a caller can do about this error.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Shared(error) => error.kind(),
            Self::NotFound { .. } => Kind::NotFound,
            Self::NoRepository { .. } => Kind::NoRepository,
            Self::NoRevision { .. } => Kind::NoRevision,
            Self::NoToken { .. } => Kind::NoToken,
            Self::BadToken => Kind::BadToken,
            Self::OutOfRange { .. } | Self::Invalid { .. } => Kind::Invalid,
            Self::MissingTensor { .. }
            | Self::UnexpectedTensor { .. }
            | Self::ShapeMismatch { .. }
            | Self::Corrupt { .. } => Kind::DataLoss,
            Self::Overloaded { .. } => Kind::Overloaded,
            Self::Cancelled => Kind::Cancelled,
            Self::Diverged { .. } | Self::Tensor { .. } | Self::Io { .. } | Self::Panicked { .. } => {
                Kind::Internal
            }
            Self::Remote { kind, .. } => *kind,
        }
    }

    /// The error for a text that does not name a member of the closed set `T`.
    pub fn not_one_of<T: strum::VariantArray + std::fmt::Display>(what: &str, text: &str) -> Self {
        // The message repeats the client's text, so a limit keeps it short.
        let shown: String = text.chars().take(80).collect();
        let known: Vec<_> = T::VARIANTS.iter().map(ToString::to_string).collect();
        Self::invalid(what, format!("\"{shown}\" is not one of {}", known.join(", ")))
    }

    /// Makes an [`Error::Invalid`].
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// Makes an [`Error::Corrupt`].
    pub fn corrupt(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), reason: reason.into() }
    }

    /// A closure for `map_err` that makes an [`Error::Io`] with the file's path.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Adds the failed computation to the error of a tensor operation.
pub trait Context<T> {
    /// Converts an error into [`Error::Tensor`] with `context`.
    ///
    /// # Errors
    /// The same failure, with `context`.
    fn context(self, context: &str) -> Result<T>;
}

impl<T> Context<T> for candle_core::Result<T> {
    fn context(self, context: &str) -> Result<T> {
        self.map_err(|source| Error::Tensor { context: context.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_word_and_is_known_by_its_grpc_code() {
        for (i, a) in Kind::ALL.into_iter().enumerate() {
            let (codes, found) = (a.codes(), Kind::from_grpc(a.codes().grpc).codes());
            assert_eq!((found.grpc, found.http, found.exit), (codes.grpc, codes.http, codes.exit));
            for b in &Kind::ALL[i + 1..] {
                assert_ne!(a.codes().word, b.codes().word);
            }
        }
    }

    #[test]
    fn message_names_value_and_limit() {
        let error = Error::OutOfRange {
            what: "depth",
            found: 40,
            of: "gene \"fashion-s\"".to_owned(),
            limit: "1..=24".to_owned(),
        };
        assert_eq!(error.to_string(), "depth 40 is beyond gene \"fashion-s\" (1..=24)");
        assert_eq!(error.kind(), Kind::Invalid);
    }
}

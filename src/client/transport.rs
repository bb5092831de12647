//! How the bytes of a model are transferred.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// How the bytes of a model are transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Over gRPC, or for long files over HTTP if it gets through.
    #[default]
    Auto,
    /// Over gRPC, for files of any length.
    Grpc,
    /// Only over HTTP/1.1.
    Http,
}

impl Transport {
    /// All transports.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Grpc, Self::Http];
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Grpc => "grpc",
            Self::Http => "http",
        })
    }
}

impl FromStr for Transport {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|transport| transport.to_string() == text);
        found.ok_or_else(|| Error::invalid("transport", format!("\"{text}\" is not one of auto, grpc, http")))
    }
}

/// How a long file is downloaded over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    /// Files with more bytes than this are downloaded in ranges.
    pub above_bytes: u64,
    /// Length of a range in bytes.
    pub part_bytes: u64,
    /// Number of connections at the same time.
    pub connections: usize,
}

impl Default for Ranges {
    fn default() -> Self {
        Self { above_bytes: 64 << 20, part_bytes: 16 << 20, connections: 4 }
    }
}

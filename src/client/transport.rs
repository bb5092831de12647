//! How the bytes of a model are transferred.

use strum::{Display, EnumString, VariantArray};

use crate::error::Error;

/// How the bytes of a model are transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase", parse_err_ty = Error, parse_err_fn = unknown)]
pub enum Transport {
    /// Over gRPC, or for long files over HTTP if it gets through.
    #[default]
    Auto,
    /// Over gRPC, for files of any length.
    Grpc,
    /// Only over HTTP/1.1.
    Http,
}

fn unknown(text: &str) -> Error {
    Error::not_one_of::<Transport>("transport", text)
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

//! Messages and services of `proto/genebank/v1/genebank.proto`. `wire` translates them to and from this crate's own
//! types; only the services of `server` and `client` name them too.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    clippy::unwrap_used,
    clippy::unused_async,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

tonic::include_proto!("genebank.v1");

/// Largest message that a client may send, in bytes. Requests hold a few numbers and names, and labels.
pub const MAX_REQUEST_BYTES: usize = 512 << 10;

/// The encoded `FileDescriptorSet` for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/genebank_descriptor.bin"));

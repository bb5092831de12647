//! Messages and services of `proto/genebank/v1/genebank.proto`, for `server` and `client` only: everything below
//! speaks in this crate's own types.

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

/// Largest message that a client may send, bytes: requests are a few numbers and names, and labels.
pub const MAX_REQUEST_BYTES: usize = 512 << 10;

/// The encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/genebank_descriptor.bin"));

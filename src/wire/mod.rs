//! What goes over the wire, in both directions: every message beside the type of this crate that it carries, and the
//! query of `/v1/models`.
//!
//! `server` and `client` share it. Each pair of functions takes its argument apart field by field, so a new field does
//! not compile until both directions carry it; a test in each file sends random values there and back.

pub(crate) mod budget;
mod choice;
pub(crate) mod gene;
pub(crate) mod header;
pub(crate) mod query;
pub(crate) mod request;

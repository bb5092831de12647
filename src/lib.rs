//! genebank: initialised transformers of any depth and width from compact learngenes.
//!
//! The modules form layers, and imports point only downwards. `tests/layering.rs` lists the layers and checks this.

pub mod bank;
pub mod blueprint;
pub mod cli;
pub mod client;
pub mod data;
pub mod digest;
pub mod error;
pub mod export;
pub mod file;
pub mod gene;
pub mod import;
pub mod nn;
pub mod proto;
pub mod server;
pub mod study;
pub mod tensor;
pub mod train;
pub mod version;
mod wire;

//! Tensors: differentiable operations, named weights, trainable parameters, seeded values, devices and the
//! strict safetensors codec.

pub mod codec;
pub mod device;
pub mod dtype;
pub mod init;
pub mod ops;
pub mod params;
#[cfg(feature = "cuda")]
mod pinned;
pub mod rng;
pub mod tape;
pub mod weight;
pub mod weights;

pub use codec::{TensorBytes, TensorFile};
pub use dtype::Dtype;
pub use init::Init;
pub use params::Params;
pub use tape::Tape;
pub use weight::{Weight, matrix_view, row_axes};
pub use weights::Weights;

use sha2::{Digest, Sha256};

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether `text` is a SHA-256 as [`hex`] writes it.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

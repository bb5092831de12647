//! Tensors: differentiable operations, named weights, trainable parameters, seeded values, devices and the
//! strict safetensors codec.

pub mod codec;
pub mod device;
pub mod dtype;
pub mod header;
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
pub use header::TensorHeader;
pub use init::Init;
pub use params::Params;
pub use tape::Tape;
pub use weight::{Weight, matrix_view, row_axes};
pub use weights::Weights;

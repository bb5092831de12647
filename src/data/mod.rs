//! Data: reading, splitting, augmenting and batching of images, and the same for text. Batches hold plain vectors, not
//! tensors.

pub mod augment;
mod cifar;
mod colour;
pub mod dataset;
mod folder;
pub mod idx;
mod jpeg;
pub mod known;
pub mod loader;
mod open;
mod parquet;
mod picture;
mod settings;
pub mod text;

pub use augment::{Augment, Erase};
pub use dataset::{Dataset, DatasetPair, ImageShape, Split};
pub use known::{KNOWN, Known, data_root};
pub use loader::{Batch, Epoch, Loader, Prefetch};
pub use open::open;

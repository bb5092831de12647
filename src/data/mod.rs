//! Data: reading, splitting, augmenting and batching of images, and the same for text. Batches hold plain vectors, not
//! tensors.

pub mod augment;
pub mod batch;
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
pub use batch::{Batch, Batches, Content, Pixels, Prefetch};
pub use dataset::{Dataset, DatasetPair, ImageShape, Split};
pub use known::{KNOWN, Known, data_root};
pub use loader::{Epoch, Loader};
pub use open::open;

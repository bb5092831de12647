
pub mod dataset;
pub mod idx;
pub mod known;

pub use dataset::{Dataset, DatasetPair, ImageShape, Split};
pub use known::{KNOWN, Known, data_root};

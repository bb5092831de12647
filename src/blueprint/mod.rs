//! A blueprint is data: the name, shape, dtype and source of the values of every tensor of a model. It has two
//! executors, [`mod@assemble`] (bytes, to serve) and [`mod@expand`] (tensors, to learn, tune and evaluate), which agree
//! bit for bit on the CPU.

pub mod ancestor;
pub mod assemble;
pub mod entry;
pub mod expand;
pub mod identity;
pub mod importance;
pub mod metric;
pub mod model;
pub mod pool;
pub mod record;
pub mod report;
pub mod resident;
pub mod resize;

pub use ancestor::Ancestor;
pub use assemble::{Artifact, Slices};
pub use entry::{Blueprint, Entry, Piece, Row, Source, Span};
pub use expand::expand;
pub use identity::Identity;
pub use metric::Metric;
pub use model::{ModelInfo, Origin, Preprocessing, TrainingData};
pub use pool::{Pool, Reservation};
pub use report::Inheritance;
pub use resident::Resident;
pub use resize::Resize;

/// Must change whenever the same request would render any byte differently.
pub const RENDER_VERSION: u64 = 2;

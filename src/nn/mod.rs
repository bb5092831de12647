//! Networks built from named weights. They know nothing about genes, stages or routers.

pub mod bert;
pub mod layers;
pub mod mixer;
pub mod mlp;
pub mod network;
pub mod schema;
pub mod size;
pub mod vit;

pub use bert::{Bert, BertConfig};
pub use network::{Config, Input, Network};
pub use schema::{Axis, Dims, Role, Schema, Spec};
pub use size::Size;
pub use vit::{Gates, Vit, VitConfig};

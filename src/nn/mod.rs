//! The network: one plain vision transformer built from named weights. It knows nothing of genes, stages or
//! routers.

pub mod block;
pub mod config;
pub mod layers;
pub mod mixer;
pub mod schema;
pub mod vit;

pub use config::VitConfig;
pub use schema::{Axis, ParamSpec};
pub use vit::{DropPath, Vit};

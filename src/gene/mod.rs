//! Learngenes: one trained layer per stage plus embeddings, final norm and head, and how to expand them to a model of
//! any depth and width.

pub mod baselines;
mod curve;
pub mod depth;
mod first;
pub mod forecast;
pub mod labels;
pub mod learngene;
pub mod meta;
pub mod probe;
mod record;
pub mod store;
pub mod synthetic;
pub mod target;
pub mod width;

pub use baselines::{Method, Start};
pub use depth::DepthRule;
pub use first::{first_values, ordered_values};
pub use forecast::{Forecast, Forecasts};
pub use learngene::{Learngene, SizeRequest};
pub use meta::{GeneMeta, Quality};
pub use probe::Probe;
pub use synthetic::Synthetic;
pub use target::{Head, Target};

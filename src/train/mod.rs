//! Training: the trainer, its objectives and whole runs.

pub mod checkpoint;
pub mod classify;
pub mod embed;
pub mod engine;
pub mod evaluate;
pub mod finetune;
pub mod learn_gene;
pub mod learn_vectors;
pub mod measure;
pub mod model;
pub mod nested;
pub mod objective;
pub mod optim;
pub mod recipe;
pub mod run;
pub mod shard;
mod sizes;
pub mod teacher;
pub mod trainer;
pub mod vectors;

pub use engine::Engine;
pub use evaluate::{Accuracy, evaluate};
pub use model::Model;
pub use objective::Objective;
pub use optim::Decay;
pub use recipe::{Length, Optim, Recipe};
pub use shard::Shard;
pub use trainer::{Control, Event, Trainer};

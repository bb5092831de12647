//! Learning: the trainer and what it minimises.

pub mod checkpoint;
pub mod classify;
mod device;
pub mod engine;
pub mod evaluate;
pub mod finetune;
pub mod learn_gene;
pub mod nested;
pub mod objective;
pub mod optim;
pub mod recipe;
pub mod run;
pub mod teacher;
pub mod trainer;

pub use engine::Engine;
pub use evaluate::{Accuracy, evaluate};
pub use objective::{Objective, Shard};
pub use recipe::{Length, Optim, Recipe};
pub use trainer::{Control, Event, Trainer};

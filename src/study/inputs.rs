//! The inputs of a study, and where it writes.

use std::{collections::BTreeMap, path::Path};

use candle_core::Device;

use crate::{blueprint::Ancestor, gene::Learngene};

use super::{Measured, Plan};

/// A study: its plan, its inputs and its folders.
#[derive(Debug, Clone, Copy)]
pub struct Study<'a> {
    /// What to measure.
    pub plan: &'a Plan,
    /// The genes of the plan, by name.
    pub genes: &'a BTreeMap<String, Learngene>,
    /// The ancestor.
    pub ancestor: &'a Ancestor,
    /// The data that the plan names.
    pub data: &'a Measured,
    /// Folder for the table, the plot and the finished cells.
    pub output: &'a Path,
    /// Folder for trained models and for checkpoints.
    pub cache: &'a Path,
    /// Number of CPU threads.
    pub threads: usize,
    /// Device that trains the models.
    pub device: &'a Device,
}

//! What a study reads, and where it writes.

use std::{collections::BTreeMap, path::Path};

use candle_core::Device;

use crate::{blueprint::Ancestor, data::DatasetPair, gene::Learngene};

use super::Plan;

/// Where a study reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Study<'a> {
    /// What is measured.
    pub plan: &'a Plan,
    /// The genes of the plan by name.
    pub genes: &'a BTreeMap<String, Learngene>,
    /// The ancestor.
    pub ancestor: &'a Ancestor,
    /// Its data.
    pub data: &'a DatasetPair,
    /// Folder of the table, the plot and the finished cells.
    pub output: &'a Path,
    /// Folder of trained models and of the states of runs.
    pub cache: &'a Path,
    /// Threads of computation on the CPU.
    pub threads: usize,
    /// Where is computed.
    pub device: &'a Device,
}

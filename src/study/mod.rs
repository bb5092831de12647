//! Studies: a gene's models over depths and tuning epochs, beside controls from scratch.
//!
//! Rules that every study keeps: learning rates are picked on held-out training images, separately for each arm and
//! length; the test set is read for the chosen cells alone; a control has the same data, augmentation, batch and
//! epochs, and no more and no less than labels to learn from.

mod cell;
mod plan;
mod report;

use std::{path::Path, sync::atomic::AtomicBool};

use candle_core::Device;

use crate::{
    data::{DatasetPair, Split},
    error::{Error, Result},
    gene::{GeneMeta, Learngene, Quality, store},
    tensor::codec,
    train::run::{Model, Report, measure},
};

pub use cell::{Arm, Cell, Finished};
pub use plan::{ArmPlan, Plan};
pub use report::Row;

/// Where a study reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Study<'a> {
    /// What is measured.
    pub plan: &'a Plan,
    /// The gene.
    pub gene: &'a Learngene,
    /// The ancestor, whose accuracy is the measure.
    pub ancestor: &'a Model,
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

impl Study<'_> {
    /// Runs every cell that is not finished, then writes the table and the plot.
    ///
    /// # Errors
    /// Those of training; [`Error::Cancelled`], after which the study goes on where it stopped.
    pub fn run(&self, cancel: &AtomicBool, say: &mut dyn FnMut(&str, Option<Report>)) -> Result<Vec<Row>> {
        let mut cells = cell::Cells::open(*self)?;
        let mut chosen: Vec<Cell> = self
            .plan
            .depths
            .iter()
            .map(|depth| Cell { arm: Arm::Gene, depth: *depth, epochs: 0, learning_rate_e9: 0 })
            .collect();
        for (arm, arm_plan) in [(Arm::Gene, &self.plan.gene_arm), (Arm::Scratch, &self.plan.scratch_arm)] {
            for epochs in &arm_plan.epochs {
                let learning_rate_e9 = Self::pick(&mut cells, arm, arm_plan, *epochs, cancel, say)?;
                let cell = |depth: &usize| Cell { arm, depth: *depth, epochs: *epochs, learning_rate_e9 };
                chosen.extend(arm_plan.depths.iter().map(cell));
            }
        }
        for cell in &chosen {
            cells.finish(*cell, true, cancel, say)?;
        }
        let ancestor = measure(self.ancestor, self.data, Split::Test, self.threads)?.share();
        let rows =
            chosen.iter().map(|cell| Row::new(*cell, cells.finished(cell))).collect::<Result<Vec<_>>>()?;
        report::write(self, &rows, ancestor)?;
        Ok(rows)
    }

    /// The learning rate with the best held-out accuracy at the arm's pick depth.
    fn pick(
        cells: &mut cell::Cells<'_>,
        arm: Arm,
        plan: &ArmPlan,
        epochs: u32,
        cancel: &AtomicBool,
        say: &mut dyn FnMut(&str, Option<Report>),
    ) -> Result<u64> {
        let mut best: Option<(f64, u64)> = None;
        for learning_rate_e9 in plan.learning_rates_e9() {
            let cell = Cell { arm, depth: plan.pick_depth, epochs, learning_rate_e9 };
            let share = cells.finish(cell, false, cancel, say)?.held_out;
            if best.is_none_or(|(most, _)| share > most) {
                best = Some((share, learning_rate_e9));
            }
        }
        best.map(|(_, rate)| rate)
            .ok_or_else(|| Error::invalid("learning_rates", "no learning rate to pick from"))
    }
}

/// Writes the measured figures of untied and tuned models into the gene file at `path`.
///
/// # Errors
/// [`Error::Io`], and those of [`Learngene::from_file`].
pub fn store_quality(path: &Path, gene: &Learngene, rows: &[Row]) -> Result<()> {
    let quality = rows.iter().filter(|row| row.arm == Arm::Gene).map(|row| Quality {
        depth: row.depth,
        width: gene.meta().config.width(),
        tuning_epochs: row.epochs,
        accuracy: row.test,
    });
    let meta = GeneMeta { quality: quality.collect(), ..gene.meta().clone() };
    let bytes = store::with_meta(gene, &meta);
    let file = crate::tensor::TensorFile::from_bytes(bytes.clone(), &path.display().to_string())?;
    Learngene::from_file(file, &path.display().to_string())?;
    codec::write_atomic(path, [bytes.as_ref()])
}

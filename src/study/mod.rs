//! Studies compare ways to make a model, over sizes, epochs of training and seeds.
//!
//! Every study keeps these rules. Learning rates are picked on held-out training images, separately for each arm and
//! length. The test set is read only for the chosen cells. Arms that are compared name the same recipe, and so have the
//! same data, augmentation and batch size.

mod cell;
mod inputs;
mod measured;
mod plan;
mod plot;
mod report;
mod table;

use std::{collections::BTreeMap, path::Path, sync::atomic::AtomicBool};

use crate::{
    error::{Error, Result},
    gene::{GeneMeta, Learngene, Method, Quality, store},
    nn::Size,
    tensor::codec,
    train::run::RunEvent,
};

pub use cell::{Cell, Finished};
pub use inputs::Study;
pub use measured::Measured;
pub use plan::{Arm, Plan, TaughtBy};
pub use table::Row;

impl<'a> Study<'a> {
    /// Runs every cell that is not finished, then writes the table and the plot.
    ///
    /// # Errors
    /// Those of training. After [`Error::Cancelled`], the next run continues where this one stopped.
    pub fn run(&self, cancel: &AtomicBool, say: &mut dyn FnMut(&str, Option<RunEvent>)) -> Result<Vec<Row>> {
        for folder in [self.output, self.cache] {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let mut cells = cell::Cells::open(*self)?;
        let mut rows = Vec::new();
        for arm in &self.plan.arms {
            for epochs in &arm.epochs {
                let learning_rate_e9 = self.pick(&mut cells, arm, *epochs, cancel, say)?;
                for cell in self.cells(arm, *epochs, learning_rate_e9) {
                    let finished = cells.finish(cell, true, cancel, say)?;
                    rows.push(Row::new(&cell, &self.plan.gene, &finished)?);
                }
            }
        }
        let knows = self.ancestor.info().labels == self.data.classes();
        let reference = || self.data.measure(&cells.ancestor()?, true, self.threads);
        report::write(self.output, &rows, self.data.metric(), knows.then(reference).transpose()?)?;
        Ok(rows)
    }

    /// The names of all cells that may run, and whether each is finished. Where a learning rate has yet to be picked,
    /// the cells of every rate are listed.
    ///
    /// # Errors
    /// Those of opening the finished cells.
    pub fn list(&self) -> Result<Vec<(String, bool)>> {
        let cells = cell::Cells::open(*self)?;
        let mut names = Vec::new();
        for arm in &self.plan.arms {
            for epochs in &arm.epochs {
                let rates = arm.learning_rates_e9();
                let rates: Vec<u64> = if *epochs == 0 { vec![0] } else { rates.collect() };
                let own = |rate: &u64| self.cells(arm, *epochs, *rate).collect::<Vec<_>>();
                let picks = rates.iter().filter_map(|rate| self.pick_cell(arm, *epochs, *rate));
                for cell in rates.iter().flat_map(own).chain(picks) {
                    names.push((cells.key(&cell)?, cells.finished(&cell)?.is_some()));
                }
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The cells of an arm for one number of epochs and one learning rate.
    fn cells(&self, arm: &'a Arm, epochs: u32, learning_rate_e9: u64) -> impl Iterator<Item = Cell<'a>> {
        let width = self.genes[&self.plan.gene].meta().config.width();
        let seeds = arm.seeds.as_ref().unwrap_or(&self.plan.seeds);
        arm.sizes(width).into_iter().flat_map(move |Size { width, depth }| {
            seeds.iter().map(move |seed| Cell { arm, depth, width, epochs, learning_rate_e9, seed: *seed })
        })
    }

    /// The cell in which a learning rate is tried.
    fn pick_cell(&self, arm: &'a Arm, epochs: u32, learning_rate_e9: u64) -> Option<Cell<'a>> {
        let [depth, width] = arm.pick?;
        let seed = *arm.seeds.as_ref().unwrap_or(&self.plan.seeds).first()?;
        Some(Cell { arm, depth, width, epochs, learning_rate_e9, seed })
    }

    /// The learning rate with the best held-out accuracy at the arm's pick size. A single rate is taken without a
    /// trial.
    fn pick(
        &self,
        cells: &mut cell::Cells<'_>,
        arm: &'a Arm,
        epochs: u32,
        cancel: &AtomicBool,
        say: &mut dyn FnMut(&str, Option<RunEvent>),
    ) -> Result<u64> {
        if epochs == 0 {
            return Ok(0);
        }
        let mut rates = arm.learning_rates_e9();
        if rates.len() == 1 {
            return Ok(rates.next().unwrap_or_default());
        }
        let mut best: Option<(f64, u64)> = None;
        for rate in rates {
            let missing = || Error::invalid("pick", "no size and seed to pick a learning rate at");
            let cell = self.pick_cell(arm, epochs, rate).ok_or_else(missing)?;
            let share = cells.finish(cell, false, cancel, say)?.held_out;
            if best.is_none_or(|(most, _)| share > most) {
                best = Some((share, rate));
            }
        }
        best.map(|(_, rate)| rate)
            .ok_or_else(|| Error::invalid("learning_rates", "no learning rate to pick from"))
    }
}

/// Writes the figures in `rows` of the gene's models, untuned and tuned, into the gene file at `path`, with the number
/// of `items` of the test set. Each is the mean over seeds. If two arms measured the same size and epochs, the first arm counts.
///
/// # Errors
/// [`Error::Io`], and those of [`Learngene::from_file`].
pub fn store_quality(path: &Path, gene: &Learngene, rows: &[Row], items: u64) -> Result<()> {
    let mut measured: BTreeMap<(usize, usize, u32), (&str, Vec<f64>)> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.method == Method::Gene && row.gene == gene.meta().name) {
        let (arm, found) =
            measured.entry((row.width, row.depth, row.epochs)).or_insert((row.arm.as_str(), Vec::new()));
        if *arm == row.arm {
            found.push(row.test);
        }
    }
    let quality = measured.into_iter().map(|((width, depth, tuning_epochs), (_, found))| Quality {
        items: Some(items),
        depth,
        width,
        tuning_epochs,
        value: found.iter().sum::<f64>() / found.len() as f64,
    });
    let meta = GeneMeta { quality: quality.collect(), ..gene.meta().clone() };
    let bytes = store::with_meta(gene, &meta);
    let file = crate::tensor::TensorFile::from_bytes(bytes.clone(), &path.display().to_string())?;
    Learngene::from_file(file, &path.display().to_string())?;
    codec::write_atomic(path, [bytes.as_ref()])
}

//! The rows and columns of a study's table.

use serde::Serialize;

use crate::{
    error::{Error, Result},
    gene::Method,
    nn::Size,
};

use super::{Cell, Finished};

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the arm.
    pub arm: String,
    /// Where the initial values come from.
    pub method: Method,
    /// The gene that gives the model its shape and, for method `gene`, its values.
    pub gene: String,
    /// Transformer blocks.
    pub depth: usize,
    /// Embedding dimension.
    pub width: usize,
    /// Epochs of training.
    pub epochs: u32,
    /// Peak learning rate; 0 without training.
    pub learning_rate: f64,
    /// Seed.
    pub seed: u64,
    /// Figure on held-out data.
    pub held_out: f64,
    /// Figure on the test set.
    pub test: f64,
    /// Parameters.
    pub parameters: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Training time, seconds, if it is known.
    pub seconds: Option<f64>,
}

impl Row {
    /// The row of a finished cell.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the cell's test accuracy was not measured.
    pub fn new(cell: &Cell<'_>, gene: &str, finished: &Finished) -> Result<Self> {
        let missing = || Error::invalid("cell", format!("{cell:?} was not measured"));
        Ok(Self {
            arm: cell.arm.name.clone(),
            method: cell.arm.method,
            gene: cell.arm.gene.clone().unwrap_or_else(|| gene.to_owned()),
            depth: cell.depth,
            width: cell.width,
            epochs: cell.epochs,
            learning_rate: cell.learning_rate_e9 as f64 / 1e9,
            seed: cell.seed,
            held_out: finished.held_out,
            test: finished.test.ok_or_else(missing)?,
            parameters: finished.parameters,
            macs: finished.macs,
            seconds: finished.seconds,
        })
    }

    pub(super) fn size(&self) -> Size {
        Size { width: self.width, depth: self.depth }
    }
}

/// A column of the table: the rows with one name, such as an arm and a length.
pub(super) type Series<'a> = (String, Vec<&'a Row>);

/// Groups the rows by `name`, in the order in which each name first appears.
pub(super) fn series(rows: &[Row], name: impl Fn(&Row) -> String) -> Vec<Series<'_>> {
    let mut series: Vec<Series<'_>> = Vec::new();
    for row in rows {
        let name = name(row);
        match series.iter_mut().find(|(other, _)| *other == name) {
            Some((_, rows)) => rows.push(row),
            None => series.push((name, vec![row])),
        }
    }
    series
}

pub(super) fn plural(epochs: u32) -> String {
    format!("{epochs} epoch{}", if epochs == 1 { "" } else { "s" })
}

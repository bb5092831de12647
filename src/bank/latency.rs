//! Measured latencies, and what they say about the sizes between them.

use std::path::Path;

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    file,
};

/// Most rows of a table.
pub const MAX_ROWS: usize = 4096;
/// Longest file of a table, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Transformer blocks.
    pub depth: u32,
    /// Embedding dimension.
    pub width: u32,
    /// Images of a batch.
    #[serde(default = "one")]
    pub batch: u32,
    /// Time of one forward pass of one batch.
    pub milliseconds: f64,
}

const fn one() -> u32 {
    1
}

/// Latencies of some sizes on one machine.
///
/// Between two rows with the same width and batch, latency is linear in multiply-accumulates. Each block of one width
/// adds the same number of them, so latency is linear in depth. Sizes outside the rows of their width have no latency.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyTable {
    /// In order of width, batch and depth.
    rows: Vec<Latency>,
}

/// The form of a file: `[[row]]` in TOML, `{"row": [...]}` in JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    row: Vec<Latency>,
}

impl LatencyTable {
    /// Checks the rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no row or too many, for a number that is 0 or not finite, and for two rows of one size.
    pub fn new(mut rows: Vec<Latency>) -> Result<Self> {
        let invalid = |reason: String| Err(Error::invalid("latency table", reason));
        if !(1..=MAX_ROWS).contains(&rows.len()) {
            return invalid(format!("{} rows are beyond 1..={MAX_ROWS}", rows.len()));
        }
        let wrong = |row: &&Latency| {
            [row.depth, row.width, row.batch].contains(&0)
                || !row.milliseconds.is_finite()
                || row.milliseconds <= 0.0
        };
        if let Some(row) = rows.iter().find(wrong) {
            return invalid(format!("{row:?} has a number that is not above 0"));
        }
        let key = |row: &Latency| (row.width, row.batch, row.depth);
        rows.sort_by_key(key);
        if let Some(i) = (1..rows.len()).find(|i| key(&rows[*i]) == key(&rows[i - 1])) {
            return invalid(format!("{:?} is given twice", rows[i]));
        }
        Ok(Self { rows })
    }

    /// Reads a table: JSON where the path ends in `.json`, TOML otherwise.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] where the file is not a table.
    pub fn open(path: &Path) -> Result<Self> {
        let named = |reason: String| Error::invalid(path.display().to_string(), reason);
        let text = file::text(path, MAX_FILE_BYTES)?;
        let json = path.extension().is_some_and(|extension| extension == "json");
        let file: File = if json {
            serde_json::from_str(&text).map_err(|error| named(error.to_string()))?
        } else {
            toml::from_str(&text).map_err(|error| named(error.to_string()))?
        };
        Self::new(file.row)
    }

    /// The rows, in order of width, batch and depth.
    pub fn rows(&self) -> &[Latency] {
        &self.rows
    }

    /// Milliseconds for a size; `None` outside the rows of its width and batch.
    pub fn milliseconds(&self, depth: usize, width: usize, batch: u32) -> Option<f64> {
        let of = |row: &&Latency| (row.width as usize, row.batch) == (width, batch);
        let rows = || self.rows.iter().filter(of);
        let below = rows().rfind(|row| row.depth as usize <= depth)?;
        let above = rows().find(|row| row.depth as usize >= depth)?;
        if below.depth == above.depth {
            return Some(below.milliseconds);
        }
        let share = (depth as f64 - f64::from(below.depth)) / f64::from(above.depth - below.depth);
        Some(below.milliseconds + share * (above.milliseconds - below.milliseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(depth: u32, width: u32, milliseconds: f64) -> Latency {
        Latency { depth, width, batch: 1, milliseconds }
    }

    #[test]
    fn between_rows_it_is_linear_and_beyond_them_silent() {
        let other = Latency { batch: 8, ..row(2, 96, 40.0) };
        let table = LatencyTable::new(vec![row(8, 96, 5.0), row(2, 96, 2.0), other]).unwrap();
        for (depth, milliseconds) in [(2, Some(2.0)), (4, Some(3.0)), (8, Some(5.0)), (9, None), (1, None)] {
            assert_eq!(table.milliseconds(depth, 96, 1), milliseconds, "{depth}");
        }
        assert_eq!(table.milliseconds(2, 96, 8), Some(40.0));
        assert_eq!(table.milliseconds(2, 48, 1), None);
    }

    #[test]
    fn rows_that_are_no_measurements_are_refused() {
        for rows in [
            vec![],
            vec![row(0, 96, 1.0)],
            vec![row(1, 96, 0.0)],
            vec![row(1, 96, -1.0)],
            vec![row(1, 96, f64::NAN)],
            vec![row(1, 96, f64::INFINITY)],
            vec![row(1, 96, 1.0), row(1, 96, 2.0)],
            vec![row(1, 96, 1.0); MAX_ROWS + 1],
        ] {
            LatencyTable::new(rows).unwrap_err();
        }
    }

    #[test]
    fn both_forms_of_a_file_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let toml = "[[row]]\ndepth = 2\nwidth = 96\nmilliseconds = 1.5\n";
        let json = r#"{"row": [{"depth": 2, "width": 96, "batch": 1, "milliseconds": 1.5}]}"#;
        for (name, text) in [("a.toml", toml), ("a.json", json)] {
            let path = folder.path().join(name);
            crate::tensor::codec::write_atomic(&path, [text.as_bytes()]).unwrap();
            assert_eq!(LatencyTable::open(&path).unwrap().rows(), [row(2, 96, 1.5)]);
        }
        for text in ["", "row = 1", "[[row]]\ndepth = -2\nwidth = 96\nmilliseconds = 1.5\n", "[[row]]\nx = 1"]
        {
            let path = folder.path().join("b.toml");
            crate::tensor::codec::write_atomic(&path, [text.as_bytes()]).unwrap();
            assert_eq!(LatencyTable::open(&path).unwrap_err().kind(), crate::error::Kind::Invalid, "{text}");
        }
        assert_eq!(
            LatencyTable::open(&folder.path().join("no")).unwrap_err().kind(),
            crate::error::Kind::Internal
        );
    }
}

//! Writes data to standard output, and messages to standard error.

use std::{fmt::Display, io::Write as _};

use serde::Serialize;

use crate::{
    blueprint::Metric,
    error::{Error, Result},
};

/// Writes one line of data and flushes it.
pub(super) fn line(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io("standard output"))
}

/// Writes `value` as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value).map_err(|e| Error::invalid("json", e.to_string()))?)
}

/// Writes raw bytes.
pub(super) fn bytes<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut parts = parts.into_iter();
    parts
        .try_for_each(|part| out.write_all(part))
        .and_then(|()| out.flush())
        .map_err(Error::io("standard output"))
}

/// Writes a message for the user. A failure to write it is ignored.
pub(super) fn talk(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes rows in columns. The first column is left-aligned, the others are right-aligned.
pub(super) fn table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    for row in rows {
        let mut text = String::new();
        for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if c == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            text.push_str(&cell);
        }
        line(text.trim_end())?;
    }
    Ok(())
}

/// A share as a percentage, or a dash if there is none.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

/// A figure of quality, or a dash if there is none.
pub(super) fn quality(metric: Option<Metric>, value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| metric.unwrap_or_default().show(value))
}

/// Numbers separated by commas.
pub(super) fn list<T: Display>(numbers: &[T]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

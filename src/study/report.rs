//! The table of a study, as CSV and Markdown.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use crate::{
    blueprint::Metric,
    error::{Error, Result},
    nn::Size,
    tensor::codec,
};

use super::{
    plot,
    table::{Row, Series, plural, series},
};

/// Writes the table and the plot into the folder `output`. `ancestor` is the ancestor's figure on the test set, if it
/// knows the classes of the data.
pub(super) fn write(output: &Path, rows: &[Row], metric: Metric, ancestor: Option<f64>) -> Result<()> {
    let columns = series(rows, |row| {
        if row.epochs == 0 { row.arm.clone() } else { format!("{}, {}", row.arm, plural(row.epochs)) }
    });
    let file = |name: &str, text: &str| codec::write_atomic(&output.join(name), [text.as_bytes()]);
    file("table.csv", &csv(rows))?;
    file("table.md", &markdown(&columns, metric, ancestor))?;
    file("plot.svg", &plot::svg(rows, metric, ancestor).map_err(|reason| Error::invalid("plot", reason))?)
}

fn csv(rows: &[Row]) -> String {
    let mut text =
        "arm,method,depth,width,epochs,learning_rate,seed,held_out,test,parameters,macs,seconds\n".to_owned();
    for row in rows {
        let Row { arm, method, gene: _, depth, width, epochs, learning_rate, seed, .. } = row;
        let Row { held_out, test, parameters, macs, seconds, .. } = row;
        let seconds = seconds.map_or_else(String::new, |seconds| format!("{seconds:.0}"));
        // The name of an arm is free text, so it is quoted.
        let arm = format!("\"{}\"", arm.replace('"', "\"\""));
        let _ = writeln!(
            text,
            "{arm},{method},{depth},{width},{epochs},{learning_rate:e},{seed},{held_out:.4},{test:.4},{parameters},{macs},{seconds}"
        );
    }
    text
}

/// The mean figure of one size in a column, and the range if there are several values, times 100.
fn figure(rows: &[&Row], size: Size) -> Option<String> {
    let found = rows.iter().filter(|row| row.size() == size);
    let found: Vec<f64> = found.map(|row| row.test * 100.0).collect();
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    let ends = found.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
    match found.len() {
        0 => None,
        1 => Some(format!("{mean:.2}")),
        _ => Some(format!("{mean:.2} ({:.2} to {:.2})", ends.0, ends.1)),
    }
}

fn markdown(columns: &[Series<'_>], metric: Metric, ancestor: Option<f64>) -> String {
    let rows = columns.iter().flat_map(|(_, rows)| rows.iter());
    let sizes: BTreeSet<_> = rows.map(|row| row.size()).collect();
    let mut text = "| width | depth |".to_owned();
    for (name, _) in columns {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|{}", " ---: |".repeat(columns.len() + 2));
    for size in sizes {
        let Size { width, depth } = size;
        let _ = write!(text, "| {width} | {depth} |");
        for (_, rows) in columns {
            let _ = match figure(rows, size) {
                Some(figure) => write!(text, " {figure} |"),
                None => write!(text, " |"),
            };
        }
        text.push('\n');
    }
    let beside = ancestor.map_or_else(String::new, |share| format!(" Ancestor: {:.2}.", share * 100.0));
    let _ = writeln!(text, "\n{} on the test set, {}.{beside}", metric.name(), metric.unit());
    text
}

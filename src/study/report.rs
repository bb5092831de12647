//! The table (CSV and Markdown) and the plot of a study.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use plotters::prelude::*;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    tensor::codec,
};

use super::{Cell, Finished, Method, Study};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the arm.
    pub arm: String,
    /// Where first values come from.
    pub method: Method,
    /// The gene whose shape, and for method `gene` whose values, it has.
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
    /// Accuracy on held-out training images.
    pub held_out: f64,
    /// Accuracy on the test set.
    pub test: f64,
    /// Parameters.
    pub parameters: u64,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Seconds of training, where this is known.
    pub seconds: Option<f64>,
}

impl Row {
    /// The line of a finished cell.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the cell's test accuracy was not measured.
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
}

/// A column of the table: rows of one arm and length.
type Series<'a> = (String, Vec<&'a Row>);

pub(super) fn write(study: &Study<'_>, rows: &[Row], ancestor: f64) -> Result<()> {
    let columns = series(rows, |row| {
        if row.epochs == 0 { row.arm.clone() } else { format!("{}, {}", row.arm, plural(row.epochs)) }
    });
    let file = |name: &str, text: &str| codec::write_atomic(&study.output.join(name), [text.as_bytes()]);
    file("table.csv", &csv(rows))?;
    file("table.md", &markdown(&columns, ancestor))?;
    let one_width = rows.iter().all(|row| row.width == rows[0].width);
    let lines = series(rows, |row| {
        let of = if one_width { String::new() } else { format!(", width {}", row.width) };
        let after = if row.epochs == 0 { String::new() } else { format!(", {}", plural(row.epochs)) };
        format!("{}{of}{after}", row.arm)
    });
    file("plot.svg", &plot(&lines, ancestor).map_err(|reason| Error::invalid("plot", reason))?)
}

/// The rows by what `name` gives, in the order in which the names first come.
fn series(rows: &[Row], name: impl Fn(&Row) -> String) -> Vec<Series<'_>> {
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

fn plural(epochs: u32) -> String {
    format!("{epochs} epoch{}", if epochs == 1 { "" } else { "s" })
}

fn csv(rows: &[Row]) -> String {
    let mut text =
        "arm,method,depth,width,epochs,learning_rate,seed,held_out,test,parameters,macs,seconds\n".to_owned();
    for row in rows {
        let Row { arm, method, gene: _, depth, width, epochs, learning_rate, seed, .. } = row;
        let Row { held_out, test, parameters, macs, seconds, .. } = row;
        let seconds = seconds.map_or_else(String::new, |seconds| format!("{seconds:.0}"));
        // Names of arms are free text.
        let arm = format!("\"{}\"", arm.replace('"', "\"\""));
        let _ = writeln!(
            text,
            "{arm},{method},{depth},{width},{epochs},{learning_rate:e},{seed},{held_out:.4},{test:.4},{parameters},{macs},{seconds}"
        );
    }
    text
}

/// Mean, and where there are several the spread, of one size in a column; per cent.
fn figure(rows: &[&Row], depth: usize, width: usize) -> Option<String> {
    let found = rows.iter().filter(|row| (row.depth, row.width) == (depth, width));
    let found: Vec<f64> = found.map(|row| row.test * 100.0).collect();
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    let ends = found.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
    match found.len() {
        0 => None,
        1 => Some(format!("{mean:.2}")),
        _ => Some(format!("{mean:.2} ({:.2} to {:.2})", ends.0, ends.1)),
    }
}

fn markdown(columns: &[Series<'_>], ancestor: f64) -> String {
    let rows = columns.iter().flat_map(|(_, rows)| rows.iter());
    let sizes: BTreeSet<_> = rows.map(|row| (row.width, row.depth)).collect();
    let mut text = "| width | depth |".to_owned();
    for (name, _) in columns {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|{}", " ---: |".repeat(columns.len() + 2));
    for (width, depth) in sizes {
        let _ = write!(text, "| {width} | {depth} |");
        for (_, rows) in columns {
            let _ = match figure(rows, depth, width) {
                Some(figure) => write!(text, " {figure} |"),
                None => write!(text, " |"),
            };
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\nAccuracy on the test set, per cent. Ancestor: {:.2}.", ancestor * 100.0);
    text
}

fn plot(series: &[Series<'_>], ancestor: f64) -> std::result::Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, series, ancestor).map_err(|e| e.to_string())?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    series: &[Series<'_>],
    ancestor: f64,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let rows = || series.iter().flat_map(|(_, rows)| rows.iter());
    let depths = rows().fold((usize::MAX, 0), |(a, b), row| (a.min(row.depth), b.max(row.depth)));
    let least = rows().fold(ancestor, |least, row| least.min(row.test));
    let bottom = ((least * 100.0 - 1.0) / 2.0).floor() * 2.0;
    let area = SVGBackend::with_string(svg, (820, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = (depths.0 as f64 - 0.5, depths.1 as f64 + 0.5);
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(left..right, bottom..(ancestor * 100.0 + 2.0))?;
    chart
        .configure_mesh()
        .x_desc("depth (transformer blocks)")
        .y_desc("test accuracy, %")
        .x_labels(depths.1 - depths.0 + 1)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .label_style(("sans-serif", 15))
        .draw()?;
    let level = ancestor * 100.0;
    chart
        .draw_series(DashedLineSeries::new([(left, level), (right, level)], 6, 5, BLACK.stroke_width(1)))?
        .label("ancestor")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK));
    // Okabe & Ito's palette, told apart by everyone.
    let colours = [
        RGBColor(0, 114, 178),
        RGBColor(0, 158, 115),
        RGBColor(230, 159, 0),
        RGBColor(213, 94, 0),
        RGBColor(86, 180, 233),
        RGBColor(204, 121, 167),
    ];
    for ((name, rows), colour) in series.iter().zip(colours.into_iter().cycle()) {
        let mut points: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for row in rows {
            points.entry(row.depth).or_default().push(row.test * 100.0);
        }
        let mean = |(depth, found): (usize, Vec<f64>)| {
            (depth as f64, found.iter().sum::<f64>() / found.len() as f64)
        };
        let points: Vec<_> = points.into_iter().map(mean).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 15))
        .draw()?;
    area.present()?;
    Ok(())
}

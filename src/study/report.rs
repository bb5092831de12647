//! The table (CSV and Markdown) and the plot of a study.

use std::fmt::Write as _;

use plotters::prelude::*;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    tensor::codec,
};

use super::{Arm, Cell, Finished, Study};

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// Where the first values come from.
    pub arm: Arm,
    /// Transformer blocks.
    pub depth: usize,
    /// Epochs of training.
    pub epochs: u32,
    /// Peak learning rate; 0 without training.
    pub learning_rate: f64,
    /// Accuracy on held-out training images.
    pub held_out: f64,
    /// Accuracy on the test set.
    pub test: f64,
    /// Parameters.
    pub parameters: u64,
    /// Multiply-accumulates of one image.
    pub macs: u64,
}

impl Row {
    /// The line of a finished cell.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the cell's test accuracy was not measured.
    pub fn new(cell: Cell, finished: Option<&Finished>) -> Result<Self> {
        let missing = || Error::invalid("cell", format!("{cell:?} was not measured"));
        let finished = finished.ok_or_else(missing)?;
        Ok(Self {
            arm: cell.arm,
            depth: cell.depth,
            epochs: cell.epochs,
            learning_rate: cell.learning_rate_e9 as f64 * 1e-9,
            held_out: finished.held_out,
            test: finished.test.ok_or_else(missing)?,
            parameters: finished.parameters,
            macs: finished.macs,
        })
    }
}

/// A series of the plot: rows of one arm and length.
type Series<'a> = (String, Vec<&'a Row>);

pub(super) fn write(study: &Study<'_>, rows: &[Row], ancestor: f64) -> Result<()> {
    let series = series(rows);
    let file = |name: &str, text: &str| codec::write_atomic(&study.output.join(name), [text.as_bytes()]);
    file("table.csv", &csv(rows))?;
    file("table.md", &markdown(&series, ancestor))?;
    file("plot.svg", &plot(&series, ancestor).map_err(|reason| Error::invalid("plot", reason))?)
}

fn series(rows: &[Row]) -> Vec<Series<'_>> {
    let mut series: Vec<Series<'_>> = Vec::new();
    for row in rows {
        let name = match (row.arm, row.epochs) {
            (Arm::Gene, 0) => "gene, as served".to_owned(),
            (Arm::Gene, epochs) => format!("gene, {} of tuning", plural(epochs)),
            (Arm::Scratch, epochs) => format!("scratch, {}", plural(epochs)),
        };
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
    let mut text = "arm,depth,epochs,learning_rate,held_out,test,parameters,macs\n".to_owned();
    for row in rows {
        let arm = if row.arm == Arm::Gene { "gene" } else { "scratch" };
        let Row { depth, epochs, learning_rate, held_out, test, parameters, macs, .. } = row;
        let _ = writeln!(
            text,
            "{arm},{depth},{epochs},{learning_rate:e},{held_out:.4},{test:.4},{parameters},{macs}"
        );
    }
    text
}

fn markdown(series: &[Series<'_>], ancestor: f64) -> String {
    let mut depths: Vec<_> = series.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.depth)).collect();
    depths.sort_unstable();
    depths.dedup();
    let mut text = "| depth |".to_owned();
    for (name, _) in series {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|{}", " ---: |".repeat(series.len() + 1));
    for depth in depths {
        let _ = write!(text, "| {depth} |");
        for (_, rows) in series {
            let _ = match rows.iter().find(|row| row.depth == depth) {
                Some(row) => write!(text, " {:.2} |", row.test * 100.0),
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
    let colours = [RGBColor(0, 114, 178), RGBColor(0, 158, 115), RGBColor(230, 159, 0), RGBColor(213, 94, 0)];
    for ((name, rows), colour) in series.iter().zip(colours.into_iter().cycle()) {
        let points: Vec<_> = rows.iter().map(|row| (row.depth as f64, row.test * 100.0)).collect();
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

//! The plot of a study: test accuracy over depth, a colour for each arm and length, a mark for each width.

use std::collections::{BTreeMap, BTreeSet};

use plotters::{
    coord::types::RangedCoordf64,
    element::{Cross, TriangleMarker},
    prelude::*,
};

use super::report::{Row, plural, series};

/// Okabe & Ito's palette, told apart by everyone.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
/// Width and height, pixels.
const SIZE: (u32, u32) = (1100, 480);
/// Width of the chart without the legend, pixels.
const CHART: u32 = 800;

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Points of one arm, length and width.
struct Line {
    arm: String,
    width: usize,
    colour: RGBColor,
    /// Which mark, by the width's place among the widths.
    mark: usize,
    /// Depth and mean accuracy over seeds, per cent.
    points: Vec<(f64, f64)>,
}

/// The plot of `rows` and, where it is known, the ancestor's accuracy as a level.
pub(super) fn svg(rows: &[Row], ancestor: Option<f64>) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, &lines(rows), ancestor.map(|share| share * 100.0)).map_err(|e| e.to_string())?;
    Ok(svg)
}

fn lines(rows: &[Row]) -> Vec<Line> {
    let widths: BTreeSet<usize> = rows.iter().map(|row| row.width).collect();
    let arm = |row: &Row| {
        let after = if row.epochs == 0 { String::new() } else { format!(", {}", plural(row.epochs)) };
        format!("{}{after}", row.arm)
    };
    let arms = series(rows, arm);
    let mut lines = Vec::new();
    for ((name, rows), colour) in arms.iter().zip(COLOURS.into_iter().cycle()) {
        for (mark, width) in widths.iter().enumerate() {
            let mut found: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
            for row in rows.iter().filter(|row| row.width == *width) {
                found.entry(row.depth).or_default().push(row.test * 100.0);
            }
            let mean =
                |(depth, all): (usize, Vec<f64>)| (depth as f64, all.iter().sum::<f64>() / all.len() as f64);
            let points: Vec<_> = found.into_iter().map(mean).collect();
            if !points.is_empty() {
                lines.push(Line { arm: name.clone(), width: *width, colour, mark, points });
            }
        }
    }
    lines
}

fn draw(svg: &mut String, lines: &[Line], ancestor: Option<f64>) -> Drawn<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (left, right) = points().fold((f64::MAX, 0.0), |(a, b), (x, _)| (x.min(a), x.max(b)));
    let levels = || points().map(|(_, y)| *y).chain(ancestor);
    let bottom = ((levels().fold(f64::MAX, f64::min) - 1.0) / 2.0).floor() * 2.0;
    let top = levels().fold(0.0, f64::max) + 2.0;
    let (left, right) = (left - 0.5, right + 0.5);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (area, legend) = area.split_horizontally(CHART);
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(left..right, bottom..top)?;
    chart
        .configure_mesh()
        .x_desc("depth (transformer blocks)")
        .y_desc("test accuracy, %")
        .x_labels((right - left).round() as usize)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .label_style(("sans-serif", 15))
        .draw()?;
    if let Some(level) = ancestor {
        let ends = [(left, level), (right, level)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 5, BLACK.stroke_width(1)))?;
    }
    for line in lines {
        chart.draw_series(LineSeries::new(line.points.clone(), line.colour.stroke_width(2)))?;
        marks(&mut chart, line)?;
    }
    // One row for each colour, then one for each mark.
    let mut rows: Vec<(String, RGBColor, Option<usize>)> = Vec::new();
    let arms = lines.iter().map(|line| (line.arm.clone(), line.colour, None));
    let marks = lines.iter().map(|line| (format!("width {}", line.width), BLACK, Some(line.mark)));
    for row in
        ancestor.map(|_| ("ancestor, dashed".to_owned(), BLACK, None)).into_iter().chain(arms).chain(marks)
    {
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    for (row, (name, colour, mark)) in (0..).zip(rows) {
        let y = 30 + 22 * row;
        let at = (12, y);
        match mark {
            None => legend.draw(&PathElement::new([(0, y), (24, y)], colour.stroke_width(2)))?,
            Some(0) => legend.draw(&Circle::new(at, 4, colour.filled()))?,
            Some(1) => legend.draw(&TriangleMarker::new(at, 6, colour.filled()))?,
            Some(2) => legend.draw(&Cross::new(at, 5, colour.stroke_width(2)))?,
            Some(_) => legend.draw(&Circle::new(at, 5, colour.stroke_width(2)))?,
        }
        legend.draw(&Text::new(name, (32, y - 8), ("sans-serif", 15)))?;
    }
    legend.present()?;
    area.present()?;
    Ok(())
}

fn marks(chart: &mut Chart<'_, '_>, line: &Line) -> Drawn<()> {
    let (points, colour) = (line.points.iter().copied(), line.colour);
    match line.mark {
        0 => chart.draw_series(points.map(|at| Circle::new(at, 4, colour.filled())))?,
        1 => chart.draw_series(points.map(|at| TriangleMarker::new(at, 6, colour.filled())))?,
        2 => chart.draw_series(points.map(|at| Cross::new(at, 5, colour.stroke_width(2))))?,
        _ => chart.draw_series(points.map(|at| Circle::new(at, 5, colour.stroke_width(2))))?,
    };
    Ok(())
}

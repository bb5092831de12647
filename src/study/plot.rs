//! The plot of a study: test accuracy over depth. Each width has a panel, and each arm and length has a colour and a
//! mark.

use std::collections::{BTreeMap, BTreeSet};

use plotters::{
    coord::types::RangedCoordf64,
    element::{Cross, TriangleMarker},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::blueprint::Metric;

use super::table::{Row, plural, series};

/// Okabe and Ito's palette, which colour-blind readers can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
/// Height of the plot, pixels.
const HEIGHT: u32 = 480;
/// Width of a single panel, and of each of several panels, pixels.
const PANEL: [u32; 2] = [800, 300];
/// Width of the legend, pixels.
const LEGEND: u32 = 300;
/// If only a few points lie more than this many percentage points below the best, they are written at the lower edge,
/// so that the other points can be told apart.
const WINDOW: f64 = 10.0;

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The points of one arm, length and width.
struct Line {
    arm: String,
    width: usize,
    /// Index of the arm and length, which gives the colour and the mark.
    place: usize,
    /// Depth, and mean accuracy over seeds in per cent.
    points: Vec<(f64, f64)>,
}

impl Line {
    fn colour(&self) -> RGBColor {
        COLOURS[self.place % COLOURS.len()]
    }
}

/// Draws `rows`, with the ancestor's accuracy as a dashed line if it is known.
pub(super) fn svg(rows: &[Row], metric: Metric, ancestor: Option<f64>) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, &lines(rows), metric, ancestor.map(|share| share * 100.0)).map_err(|e| e.to_string())?;
    Ok(svg)
}

fn lines(rows: &[Row]) -> Vec<Line> {
    let arm = |row: &Row| {
        let after = if row.epochs == 0 { String::new() } else { format!(", {}", plural(row.epochs)) };
        format!("{}{after}", row.arm)
    };
    let mut lines = Vec::new();
    for (place, (arm, rows)) in series(rows, arm).into_iter().enumerate() {
        let mut found: BTreeMap<usize, BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
        for row in rows {
            found.entry(row.width).or_default().entry(row.depth).or_default().push(row.test * 100.0);
        }
        let mean =
            |(depth, all): (usize, Vec<f64>)| (depth as f64, all.iter().sum::<f64>() / all.len() as f64);
        lines.extend(found.into_iter().map(|(width, depths)| Line {
            arm: arm.clone(),
            width,
            place,
            points: depths.into_iter().map(mean).collect(),
        }));
    }
    lines
}

/// The range of the accuracy axis. It covers all points, but leaves out those far below the best if they are at most a
/// quarter of all.
fn range(lines: &[Line], ancestor: Option<f64>) -> (f64, f64) {
    let mut levels: Vec<f64> =
        lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).chain(ancestor).collect();
    levels.sort_by(f64::total_cmp);
    let top = levels.last().copied().unwrap_or(100.0);
    let far = levels.iter().filter(|y| **y < top - WINDOW).count();
    let shown = if 4 * far <= levels.len() { &levels[far..] } else { &levels };
    let bottom = shown.first().copied().unwrap_or(0.0);
    let margin = (top - bottom).max(1.0) / 12.0;
    (bottom - margin, top + margin)
}

fn draw(svg: &mut String, lines: &[Line], metric: Metric, ancestor: Option<f64>) -> Drawn<()> {
    let widths: BTreeSet<_> = lines.iter().map(|line| line.width).collect();
    let charts = if widths.len() == 1 { PANEL[0] } else { PANEL[1] * widths.len() as u32 };
    let area = SVGBackend::with_string(svg, (charts + LEGEND, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let (panels, legend) = area.split_horizontally(charts);
    let levels = range(lines, ancestor);
    let depths = lines.iter().flat_map(|line| &line.points).map(|(depth, _)| *depth);
    let (left, right) = depths.fold((f64::MAX, 0.0), |(a, b): (f64, f64), x| (x.min(a), x.max(b)));
    let panels = panels.split_evenly((1, widths.len()));
    let values = if metric == Metric::Accuracy { "test accuracy, %" } else { metric.name() };
    for (width, area) in widths.into_iter().zip(&panels) {
        let lines: Vec<_> = lines.iter().filter(|line| line.width == width).collect();
        panel(
            area,
            [&format!("width {width}"), values],
            (left - 0.5, right + 0.5),
            levels,
            &lines,
            ancestor,
        )?;
    }
    key(&legend, lines, ancestor.is_some(), levels.0)?;
    legend.present()?;
    area.present()?;
    Ok(())
}

fn panel(
    area: &Area<'_>,
    [title, values]: [&str; 2],
    (left, right): (f64, f64),
    (bottom, top): (f64, f64),
    lines: &[&Line],
    ancestor: Option<f64>,
) -> Drawn<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(left..right, bottom..top)?;
    let decimals = usize::from(top - bottom < 8.0);
    chart
        .configure_mesh()
        .x_desc("depth (transformer blocks)")
        .y_desc(values)
        .x_labels(((right - left).round() as usize).min(area.dim_in_pixel().0 as usize / 40))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.decimals$}"))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .label_style(("sans-serif", 14))
        .draw()?;
    if let Some(level) = ancestor {
        let ends = [(left, level), (right, level)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 5, BLACK.stroke_width(1)))?;
    }
    let mut under: BTreeMap<u64, i32> = BTreeMap::new();
    for line in lines {
        let (shown, low): (Vec<_>, Vec<_>) = line.points.iter().partition(|(_, y)| *y >= bottom);
        chart.draw_series(LineSeries::new(shown.iter().copied(), line.colour().stroke_width(2)))?;
        marks(&mut chart, line, &shown)?;
        for (depth, accuracy) in low {
            // Numbers of several arms at one depth are stacked.
            let place = under.entry(depth.to_bits()).or_default();
            let style = ("sans-serif", 13).into_font().color(&line.colour());
            let style = style.pos(Pos::new(HPos::Center, VPos::Bottom));
            let at = (depth, bottom);
            let text =
                EmptyElement::at(at) + Text::new(format!("{accuracy:.0}"), (0, -4 - 14 * *place), style);
            chart.draw_series([text])?;
            *place += 1;
        }
    }
    Ok(())
}

fn marks(chart: &mut Chart<'_, '_>, line: &Line, points: &[(f64, f64)]) -> Drawn<()> {
    let (points, colour) = (points.iter().copied(), line.colour());
    match line.place % 4 {
        0 => chart.draw_series(points.map(|at| Circle::new(at, 4, colour.filled())))?,
        1 => chart.draw_series(points.map(|at| TriangleMarker::new(at, 6, colour.filled())))?,
        2 => chart.draw_series(points.map(|at| Cross::new(at, 5, colour.stroke_width(2))))?,
        _ => chart.draw_series(points.map(|at| Circle::new(at, 5, colour.stroke_width(2))))?,
    };
    Ok(())
}

/// The legend: one row for each arm and length, one for the ancestor, and one for the numbers at the lower edge.
fn key(area: &Area<'_>, lines: &[Line], ancestor: bool, bottom: f64) -> Drawn<()> {
    let mut arms: BTreeMap<usize, &Line> = BTreeMap::new();
    for line in lines {
        arms.entry(line.place).or_insert(line);
    }
    let mut y = 40;
    let name = |text: &str, y: i32| area.draw(&Text::new(text.to_owned(), (32, y - 8), ("sans-serif", 15)));
    for (place, line) in &arms {
        let (at, colour) = ((12, y), line.colour());
        area.draw(&PathElement::new([(0, y), (24, y)], colour.stroke_width(2)))?;
        match place % 4 {
            0 => area.draw(&Circle::new(at, 4, colour.filled()))?,
            1 => area.draw(&TriangleMarker::new(at, 6, colour.filled()))?,
            2 => area.draw(&Cross::new(at, 5, colour.stroke_width(2)))?,
            _ => area.draw(&Circle::new(at, 5, colour.stroke_width(2)))?,
        }
        name(&line.arm, y)?;
        y += 22;
    }
    if ancestor {
        area.draw(&PathElement::new([(0, y), (9, y)], BLACK.stroke_width(1)))?;
        area.draw(&PathElement::new([(15, y), (24, y)], BLACK.stroke_width(1)))?;
        name("ancestor", y)?;
        y += 22;
    }
    if lines.iter().flat_map(|line| &line.points).any(|(_, accuracy)| *accuracy < bottom) {
        name("numbers below: under the axis", y)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(width: usize, levels: &[f64]) -> Line {
        let points = levels.iter().enumerate().map(|(depth, y)| (depth as f64, *y)).collect();
        Line { arm: "a".to_owned(), width, place: 0, points }
    }

    #[test]
    fn a_few_low_points_do_not_press_the_others_together() {
        let high = line(24, &[86.0, 87.0, 88.0, 89.0, 89.5]);
        let (bottom, top) = range(&[high, line(48, &[10.0])], Some(89.0));
        assert!((85.0..86.0).contains(&bottom) && (89.5..91.0).contains(&top), "{bottom} {top}");
        let (bottom, _) = range(&[line(24, &[10.0, 50.0, 80.0, 89.0])], None);
        assert!(bottom < 10.0, "half of them are low: {bottom}");
    }

    #[test]
    fn a_point_under_the_axis_is_written_as_a_number() {
        let lines = [line(24, &[86.0, 87.0, 88.0, 89.0, 89.5]), line(48, &[16.4])];
        let mut svg = String::new();
        draw(&mut svg, &lines, Metric::Accuracy, Some(89.0)).unwrap();
        for text in ["width 24", "width 48", "\n16\n", "under the axis"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }
}

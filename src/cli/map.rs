//! The map of a gene: accuracy over depth and width, the edge of a budget, and the chosen size.

use std::fmt::Write as _;

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    bank::{Choices, GeneSummary},
    error::{Error, Result},
    gene::{Forecast, Forecasts},
};

/// Width of the map, pixels.
const WIDTH: i32 = 960;
/// Width of the legend, pixels.
const LEGEND: i32 = 110;
/// Limit on the number of cells. A gene with very many sizes would make a file of gigabytes.
const MAX_CELLS: usize = 20_000;

/// The colour scale from low to high: five steps of viridis, which looks even and works for colour-blind readers.
const SCALE: [[u8; 3]; 5] = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
/// Colour of the budget's edge and of the chosen size. The scale does not contain it.
const EDGE: RGBColor = RGBColor(213, 30, 30);

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Draws the map as SVG. `budget` describes the edge in words.
///
/// # Errors
/// [`Error::Invalid`] for a gene with too many sizes to draw.
pub(super) fn draw(gene: &GeneSummary, choices: &Choices, budget: &str) -> Result<String> {
    let map = Map::new(gene, choices, budget)?;
    let mut svg = String::new();
    map.draw(&mut svg).map_err(|error| Error::invalid("plot", error.to_string()))?;
    Ok(svg)
}

/// The data of the map.
struct Map<'a> {
    gene: &'a GeneSummary,
    choices: &'a Choices,
    budget: &'a str,
    /// Served widths, narrowest first. Each has one row, because widths are not evenly spaced.
    widths: Vec<u32>,
    forecasts: Option<Forecasts>,
    /// Accuracies at the ends of the colour scale, as shares.
    ends: [f64; 2],
}

impl<'a> Map<'a> {
    fn new(gene: &'a GeneSummary, choices: &'a Choices, budget: &'a str) -> Result<Self> {
        let mut widths = gene.trained_widths.clone();
        widths.sort_unstable();
        widths.dedup();
        let depths = (gene.min_depth..=gene.max_depth).count();
        if depths.saturating_mul(widths.len()) > MAX_CELLS || depths == 0 || widths.is_empty() {
            let reason = format!("{depths} depths of {} widths are not 1..={MAX_CELLS} sizes", widths.len());
            return Err(Error::invalid("--plot", reason));
        }
        let forecasts = Forecasts::of(&gene.quality, gene.metric.unwrap_or_default());
        let mut map = Self { gene, choices, budget, widths, forecasts, ends: [0.0, 1.0] };
        let values = map.cells().filter_map(|(_, _, forecast)| Some(forecast?.value));
        let ends = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], y| [a.min(y), b.max(y)]);
        // The ends are whole percentage points, and at least one point apart.
        let [low, high] = [(ends[0] * 100.0).floor() / 100.0, (ends[1] * 100.0).ceil() / 100.0];
        if low.is_finite() && high.is_finite() {
            map.ends = [low, high.max(low + 0.01)];
        }
        Ok(map)
    }

    /// Depth, row and forecast of every served size.
    fn cells(&self) -> impl Iterator<Item = (u32, usize, Option<Forecast>)> {
        let depths = self.gene.min_depth..=self.gene.max_depth;
        depths.flat_map(move |depth| {
            self.widths.iter().enumerate().map(move |(row, width)| {
                let forecast = self.forecasts.as_ref().and_then(|f| f.at(depth as usize, *width as usize));
                (depth, row, forecast)
            })
        })
    }

    fn row(&self, width: u32) -> Option<usize> {
        self.widths.iter().position(|w| *w == width)
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let rows = self.widths.len();
        let height = 190 + 48 * rows.clamp(3, 12) as u32;
        let root = SVGBackend::with_string(svg, (WIDTH as u32, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(62);
        self.title(&head)?;
        let (plot, legend) = body.split_horizontally(WIDTH - LEGEND);
        let left = f64::from(self.gene.min_depth) - 0.5;
        let right = f64::from(self.gene.max_depth) + 0.5;
        let mut chart = ChartBuilder::on(&plot)
            .margin_left(12)
            .margin_bottom(8)
            .margin_top(4)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(left..right, -0.5..rows as f64 - 0.5)?;
        // The chart would put its labels between the cells, so `labels` draws them instead.
        chart
            .configure_mesh()
            .disable_mesh()
            .x_labels(0)
            .y_labels(0)
            .x_desc("depth (transformer blocks)")
            .y_desc("width (embedding dimension)")
            .axis_desc_style(("sans-serif", 16))
            .draw()?;
        // Cells without a forecast stay empty; measured cells have a dot.
        let known = self.cells().filter_map(|(depth, row, forecast)| Some((depth, row, forecast?)));
        chart.draw_series(known.map(|(depth, row, forecast)| {
            let (x, y) = (f64::from(depth), row as f64);
            let fill = self.colour(forecast.value).filled();
            Rectangle::new([(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)], fill)
        }))?;
        let measured = self.cells().filter(|(_, _, f)| f.is_some_and(|f| f.measured));
        chart.draw_series(measured.map(|(depth, row, _)| {
            Circle::new((f64::from(depth), row as f64), 2, BLACK.mix(0.6).filled())
        }))?;
        chart.draw_series(
            self.edge(left).into_iter().map(|line| PathElement::new(line, EDGE.stroke_width(3))),
        )?;
        if let Some((choice, row)) =
            self.choices.sizes.first().and_then(|choice| Some((choice, self.row(choice.width)?)))
        {
            let at = (f64::from(choice.depth), row as f64);
            chart.draw_series([Circle::new(at, 9, WHITE.filled()), Circle::new(at, 6, EDGE.filled())])?;
        }
        let (xs, ys) = chart.plotting_area().get_pixel_range();
        self.labels(&root, (xs, ys))?;
        self.legend(&legend)?;
        root.present()?;
        Ok(())
    }

    fn title(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
        let Self { gene, choices, budget, .. } = self;
        let mut best = String::new();
        if let Some(choice) = choices.sizes.first() {
            let _ = write!(best, "best: depth {}, width {}", choice.depth, choice.width);
            if let Some(forecast) = &choice.forecast {
                let _ = write!(best, ", {:.2} %", forecast.value * 100.0);
            }
        }
        area.draw(&Text::new(
            format!("{}: expected accuracy before tuning", gene.name),
            (76, 14),
            ("sans-serif", 20),
        ))?;
        area.draw(&Text::new(
            format!("{best} within {budget}"),
            (76, 39),
            TextStyle::from(("sans-serif", 15)).color(&EDGE),
        ))?;
        Ok(())
    }

    /// The line along the greatest depth within the budget at each width. A width without one has its step at the left
    /// edge.
    fn edge(&self, left: f64) -> Vec<Vec<(f64, f64)>> {
        let reach = |width: u32| self.choices.reach.iter().find(|reach| reach.width == width);
        let mut line = Vec::new();
        for (row, width) in self.widths.iter().enumerate() {
            let x = reach(*width).map_or(left, |reach| f64::from(reach.depth) + 0.5);
            line.extend([(x, row as f64 - 0.5), (x, row as f64 + 0.5)]);
        }
        vec![line]
    }

    /// Draws the depths below the cells, and the widths beside them.
    fn labels(
        &self,
        root: &DrawingArea<SVGBackend<'_>, Shift>,
        (xs, ys): (std::ops::Range<i32>, std::ops::Range<i32>),
    ) -> Drawn {
        let style = |h, v| TextStyle::from(("sans-serif", 14)).pos(Pos::new(h, v));
        let depths = self.gene.max_depth - self.gene.min_depth + 1;
        // Labels are at least 28 pixels apart.
        let every = (depths * 28).div_ceil((xs.end - xs.start).max(1) as u32).max(1);
        for depth in (self.gene.min_depth..=self.gene.max_depth).filter(|depth| depth.is_multiple_of(every)) {
            let share = (f64::from(depth - self.gene.min_depth) + 0.5) / f64::from(depths);
            let x = xs.start + (share * f64::from(xs.end - xs.start)) as i32;
            root.draw(&Text::new(depth.to_string(), (x, ys.end + 5), style(HPos::Center, VPos::Top)))?;
        }
        let rows = self.widths.len();
        let every = (rows * 18).div_ceil((ys.end - ys.start).max(1) as usize).max(1);
        for (row, width) in self.widths.iter().enumerate().step_by(every) {
            let share = (row as f64 + 0.5) / rows as f64;
            let y = ys.end - (share * f64::from(ys.end - ys.start)) as i32;
            root.draw(&Text::new(width.to_string(), (xs.start - 7, y), style(HPos::Right, VPos::Center)))?;
        }
        Ok(())
    }

    /// Draws the colour scale with its numbers, and explains the marks.
    fn legend(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
        let (_, ys) = area.get_pixel_range();
        let (top, bottom) = (24, ys.end - ys.start - 118);
        let [low, high] = self.ends;
        let steps = bottom - top;
        let text = ("sans-serif", 13);
        area.draw(&Text::new("accuracy, %", (8, top - 20), text))?;
        for i in 0..steps {
            let accuracy = high - (high - low) * f64::from(i) / f64::from(steps);
            let line = [(8, top + i), (26, top + i + 1)];
            area.draw(&Rectangle::new(line, self.colour(accuracy).filled()))?;
        }
        for i in 0..=4 {
            let y = top + steps * i / 4;
            let accuracy = high - (high - low) * f64::from(i) / 4.0;
            let style = TextStyle::from(text).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&PathElement::new([(26, y), (30, y)], BLACK))?;
            area.draw(&Text::new(format!("{:.2}", accuracy * 100.0), (34, y), style))?;
        }
        let at = |i: i32| bottom + 20 + 20 * i;
        area.draw(&Circle::new((16, at(0) + 6), 2, BLACK.mix(0.6).filled()))?;
        area.draw(&Text::new("measured", (34, at(0)), text))?;
        area.draw(&Rectangle::new([(8, at(1)), (26, at(1) + 12)], BLACK.mix(0.3)))?;
        area.draw(&Text::new("not measured", (34, at(1)), text))?;
        area.draw(&PathElement::new([(8, at(2) + 6), (26, at(2) + 6)], EDGE.stroke_width(3)))?;
        area.draw(&Text::new("budget", (34, at(2)), text))?;
        area.draw(&Circle::new((16, at(3) + 6), 6, EDGE.filled()))?;
        area.draw(&Text::new("best", (34, at(3)), text))?;
        Ok(())
    }

    fn colour(&self, accuracy: f64) -> RGBColor {
        let [low, high] = self.ends;
        let place = ((accuracy - low) / (high - low)).clamp(0.0, 1.0) * (SCALE.len() - 1) as f64;
        let below = (place as usize).min(SCALE.len() - 2);
        let share = place - below as f64;
        let mix = |i: usize| {
            let [a, b] = [SCALE[below][i], SCALE[below + 1][i]].map(f64::from);
            (a + share * (b - a)).round() as u8
        };
        RGBColor(mix(0), mix(1), mix(2))
    }
}

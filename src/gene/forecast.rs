//! The expected quality of a model, from the sizes that were measured.
//!
//! Source: Fritsch and Carlson 1980, SIAM J. Numer. Anal. 17(2), for the curve: see `curve`.
//!
//! - The forecast of a measured size is its measured accuracy.
//! - At a measured width, other depths lie on the monotone curve through the measured depths.
//! - At any other width, each measured width whose curve covers the depth contributes its value there. The same kind of
//!   curve goes through these values, over the width or over its logarithm. The scale with the smaller error wins when
//!   every inner width is left out in turn; the logarithm wins a tie.
//! - Outside of what was measured there is no forecast. Accuracy may fall by half from one depth to the next there.
//!
//! The interval is the forecast plus and minus an error, clamped to the bounds of the metric:
//!
//! - measured: the standard error of the metric on `n` test items ([`Metric::standard_error`]).
//! - interpolated along the depth: the largest leave-one-out residual of the two measured depths on either side, and at
//!   least the upper quartile of the grid's residuals, because a smooth stretch between two neighbours may be chance.
//! - between measured widths: the same error of the curve along the width, plus the larger error of the measured widths
//!   next to it.
//!
//! It is never narrower than the standard error, and there is none where the number of test items is not known. A
//! leave-one-out residual is the distance of a measured value from the curve through the others; a first or last value
//! has none. A curve with two points uses the step between them instead. One standard error covers two thirds of
//! samples; the accuracies of one gene on one test set move together.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{blueprint::Metric, nn::Size};

use super::{
    Quality,
    curve::{Curve, Estimate},
};

/// The expected quality of a size before tuning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Forecast {
    /// In units of the metric.
    pub value: f64,
    /// Lower end of the interval; see the module.
    pub low: f64,
    /// Upper end of the interval; see the module.
    pub high: f64,
    /// Whether this size was measured. Otherwise it lies between measured sizes.
    pub measured: bool,
}

impl Forecast {
    /// Whether the interval is narrower than 0..=1, as it is where the number of test items is known.
    pub fn is_bounded(&self) -> bool {
        self.low > 0.0 || self.high < 1.0
    }
}

/// The measured sizes of a gene, and the curves through them.
#[derive(Debug, Clone)]
pub struct Forecasts {
    metric: Metric,
    /// Quality over depth, by measured width.
    curves: BTreeMap<usize, Curve>,
    /// Number of test items of each measured size, where it is known.
    items: BTreeMap<Size, u64>,
    /// The least of [`Self::items`]; absent if one of them is not known.
    least_items: Option<u64>,
    scale: Scale,
    /// Upper quartile of the leave-one-out residuals along the depth; 0 if there are none.
    noise: f64,
}

/// The scale of the width axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Logarithmic,
    Linear,
}

impl Scale {
    fn of(self, width: usize) -> f64 {
        match self {
            Self::Logarithmic => libm::log(width as f64),
            Self::Linear => width as f64,
        }
    }
}

impl Forecasts {
    /// Forecasts from measured figures of `metric`. Figures after tuning are ignored; `None` if no others are left.
    pub fn of(quality: &[Quality], metric: Metric) -> Option<Self> {
        let mut cells: BTreeMap<usize, BTreeMap<usize, Quality>> = BTreeMap::new();
        // Figures may come from another machine, so they are not trusted.
        let sane = |q: &&Quality| q.tuning_epochs == 0 && q.value.is_finite() && q.width > 0;
        for q in quality.iter().filter(sane) {
            // Of several figures for one size, the first is the one that is served.
            cells.entry(q.width).or_default().entry(q.depth).or_insert(*q);
        }
        let all = || cells.values().flat_map(BTreeMap::values);
        let items = all().filter_map(|q| Some((Size { width: q.width, depth: q.depth }, q.items?))).collect();
        let least_items = all().map(|q| q.items).min().flatten();
        let point = |q: &Quality| [q.depth as f64, q.value];
        let curves: BTreeMap<_, _> = cells
            .iter()
            .map(|(width, depths)| (*width, Curve::new(depths.values().map(point).collect())))
            .collect();
        if curves.is_empty() {
            return None;
        }
        let missed = |scale| missed(&curves, scale);
        let linear = missed(Scale::Linear) < missed(Scale::Logarithmic);
        let scale = if linear { Scale::Linear } else { Scale::Logarithmic };
        let residuals = |curve: &Curve| (0..curve.points().len()).filter_map(|i| curve.residual(i)).collect();
        let noise = upper_quartile(curves.values().flat_map::<Vec<_>, _>(residuals).collect());
        Some(Self { metric, curves, items, least_items, scale, noise })
    }

    /// The forecast of a size, or `None` outside of what was measured. Does not check whether the gene serves that
    /// size.
    pub fn at(&self, depth: usize, width: usize) -> Option<Forecast> {
        let Estimate { value, error } = match self.curves.get(&width) {
            Some(curve) => curve.at(depth as f64)?,
            None => self.between_widths(depth, width)?,
        };
        let items = match error {
            None => self.items.get(&Size { width, depth }).copied(),
            Some(_) => self.least_items,
        };
        let measured = error.is_none();
        let sampling = items.and_then(|items| self.metric.standard_error(value, items));
        let error = sampling.map(|least| error.map_or(least, |error| error.max(self.noise).max(least)));
        let (least, most) = self.metric.bounds().into_inner();
        let (low, high) = error.map_or((least, most), |e| ((value - e).max(least), (value + e).min(most)));
        Some(Forecast { value, low, high, measured })
    }

    /// The estimate at a width that was not measured.
    fn between_widths(&self, depth: usize, width: usize) -> Option<Estimate> {
        let covering: BTreeMap<_, _> =
            self.curves.iter().filter(|(_, curve)| curve.covers(depth as f64)).collect();
        let (below, above) = (covering.range(..width).next_back()?, covering.range(width + 1..).next()?);
        let along =
            [below, above].map(|(_, curve)| curve.at(depth as f64).and_then(|at| at.error).unwrap_or(0.0));
        let Estimate { value, error } = across(&covering, self.scale, depth)?.at(self.scale.of(width))?;
        // The curve along the width has no point here, so it has an error.
        Some(Estimate { value, error: error.map(|error| error + along[0].max(along[1])) })
    }

    /// Why a size has no forecast; `None` if it has one.
    pub fn unmeasured(&self, depth: usize, width: usize) -> Option<String> {
        if self.at(depth, width).is_some() {
            return None;
        }
        if let Some(curve) = self.curves.get(&width) {
            let [first, last] = curve.range();
            return Some(format!(
                "depth {depth} is beyond the measured depths {first}..={last} of width {width}"
            ));
        }
        let widths: Vec<_> = self.curves.keys().collect();
        Some(format!(
            "depth {depth} width {width} is not between measured sizes; measured widths: {widths:?}"
        ))
    }
}

/// Accuracy over the width at `depth`, which every curve covers. `None` without curves.
fn across(curves: &BTreeMap<&usize, &Curve>, scale: Scale, depth: usize) -> Option<Curve> {
    let point = |(width, curve): (&&usize, &&Curve)| [scale.of(**width), curve.value(depth as f64)];
    (!curves.is_empty()).then(|| Curve::new(curves.iter().map(point).collect()))
}

/// The total absolute error at the measured cells of the inner widths, when each width is left out in turn.
fn missed(curves: &BTreeMap<usize, Curve>, scale: Scale) -> f64 {
    let inner: Vec<_> = curves.keys().copied().skip(1).take(curves.len().saturating_sub(2)).collect();
    let of = |width: usize| {
        let x = scale.of(width);
        let miss = |[depth, y]: &[f64; 2]| {
            let others =
                curves.iter().filter(|(other, curve)| **other != width && curve.covers(*depth)).collect();
            Some((across(&others, scale, *depth as usize)?.at(x)?.value - y).abs())
        };
        curves[&width].points().iter().filter_map(miss).sum::<f64>()
    };
    inner.into_iter().map(of).sum()
}

/// Upper quartile, or 0 of nothing. Where the rank falls between two values, the lower value counts.
fn upper_quartile(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.len().checked_sub(1).map_or(0.0, |last| values[3 * last / 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 10,000 test items, as Fashion-MNIST has.
    const ITEMS: u64 = 10_000;

    fn cells(width: usize, rows: &[(usize, f64)]) -> Vec<Quality> {
        let cell = |(depth, value): &(usize, f64)| Quality {
            depth: *depth,
            width,
            tuning_epochs: 0,
            value: *value,
            items: Some(ITEMS),
        };
        rows.iter().map(cell).collect()
    }

    /// The figures of the bundled gene: steep, then flat with noise, then lower.
    fn bundled() -> Vec<Quality> {
        let measured = [
            0.6102, 0.8558, 0.8869, 0.8899, 0.8942, 0.8958, 0.8948, 0.8968, 0.895, 0.8731, 0.8659, 0.8713,
            0.8667, 0.8669,
        ];
        cells(96, &measured.into_iter().enumerate().map(|(i, y)| (3 + i, y)).collect::<Vec<_>>())
    }

    fn grid() -> impl Strategy<Value = Vec<Quality>> {
        let curve = prop::collection::btree_map(1usize..40, 0.0f64..1.0, 1..10);
        prop::collection::btree_map(prop::sample::select(vec![24usize, 48, 72, 96, 192]), curve, 1..5)
            .prop_map(|widths| {
                let rows = widths.into_iter().map(|(w, c)| cells(w, &c.into_iter().collect::<Vec<_>>()));
                rows.flatten().collect()
            })
    }

    #[test]
    fn nothing_measured_gives_no_forecast() {
        assert!(Forecasts::of(&[], Metric::Accuracy).is_none());
        let tuned = Quality { depth: 3, width: 24, tuning_epochs: 1, value: 0.5, items: Some(ITEMS) };
        assert!(Forecasts::of(&[tuned], Metric::Accuracy).is_none());
    }

    #[test]
    fn outside_of_what_was_measured_nothing_is_said() {
        let one = Forecasts::of(&cells(96, &[(8, 0.9)]), Metric::Accuracy).unwrap();
        assert!(one.at(8, 96).unwrap().measured);
        for (depth, width) in [(9, 96), (7, 96), (8, 48), (8, 192)] {
            assert_eq!(one.at(depth, width), None);
            assert!(one.unmeasured(depth, width).unwrap().contains(&format!("depth {depth}")));
        }
        assert!(one.unmeasured(9, 96).unwrap().contains("8..=8 of width 96"));
        let two = Forecasts::of(
            &[cells(24, &[(2, 0.5), (6, 0.6)]), cells(96, &[(4, 0.7), (8, 0.8)])].concat(),
            Metric::Accuracy,
        );
        let two = two.unwrap();
        for (depth, said) in [(3, false), (4, true), (6, true), (7, false)] {
            assert_eq!(two.at(depth, 48).is_some(), said, "{depth}");
            assert_eq!(two.unmeasured(depth, 48).is_none(), said, "{depth}");
        }
    }

    #[test]
    fn an_interval_is_never_narrower_than_the_sampling_error() {
        // √(0.9 · 0.1 / 10,000) is 0.003; the two neighbours of depth 6 agree, and so would give no error at all.
        let flat =
            Forecasts::of(&cells(96, &[(4, 0.9), (5, 0.9), (7, 0.9), (8, 0.9)]), Metric::Accuracy).unwrap();
        for depth in [5, 6] {
            let Forecast { low, high, measured, .. } = flat.at(depth, 96).unwrap();
            assert_eq!(measured, depth == 5);
            assert!((low - 0.897).abs() < 1e-5 && (high - 0.903).abs() < 1e-5, "{low} {high}");
        }
        // A tenth of the items: √10 times as wide. A perfect score is not a certain one.
        let few = |value| Quality { items: Some(1000), ..cells(96, &[(8, value)])[0] };
        let half = |value| Forecasts::of(&[few(value)], Metric::Accuracy).unwrap().at(8, 96).unwrap();
        assert!((half(0.9).high - 0.9 - 0.003 * 10f64.sqrt()).abs() < 1e-4);
        assert!(half(1.0).low < 0.9991);
        // Without the number of items there is no interval.
        let unknown = Quality { items: None, ..few(0.9) };
        assert!(!Forecasts::of(&[unknown], Metric::Accuracy).unwrap().at(8, 96).unwrap().is_bounded());
    }

    #[test]
    fn the_bundled_gene_is_forecast_from_every_second_depth() {
        let (even, odd): (Vec<_>, Vec<_>) = bundled().into_iter().partition(|q| q.depth % 2 == 0);
        let forecasts = Forecasts::of(&even, Metric::Accuracy).unwrap();
        // Depth 3 lies outside the even depths, on a cliff that they do not show; depth 5 is next to it.
        assert_eq!(forecasts.at(3, 96), None);
        for q in odd.iter().filter(|q| q.depth > 3) {
            let forecast = forecasts.at(q.depth, q.width).unwrap();
            assert!(!forecast.measured);
            assert_eq!((forecast.low..=forecast.high).contains(&q.value), q.depth > 5, "{q:?} {forecast:?}");
            assert!((forecast.value - q.value).abs() < 0.013, "{q:?} {forecast:?}");
        }
    }

    #[test]
    fn a_width_in_between_is_forecast_over_the_scale_that_fits() {
        let double = |width: usize| libm::log2(width as f64);
        let even = |width: usize| width as f64 / 24.0;
        for (scale, of) in [(Scale::Logarithmic, double as fn(usize) -> f64), (Scale::Linear, even)] {
            let accuracy = |width: usize| 0.5 + of(width) / 100.0;
            let rows = |width| cells(width, &[(4, accuracy(width)), (8, accuracy(width) + 0.01)]);
            let measured = [24, 48, 96, 192].into_iter().flat_map(rows).collect::<Vec<_>>();
            let forecasts = Forecasts::of(&measured, Metric::Accuracy).unwrap();
            assert_eq!(forecasts.scale, scale);
            let forecast = forecasts.at(8, 72).unwrap();
            assert!((forecast.value - accuracy(72) - 0.01).abs() < 1e-3, "{scale:?} {forecast:?}");
            assert!(!forecast.measured && forecast.is_bounded());
            assert_eq!([forecasts.at(9, 72), forecasts.at(8, 216)], [None; 2]);
        }
    }

    proptest! {
        #[test]
        fn measured_sizes_keep_their_figures(grid in grid()) {
            let forecasts = Forecasts::of(&grid, Metric::Accuracy).unwrap();
            for q in &grid {
                let forecast = forecasts.at(q.depth, q.width).unwrap();
                prop_assert!(forecast.value == q.value && forecast.measured);
                prop_assert_eq!(forecasts.unmeasured(q.depth, q.width), None);
            }
        }

        #[test]
        fn every_forecast_lies_in_its_interval_and_among_its_neighbours(grid in grid(), depth in 1usize..64) {
            let forecasts = Forecasts::of(&grid, Metric::Accuracy).unwrap();
            for width in [24usize, 48, 60, 72, 96, 144, 192, 384] {
                let row: Vec<_> = grid.iter().filter(|q| q.width == width).collect();
                let below = row.iter().filter(|q| q.depth <= depth).max_by_key(|q| q.depth);
                let above = row.iter().filter(|q| q.depth >= depth).min_by_key(|q| q.depth);
                let forecast = forecasts.at(depth, width);
                prop_assert_eq!(forecasts.unmeasured(depth, width).is_none(), forecast.is_some());
                if !row.is_empty() {
                    prop_assert_eq!(forecast.is_some(), below.is_some() && above.is_some());
                }
                let Some(forecast) = forecast else { continue };
                prop_assert!(0.0 <= forecast.low && forecast.high <= 1.0);
                prop_assert!((forecast.low..=forecast.high).contains(&forecast.value), "{forecast:?}");
                if let (Some(a), Some(b)) = (below, above) {
                    let (least, most) = (a.value.min(b.value), a.value.max(b.value));
                    prop_assert!((least..=most).contains(&forecast.value));
                }
            }
        }
    }

    /// How many of the inner cells lie in the interval forecast from the other cells by their residuals alone, as if the
    /// test set had no sampling error.
    fn held(grid: &[Quality]) -> usize {
        let holds = |i: &usize| {
            let mut others: Vec<_> = grid.iter().map(|q| Quality { items: Some(1 << 50), ..*q }).collect();
            let q = others.remove(*i);
            let forecast = Forecasts::of(&others, Metric::Accuracy).unwrap().at(q.depth, q.width).unwrap();
            (forecast.low..=forecast.high).contains(&q.value)
        };
        (1..grid.len() - 1).filter(holds).count()
    }

    #[test]
    fn intervals_of_left_out_cells_hold_most_of_them() {
        assert_eq!(held(&bundled()), 10, "of 12");
        // Curves that saturate, with noise of up to 0.3 points.
        let mut stream = crate::tensor::rng::stream(0, "forecast");
        let mut uniform = move || f64::from(stream.unit_f32());
        let inside = (0..100).map(|_| {
            let knee = 1.0 + 3.0 * uniform();
            let row =
                |i: usize| (1 + i, 0.9 - 0.4 * (-(i as f64) / knee).exp() + 0.003 * (2.0 * uniform() - 1.0));
            held(&cells(96, &(0..20).map(row).collect::<Vec<_>>()))
        });
        let inside: usize = inside.sum();
        assert!((1350..1600).contains(&inside), "{inside} of 1800");
    }
}

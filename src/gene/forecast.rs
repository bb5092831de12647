//! The expected accuracy of a model of any size, from the sizes that were measured.
//!
//! Source: Fritsch and Carlson 1980, SIAM J. Numer. Anal. 17(2), for the curve: see `curve`.
//!
//! - The forecast of a measured size is its measured accuracy.
//! - At a measured width, other depths lie on the monotone curve through the measured depths.
//! - At any other width, each measured width contributes its value at the requested depth. The same kind of curve goes
//!   through these values, over the width or over its logarithm. The scale with the smaller error wins when every inner
//!   width is left out in turn; the logarithm wins a tie.
//! - Outside the measured range the forecast is constant and marked as extrapolated.
//!
//! The interval is not a confidence interval, because there is no model of the noise. It is the forecast plus and minus
//! an error that comes from the residuals of the grid, clamped to 0..=1:
//!
//! - measured: the median leave-one-out residual of the grid. It covers both sampling noise and the roughness of the
//!   curve. Sampling noise alone is unknown, because a gene does not record the number of test images.
//! - interpolated: the largest leave-one-out residual of the two measured depths on either side.
//! - extrapolated: as much as the curve changes over the same distance before its end, plus those residuals.
//! - between or beyond measured widths: the same error of the curve along the width, plus the larger error of the
//!   measured widths next to it.
//!
//! For a size that was not measured the error is at least the upper quartile of the grid's residuals, because a smooth
//! stretch between two neighbours may be chance.
//!
//! A leave-one-out residual is the distance of a measured value from the curve through the others; a first or last
//! value has none. If no width has enough depths for a residual, the interval of a measured size is 0..=1. A curve with
//! two points uses the step between them instead; a curve with one point gives 0..=1 everywhere else.
//!
//! Reliability: when each of the 12 inner depths of the bundled gene is left out in turn, the interval contains 10 of
//! the measured values. For simulated saturating curves with noise of up to 0.3 points it contains about four in five.
//! Next to a cliff it is too narrow.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Quality,
    curve::{Basis, Curve, Estimate},
};

/// The expected accuracy of a size before tuning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Forecast {
    /// Share of test images classified correctly.
    pub value: f64,
    /// Lower end of the interval; see the module.
    pub low: f64,
    /// Upper end of the interval; see the module.
    pub high: f64,
    /// Whether this size was measured.
    pub measured: bool,
    /// Whether this size lies outside the measured range of depths or widths.
    pub extrapolated: bool,
}

impl Forecast {
    /// Whether the interval is narrower than 0..=1.
    pub fn is_bounded(&self) -> bool {
        self.low > 0.0 || self.high < 1.0
    }
}

/// The measured sizes of a gene, and the curves through them.
#[derive(Debug, Clone)]
pub struct Forecasts {
    /// Accuracy over depth, by measured width.
    curves: BTreeMap<usize, Curve>,
    scale: Scale,
    /// Median and upper quartile of the leave-one-out residuals along the depth.
    noise: Option<[f64; 2]>,
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
    /// Forecasts from measured figures. Figures after tuning are ignored; `None` if no others are left.
    pub fn of(quality: &[Quality]) -> Option<Self> {
        let mut cells: BTreeMap<usize, BTreeMap<usize, f64>> = BTreeMap::new();
        // Figures may come from another machine, so they are not trusted.
        let sane = |q: &&Quality| q.tuning_epochs == 0 && q.value.is_finite() && q.width > 0;
        for q in quality.iter().filter(sane) {
            // Of several figures for one size, the first is the one that is served.
            cells.entry(q.width).or_default().entry(q.depth).or_insert(q.value);
        }
        let curve = |depths: BTreeMap<usize, f64>| {
            Curve::new(depths.into_iter().map(|(depth, accuracy)| [depth as f64, accuracy]).collect())
        };
        let curves: BTreeMap<_, _> =
            cells.into_iter().map(|(width, depths)| (width, curve(depths))).collect();
        if curves.is_empty() {
            return None;
        }
        let missed = |scale| missed(&curves, scale);
        let linear = missed(Scale::Linear) < missed(Scale::Logarithmic);
        let scale = if linear { Scale::Linear } else { Scale::Logarithmic };
        let residuals = |curve: &Curve| (0..curve.points().len()).filter_map(|i| curve.residual(i)).collect();
        let noise = middle_and_upper(curves.values().flat_map::<Vec<_>, _>(residuals).collect());
        Some(Self { curves, scale, noise })
    }

    /// The forecast of a size. Does not check whether the gene serves that size.
    pub fn at(&self, depth: usize, width: usize) -> Forecast {
        let (estimate, extrapolated) = match self.curves.get(&width) {
            Some(curve) => {
                let estimate = curve.at(depth as f64);
                (estimate, estimate.basis == Basis::Beyond)
            }
            None => self.across(depth, width),
        };
        let measured = estimate.basis == Basis::Measured;
        let error = match self.noise {
            Some([middle, _]) if measured => Some(middle),
            Some([_, upper]) => estimate.error.map(|error| error.max(upper)),
            None => estimate.error.filter(|_| !measured),
        };
        let value = estimate.value;
        let (low, high) = error.map_or((0.0, 1.0), |e| ((value - e).max(0.0), (value + e).min(1.0)));
        Forecast { value, low, high, measured, extrapolated }
    }

    /// The estimate at a width that was not measured, and whether it is extrapolated in width or depth.
    fn across(&self, depth: usize, width: usize) -> (Estimate, bool) {
        let x = self.scale.of(width);
        let mut estimate = across(&self.curves, self.scale, depth).at(x);
        let beside = self.beside(width).map(|(_, curve)| curve.at(depth as f64));
        let mut extrapolated = estimate.basis == Basis::Beyond;
        let mut most = Some(0.0);
        for along in beside {
            extrapolated |= along.basis == Basis::Beyond;
            let error = if along.basis == Basis::Measured { Some(0.0) } else { along.error };
            most = most.zip(error).map(|(a, b): (f64, f64)| a.max(b));
        }
        estimate.error = estimate.error.zip(most).map(|(a, b)| a + b);
        (estimate, extrapolated)
    }

    /// The measured widths next to `width`, at most one on either side.
    fn beside(&self, width: usize) -> impl Iterator<Item = (usize, &Curve)> {
        let (below, above) = (self.curves.range(..width).next_back(), self.curves.range(width + 1..).next());
        below.into_iter().chain(above).map(|(width, curve)| (*width, curve))
    }

    /// Text that says why the forecast of a size is extrapolated; `None` if it is not.
    pub fn warning(&self, depth: usize, width: usize) -> Option<String> {
        if !self.at(depth, width).extrapolated {
            return None;
        }
        let beyond = |width: usize, curve: &Curve| {
            let [first, last] = curve.range();
            let inside = (first..=last).contains(&(depth as f64));
            let text =
                format!("depth {depth} is beyond the measured depths {first}..={last} of width {width}");
            (!inside).then_some(text)
        };
        let widths = [self.curves.first_key_value(), self.curves.last_key_value()];
        let [first, last] = widths.map(|entry| entry.map_or(0, |(width, _)| *width));
        let mut reasons = Vec::new();
        if !(first..=last).contains(&width) {
            reasons.push(format!("width {width} is beyond the measured widths {first}..={last}"));
        }
        let curves: Vec<_> = match self.curves.get(&width) {
            Some(curve) => vec![(width, curve)],
            None => self.beside(width).collect(),
        };
        reasons.extend(curves.into_iter().filter_map(|(width, curve)| beyond(width, curve)));
        Some(format!("extrapolated: {}; the nearest measured value is shown", reasons.join(", ")))
    }
}

/// Accuracy over the width at `depth`.
fn across(curves: &BTreeMap<usize, Curve>, scale: Scale, depth: usize) -> Curve {
    let point = |(width, curve): (&usize, &Curve)| [scale.of(*width), curve.value(depth as f64)];
    Curve::new(curves.iter().map(point).collect())
}

/// The total absolute error at the measured cells of the inner widths, when each width is left out in turn.
fn missed(curves: &BTreeMap<usize, Curve>, scale: Scale) -> f64 {
    let inner: Vec<_> = curves.keys().copied().skip(1).take(curves.len().saturating_sub(2)).collect();
    let of = |width: usize| {
        let mut others = curves.clone();
        let left_out = others.remove(&width).expect("a key of the map");
        let x = scale.of(width);
        let miss = |[depth, y]: &[f64; 2]| (across(&others, scale, *depth as usize).value(x) - y).abs();
        left_out.points().iter().map(miss).sum::<f64>()
    };
    inner.into_iter().map(of).sum()
}

/// Median and upper quartile. Where a rank falls between two values, the lower value counts.
fn middle_and_upper(mut values: Vec<f64>) -> Option<[f64; 2]> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some([values[last / 2], values[3 * last / 4]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cells(width: usize, rows: &[(usize, f64)]) -> Vec<Quality> {
        let cell =
            |(depth, value): &(usize, f64)| Quality { depth: *depth, width, tuning_epochs: 0, value: *value };
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
        assert!(Forecasts::of(&[]).is_none());
        let tuned = Quality { depth: 3, width: 24, tuning_epochs: 1, value: 0.5 };
        assert!(Forecasts::of(&[tuned]).is_none());
    }

    #[test]
    fn one_measurement_says_nothing_about_the_error() {
        let forecasts = Forecasts::of(&cells(96, &[(8, 0.9)])).unwrap();
        let forecast = forecasts.at(8, 96);
        assert!(forecast.measured && !forecast.extrapolated && !forecast.is_bounded());
        let forecast = forecasts.at(9, 48);
        assert!(!forecast.measured && forecast.extrapolated && !forecast.is_bounded());
        assert_eq!(forecast.value, 0.9);
        let warning = forecasts.warning(9, 48).unwrap();
        assert!(warning.contains("width 48 is beyond the measured widths 96..=96"), "{warning}");
        assert!(warning.contains("depth 9 is beyond the measured depths 8..=8"), "{warning}");
        assert_eq!(forecasts.warning(8, 96), None);
    }

    #[test]
    fn the_bundled_gene_is_forecast_from_every_second_depth() {
        let (even, odd): (Vec<_>, Vec<_>) = bundled().into_iter().partition(|q| q.depth % 2 == 0);
        let forecasts = Forecasts::of(&even).unwrap();
        // Depth 3 lies outside the even depths, on a cliff that they do not show; depth 5 is next to it.
        for q in odd.iter().filter(|q| q.depth > 3) {
            let forecast = forecasts.at(q.depth, q.width);
            assert!(!forecast.measured && !forecast.extrapolated);
            assert_eq!((forecast.low..=forecast.high).contains(&q.value), q.depth > 5, "{q:?} {forecast:?}");
            assert!((forecast.value - q.value).abs() < 0.013, "{q:?} {forecast:?}");
        }
        // The interval of a measured size is near the sampling error, 0.3 points for 10,000 images at 0.89.
        let whole = Forecasts::of(&bundled()).unwrap();
        let half = whole.at(8, 96).high - 0.8958;
        assert!((0.001..0.006).contains(&half), "{half}");
        assert!(whole.at(24, 96).high > whole.at(17, 96).high);
    }

    #[test]
    fn a_width_in_between_is_forecast_over_the_scale_that_fits() {
        let double = |width: usize| libm::log2(width as f64);
        let even = |width: usize| width as f64 / 24.0;
        for (scale, of) in [(Scale::Logarithmic, double as fn(usize) -> f64), (Scale::Linear, even)] {
            let accuracy = |width: usize| 0.5 + of(width) / 100.0;
            let rows = |width| cells(width, &[(4, accuracy(width)), (8, accuracy(width) + 0.01)]);
            let measured = [24, 48, 96, 192].into_iter().flat_map(rows).collect::<Vec<_>>();
            let forecasts = Forecasts::of(&measured).unwrap();
            assert_eq!(forecasts.scale, scale);
            let forecast = forecasts.at(8, 72);
            assert!((forecast.value - accuracy(72) - 0.01).abs() < 1e-3, "{scale:?} {forecast:?}");
            assert!(!forecast.measured && !forecast.extrapolated && forecast.is_bounded());
            assert!(forecasts.at(9, 72).extrapolated && forecasts.at(8, 216).extrapolated);
        }
    }

    proptest! {
        #[test]
        fn measured_sizes_keep_their_figures(grid in grid()) {
            let forecasts = Forecasts::of(&grid).unwrap();
            for q in &grid {
                let forecast = forecasts.at(q.depth, q.width);
                prop_assert_eq!(forecast.value, q.value);
                prop_assert!(forecast.measured && !forecast.extrapolated);
                prop_assert_eq!(forecasts.warning(q.depth, q.width), None);
            }
        }

        #[test]
        fn every_forecast_lies_in_its_interval_and_among_its_neighbours(grid in grid(), depth in 1usize..64) {
            let forecasts = Forecasts::of(&grid).unwrap();
            for width in [24usize, 48, 60, 72, 96, 144, 192, 384] {
                let forecast = forecasts.at(depth, width);
                prop_assert!(0.0 <= forecast.low && forecast.high <= 1.0);
                prop_assert!((forecast.low..=forecast.high).contains(&forecast.value), "{forecast:?}");
                prop_assert_eq!(forecasts.warning(depth, width).is_some(), forecast.extrapolated);
                let row: Vec<_> = grid.iter().filter(|q| q.width == width).collect();
                let below = row.iter().filter(|q| q.depth <= depth).max_by_key(|q| q.depth);
                let above = row.iter().filter(|q| q.depth >= depth).min_by_key(|q| q.depth);
                if let (Some(a), Some(b)) = (below, above) {
                    let (least, most) = (a.value.min(b.value), a.value.max(b.value));
                    prop_assert!((least..=most).contains(&forecast.value));
                    prop_assert!(!forecast.extrapolated);
                }
            }
        }
    }

    /// How many of the inner cells lie in the interval forecast from the other cells.
    fn held(grid: &[Quality]) -> usize {
        let holds = |i: &usize| {
            let mut others = grid.to_vec();
            let q = others.remove(*i);
            let forecast = Forecasts::of(&others).unwrap().at(q.depth, q.width);
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

//! A curve through measured points that stays between neighbouring points.
//!
//! Source: Fritsch and Carlson 1980, *Monotone Piecewise Cubic Interpolation*, SIAM J. Numer. Anal. 17(2), 238–246,
//! [doi 10.1137/0717021](https://doi.org/10.1137/0717021): cubic Hermite pieces whose slopes lie in the circle that
//! keeps every piece monotone.
//!
//! | symbol | here | meaning |
//! | --- | --- | --- |
//! | `Δᵢ` | `secants[i]` | slope of the chord from point `i` to `i + 1` |
//! | `dᵢ` | `slopes[i]` | slope of the curve at point `i` |
//! | `α, β` | `a`, `b` | `dᵢ / Δᵢ` and `dᵢ₊₁ / Δᵢ`; monotone where `α² + β² ≤ 9` |
//!
//! Each piece is monotone between its two points, but the whole curve need not be, because measured points may rise
//! and fall. Beyond the first and the last point the curve says nothing.

/// Number of points around a value, both sides together, whose residuals bound its error.
const NEAREST: usize = 4;

/// Points in ascending `x`, and the curve through them.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    /// `[x, y]`.
    points: Vec<[f64; 2]>,
    slopes: Vec<f64>,
}

/// A value of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub(super) value: f64,
    /// Estimated error of the curve between points, as [`Curve::at`] defines it; absent at a point.
    pub(super) error: Option<f64>,
}

impl Curve {
    /// The curve through `points`: at least one, with distinct and ascending `x`.
    pub(super) fn new(points: Vec<[f64; 2]>) -> Self {
        debug_assert!(points.is_sorted_by(|a, b| a[0] < b[0]) && !points.is_empty());
        Self { slopes: slopes(&points), points }
    }

    /// The points.
    pub(super) fn points(&self) -> &[[f64; 2]] {
        &self.points
    }

    /// First and last `x`.
    pub(super) fn range(&self) -> [f64; 2] {
        [self.points[0][0], self.points[self.points.len() - 1][0]]
    }

    /// Whether the curve says something about `x`.
    pub(super) fn covers(&self, x: f64) -> bool {
        let [first, last] = self.range();
        (first..=last).contains(&x)
    }

    /// The value at `x`, which the curve covers.
    pub(super) fn value(&self, x: f64) -> f64 {
        debug_assert!(self.covers(x));
        let (points, last) = (&self.points, self.points.len() - 1);
        let below = points.partition_point(|point| point[0] <= x).saturating_sub(1);
        if below == last || points[below][0] == x { points[below][1] } else { self.piece(below, x) }
    }

    /// The cubic Hermite piece from point `i` to the next.
    fn piece(&self, i: usize, x: f64) -> f64 {
        let ([x0, y0], [x1, y1]) = (self.points[i], self.points[i + 1]);
        let (h, [d0, d1]) = (x1 - x0, [self.slopes[i], self.slopes[i + 1]]);
        let t = (x - x0) / h;
        let s = 1.0 - t;
        let y = y0 * s * s * (1.0 + 2.0 * t) + y1 * t * t * (3.0 - 2.0 * t) + h * s * t * (d0 * s - d1 * t);
        // The piece is monotone in exact arithmetic; this corrects rounding in the last bit.
        y.clamp(y0.min(y1), y0.max(y1))
    }

    /// The distance of point `i` from the curve through the other points; absent at both ends, because there the other
    /// points lie on one side only.
    pub(super) fn residual(&self, i: usize) -> Option<f64> {
        if i == 0 || i + 1 >= self.points.len() {
            return None;
        }
        let mut others = self.points.clone();
        let [x, y] = others.remove(i);
        Some((Self::new(others).value(x) - y).abs())
    }

    /// The largest residual of the points `first..end`.
    fn largest_residual(&self, first: usize, end: usize) -> Option<f64> {
        (first..end.min(self.points.len())).filter_map(|i| self.residual(i)).reduce(f64::max)
    }

    /// The value at `x` and its estimated error. `None` beyond the first and the last point.
    ///
    /// Between two points the error is the largest residual of the two points on either side. Leaving a point out
    /// doubles the gap that the curve bridges, so this tends to overestimate the error. If there are only two points,
    /// it is the step between them.
    pub(super) fn at(&self, x: f64) -> Option<Estimate> {
        if !self.covers(x) {
            return None;
        }
        let (value, points) = (self.value(x), &self.points);
        let above = points.partition_point(|point| point[0] < x);
        if points[above][0] == x {
            return Some(Estimate { value, error: None });
        }
        let residual = self.largest_residual(above.saturating_sub(NEAREST / 2), above + NEAREST / 2);
        let step = (points[above][1] - points[above - 1][1]).abs();
        Some(Estimate { value, error: Some(residual.unwrap_or(step)) })
    }
}

/// Slopes at the points: means of the neighbouring secants, then shortened until every piece is monotone.
fn slopes(points: &[[f64; 2]]) -> Vec<f64> {
    let secants: Vec<_> = points.windows(2).map(|p| (p[1][1] - p[0][1]) / (p[1][0] - p[0][0])).collect();
    let [Some(first), Some(last)] = [secants.first(), secants.last()] else { return vec![0.0; points.len()] };
    // The curve is flat at a point that is higher or lower than both neighbours, so that no piece overshoots it.
    let inner = secants.windows(2).map(|s| if s[0] * s[1] > 0.0 { f64::midpoint(s[0], s[1]) } else { 0.0 });
    let mut slopes: Vec<_> = std::iter::once(*first).chain(inner).chain([*last]).collect();
    for (i, secant) in secants.iter().enumerate() {
        if *secant == 0.0 {
            slopes[i..=i + 1].fill(0.0);
            continue;
        }
        let (a, b) = (slopes[i] / secant, slopes[i + 1] / secant);
        let radius = a.hypot(b);
        if radius > 3.0 {
            slopes[i] = 3.0 / radius * a * secant;
            slopes[i + 1] = 3.0 / radius * b * secant;
        }
    }
    slopes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Points of ascending `x` from gaps and heights.
    fn points() -> impl Strategy<Value = Vec<[f64; 2]>> {
        prop::collection::vec((1u32..6, 0.0f64..1.0), 1..12).prop_map(|steps| {
            let mut x = 0;
            let next = |(gap, y)| {
                x += gap;
                [f64::from(x), y]
            };
            steps.into_iter().map(next).collect()
        })
    }

    #[test]
    fn the_paper_s_condition_shortens_slopes() {
        // A flat run beside a step: unlimited means would overshoot below 0.
        let curve = Curve::new(vec![[0.0, 0.0], [1.0, 0.0], [2.0, 10.0], [3.0, 10.0]]);
        assert_eq!(curve.slopes, [0.0; 4]);
        assert_eq!(curve.value(1.5), 5.0);
        // A straight line stays straight.
        let line = Curve::new(vec![[0.0, 1.0], [1.0, 3.0], [4.0, 9.0]]);
        assert!((line.value(2.5) - 6.0).abs() < 1e-12);
        assert_eq!(line.residual(1), Some(0.0));
    }

    #[test]
    fn beyond_its_points_it_says_nothing() {
        let one = Curve::new(vec![[3.0, 0.5]]);
        assert_eq!(one.at(3.0), Some(Estimate { value: 0.5, error: None }));
        assert_eq!([one.at(2.9), one.at(9.0)], [None; 2]);
        let two = Curve::new(vec![[2.0, 0.5], [4.0, 0.7]]);
        assert!((two.at(3.0).unwrap().error.unwrap() - 0.2).abs() < 1e-12);
        assert_eq!([two.at(1.0), two.at(4.5)], [None; 2]);
    }

    proptest! {
        #[test]
        fn it_passes_through_every_point(points in points()) {
            let curve = Curve::new(points.clone());
            for [x, y] in points {
                prop_assert_eq!(curve.value(x).to_bits(), y.to_bits());
            }
        }

        #[test]
        fn it_is_monotone_from_point_to_point(points in points(), cuts in 2u32..40) {
            let curve = Curve::new(points.clone());
            for pair in points.windows(2) {
                let ([x0, y0], [x1, y1]) = (pair[0], pair[1]);
                let step = (x1 - x0) / f64::from(cuts);
                let values: Vec<_> = (0..=cuts).map(|i| curve.value(x0 + step * f64::from(i))).collect();
                for near in values.windows(2) {
                    // The tolerance covers rounding of values up to 1.
                    prop_assert!((near[1] - near[0]) * (y1 - y0).signum() >= -1e-12, "{pair:?} {near:?}");
                }
                prop_assert!(values.iter().all(|y| (y0.min(y1)..=y0.max(y1)).contains(y)));
            }
        }
    }
}

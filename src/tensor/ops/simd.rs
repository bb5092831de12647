//! Run-time choice of the instruction set, reductions, and the elementary functions of the kernels.
//!
//! A kernel is a plain loop that the compiler vectorises once per instruction set. Reductions keep [`LANES`]
//! partial results on every instruction set, so a kernel's result does not depend on the width of a vector.
//!
//! - `exp(x) = 2ⁿ · eʳ` with `n = round(x / ln 2)` and `r = x - n ln 2` (ln 2 in two parts); `eʳ` is the
//!   polynomial of `expf` in S. Moshier's Cephes library, <https://www.netlib.org/cephes/>.
//! - `erf(x) = x P(x²) / Q(x²)` on the interval where `erf` is below 1 in `f32`: the rational minimax
//!   approximation of the Eigen library (`generic_fast_erf`, `MathFunctionsImpl.h`), <https://eigen.tuxfamily.org>.

use pulp::Arch;
use std::sync::LazyLock;

/// Number of partial results that a reduction keeps: at least one vector of `f32` on every instruction set.
pub(super) const LANES: usize = 16;

/// The best instruction set of this processor.
pub(super) fn arch() -> Arch {
    static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);
    *ARCH
}

/// Defines a function whose body is compiled for each instruction set and dispatched at run time.
///
/// A closure would do the same only if the compiler inlined it, which depends on the size of its body. This macro does
/// not depend on that.
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime>($($arg:ident: $type:ty),* $(,)?) $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name<$life>($($arg: $type),*) {
            struct Kernel<$life> {
                $($arg: $type,)*
                life: std::marker::PhantomData<&$life ()>,
            }
            impl<$life> pulp::WithSimd for Kernel<$life> {
                type Output = ();
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) {
                    let Self { $($arg,)* life: _ } = self;
                    $body
                }
            }
            $crate::tensor::ops::simd::arch().dispatch(Kernel { $($arg,)* life: std::marker::PhantomData })
        }
    };
}
pub(super) use kernel;

/// Sum of the values.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut partial = [0.0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            partial[lane] += chunk[lane];
        }
    }
    fold(partial) + rest.iter().sum::<f32>()
}

/// Sum of squared distances from `center`.
#[inline(always)]
pub(super) fn sum_of_squares(x: &[f32], center: f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut partial = [0.0_f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let centered = chunk[lane] - center;
            partial[lane] = centered.mul_add(centered, partial[lane]);
        }
    }
    fold(partial) + rest.iter().map(|x| (x - center) * (x - center)).sum::<f32>()
}

/// Scalar product of two slices of one length.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut partial = [0.0_f32; LANES];
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..LANES {
            partial[lane] = x[lane].mul_add(y[lane], partial[lane]);
        }
    }
    fold(partial) + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// Adds the lanes in a tree, which vectorises and has the smallest rounding error.
#[inline(always)]
pub(super) fn fold(mut partial: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            partial[lane] += partial[lane + half];
        }
        half /= 2;
    }
    partial[0]
}

/// `eˣ` for `x` in `-87..=88` within 2 units in the last place. Other values are clamped to this range, and NaN stays
/// NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ leaves the rounded sum in the low bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let p = 1.987_569_2e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 0.166_666_65);
    let p = p.mul_add(r, 0.5);
    let power = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    power * scale
}

/// `1 / (1 + e⁻ˣ)`, or 0 for `x < -87`, so that a product with any finite `x` stays small.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    if x < -87.0 { 0.0 } else { sigmoid }
}

/// The error function, with an absolute and a relative error of at most 4.2e-7 (4e-8 from the approximation, the rest
/// from rounding).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    // erf is 1 in f32 from here on.
    const END: f32 = 3.832_507;
    let x = x.clamp(-END, END);
    let s = x * x;
    let p = 2.290_506_6e-4_f32;
    let p = p.mul_add(s, 3.408_291e-3);
    let p = p.mul_add(s, 5.095_569_5e-2);
    let p = p.mul_add(s, 0.185_208_32);
    let p = p.mul_add(s, std::f32::consts::FRAC_2_SQRT_PI);
    let q = -1.179_160_3e-7_f32;
    let q = q.mul_add(s, 2.354_796_6e-5);
    let q = q.mul_add(s, 1.017_962_8e-3);
    let q = q.mul_add(s, 1.407_047e-2);
    let q = q.mul_add(s, 0.110_985_05);
    let q = q.mul_add(s, 0.497_469_25);
    let q = q.mul_add(s, 1.0);
    x * p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let worst = (-870_000..=880_000)
            .map(|i| i as f32 * 1e-4)
            .map(|x| {
                let exact = f64::from(x).exp();
                let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
                (f64::from(exp(x)) - exact).abs() / unit
            })
            .fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} units in the last place");
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn sigmoid_is_close_and_ends_in_zero_and_one() {
        for x in (-86_999..=87_000).map(|i| i as f32 * 1e-3) {
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let relative = (f64::from(sigmoid(x)) / exact - 1.0).abs();
            assert!(relative <= 5e-7, "{relative:e} at {x}");
        }
        assert!(sigmoid(f32::MAX) == 1.0 && sigmoid(f32::MIN) == 0.0 && sigmoid(f32::NAN).is_nan());
        assert!(sigmoid(f32::INFINITY) == 1.0 && sigmoid(f32::NEG_INFINITY) == 0.0);
    }

    #[test]
    fn erf_is_close_in_absolute_and_relative_terms() {
        let (mut absolute, mut relative) = (0.0_f64, 0.0_f64);
        for x in (-60_000..=60_000).filter(|i| *i != 0).map(|i| i as f32 * 1e-4) {
            let exact = libm::erf(f64::from(x));
            let error = (f64::from(erf(x)) - exact).abs();
            absolute = absolute.max(error);
            relative = relative.max(error / exact.abs());
        }
        assert!(absolute <= 4.2e-7 && relative <= 4.2e-7, "absolute {absolute}, relative {relative}");
        assert!(erf(0.0) == 0.0 && erf(f32::NAN).is_nan());
        assert!(erf(f32::INFINITY) <= 1.0 && erf(f32::NEG_INFINITY) >= -1.0);
    }

    #[test]
    fn reductions_take_the_remainder_too() {
        for n in [0, 1, 15, 16, 17, 33, 96] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 - 3.0).collect();
            let exact = |f: fn(f32) -> f32| x.iter().map(|x| f(*x)).sum::<f32>();
            assert!((sum(&x) - exact(|x| x)).abs() <= 0.0);
            assert!((dot(&x, &x) - exact(|x| x * x)).abs() <= 0.0);
            assert!((sum_of_squares(&x, 2.0) - exact(|x| (x - 2.0) * (x - 2.0))).abs() <= 0.0);
        }
    }
}

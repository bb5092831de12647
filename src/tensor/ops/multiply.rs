//! Matrix products that fit in the first-level cache, such as those of one attention head.
//!
//! At 50 tokens and 24 channels, a general product spends more time on packing and dispatch than on arithmetic. Here
//! the right operand is already packed, with rows padded to whole vectors. A block of the result stays in registers
//! while the inner index runs. Each entry is one chain of fused multiply-adds in the order of that index, so it has the
//! same bits on every instruction set that has this operation.

use pulp::{Simd, WithSimd};
use std::array;

/// Rows are padded to a multiple of this unit: a vector of `S`, but at least 8 values.
pub(super) const fn unit<S: Simd>() -> usize {
    if S::F32_LANES > 8 { 16 } else { 8 }
}

/// Which part of a product is computed if a matrix has a triangle of zeros. Work is skipped by whole register blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// `out[i, j]` is needed where `j >= i`; elsewhere it may be zero instead.
    Upper,
    /// `a[i, k]` is zero where `k > i`.
    LowerFactor,
    /// `a[i, k]` is zero where `k < i`.
    UpperFactor,
}

/// The rows that a product writes.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
    /// Whether the product is added to the old values.
    pub(super) add: bool,
}

impl<'a> Rows<'a> {
    /// All of `values`, row-major, overwritten.
    pub(super) fn new(values: &'a mut [f32], stride: usize) -> Self {
        let count = values.len() / stride.max(1);
        Self { values, stride, count, add: false }
    }
}

/// The product `out[i, j] = Σ_k a[i, k] b[k, j]`.
///
/// `a[i, k]` lies at `i * stride + k`, or at `k * stride + i` if `TRANSPOSED`; `b` is row-major.
pub(super) struct Multiply<'a, const TRANSPOSED: bool> {
    out: Rows<'a>,
    a: &'a [f32],
    stride: usize,
    b: &'a [f32],
    width: usize,
    part: Part,
}

impl<'a, const TRANSPOSED: bool> Multiply<'a, TRANSPOSED> {
    /// The product of `a` and `b`, `[depth, width]`, where `width` is a positive multiple of [`unit`].
    pub(super) fn new(
        out: Rows<'a>,
        a: &'a [f32],
        stride: usize,
        b: &'a [f32],
        width: usize,
        part: Part,
    ) -> Self {
        Self { out, a, stride, b, width, part }
    }
}

impl<const TRANSPOSED: bool> WithSimd for Multiply<'_, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        assert!(
            self.width > 0 && self.width.is_multiple_of(S::F32_LANES),
            "rows are padded to whole vectors"
        );
        let vectors = self.width / S::F32_LANES;
        let mut column = 0;
        while column < vectors {
            // Avoids a remainder of one vector, which has too few independent sums to keep the multipliers busy.
            let rest = vectors - column;
            column += match rest {
                1 => self.columns::<S, 1>(simd, column),
                3 => self.columns::<S, 3>(simd, column),
                4 | 6.. if S::REGISTER_COUNT >= 32 => self.columns::<S, 4>(simd, column),
                _ => self.columns::<S, 2>(simd, column),
            };
        }
    }
}

impl<const TRANSPOSED: bool> Multiply<'_, TRANSPOSED> {
    /// Computes all rows of `COLUMNS` vectors from vector `column` on, in blocks of nearly equal size. Returns
    /// `COLUMNS`.
    #[inline(always)]
    fn columns<S: Simd, const COLUMNS: usize>(&mut self, simd: S, column: usize) -> usize {
        // The sums leave room in the register file for a row of `b` and for values of `a`.
        let most = ((S::REGISTER_COUNT - 2 - COLUMNS) / COLUMNS).clamp(1, 8);
        let rows = self.out.count;
        let blocks = rows.div_ceil(most);
        let mut row = 0;
        for block in 0..blocks {
            let next = rows * (block + 1) / blocks;
            match next - row {
                1 => self.block::<S, 1, COLUMNS>(simd, row, column),
                2 => self.block::<S, 2, COLUMNS>(simd, row, column),
                3 => self.block::<S, 3, COLUMNS>(simd, row, column),
                4 => self.block::<S, 4, COLUMNS>(simd, row, column),
                5 => self.block::<S, 5, COLUMNS>(simd, row, column),
                6 => self.block::<S, 6, COLUMNS>(simd, row, column),
                7 => self.block::<S, 7, COLUMNS>(simd, row, column),
                _ => self.block::<S, 8, COLUMNS>(simd, row, column),
            }
            row = next;
        }
        COLUMNS
    }

    #[inline(always)]
    fn block<S: Simd, const ROWS: usize, const COLUMNS: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let start = column * S::F32_LANES;
        let end = start + COLUMNS * S::F32_LANES;
        let depth = self.b.len() / self.width;
        let (from, to) = match self.part {
            Part::Upper if end <= row => (0, 0),
            Part::Whole | Part::Upper => (0, depth),
            Part::LowerFactor => (0, depth.min(row + ROWS)),
            Part::UpperFactor => (row.min(depth), depth),
        };
        let mut sums = [[simd.splat_f32s(0.0); COLUMNS]; ROWS];
        let b_rows = self.b[from * self.width..to * self.width].chunks_exact(self.width).map(|b| {
            let b = S::as_simd_f32s(&b[start..end]).0;
            array::from_fn::<S::f32s, COLUMNS, _>(|j| b[j])
        });
        if TRANSPOSED {
            for (k, b) in b_rows.enumerate() {
                let a = &self.a[(from + k) * self.stride + row..][..ROWS];
                for (sums, a) in sums.iter_mut().zip(a) {
                    accumulate(simd, sums, *a, b);
                }
            }
        } else {
            let len = to - from;
            let a: [&[f32]; ROWS] = array::from_fn(|i| &self.a[(row + i) * self.stride + from..][..len]);
            for (k, b) in b_rows.enumerate().take(len) {
                for (sums, a) in sums.iter_mut().zip(a) {
                    accumulate(simd, sums, a[k], b);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out.values[(row + i) * self.out.stride..][start..end];
            for (out, sum) in S::as_mut_simd_f32s(out).0.iter_mut().zip(sums) {
                *out = if self.out.add { simd.add_f32s(*out, sum) } else { sum };
            }
        }
    }
}

/// `sums += a * b`
#[inline(always)]
fn accumulate<S: Simd, const N: usize>(simd: S, sums: &mut [S::f32s; N], a: f32, b: [S::f32s; N]) {
    let a = simd.splat_f32s(a);
    for (sum, b) in sums.iter_mut().zip(b) {
        *sum = simd.mul_add_f32s(a, b, *sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ops::simd::arch;
    use pulp::Scalar;

    fn counted(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7 % 13) as f32 - 6.0).collect()
    }

    #[test]
    fn products_are_exact_on_small_integers_on_every_instruction_set() {
        for (rows, depth, width) in
            [(1, 1, 16), (2, 24, 16), (50, 24, 64), (50, 50, 32), (13, 3, 112), (17, 17, 48), (3, 0, 16)]
        {
            let (a, b, stride) = (counted(rows * (depth + 2)), counted(depth * width), depth + 2);
            let across: Vec<f32> = (0..depth * rows).map(|ki| a[ki % rows * stride + ki / rows]).collect();
            let entry =
                |i: usize, j: usize| (0..depth).map(|k| a[i * stride + k] * b[k * width + j]).sum::<f32>();
            let expected: Vec<f32> = (0..rows * width).map(|ij| entry(ij / width, ij % width)).collect();

            let mut out = vec![f32::NAN; rows * width];
            macro_rules! product {
                ($transposed:literal, $a:expr, $stride:expr) => {
                    Multiply::<$transposed>::new(
                        Rows::new(&mut out, width),
                        $a,
                        $stride,
                        &b,
                        width,
                        Part::Whole,
                    )
                };
            }
            arch().dispatch(product!(false, &a, stride));
            assert_eq!(out, expected);
            arch().dispatch(product!(true, &across, rows));
            assert_eq!(out, expected);
            Simd::vectorize(Scalar::new(), product!(false, &a, stride));
            assert_eq!(out, expected);
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                Simd::vectorize(simd, product!(false, &a, stride));
                assert_eq!(out, expected);
                Simd::vectorize(simd, product!(true, &across, rows));
                assert_eq!(out, expected);
            }
        }
    }

    #[test]
    fn a_triangle_changes_no_entry_that_is_asked_for() {
        let n = 32;
        let (full, b) = (counted(n * n), counted(n * n));
        let lower: Vec<f32> = (0..n * n).map(|at| if at % n > at / n { 0.0 } else { full[at] }).collect();
        let upper: Vec<f32> = (0..n * n).map(|at| if at % n < at / n { 0.0 } else { full[at] }).collect();
        let product = |a: &[f32], transposed: bool, part: Part| {
            let mut out = vec![1.0; n * n];
            let rows = Rows { add: true, ..Rows::new(&mut out, n) };
            if transposed {
                arch().dispatch(Multiply::<true>::new(rows, a, n, &b, n, part));
            } else {
                arch().dispatch(Multiply::<false>::new(rows, a, n, &b, n, part));
            }
            out
        };
        assert_eq!(product(&lower, false, Part::LowerFactor), product(&lower, false, Part::Whole));
        assert_eq!(product(&upper, false, Part::UpperFactor), product(&upper, false, Part::Whole));
        assert_eq!(product(&upper, true, Part::LowerFactor), product(&upper, true, Part::Whole));
        let (part, whole) = (product(&full, false, Part::Upper), product(&full, false, Part::Whole));
        for at in (0..n * n).filter(|at| at % n >= at / n) {
            assert_eq!(part[at], whole[at]);
        }
    }
}

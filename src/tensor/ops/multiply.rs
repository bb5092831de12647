//! Matrix products that fit in the nearest cache, such as those of one attention head.
//!
//! A general product spends more time on packing and dispatch than on arithmetic at 50 tokens and 24 channels.
//! Here the right operand is already packed: its rows are padded to whole vectors. A block of the result stays in
//! registers while the inner index runs; each entry is one chain of fused multiply-adds in the order of that index,
//! so it has the same bits on every instruction set with that operation.

use super::simd::LANES;
use pulp::{Simd, WithSimd};
use std::array;

/// The product `out[i, j] = Σ_k a[i, k] b[k, j]`.
///
/// `a[i, k]` lies at `i * stride + k`, or at `k * stride + i` if `TRANSPOSED`; `b` and `out` are row-major.
pub(super) struct Multiply<'a, const TRANSPOSED: bool> {
    out: &'a mut [f32],
    a: &'a [f32],
    stride: usize,
    b: &'a [f32],
    width: usize,
}

impl<'a, const TRANSPOSED: bool> Multiply<'a, TRANSPOSED> {
    /// Overwrites `out`, `[rows, width]`, with the product of `a` and `b`, `[depth, width]`.
    ///
    /// # Panics
    /// If `width` is not a positive multiple of [`LANES`].
    pub(super) fn new(out: &'a mut [f32], a: &'a [f32], stride: usize, b: &'a [f32], width: usize) -> Self {
        assert!(width > 0 && width.is_multiple_of(LANES), "rows are padded to whole vectors");
        Self { out, a, stride, b, width }
    }
}

impl<const TRANSPOSED: bool> WithSimd for Multiply<'_, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let vectors = self.width / S::F32_LANES;
        let mut column = 0;
        // The blocks leave room in the register file for a row of `b` and one broadcast value.
        if S::REGISTER_COUNT >= 32 {
            while column + 4 <= vectors {
                self.columns::<S, 6, 4>(simd, column);
                column += 4;
            }
            while column + 2 <= vectors {
                self.columns::<S, 10, 2>(simd, column);
                column += 2;
            }
        } else {
            while column + 2 <= vectors {
                self.columns::<S, 5, 2>(simd, column);
                column += 2;
            }
        }
        while column < vectors {
            self.columns::<S, 10, 1>(simd, column);
            column += 1;
        }
    }
}

impl<const TRANSPOSED: bool> Multiply<'_, TRANSPOSED> {
    /// All rows of `COLUMNS` vectors from vector `column` on, `ROWS` at a time.
    #[inline(always)]
    fn columns<S: Simd, const ROWS: usize, const COLUMNS: usize>(&mut self, simd: S, column: usize) {
        let rows = self.out.len() / self.width;
        let mut row = 0;
        while row + ROWS <= rows {
            self.block::<S, ROWS, COLUMNS>(simd, row, column);
            row += ROWS;
        }
        while row + 2 <= rows {
            self.block::<S, 2, COLUMNS>(simd, row, column);
            row += 2;
        }
        if row < rows {
            self.block::<S, 1, COLUMNS>(simd, row, column);
        }
    }

    #[inline(always)]
    fn block<S: Simd, const ROWS: usize, const COLUMNS: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let depth = self.b.len() / self.width;
        let start = column * S::F32_LANES;
        let end = start + COLUMNS * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); COLUMNS]; ROWS];
        let b_rows = self.b.chunks_exact(self.width).map(|b| {
            let b = S::as_simd_f32s(&b[start..end]).0;
            array::from_fn::<S::f32s, COLUMNS, _>(|j| b[j])
        });
        if TRANSPOSED {
            for (k, b) in b_rows.enumerate() {
                let a = &self.a[k * self.stride + row..][..ROWS];
                for (sums, a) in sums.iter_mut().zip(a) {
                    accumulate(simd, sums, *a, b);
                }
            }
        } else {
            let a: [&[f32]; ROWS] = array::from_fn(|i| &self.a[(row + i) * self.stride..][..depth]);
            for (k, b) in b_rows.enumerate().take(depth) {
                for (sums, a) in sums.iter_mut().zip(a) {
                    accumulate(simd, sums, a[k], b);
                }
            }
        }
        for (out, sums) in self.out[row * self.width..].chunks_exact_mut(self.width).zip(sums) {
            S::as_mut_simd_f32s(&mut out[start..end]).0.copy_from_slice(&sums);
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
            [(1, 1, 16), (2, 24, 16), (50, 24, 64), (50, 50, 32), (13, 3, 112), (3, 0, 16)]
        {
            let (a, b, stride) = (counted(rows * (depth + 2)), counted(depth * width), depth + 2);
            let across: Vec<f32> = (0..depth * rows).map(|ki| a[ki % rows * stride + ki / rows]).collect();
            let entry =
                |i: usize, j: usize| (0..depth).map(|k| a[i * stride + k] * b[k * width + j]).sum::<f32>();
            let expected: Vec<f32> = (0..rows * width).map(|ij| entry(ij / width, ij % width)).collect();

            let mut out = vec![f32::NAN; rows * width];
            arch().dispatch(Multiply::<false>::new(&mut out, &a, stride, &b, width));
            assert_eq!(out, expected);
            arch().dispatch(Multiply::<true>::new(&mut out, &across, rows, &b, width));
            assert_eq!(out, expected);
            Simd::vectorize(Scalar::new(), Multiply::<false>::new(&mut out, &a, stride, &b, width));
            assert_eq!(out, expected);
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                Simd::vectorize(simd, Multiply::<false>::new(&mut out, &a, stride, &b, width));
                assert_eq!(out, expected);
                Simd::vectorize(simd, Multiply::<true>::new(&mut out, &across, rows, &b, width));
                assert_eq!(out, expected);
            }
        }
    }
}

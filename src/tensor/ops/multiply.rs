//! Matrix products that fit in the nearest cache, such as those of one attention head.
//!
//! A general product spends more time on packing and dispatch than on arithmetic at 50 tokens and 24 channels.
//! Here the right operand is already packed: its rows are padded to whole vectors. A block of the result stays in
//! registers while the inner index runs; each entry is one chain of fused multiply-adds in the order of that index,
//! so it has the same bits on every instruction set with that operation.

use super::simd::LANES;
use pulp::{Simd, WithSimd};
use std::array;

/// Rows of the left operand: `a[i, k]` lies at `i * stride + k`, or at `k * stride + i` if `TRANSPOSED`.
///
/// `out[i, j] = Σ_k a[i, k] b[k, j]` with `b` and `out` row-major, `width` values a row.
pub(super) struct Multiply<'a, const TRANSPOSED: bool> {
    /// The result, `[rows, width]`; overwritten.
    pub(super) out: &'a mut [f32],
    /// The left operand, `[rows, depth]` or its transpose.
    pub(super) a: &'a [f32],
    /// Distance between the stored rows of `a`.
    pub(super) stride: usize,
    /// The right operand, `[depth, width]`.
    pub(super) b: &'a [f32],
    /// Length of a row of `out` and `b`, a multiple of [`LANES`].
    pub(super) width: usize,
}

impl<const TRANSPOSED: bool> WithSimd for Multiply<'_, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        assert_eq!(self.width % LANES, 0, "rows are padded to whole vectors");
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
                for i in 0..ROWS {
                    let a = simd.splat_f32s(a[i]);
                    for j in 0..COLUMNS {
                        sums[i][j] = simd.mul_add_f32s(a, b[j], sums[i][j]);
                    }
                }
            }
        } else {
            let a: [&[f32]; ROWS] = array::from_fn(|i| &self.a[(row + i) * self.stride..][..depth]);
            for (k, b) in b_rows.enumerate().take(depth) {
                for i in 0..ROWS {
                    let a = simd.splat_f32s(a[i][k]);
                    for j in 0..COLUMNS {
                        sums[i][j] = simd.mul_add_f32s(a, b[j], sums[i][j]);
                    }
                }
            }
        }
        for i in 0..ROWS {
            let out = &mut self.out[(row + i) * self.width..][start..end];
            let out = S::as_mut_simd_f32s(out).0;
            for j in 0..COLUMNS {
                out[j] = sums[i][j];
            }
        }
    }
}

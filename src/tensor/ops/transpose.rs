//! Transposition of a small matrix, in registers if the processor has the shuffles for it.
//!
//! For a plain loop the compiler emits a load and a store per value; blocks of 8 x 8 need only an eighth of them.

use pulp::{Simd, WithSimd};

/// The matrix `to[j, i] = from[i, j]`, with rows `from_stride` and `to_stride` apart.
pub(super) struct Transpose<'a> {
    pub(super) to: &'a mut [f32],
    pub(super) to_stride: usize,
    pub(super) from: &'a [f32],
    pub(super) from_stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Transpose<'_> {
    pub(super) fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            Simd::vectorize(simd, Blocks { simd, matrix: self });
            return;
        }
        let mut matrix = self;
        matrix.rest(0, 0);
    }

    /// Copies the values outside the first `rows` rows and `columns` columns.
    #[inline(always)]
    fn rest(&mut self, rows: usize, columns: usize) {
        for i in 0..self.rows {
            let first = if i < rows { columns } else { 0 };
            let from = &self.from[i * self.from_stride..][..self.columns];
            for (j, from) in from.iter().enumerate().skip(first) {
                self.to[j * self.to_stride + i] = *from;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Blocks<'a> {
    simd: pulp::x86::V3,
    matrix: Transpose<'a>,
}

#[cfg(target_arch = "x86_64")]
impl WithSimd for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        use std::array;
        let Self { simd, mut matrix } = self;
        let (rows, columns) = (matrix.rows / 8 * 8, matrix.columns / 8 * 8);
        for i in (0..rows).step_by(8) {
            let from: [&[f32]; 8] =
                array::from_fn(|row| &matrix.from[(i + row) * matrix.from_stride..][..columns]);
            for j in (0..columns).step_by(8) {
                let block = from.map(|row| *row[j..].first_chunk::<8>().expect("a block is inside"));
                for (column, values) in transposed(simd, block).into_iter().enumerate() {
                    let to = &mut matrix.to[(j + column) * matrix.to_stride + i..];
                    *to.first_chunk_mut().expect("a block is inside") = values;
                }
            }
        }
        matrix.rest(rows, columns);
    }
}

/// The transpose of a block: rows are interleaved in pairs, then the pairs in pairs, and then halves are exchanged.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transposed(simd: pulp::x86::V3, block: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    use pulp::cast;
    use std::arch::x86_64::__m256;
    use std::array;
    let avx = simd.avx;
    let rows: [__m256; 8] = array::from_fn(|i| cast(block[i]));
    let pairs: [__m256; 8] = array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { avx._mm256_unpacklo_ps(a, b) } else { avx._mm256_unpackhi_ps(a, b) }
    });
    // quads[4 h + c] has column c of rows 4 h to 4 h + 3, and in its upper half column c + 4.
    let quads: [__m256; 8] = array::from_fn(|i| {
        let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { avx._mm256_shuffle_ps::<0x44>(a, b) } else { avx._mm256_shuffle_ps::<0xee>(a, b) }
    });
    array::from_fn(|i| {
        let (a, b) = (quads[i % 4], quads[i % 4 + 4]);
        cast(if i < 4 {
            avx._mm256_permute2f128_ps::<0x20>(a, b)
        } else {
            avx._mm256_permute2f128_ps::<0x31>(a, b)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_finds_its_place_and_nothing_else_is_written() {
        for (rows, columns) in [(1, 1), (8, 8), (17, 24), (16, 5), (7, 40), (0, 3)] {
            let (from_stride, to_stride) = (columns + 3, rows + 2);
            let from: Vec<f32> = (0..rows * from_stride).map(|i| i as f32).collect();
            let mut to = vec![-1.0; columns * to_stride];
            Transpose { to: &mut to, to_stride, from: &from, from_stride, rows, columns }.run();
            for (at, value) in to.iter().enumerate() {
                let (j, i) = (at / to_stride, at % to_stride);
                assert_eq!(*value, if i < rows { from[i * from_stride + j] } else { -1.0 });
            }
        }
    }
}

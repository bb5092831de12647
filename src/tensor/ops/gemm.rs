//! The one safe door to the `gemm` crate: single-threaded products of row-major `f32` matrices and their transposes.
//!
//! A transpose is a swap of strides and never a copy. The result of a product depends on its inputs and on the
//! processor's instruction set and caches, not on the number of threads.
#![expect(unsafe_code, reason = "the gemm crate takes raw pointers; this module checks every bound")]

use gemm::Parallelism;

/// A borrowed matrix: row-major data, possibly seen through a transpose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix over all of `data`.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows * cols` values.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(rows.checked_mul(cols), Some(data.len()), "a matrix of {rows} x {cols} fills its data");
        Self { data, rows, cols, transposed: false }
    }

    /// The same data with rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Distance between neighbours in a row, then in a column.
    fn strides(&self) -> (isize, isize) {
        // A slice never holds more than `isize::MAX` bytes, so the casts are exact.
        if self.transposed { (self.rows.cast_signed(), 1) } else { (1, self.cols.cast_signed()) }
    }
}

/// The row-major product `a · b`.
///
/// # Panics
/// If the inner dimensions differ.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let len = a.rows.checked_mul(b.cols).expect("the product of two matrices in memory is addressable");
    let mut out = Vec::with_capacity(len);
    // SAFETY: the vector has room for `len` values. With `read_dst` false `gemm` reads none of them and writes
    // each of the `a.rows * b.cols = len` values, also where the inner dimension is 0 (it then writes zeros).
    unsafe {
        run(out.as_mut_ptr(), false, a, b);
        out.set_len(len);
    }
    out
}

/// Adds the product: `out += a · b`, with `out` row-major.
///
/// # Panics
/// If the inner dimensions differ or `out` has another size than the product.
pub(super) fn add_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(a.rows.checked_mul(b.cols), Some(out.len()), "the destination has the size of the product");
    // SAFETY: `out` is initialised, exclusively borrowed and holds `a.rows * b.cols` values, as just checked.
    unsafe { run(out.as_mut_ptr(), true, a, b) }
}

/// # Safety
/// `out` is valid for writes of `a.rows * b.cols` values, and for reads if `accumulate`; nothing else refers to it.
unsafe fn run(out: *mut f32, accumulate: bool, a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(a.cols, b.rows, "the inner dimensions of a product agree");
    let (a_col, a_row) = a.strides();
    let (b_col, b_row) = b.strides();
    // SAFETY: `Matrix::new` checked that each operand holds `rows * cols` values and a transpose keeps both the
    // data and that number, so with these strides every index below `rows`, `cols` lies inside the slice. The
    // caller vouches for `out`, which is row-major with `b.cols` columns.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            b.cols.cast_signed(),
            accumulate,
            a.data.as_ptr(),
            a_col,
            a_row,
            b.data.as_ptr(),
            b_col,
            b_row,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7 % 13) as f32 - 6.0).collect()
    }

    #[test]
    fn products_of_transposes_are_exact_on_small_integers() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 2, 33), (50, 24, 50), (4, 3, 0), (0, 3, 2)] {
            let (a, b) = (counted(m * k), counted(k * n));
            let entry = |i: usize, j: usize| (0..k).map(|d| a[i * k + d] * b[d * n + j]).sum::<f32>();
            let expected: Vec<f32> = (0..m * n).map(|ij| entry(ij / n, ij % n)).collect();
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            assert_eq!(product(a, b), expected);

            let flipped = product(b.transposed(), a.transposed());
            let back: Vec<f32> = (0..m * n).map(|ij| flipped[ij % n * m + ij / n]).collect();
            assert_eq!(back, expected);

            let mut sum = vec![1.0; m * n];
            add_product(&mut sum, a, b);
            assert_eq!(sum, expected.iter().map(|expected| expected + 1.0).collect::<Vec<f32>>());
        }
    }

    #[test]
    #[should_panic(expected = "inner dimensions")]
    fn inner_dimensions_are_checked() {
        let data = [0.0; 6];
        product(Matrix::new(&data, 2, 3), Matrix::new(&data, 2, 3));
    }

    #[test]
    #[should_panic(expected = "fills its data")]
    fn lengths_are_checked() {
        Matrix::new(&[0.0; 6], 2, 4);
    }
}

//! The only safe interface to the `gemm` crate: single-threaded products of `f32` matrices and their transposes.
//!
//! A transpose swaps strides, and a rectangle of a larger matrix has a longer stride; neither is ever copied. The
//! result of a product depends on its inputs and on the processor's instruction set and caches, not on the number of
//! threads.
#![expect(unsafe_code, reason = "the gemm crate takes raw pointers; this module checks every bound")]

use gemm::Parallelism;

/// A borrowed matrix of contiguous rows at a fixed distance, possibly transposed.
#[derive(Debug, Clone, Copy)]
pub(in crate::tensor) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix over all of `data`.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows * cols` values.
    pub(in crate::tensor) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(rows.checked_mul(cols), Some(data.len()), "a matrix of {rows} x {cols} fills its data");
        Self { data, rows, cols, stride: cols, transposed: false }
    }

    /// A rectangle of a row-major matrix whose rows are `stride` values apart. It starts at the first value of `data`.
    ///
    /// # Panics
    /// If the rectangle reaches beyond `data` or its rows overlap.
    pub(in crate::tensor) fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, stride), "a rectangle of {rows} x {cols} lies in its data");
        Self { data, rows, cols, stride, transposed: false }
    }

    /// The same data with rows and columns exchanged.
    pub(in crate::tensor) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Number of rows.
    pub(in crate::tensor) const fn rows(&self) -> usize {
        self.rows
    }

    /// The values of row `index`.
    ///
    /// # Panics
    /// If there is no such row, or the matrix is transposed: its rows are not contiguous.
    pub(in crate::tensor) fn row(&self, index: usize) -> &'a [f32] {
        assert!(!self.transposed && index < self.rows, "row {index} of {} is contiguous", self.rows);
        &self.data[index * self.stride..][..self.cols]
    }

    /// Distance between neighbours in a row, then in a column.
    fn strides(&self) -> (isize, isize) {
        // A slice never holds more than `isize::MAX` bytes, so the cast is exact.
        let stride = self.stride.cast_signed();
        if self.transposed { (stride, 1) } else { (1, stride) }
    }
}

/// The destination of a product: a rectangle of a row-major matrix.
#[derive(Debug)]
pub(in crate::tensor) struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// A row-major matrix over all of `data`.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows * cols` values.
    pub(in crate::tensor) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(rows.checked_mul(cols), Some(data.len()), "a matrix of {rows} x {cols} fills its data");
        Self { data, rows, cols, stride: cols }
    }

    /// A rectangle of a row-major matrix whose rows are `stride` values apart. It starts at the first value of `data`.
    ///
    /// # Panics
    /// If the rectangle reaches beyond `data` or its rows overlap.
    pub(in crate::tensor) fn strided(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, stride), "a rectangle of {rows} x {cols} lies in its data");
        Self { data, rows, cols, stride }
    }

    /// `self ← a b`; the old values are not read.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub(in crate::tensor) fn set_product(self, a: Matrix<'_>, b: Matrix<'_>) {
        self.run(false, a, b);
    }

    /// `self ← self + a b`
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub(in crate::tensor) fn add_product(self, a: Matrix<'_>, b: Matrix<'_>) {
        self.run(true, a, b);
    }

    fn run(self, accumulate: bool, a: Matrix<'_>, b: Matrix<'_>) {
        assert_eq!(a.cols, b.rows, "the inner dimensions of a product agree");
        assert_eq!((self.rows, self.cols), (a.rows, b.cols), "the destination has the shape of the product");
        let (a_col, a_row) = a.strides();
        let (b_col, b_row) = b.strides();
        // SAFETY: the constructors checked that with these strides every index below `rows`, `cols` lies inside the
        // slice, and a transpose keeps data and extent. The destination is initialised and exclusively borrowed.
        unsafe {
            gemm::gemm(
                a.rows,
                b.cols,
                a.cols,
                self.data.as_mut_ptr(),
                1,
                self.stride.cast_signed(),
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
}

/// Whether `rows` rows of `cols` values, `stride` apart, lie within `len` values and do not overlap.
fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    if rows == 0 || cols == 0 {
        return true;
    }
    let end = (rows - 1).checked_mul(stride).and_then(|last| last.checked_add(cols));
    (rows == 1 || cols <= stride) && end.is_some_and(|end| end <= len)
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
            let mut out = vec![f32::NAN; m * n];
            MatrixMut::new(&mut out, m, n).set_product(a, b);
            assert_eq!(out, expected);

            let mut flipped = vec![f32::NAN; m * n];
            MatrixMut::new(&mut flipped, n, m).set_product(b.transposed(), a.transposed());
            let back: Vec<f32> = (0..m * n).map(|ij| flipped[ij % n * m + ij / n]).collect();
            assert_eq!(back, expected);

            MatrixMut::new(&mut out, m, n).add_product(a, b);
            assert_eq!(out, expected.iter().map(|expected| 2.0 * expected).collect::<Vec<f32>>());
        }
    }

    #[test]
    fn rectangles_are_read_and_written_in_place() {
        let (m, n, k) = (5, 4, 3);
        let (a, b) = (counted(m * 8), counted(k * 9));
        let entry = |i: usize, j: usize| (0..k).map(|d| a[2 + i * 8 + d] * b[1 + d * 9 + j]).sum::<f32>();
        let mut out = vec![0.5; m * 7];
        MatrixMut::strided(&mut out[3..], m, n, 7)
            .set_product(Matrix::strided(&a[2..], m, k, 8), Matrix::strided(&b[1..], k, n, 9));
        for (at, found) in out.iter().enumerate() {
            let (i, j) = (at / 7, at % 7);
            let inside = (3..3 + n).contains(&j);
            assert_eq!(*found, if inside { entry(i, j - 3) } else { 0.5 }, "row {i}, column {j}");
        }
    }

    #[test]
    #[should_panic(expected = "inner dimensions")]
    fn inner_dimensions_are_checked() {
        let data = [0.0; 6];
        let matrix = Matrix::new(&data, 2, 3);
        MatrixMut::new(&mut [0.0; 6], 2, 3).set_product(matrix, matrix);
    }

    #[test]
    #[should_panic(expected = "shape of the product")]
    fn the_destination_is_checked() {
        let data = [0.0; 6];
        let matrix = Matrix::new(&data, 2, 3);
        MatrixMut::new(&mut [0.0; 6], 2, 3).set_product(matrix, matrix.transposed());
    }

    #[test]
    #[should_panic(expected = "fills its data")]
    fn lengths_are_checked() {
        Matrix::new(&[0.0; 6], 2, 4);
    }

    #[test]
    #[should_panic(expected = "lies in its data")]
    fn rectangles_stay_inside() {
        Matrix::strided(&[0.0; 14], 3, 4, 5).transposed();
        Matrix::strided(&[0.0; 13], 3, 4, 5).transposed();
    }
}

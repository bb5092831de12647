//! Resizes position embeddings to another grid and patch kernels to another patch size, with one scalar routine that
//! both executors call.
//!
//! Source for positions: timm's `resample_abs_pos_embed`, which is PyTorch's bicubic interpolation with antialiasing
//! and without aligned corners: `w((x - centre) / max(1, scale))` with Keys' kernel `w` (1981, eq. 15, `a = -1/2`),
//! normalised to add up to 1. Source for kernels: Beyer et al. 2023, arXiv 2212.08013, section 3.4, PI-resize,
//! `ŵ = (Bᵀ)⁺ w` with the matrix `B` of that interpolation, as in timm's `resample_patch_embed`.
//!
//! Deviation from both: values are computed in f64 and rounded once. With the matrix `R` of one axis, `B = R ⊗ R` and
//! therefore `B⁺ = R⁺ ⊗ R⁺`, so the matrix to invert is only as large as one side of a patch.
//!
//! Each channel is computed separately, so that resizing the first channels gives the first channels of the resized
//! tensor.

/// How a tensor is resized. Grids and patches are square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resize {
    /// Position embeddings `[1 + side², width]`; the row of the class token is kept.
    Positions {
        /// Patches along one side of an image at the stored size.
        from: usize,
        /// Patches along one side of an image at the requested size.
        to: usize,
    },
    /// Patch kernels `[…, side, side]`. On an image resized by the same factor, each gives about the same response as
    /// before.
    Kernels {
        /// Pixels along one side of a stored patch.
        from: usize,
        /// Pixels along one side of a requested patch.
        to: usize,
    },
}

impl Resize {
    /// `values` resized, in row-major order; `columns` is the width of positions.
    pub fn values(self, values: &[f32], columns: usize) -> Vec<f32> {
        match self {
            Self::Positions { from, to } => {
                let (class, grid) = values.split_at(columns);
                let matrix = Matrix::bicubic(from, to);
                let mut out = vec![0.0; columns * (1 + to * to)];
                out[..columns].copy_from_slice(class);
                for column in 0..columns {
                    let plane: Vec<f32> = grid.iter().skip(column).step_by(columns).copied().collect();
                    for (row, value) in matrix.both_sides(&plane).into_iter().enumerate() {
                        out[columns * (1 + row) + column] = value;
                    }
                }
                out
            }
            Self::Kernels { from, to } => {
                let matrix = Matrix::bicubic(from, to).dual();
                values.chunks_exact(from * from).flat_map(|plane| matrix.both_sides(plane)).collect()
            }
        }
    }
}

/// A small dense matrix, row by row.
struct Matrix {
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// The matrix of bicubic interpolation from `from` points to `to` points.
    fn bicubic(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        // For shrinking, the kernel widens with the scale, which prevents aliasing.
        let stretch = scale.max(1.0);
        let mut values = Vec::with_capacity(from * to);
        for index in 0..to {
            let centre = scale * (index as f64 + 0.5);
            // PyTorch rounds the ends of the window, which matters if the kernel is not yet 0 there.
            let start = libm::floor((centre - 2.0 * stretch + 0.5).max(0.0)) as usize;
            let end = (libm::floor(centre + 2.0 * stretch + 0.5) as usize).min(from);
            let weight = |point: usize| match point {
                point if (start..end).contains(&point) => keys((point as f64 - centre + 0.5) / stretch),
                _ => 0.0,
            };
            let row: Vec<f64> = (0..from).map(weight).collect();
            let sum: f64 = row.iter().sum();
            values.extend(row.into_iter().map(|weight| weight / sum));
        }
        Self { columns: from, values }
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.columns..][..self.columns]
    }

    fn transposed(&self) -> Self {
        let column = |column: usize| self.values.iter().skip(column).step_by(self.columns).copied();
        Self { columns: self.rows(), values: (0..self.columns).flat_map(column).collect() }
    }

    /// `self otherᵀ`.
    fn times_transposed(&self, other: &Self) -> Self {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let row = |i: usize| (0..other.rows()).map(move |j| dot(self.row(i), other.row(j)));
        Self { columns: other.rows(), values: (0..self.rows()).flat_map(row).collect() }
    }

    /// `(Mᵀ)⁺` of a matrix of full rank. The condition number of [`Matrix::bicubic`] is below 10 for any two patch
    /// sides, so the normal equations lose no accuracy.
    fn dual(&self) -> Self {
        if self.rows() < self.columns {
            return self.transposed().dual().transposed();
        }
        // M (MᵀM)⁻¹, whose second factor is its own transpose.
        let columns = self.transposed();
        self.times_transposed(&columns.times_transposed(&columns).inverse())
    }

    /// The inverse of a positive definite matrix by Gauss-Jordan elimination; no pivot is 0.
    fn inverse(mut self) -> Self {
        let n = self.columns;
        for k in 0..n {
            let pivot = self.values[k * n + k];
            self.values[k * n + k] = 1.0;
            self.values[k * n..][..n].iter_mut().for_each(|value| *value /= pivot);
            let row = self.row(k).to_vec();
            for other in (0..n).filter(|other| *other != k) {
                let factor = std::mem::replace(&mut self.values[other * n + k], 0.0);
                let values = self.values[other * n..][..n].iter_mut();
                values.zip(&row).for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
        self
    }

    /// `M X Mᵀ` of a square plane `X`, row by row, rounded once.
    fn both_sides(&self, plane: &[f32]) -> Vec<f32> {
        let plane = Self { columns: self.columns, values: plane.iter().map(|v| f64::from(*v)).collect() };
        // (X Mᵀ)ᵀ, times from the right: M (X Mᵀ).
        let half = self.times_transposed(&plane);
        self.times_transposed(&half).values.into_iter().map(|value| value as f32).collect()
    }
}

/// Keys' cubic convolution with `a = -1/2`.
fn keys(x: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_interpolation_add_up_to_one() {
        for (from, to) in [(1, 5), (5, 1), (7, 4), (4, 7), (16, 14), (3, 64), (64, 3)] {
            let matrix = Matrix::bicubic(from, to);
            assert_eq!((matrix.rows(), matrix.columns), (to, from));
            for row in 0..to {
                assert!((matrix.row(row).iter().sum::<f64>() - 1.0).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn the_dual_undoes_the_interpolation() {
        for (from, to) in [(1, 5), (5, 1), (4, 7), (7, 4), (16, 15), (15, 16), (8, 8), (3, 64)] {
            let matrix = Matrix::bicubic(from, to);
            let (short, dual) = if from <= to {
                (matrix.transposed(), matrix.dual().transposed())
            } else {
                (matrix.dual(), matrix)
            };
            // Rᵀ D = 1 if the side grows, D Rᵀ = 1 if it shrinks.
            let product = short.times_transposed(&dual);
            for (i, value) in product.values.iter().enumerate() {
                let expected = f64::from(u8::from(i % (product.columns + 1) == 0));
                assert!((value - expected).abs() < 1e-11, "{from} {to} {i}: {value}");
            }
        }
    }

    #[test]
    fn a_kernel_gives_on_a_larger_image_what_it_gave() {
        // ⟨B x, ŵ⟩ = ⟨x, w⟩ for every x, which is what section 3.4 asks of ŵ.
        let (x, w): (Vec<f32>, Vec<f32>) =
            (0..16).map(|i: u8| (f32::from(i * 7 % 16) - 8.0, f32::from(i * 5 % 16) - 7.0)).unzip();
        let larger = Matrix::bicubic(4, 6).both_sides(&x);
        let kernel = Resize::Kernels { from: 4, to: 6 }.values(&w, 0);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a * *b)).sum::<f64>();
        assert!((dot(&larger, &kernel) - dot(&x, &w)).abs() < 1e-4 * dot(&x, &x));
    }

    #[test]
    fn values_are_pinned() {
        // Any change here changes served bytes and needs a new render version.
        let values: Vec<f32> = (0u8..10).map(|i| f32::from(i * i % 7)).collect();
        let bits =
            |values: Vec<f32>| values.into_iter().map(f32::to_bits).fold(0u32, |a, b| a.rotate_left(5) ^ b);
        let resized = [
            Resize::Positions { from: 3, to: 5 }.values(&values, 1),
            Resize::Kernels { from: 3, to: 5 }.values(&values[1..], 0),
            Resize::Kernels { from: 3, to: 2 }.values(&values[1..], 0),
        ];
        assert_eq!(resized.map(bits), PINNED);
    }

    const PINNED: [u32; 3] = [3_809_626_052, 1_898_651_800, 3_913_549_605];
}

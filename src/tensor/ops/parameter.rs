//! How kernels read weights, and how the backward pass adds to their gradients.

use super::gemm::{Matrix, MatrixMut};
use super::{add_to, values};
use crate::tensor::{Weight, matrix_view};
use candle_core::{DType, Layout, Result, Storage, bail};
use std::ops::Deref;

/// Weight and bias of an affine map, or scale and shift of a norm.
#[derive(Debug, Clone)]
pub struct Affine {
    /// `[out, in]` of a linear layer, `[width]` of a norm.
    pub weight: Weight,
    /// `[out]` or `[width]`.
    pub bias: Weight,
}

impl Affine {
    pub(super) fn weights(&self) -> [&Weight; 2] {
        [&self.weight, &self.bias]
    }

    /// The part of the map that computes outputs `rows`.
    pub(super) fn rows(&self, rows: std::ops::Range<usize>) -> Result<Self> {
        Ok(Self { weight: self.weight.rows(rows.clone())?, bias: self.bias.rows(rows)? })
    }
}

/// The pieces of a weight, locked for reading.
pub(super) struct Values<'a> {
    rows: usize,
    cols: usize,
    // The type of candle's guard has no public name.
    pieces: Vec<(Box<dyn Deref<Target = Storage> + 'a>, &'a Layout)>,
}

/// Where a piece lies in its storage.
struct Extent {
    start: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Extent {
    fn of(layout: &Layout) -> Result<Self> {
        let ((rows, cols), &[row, col]) = (layout.shape().dims2()?, layout.stride()) else {
            bail!("a piece of a weight has no rows: {layout:?}");
        };
        // A stride along an axis of length 1 means nothing and may have any value.
        if col != 1 && cols > 1 {
            bail!("a piece of a weight has columns {col} apart");
        }
        Ok(Self { start: layout.start_offset(), rows, cols, stride: row.max(cols) })
    }
}

impl Weight {
    /// Whether the kernels can read it and candle expects no gradient for it.
    pub(super) fn fused(&self) -> bool {
        self.dtype() == DType::F32
            && self.pieces().iter().all(|piece| piece.device().is_cpu() && !piece.track_op())
    }

    pub(super) fn values(&self) -> Values<'_> {
        let [rows, cols] = matrix_view(self.dims());
        let locked = self.pieces().iter().map(|piece| {
            let (storage, layout) = piece.storage_and_layout();
            (Box::new(storage) as Box<dyn Deref<Target = Storage>>, layout)
        });
        Values { rows, cols, pieces: locked.collect() }
    }

    /// Adds `gᵀ x` to its gradient if it is learned.
    ///
    /// # Shapes
    /// - `g`: `[n, rows]`; `x`: `[n, cols]`
    pub(super) fn add_product(&self, g: &[f32], x: &[f32], n: usize) -> Result<()> {
        let Some(tape) = self.tape() else { return Ok(()) };
        let [rows, cols] = matrix_view(self.dims());
        let mut gradients = tape.gradients();
        let mut first = 0;
        for piece in self.pieces() {
            let extent = Extent::of(piece.layout())?;
            let g = Matrix::strided(&g[first.min(g.len())..], n, extent.rows, rows).transposed();
            let x = Matrix::new(x, n, cols);
            let (sum, overwrite) = gradients.piece(extent.start, extent.rows * extent.cols);
            let sum = MatrixMut::strided(sum, extent.rows, extent.cols, extent.stride);
            if overwrite {
                sum.set_product(g, x);
            } else {
                sum.add_product(g, x);
            }
            first += extent.rows;
        }
        Ok(())
    }

    /// Adds each row of `values`, `[rows.len(), cols]`, to the gradient of the row with that index, if it is learned.
    pub(super) fn add_rows(&self, rows: impl Iterator<Item = usize>, values: &[f32]) -> Result<()> {
        let Some(tape) = self.tape() else { return Ok(()) };
        let [whole] = self.pieces() else {
            bail!("rows of a weight of {} pieces are learned", self.pieces().len());
        };
        let extent = Extent::of(whole.layout())?;
        let mut gradients = tape.gradients();
        let values = values.chunks_exact(extent.cols.max(1));
        if extent.rows == 1 {
            // A single row has no distance to the next, so it is no row of a table.
            let (sum, _) = gradients.piece(extent.start, 0);
            values.for_each(|values| add_to(&mut sum[..extent.cols], values));
            return Ok(());
        }
        for (row, values) in rows.zip(values) {
            add_to(gradients.row(extent.start, row, [extent.cols, extent.stride]), values);
        }
        Ok(())
    }

    /// Adds `values`, in the order of its matrix view, to its gradient if it is learned.
    pub(super) fn add_values(&self, values: &[f32]) -> Result<()> {
        let Some(tape) = self.tape() else { return Ok(()) };
        let mut gradients = tape.gradients();
        let mut values = values.iter();
        for piece in self.pieces() {
            let extent = Extent::of(piece.layout())?;
            let (sum, overwrite) = gradients.piece(extent.start, extent.rows * extent.cols);
            for row in 0..extent.rows {
                let sum = sum[row * extent.stride..][..extent.cols].iter_mut();
                sum.zip(values.by_ref())
                    .for_each(|(sum, value)| *sum = if overwrite { *value } else { *sum + value });
            }
        }
        Ok(())
    }
}

impl Values<'_> {
    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    pub(super) const fn cols(&self) -> usize {
        self.cols
    }

    /// Each piece with the number of rows above it.
    pub(super) fn matrices(&self) -> Result<Vec<(usize, Matrix<'_>)>> {
        let mut first = 0;
        self.pieces
            .iter()
            .map(|(storage, layout)| {
                let extent = Extent::of(layout)?;
                let Storage::Cpu(storage) = &***storage else {
                    bail!("a kernel was given a weight of another device")
                };
                let data = &storage.as_slice::<f32>()?[extent.start..];
                let matrix = Matrix::strided(data, extent.rows, extent.cols, extent.stride);
                first += extent.rows;
                Ok((first - extent.rows, matrix))
            })
            .collect()
    }

    /// Row `index` of a weight whose matrices are `matrices`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(super) fn row<'m>(matrices: &[(usize, Matrix<'m>)], index: usize) -> &'m [f32] {
        let piece = matrices.partition_point(|(first, _)| *first <= index) - 1;
        let (first, matrix) = &matrices[piece];
        matrix.row(index - first)
    }

    /// All values in the order of the matrix view. Meant for vectors, which are small enough to copy.
    pub(super) fn to_vec(&self) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(self.rows * self.cols);
        for (storage, layout) in &self.pieces {
            let extent = Extent::of(layout)?;
            if layout.is_contiguous() {
                all.extend_from_slice(values(storage, layout)?);
                continue;
            }
            let Storage::Cpu(storage) = &***storage else {
                bail!("a kernel was given a weight of another device")
            };
            let data = storage.as_slice::<f32>()?;
            for row in 0..extent.rows {
                all.extend_from_slice(&data[extent.start + row * extent.stride..][..extent.cols]);
            }
        }
        Ok(all)
    }
}

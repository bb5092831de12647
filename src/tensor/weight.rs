//! One parameter of a network: rectangles of stored tensors, read where they lie.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::Tape;

/// A tensor as `[rows, cols]`: vectors are columns, kernels of a convolution keep their first axis as rows, and
/// every other tensor keeps its last axis as columns.
pub fn matrix_view(shape: &[usize]) -> [usize; 2] {
    let split = row_axes(shape.len());
    [shape[..split].iter().product(), shape[split..].iter().product()]
}

/// How many leading axes of a tensor of this rank are rows of its matrix view.
pub const fn row_axes(rank: usize) -> usize {
    match rank {
        0 => 0,
        1 | 4 => 1,
        _ => rank - 1,
    }
}

/// A tensor given by rectangles, one below the other in its matrix view.
///
/// The rectangles are views: a slice at half width is read, and its gradient written, inside the full tensor. On a
/// tape the gradient goes there; without one, the pieces may be part of candle's graph.
#[derive(Debug, Clone)]
pub struct Weight {
    shape: Vec<usize>,
    pieces: Vec<Tensor>, // [rows, cols] each
    tape: Option<Arc<Tape>>,
}

impl Weight {
    /// The whole of `tensor`.
    ///
    /// # Errors
    /// candle's, where a strided tensor cannot be copied.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        let shape = tensor.dims().to_vec();
        Ok(Self { pieces: vec![tensor.reshape(matrix_view(&shape).as_slice())?], shape, tape: None })
    }

    /// The whole of `tensor`, a view of the flat store whose gradients `tape` holds.
    pub(super) fn on_tape(tensor: &Tensor, tape: Arc<Tape>) -> Result<Self> {
        Ok(Self { tape: Some(tape), ..Self::new(tensor)? })
    }

    /// `pieces` one below the other, seen in `shape`.
    ///
    /// # Errors
    /// If there is none, their sizes do not make `shape`, or they lie on different tapes.
    pub fn stack(shape: &[usize], pieces: Vec<Self>) -> Result<Self> {
        let [rows, cols] = matrix_view(shape);
        let tape = pieces.first().and_then(|piece| piece.tape.clone());
        let parts = || pieces.iter().flat_map(|piece| &piece.pieces);
        let one_tape = pieces.iter().all(|piece| match (&piece.tape, &tape) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        });
        let fits = parts().all(|part| part.dims().get(1) == Some(&cols))
            && parts().map(|part| part.dims()[0]).sum::<usize>() == rows;
        if !one_tape || !fits || pieces.is_empty() {
            candle_core::bail!("{} pieces do not make a tensor of shape {shape:?}", pieces.len());
        }
        Ok(Self { shape: shape.to_vec(), pieces: parts().cloned().collect(), tape })
    }

    /// Rows `rows` and columns `cols` of the matrix view, `[rows, cols]`.
    ///
    /// # Errors
    /// If the rectangle reaches beyond the weight, or the weight is not one rectangle.
    pub fn rectangle(&self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Result<Self> {
        let [whole] = self.pieces.as_slice() else {
            candle_core::bail!("a rectangle of a weight of {} pieces", self.pieces.len());
        };
        let piece = whole.narrow(0, rows.start, rows.len())?.narrow(1, cols.start, cols.len())?;
        Ok(Self { shape: piece.dims().to_vec(), pieces: vec![piece], tape: self.tape.clone() })
    }

    /// Chosen rows and columns of the matrix view, seen in `shape`: a copy.
    ///
    /// # Errors
    /// If an index reaches beyond the weight, their numbers do not make `shape`, or the weight is on a tape, which a
    /// copy would leave.
    pub fn select(&self, shape: &[usize], rows: &[u32], cols: &[u32]) -> Result<Self> {
        if self.tape.is_some() {
            candle_core::bail!("a selection of a weight that is learned");
        }
        let index = |of: &[u32]| Tensor::new(of, self.device());
        let chosen = self.matrix()?.index_select(&index(rows)?, 0)?.index_select(&index(cols)?, 1)?;
        Self::new(&chosen.reshape(shape)?)
    }

    /// Rows `rows` of the matrix view, in as many rectangles as they lie in: a vector stays one.
    ///
    /// # Errors
    /// If the rows reach beyond the weight.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Result<Self> {
        let (mut pieces, mut first) = (Vec::new(), 0);
        for piece in &self.pieces {
            let count = piece.dims()[0];
            let (start, end) = (rows.start.max(first), rows.end.min(first + count));
            if start < end {
                pieces.push(piece.narrow(0, start - first, end - start)?);
            }
            first += count;
        }
        if rows.start > rows.end || rows.end > first {
            candle_core::bail!("rows {rows:?} of a weight of {first}");
        }
        let shape = if self.shape.len() == 1 {
            vec![rows.len()]
        } else {
            vec![rows.len(), matrix_view(&self.shape)[1]]
        };
        Ok(Self { shape, pieces, tape: self.tape.clone() })
    }

    /// Its values in one contiguous tensor: part of candle's graph where the pieces are.
    ///
    /// # Errors
    /// candle's, where it cannot copy.
    pub fn tensor(&self) -> Result<Tensor> {
        self.matrix()?.reshape(self.shape.as_slice())
    }

    /// As [`Weight::tensor`], in the matrix view: `[rows, cols]`.
    pub(super) fn matrix(&self) -> Result<Tensor> {
        match self.pieces.as_slice() {
            [whole] => whole.clone(),
            pieces => Tensor::cat(pieces, 0)?,
        }
        .contiguous()
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn elem_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where its values are.
    pub fn device(&self) -> &Device {
        self.pieces.first().map_or(&Device::Cpu, Tensor::device)
    }

    /// Type of its values.
    pub fn dtype(&self) -> DType {
        self.pieces.first().map_or(DType::F32, Tensor::dtype)
    }

    /// Its rectangles, `[rows, cols]` each.
    pub(super) fn pieces(&self) -> &[Tensor] {
        &self.pieces
    }

    /// Whether its gradient belongs to a tape: operations of candle's on [`Weight::tensor`] would cut it.
    pub const fn is_taped(&self) -> bool {
        self.tape.is_some()
    }

    /// Where its gradient is added up.
    pub(super) const fn tape(&self) -> Option<&Arc<Tape>> {
        self.tape.as_ref()
    }
}

//! One parameter of a network, made of rectangles of stored tensors that are read in place.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::Tape;

/// The shape of a tensor as a matrix, `[rows, cols]`. A vector is a single column, a convolution kernel keeps its first
/// axis as rows, and any other tensor keeps its last axis as columns.
pub fn matrix_view(shape: &[usize]) -> [usize; 2] {
    let split = row_axes(shape.len());
    [shape[..split].iter().product(), shape[split..].iter().product()]
}

/// How many leading axes of a tensor of this rank become the rows of its matrix view.
pub const fn row_axes(rank: usize) -> usize {
    match rank {
        0 => 0,
        1 | 4 => 1,
        _ => rank - 1,
    }
}

/// A tensor made of rectangles, stacked vertically in its matrix view.
///
/// The rectangles are views: a half-width slice is read inside the full tensor, and its gradient is written there too.
/// A weight on a tape adds its gradient to the tape; without a tape, its pieces may be part of candle's graph.
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
    /// A candle error if a strided tensor cannot be copied.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        let shape = tensor.dims().to_vec();
        Ok(Self { pieces: vec![tensor.reshape(matrix_view(&shape).as_slice())?], shape, tape: None })
    }

    /// The whole of `tensor`, which is a view of the flat store; `tape` holds the gradients of that store.
    pub(super) fn on_tape(tensor: &Tensor, tape: Arc<Tape>) -> Result<Self> {
        Ok(Self { tape: Some(tape), ..Self::new(tensor)? })
    }

    /// Stacks `pieces` vertically and views them in `shape`.
    ///
    /// # Errors
    /// If `pieces` is empty, their sizes do not make up `shape`, or they lie on different tapes.
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
    /// If the rectangle reaches beyond the weight, or the weight consists of several rectangles.
    pub fn rectangle(&self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Result<Self> {
        let [whole] = self.pieces.as_slice() else {
            candle_core::bail!("a rectangle of a weight of {} pieces", self.pieces.len());
        };
        let piece = whole.narrow(0, rows.start, rows.len())?.narrow(1, cols.start, cols.len())?;
        Ok(Self { shape: piece.dims().to_vec(), pieces: vec![piece], tape: self.tape.clone() })
    }

    /// A copy of the chosen rows and columns of the matrix view, in `shape`.
    ///
    /// # Errors
    /// If an index reaches beyond the weight, the numbers of rows and columns do not fit `shape`, or the weight is on a
    /// tape: a copy would lose the gradient.
    pub fn select(&self, shape: &[usize], rows: &[u32], cols: &[u32]) -> Result<Self> {
        if self.tape.is_some() {
            candle_core::bail!("a selection of a weight that is learned");
        }
        let index = |of: &[u32]| Tensor::new(of, self.device());
        let chosen = self.matrix()?.index_select(&index(rows)?, 0)?.index_select(&index(cols)?, 1)?;
        Self::new(&chosen.reshape(shape)?)
    }

    /// Rows `rows` of the matrix view, as views of the rectangles that hold them. Rows of a vector are again a vector.
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

    /// The values as one contiguous tensor, which is part of candle's graph if the pieces are.
    ///
    /// # Errors
    /// A candle error if the copy fails.
    pub fn tensor(&self) -> Result<Tensor> {
        self.matrix()?.reshape(self.shape.as_slice())
    }

    /// Like [`Weight::tensor`], but in the matrix view: `[rows, cols]`.
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

    /// The device of the values.
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

    /// Whether its gradient goes to a tape. Candle operations on [`Weight::tensor`] would lose that gradient.
    pub const fn is_taped(&self) -> bool {
        self.tape.is_some()
    }

    /// The tape that adds up its gradient.
    pub(super) const fn tape(&self) -> Option<&Arc<Tape>> {
        self.tape.as_ref()
    }
}

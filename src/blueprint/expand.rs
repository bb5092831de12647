//! Turns a blueprint into weights, differentiably and on any device.
//!
//! If the stored tensors are trainable, gradients reach them: a stage that several layers use receives the sum. If they
//! are plain tensors, no graph is recorded. Rectangles stay views of the stored tensors unless the dtype or the device
//! changes.

use candle_core::{DType, Device, Tensor};

use crate::{
    error::{Context, Result},
    tensor::{Weight, Weights, matrix_view},
};

use super::{Blueprint, Entry, Piece, Resize, Row, Source};

/// Every tensor of `blueprint`, its values taken from `stored`.
///
/// # Errors
/// [`crate::error::Error::MissingTensor`] if the blueprint names a tensor that is not stored,
/// [`crate::error::Error::Tensor`] if a rectangle reaches beyond it or if a selected, resized or mixed tensor lies on a
/// tape.
///
/// # Determinism
/// On the CPU, bit-identical to [`super::assemble`].
pub fn expand(blueprint: &Blueprint, stored: &Weights, device: &Device) -> Result<Weights> {
    entries(&blueprint.entries, stored, device)
}

/// Like [`expand`], for entries that are not a whole model, such as those of a gene before training.
///
/// # Errors
/// As [`expand`].
pub fn entries(entries: &[Entry], stored: &Weights, device: &Device) -> Result<Weights> {
    entries.iter().map(|entry| Ok((entry.name.clone(), value(entry, stored, device)?))).collect()
}

fn value(entry: &Entry, stored: &Weights, device: &Device) -> Result<Weight> {
    let weight = match &entry.source {
        Source::Pieces(pieces) => {
            let rectangle = |piece: &Piece| {
                let weight = stored.get(&piece.tensor)?;
                let (rows, cols) = (piece.rows, piece.cols);
                weight.rectangle(rows.start..rows.end, cols.start..cols.end).context(&piece.tensor)
            };
            let rectangles = pieces.iter().map(rectangle).collect::<Result<_>>()?;
            Weight::stack(&entry.shape, rectangles)
        }
        Source::Selected { tensor, of: _, rows, cols } => {
            stored.get(tensor)?.select(&entry.shape, rows, cols)
        }
        Source::Fresh { init, seed } => {
            let values = init.values(*seed, &entry.name, entry.shape.iter().product());
            Tensor::from_vec(values, entry.shape.as_slice(), device).and_then(|t| Weight::new(&t))
        }
        Source::Resized { piece, resize } => {
            let stored = untaped(stored.get(&piece.tensor)?).context(&entry.name)?;
            resized(&stored, piece, *resize)
                .and_then(|values| Weight::new(&Tensor::from_vec(values, entry.shape.as_slice(), device)?))
        }
        Source::Rows { piece, rows, init, seed } => {
            let stored = untaped(stored.get(&piece.tensor)?).context(&entry.name)?;
            let fresh = |label: &str| Row::fresh(*init, *seed, &entry.name, label, piece.cols.len());
            mixed(&stored, piece, rows, fresh).and_then(|t| Weight::new(&t.reshape(entry.shape.as_slice())?))
        }
    }
    .context(&entry.name)?;
    let dtype = entry.dtype.to_candle();
    if weight.dtype() == dtype && weight.device().same_device(device) {
        return Ok(weight);
    }
    let cast = || Weight::new(&weight.tensor()?.to_device(device)?.to_dtype(dtype)?);
    cast().context(&entry.name)
}

/// The matrix view of `weight`. Any gradient goes through candle's graph.
///
/// # Errors
/// If the gradient goes to a tape: new values would cut it off.
fn untaped(weight: &Weight) -> candle_core::Result<Tensor> {
    if weight.is_taped() {
        candle_core::bail!("other labels and sizes are made of plain tensors, not of parameters in training");
    }
    weight.tensor()?.reshape(matrix_view(weight.dims()).as_slice())
}

/// Resized values of a part of `stored`, `[rows, cols]`, computed on the CPU.
///
/// # Errors
/// If `stored` is part of candle's graph: the routine has no backward pass, so the gradient would be lost.
fn resized(stored: &Tensor, piece: &Piece, resize: Resize) -> candle_core::Result<Vec<f32>> {
    if stored.track_op() {
        candle_core::bail!("resizing has no gradient; resize plain tensors");
    }
    let (rows, cols) = (piece.rows, piece.cols);
    let part = stored.narrow(0, rows.start, rows.len())?.narrow(1, cols.start, cols.len())?;
    let values = part.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(resize.values(&values, cols.len()))
}

/// Rows of `stored`, `[rows, cols]`, in any order, mixed with fresh ones.
fn mixed(
    stored: &Tensor,
    piece: &Piece,
    rows: &[Row],
    fresh: impl Fn(&str) -> Vec<f32>,
) -> candle_core::Result<Tensor> {
    let (kept, cols, mut values) = (stored.dim(0)?, piece.cols.len(), Vec::new());
    let mut index = |row: &Row| match row {
        Row::Kept(index) => *index as u32,
        Row::Fresh(label) => {
            values.extend(fresh(label));
            (kept + values.len() / cols - 1) as u32
        }
    };
    let order: Vec<u32> = rows.iter().map(&mut index).collect();
    let mut all = vec![stored.narrow(1, piece.cols.start, cols)?];
    if !values.is_empty() {
        let shape = (values.len() / cols, cols);
        all.push(Tensor::from_vec(values, shape, stored.device())?.to_dtype(stored.dtype())?);
    }
    Tensor::cat(&all, 0)?.contiguous()?.index_select(&Tensor::new(order, stored.device())?, 0)
}

//! Blueprint → weights: differentiable, on any device.
//!
//! With trainable parameters in, gradients reach them: a stage that is used by several layers receives the sum. With
//! plain tensors in, nothing is recorded. Rectangles stay views of what is stored; only another dtype or device makes
//! new values.

use candle_core::{Device, Tensor};

use crate::{
    error::{Context, Result},
    tensor::{Weight, Weights},
};

use super::{Blueprint, Entry, Source};

/// Every tensor of `blueprint`, its values taken from `stored`.
///
/// # Errors
/// [`crate::error::Error::MissingTensor`] where the blueprint names a tensor that is not stored,
/// [`crate::error::Error::Tensor`] where a rectangle lies outside of it.
///
/// # Determinism
/// On the CPU, bit-identical to [`super::assemble`].
pub fn expand(blueprint: &Blueprint, stored: &Weights, device: &Device) -> Result<Weights> {
    blueprint.entries.iter().map(|entry| Ok((entry.name.clone(), value(entry, stored, device)?))).collect()
}

fn value(entry: &Entry, stored: &Weights, device: &Device) -> Result<Weight> {
    let weight = match &entry.source {
        Source::Pieces(pieces) => {
            let rectangle = |piece: &super::Piece| {
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
    }
    .context(&entry.name)?;
    let dtype = entry.dtype.to_candle();
    if weight.dtype() == dtype && weight.device().same_device(device) {
        return Ok(weight);
    }
    let cast = || Weight::new(&weight.tensor()?.to_device(device)?.to_dtype(dtype)?);
    cast().context(&entry.name)
}

//! Blueprint → candle tensors: differentiable, on any device.
//!
//! With variables in, gradients reach them: a stage that is used by several layers receives the sum. With plain
//! tensors in, nothing is recorded.

use candle_core::{Device, Tensor};

use crate::{
    error::{Context, Result},
    tensor::Weights,
};

use super::{Blueprint, Entry, Piece, Source};

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

fn value(entry: &Entry, stored: &Weights, device: &Device) -> Result<Tensor> {
    let tensor = match &entry.source {
        Source::Pieces(pieces) => {
            let parts: Vec<_> = pieces.iter().map(|piece| rectangle(piece, stored)).collect::<Result<_>>()?;
            match parts.as_slice() {
                [whole] => whole.clone(),
                parts => Tensor::cat(parts, 0).context(&entry.name)?,
            }
        }
        Source::Fresh { init, seed } => {
            let values = init.values(*seed, &entry.name, entry.shape.iter().product());
            Tensor::from_vec(values, entry.shape.as_slice(), device).context(&entry.name)?
        }
    };
    tensor
        .reshape(entry.shape.as_slice())
        .and_then(|t| t.to_dtype(entry.dtype.to_candle()))
        .and_then(|t| t.contiguous())
        .context(&entry.name)
}

/// `piece` as `[rows, cols]`.
fn rectangle(piece: &Piece, stored: &Weights) -> Result<Tensor> {
    let tensor = stored.get(&piece.tensor)?;
    let cut = || {
        let matrix = tensor.reshape((piece.of[0], piece.of[1]))?;
        if piece.is_whole() {
            return Ok(matrix);
        }
        matrix.narrow(0, piece.rows.start, piece.rows.len())?.narrow(1, piece.cols.start, piece.cols.len())
    };
    cut().context(&piece.tensor)
}

//! Blueprint → tensors of their own on a device, in a number of launches that does not grow with depth.
//!
//! [`super::expand()`] gives views, and copying those out takes a launch for each tensor: 12 a layer, which on a GPU cost
//! more than their bytes. Here the layers of all stages are stacked by parameter when the gene is put on the device. A
//! model then takes one gather for each parameter of a block,
//!
//! ```text
//! out[l, :, :] = stack[s(l), rows, cols]        out [depth, rows, cols], stack [stages, ...]
//! ```
//!
//! after one copy for each rectangle of a narrower width, and the layers are views of what was gathered.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::{
    error::{Context, Result},
    tensor::{Dtype, TensorFile, Weight, Weights, matrix_view},
};

use super::{Blueprint, Entry, Source, Span, expand};

/// Stored tensors on a device.
#[derive(Debug)]
pub struct Resident {
    device: Device,
    /// Every stored tensor by name; of a stack, views.
    stored: Weights,
    /// By parameter: the matrix views of all stages, `[stages, rows, cols]`.
    stacks: BTreeMap<String, Tensor>,
    /// Parameter and stage of the stored tensors that are in a stack.
    places: BTreeMap<String, (String, u32)>,
}

/// What the layers of one gather have in common: parameter, rectangles and type.
type Class = (String, Vec<(Span, Span)>, Dtype);

impl Resident {
    /// Puts `file` on `device`. `place` gives parameter and stage of a tensor's name; tensors of one parameter have one
    /// shape, and their stages count from 0 without a gap.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`] if shapes differ or the device refuses.
    pub fn new(
        file: &TensorFile,
        device: &Device,
        place: impl Fn(&str) -> Option<(usize, String)>,
    ) -> Result<Self> {
        let mut stored = Weights::from_file(file, &Device::Cpu)?;
        let mut classes = BTreeMap::<String, BTreeMap<usize, String>>::new();
        for (name, _) in file.tensors() {
            if let Some((stage, parameter)) = place(name) {
                classes.entry(parameter).or_default().insert(stage, name.to_owned());
            }
        }
        let (mut stacks, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (parameter, names) in classes {
            let layers = names.values().map(|name| {
                let weight = stored.tensor(name)?;
                weight.reshape(matrix_view(weight.dims()).as_slice()).context(name)
            });
            let stack = Tensor::stack(&layers.collect::<Result<Vec<_>>>()?, 0)
                .and_then(|stack| stack.to_device(device))
                .context(&parameter)?;
            for (index, name) in names.into_values().enumerate() {
                let shape = stored.get(&name)?.dims().to_vec();
                let view = stack.get(index).and_then(|view| Weight::new(&view.reshape(shape)?));
                stored.insert(name.clone(), view.context(&name)?);
                places.insert(name, (parameter.clone(), index as u32));
            }
            stacks.insert(parameter, stack);
        }
        // What is in a stack is there already, and moving to where it is copies nothing.
        let stored = stored.to_device(device)?;
        Ok(Self { device: device.clone(), stored, stacks, places })
    }

    /// Where it is.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// Every tensor of `blueprint` in memory of its own, or of its class's.
    ///
    /// # Errors
    /// Those of [`super::expand()`].
    ///
    /// # Determinism
    /// On the CPU, bit-identical to [`super::assemble`]; elsewhere copies, slices and casts are.
    pub fn materialize(&self, blueprint: &Blueprint) -> Result<Weights> {
        let mut classes = BTreeMap::<Class, Vec<(&Entry, u32)>>::new();
        let mut single = Vec::new();
        for entry in &blueprint.entries {
            match self.class(entry) {
                Some((class, stage)) => classes.entry(class).or_default().push((entry, stage)),
                None => single.push(entry.clone()),
            }
        }
        let alone = Blueprint { entries: single, ..blueprint.clone() };
        let mut weights = Weights::default();
        for (name, weight) in expand(&alone, &self.stored, &self.device)?.iter() {
            // A tensor that is taken whole would be the gene's own.
            let own = weight.tensor().and_then(|tensor| Weight::new(&tensor.force_contiguous()?));
            weights.insert(name, own.context(name)?);
        }
        for (class, layers) in classes {
            let gathered = self.gather(&class, &layers).context(&class.0)?;
            for (layer, (entry, _)) in layers.iter().enumerate() {
                let view =
                    gathered.get(layer).and_then(|view| Weight::new(&view.reshape(entry.shape.as_slice())?));
                weights.insert(&entry.name, view.context(&entry.name)?);
            }
        }
        Ok(weights)
    }

    /// The class of a tensor whose pieces are of one layer of a stack, and the stage.
    fn class(&self, entry: &Entry) -> Option<(Class, u32)> {
        let Source::Pieces(pieces) = &entry.source else { return None };
        let place = self.places.get(&pieces.first()?.tensor)?;
        let one = pieces.iter().all(|piece| self.places.get(&piece.tensor) == Some(place));
        let (parameter, stage) = place.clone();
        let rectangles = pieces.iter().map(|piece| (piece.rows, piece.cols)).collect();
        one.then_some(((parameter, rectangles, entry.dtype), stage))
    }

    fn gather(&self, class: &Class, layers: &[(&Entry, u32)]) -> candle_core::Result<Tensor> {
        let (parameter, rectangles, dtype) = class;
        let stack = &self.stacks[parameter];
        let parts = rectangles
            .iter()
            .map(|(rows, cols)| stack.narrow(1, rows.start, rows.len())?.narrow(2, cols.start, cols.len()));
        let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
        // Sliced and cast once for each stage, not for each layer.
        let sliced = match parts.as_slice() {
            [whole] => whole.contiguous()?,
            parts => Tensor::cat(parts, 1)?.contiguous()?,
        };
        let stages: Vec<u32> = layers.iter().map(|(_, stage)| *stage).collect();
        sliced.to_dtype(dtype.to_candle())?.index_select(&Tensor::new(stages, &self.device)?, 0)
    }
}

//! Copies the tensors of a blueprint on a device, in a number of launches that does not grow with depth.
//!
//! [`super::expand()`] returns views, and copying them takes one launch per tensor, 12 per layer. On a GPU the launches
//! cost more than the bytes. Here the layers of all stages are stacked by parameter when the gene is put on the device.
//! A model then takes one gather per parameter of a block,
//!
//! ```text
//! out[l, :, :] = stack[s(l), rows, cols]        out [depth, rows, cols], stack [stages, ...]
//! ```
//!
//! after one copy per rectangle at a narrower width. The layers are views of the gathered tensors.

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
    /// Every stored tensor by name. Stacked tensors are views of their stack.
    stored: Weights,
    /// The matrix views of all stages by parameter, `[stages, rows, cols]`.
    stacks: BTreeMap<String, Tensor>,
    /// Parameter and stage of each stacked tensor.
    places: BTreeMap<String, (String, u32)>,
}

/// What all layers in one gather share: parameter, rectangles and dtype.
type Class = (String, Vec<(Span, Span)>, Dtype);

impl Resident {
    /// Puts `file` on `device`. `place` maps a tensor's name to its stage and parameter. All tensors of a parameter
    /// must have the same shape, and their stages must count from 0 without gaps.
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
        // Stacked tensors are already on the device, so moving them there copies nothing.
        let stored = stored.to_device(device)?;
        Ok(Self { device: device.clone(), stored, stacks, places })
    }

    /// The device that holds the tensors.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// Every tensor of `blueprint`, copied out of the gene. Layers of one gather share their memory.
    ///
    /// # Errors
    /// Those of [`super::expand()`].
    ///
    /// # Determinism
    /// On the CPU, bit-identical to [`super::assemble`]; on other devices this holds for copies, slices and casts.
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
            // Without a forced copy, a tensor that is taken whole would share the gene's memory.
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

    /// The class and the stage of a tensor, if all of its pieces come from one layer of a stack.
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
        // Slicing and casting before the gather costs once per stage, not once per layer.
        let sliced = match parts.as_slice() {
            [whole] => whole.contiguous()?,
            parts => Tensor::cat(parts, 1)?.contiguous()?,
        };
        let stages: Vec<u32> = layers.iter().map(|(_, stage)| *stage).collect();
        sliced.to_dtype(dtype.to_candle())?.index_select(&Tensor::new(stages, &self.device)?, 0)
    }
}

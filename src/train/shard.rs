//! A part of a batch: the unit of work for a thread, and the unit of summation.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::{
    data::Batch,
    error::{Context as _, Error, Result},
    nn::{Input, bert::Texts},
};

use super::embed::texts;

/// A part of a batch.
#[derive(Debug)]
pub struct Shard {
    /// What the network reads.
    pub input: Input,
    /// Class of each image; none for texts.
    pub labels: Vec<u32>,
    /// Index of each item in the data set.
    pub items: Vec<u32>,
    /// Which augmented view of its item each image is.
    pub views: Vec<u8>,
    /// Optimiser step, from 0.
    pub step: u64,
    /// Position of the first item in its batch.
    pub first: usize,
}

impl Shard {
    /// The items `range` of `batch` on `device`, with their labels.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device refuses.
    pub(super) fn of(batch: &Batch, range: Range<usize>, device: &Device, step: u64) -> Result<Self> {
        let input = match batch.content.padded(range.clone()) {
            Some(padded) => Input::Texts(texts(padded, device)?),
            None => Input::Images(images(batch, range.clone(), device)?),
        };
        Ok(Self {
            input,
            labels: batch.labels.get(range.clone()).unwrap_or_default().to_vec(),
            items: batch.items[range.clone()].to_vec(),
            views: batch.views[range.clone()].to_vec(),
            step,
            first: range.start,
        })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The images, `[images, channels, height, width]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for texts.
    pub fn images(&self) -> Result<&Tensor> {
        match &self.input {
            Input::Images(images) => Ok(images),
            Input::Texts(_) => Err(Error::invalid("batch", "it holds texts, not images")),
        }
    }

    /// The texts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images.
    pub fn texts(&self) -> Result<&Texts> {
        match &self.input {
            Input::Texts(texts) => Ok(texts),
            Input::Images(_) => Err(Error::invalid("batch", "it holds images, not texts")),
        }
    }

    /// The device of the input.
    pub fn device(&self) -> &Device {
        match &self.input {
            Input::Images(images) => images.device(),
            Input::Texts(texts) => texts.ids.device(),
        }
    }
}

/// The pixels of the images `range` of `batch` on `device`, `[images, channels, height, width]`.
///
/// # Errors
/// [`Error::Tensor`] if the device refuses; [`Error::Invalid`] for texts.
pub fn images(batch: &Batch, range: Range<usize>, device: &Device) -> Result<Tensor> {
    let pixels = batch.pixels()?;
    let ([channels, height, width], count) = (pixels.shape, range.len());
    let values = channels * height * width;
    let pixels = &pixels.values[range.start * values..range.end * values];
    Tensor::from_slice(pixels, (count, channels, height, width), device).context("images")
}

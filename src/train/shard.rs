//! A part of a batch: the unit of work for a thread, and the unit of summation.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::{
    data::Batch,
    error::{Context as _, Result},
};

/// A part of a batch.
#[derive(Debug)]
pub struct Shard {
    /// `[images, channels, height, width]`.
    pub images: Tensor,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// Index of each image in the data set.
    pub items: Vec<u32>,
    /// Which augmented view of its item each image is.
    pub views: Vec<u8>,
    /// Optimiser step, from 0.
    pub step: u64,
    /// Position of the first image in its batch.
    pub first: usize,
}

impl Shard {
    /// The images `range` of `batch` on `device`, with their labels.
    ///
    /// # Errors
    /// [`crate::error::Error::Tensor`] if the device refuses.
    pub(super) fn of(batch: &Batch, range: Range<usize>, device: &Device, step: u64) -> Result<Self> {
        Ok(Self {
            images: images(batch, range.clone(), device)?,
            labels: batch.labels[range.clone()].to_vec(),
            items: batch.items[range.clone()].to_vec(),
            views: batch.views[range.clone()].to_vec(),
            step,
            first: range.start,
        })
    }
}

/// The pixels of the images `range` of `batch` on `device`, `[images, channels, height, width]`.
///
/// # Errors
/// [`crate::error::Error::Tensor`] if the device refuses.
pub fn images(batch: &Batch, range: Range<usize>, device: &Device) -> Result<Tensor> {
    let ([channels, height, width], count) = (batch.shape, range.len());
    let values = channels * height * width;
    let pixels = &batch.images[range.start * values..range.end * values];
    Tensor::from_slice(pixels, (count, channels, height, width), device).context("images")
}

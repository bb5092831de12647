//! Accuracy and loss over a data set.

use std::sync::Arc;

use crate::{
    data::{Batch, Loader},
    error::{Context, Error, Result},
    nn::Vit,
};

use super::trainer::images;

/// Result of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// Images classified correctly.
    pub correct: u64,
    /// Images in all.
    pub images: u64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
}

impl Accuracy {
    /// Share of images classified correctly, 0 to 1.
    pub fn share(&self) -> f64 {
        self.correct as f64 / self.images as f64
    }
}

/// Classifies every image of `loader`; batches are dealt to `threads` threads and summed in order.
///
/// # Errors
/// [`Error::Tensor`], and [`Error::Invalid`] for an empty loader.
pub fn evaluate(model: &Vit, loader: &Arc<Loader>, threads: usize) -> Result<Accuracy> {
    let batches = loader.batches_per_epoch();
    let plan = &loader.epoch(0);
    let threads = threads.clamp(1, batches.max(1));
    let mut results: Vec<Option<Result<(u64, f64)>>> = (0..batches).map(|_| None).collect();
    std::thread::scope(|scope| {
        let per_thread = batches.div_ceil(threads).max(1);
        for (t, slots) in results.chunks_mut(per_thread).enumerate() {
            scope.spawn(move || {
                for (i, slot) in slots.iter_mut().enumerate() {
                    *slot = Some(loader.batch(plan, t * per_thread + i).and_then(|b| batch(model, &b)));
                }
            });
        }
    });
    let (mut correct, mut loss) = (0, 0.0);
    for result in results.into_iter().flatten() {
        let (c, l) = result?;
        correct += c;
        loss += l;
    }
    let images = loader.items() as u64;
    if images == 0 {
        return Err(Error::invalid("data", "no image to evaluate on"));
    }
    Ok(Accuracy { correct, images, loss: loss / images as f64 })
}

fn batch(model: &Vit, batch: &Batch) -> Result<(u64, f64)> {
    let input = images(batch, 0, batch.labels.len(), model.config(), model.device())?;
    let logits: Vec<Vec<f32>> =
        model.forward(&input).and_then(|logits| logits.to_vec2()).context("evaluation")?;
    let mut totals = (0, 0.0);
    for (logits, label) in logits.iter().zip(&batch.labels) {
        let label = *label as usize;
        let largest = logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        totals.0 += u64::from(logits.iter().position(|l| *l == largest) == Some(label));
        totals.1 += sum.ln() - f64::from(logits[label] - largest);
    }
    Ok(totals)
}

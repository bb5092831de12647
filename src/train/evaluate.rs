//! Accuracy and loss over a data set.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    data::{Batch, Batches as _, Loader},
    error::{Context, Error, Result},
    nn::Vit,
};

use super::shard::images;

/// Result of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// Images classified correctly.
    pub correct: u64,
    /// Images evaluated.
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

/// Accuracy and loss of `model` over every image of `loader`.
///
/// # Errors
/// As [`logits`].
pub fn evaluate(model: &Vit, loader: &Arc<Loader>, threads: usize) -> Result<Accuracy> {
    let logits = logits(model, loader, threads)?;
    Ok(score(&logits, model.config().classes(), &labels(loader)))
}

/// The class of every image of `loader`, in the loader's order.
pub fn labels(loader: &Loader) -> Vec<usize> {
    loader.epoch(0).order().iter().map(|item| loader.dataset().label(*item as usize)).collect()
}

/// Logits of every image of `loader`, `[images, classes]` in row-major order, computed by `threads` threads.
///
/// # Errors
/// [`Error::Tensor`], and [`Error::Invalid`] for an empty loader.
pub fn logits(model: &Vit, loader: &Arc<Loader>, threads: usize) -> Result<Vec<f32>> {
    logits_unless(model, loader, threads, &AtomicBool::new(false))
}

/// As [`logits`], but stops once `cancel` is set.
///
/// # Errors
/// As [`logits`], and [`Error::Cancelled`].
pub fn logits_unless(
    model: &Vit,
    loader: &Arc<Loader>,
    threads: usize,
    cancel: &AtomicBool,
) -> Result<Vec<f32>> {
    let (batches, plan) = (loader.batches_per_epoch(), &loader.epoch(0));
    if batches == 0 {
        return Err(Error::invalid("data", "no image to evaluate on"));
    }
    let mut results: Vec<Option<Result<Vec<f32>>>> = (0..batches).map(|_| None).collect();
    std::thread::scope(|scope| {
        let per_thread = batches.div_ceil(threads.clamp(1, batches));
        for (t, slots) in results.chunks_mut(per_thread).enumerate() {
            scope.spawn(move || {
                for (i, slot) in slots.iter_mut().enumerate() {
                    if cancel.load(Ordering::Relaxed) {
                        *slot = Some(Err(Error::Cancelled));
                        return;
                    }
                    *slot = Some(loader.batch(plan, t * per_thread + i).and_then(|b| batch(model, &b)));
                }
            });
        }
    });
    let mut logits = Vec::with_capacity(loader.items() * model.config().classes());
    for result in results.into_iter().flatten() {
        logits.extend(result?);
    }
    Ok(logits)
}

/// Accuracy and loss of logits `[images, classes]`.
pub fn score(logits: &[f32], classes: usize, labels: &[usize]) -> Accuracy {
    let (mut correct, mut loss) = (0, 0.0);
    for (logits, label) in logits.chunks_exact(classes).zip(labels) {
        let largest = logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        correct += u64::from(logits.iter().position(|l| *l == largest) == Some(*label));
        loss += sum.ln() - f64::from(logits[*label] - largest);
    }
    let images = labels.len() as u64;
    Accuracy { correct, images, loss: loss / images as f64 }
}

fn batch(model: &Vit, batch: &Batch) -> Result<Vec<f32>> {
    let input = images(batch, 0..batch.len(), model.device())?;
    model.forward(&input).and_then(|logits| logits.flatten_all()?.to_vec1()).context("evaluation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_by_hand() {
        // Right, wrong, and a tie: the first of equal classes counts as the answer.
        let accuracy = score(&[2.0, 0.0, 0.0, 1.0, 5.0, 5.0], 2, &[0, 0, 1]);
        assert_eq!((accuracy.correct, accuracy.images), (1, 3));
        let softplus = |x: f64| x.exp().ln_1p();
        let expected = (softplus(-2.0) + softplus(1.0) + 2f64.ln()) / 3.0;
        assert!((accuracy.loss - expected).abs() < 1e-12, "{} {expected}", accuracy.loss);
    }
}

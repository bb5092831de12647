//! Vectors of texts, and how well their similarities agree with people.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::{Device, Tensor};

use crate::{
    data::text::{Padded, ScoredPairs, Tokenizer, by_length, pad, spearman},
    error::{Context as _, Error, Result},
    nn::bert::{Bert, ROWS, Texts},
};

/// Tokens of one batch, padding included.
const BATCH_TOKENS: usize = ROWS;

/// Token ids as the network reads them.
///
/// # Errors
/// [`Error::Tensor`] if the device refuses.
pub fn texts(padded: Padded, device: &Device) -> Result<Texts> {
    let shape = (padded.batch, padded.tokens);
    let ids = Tensor::from_vec(padded.ids, shape, device).context("texts")?;
    Ok(Texts { ids, mask: Tensor::from_vec(padded.mask, shape, device).context("texts")? })
}

/// The vectors of the sequences `ids`, `[texts, dimension]` in row-major order. Each thread takes the next batch of
/// sequences of like length; a vector does not depend on the threads.
///
/// # Errors
/// [`Error::Tensor`], [`Error::Cancelled`] once `cancel` is set.
pub fn embed_ids<T: AsRef<[u32]> + Sync>(
    model: &Bert,
    ids: &[T],
    pad_id: u32,
    threads: usize,
    cancel: &AtomicBool,
) -> Result<Vec<f32>> {
    let lengths: Vec<usize> = ids.iter().map(|ids| ids.as_ref().len()).collect();
    let batches = by_length(&lengths, BATCH_TOKENS);
    let dimension = model.config().dimension();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Vec<f32>)>> {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(batch) = batches.get(at) else { return Ok(done) };
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let rows: Vec<&[u32]> = batch.iter().map(|index| ids[*index].as_ref()).collect();
            let vectors = model.forward(&texts(pad(&rows, pad_id), model.device())?).context("encoder")?;
            done.push((at, vectors.flatten_all().and_then(|vectors| vectors.to_vec1()).context("encoder")?));
        }
    };
    let mut vectors = vec![0.0; ids.len() * dimension];
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let join =
            |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("an encoder does not panic");
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    for (at, values) in parts.into_iter().flatten() {
        for (index, vector) in batches[at].iter().zip(values.chunks_exact(dimension.max(1))) {
            vectors[index * dimension..][..dimension].copy_from_slice(vector);
        }
    }
    Ok(vectors)
}

/// The vectors of `sentences`, `[sentences, dimension]` in row-major order.
///
/// # Errors
/// Those of the tokenizer, and [`Error::Tensor`].
pub fn embed<T: AsRef<str>>(
    model: &Bert,
    tokenizer: &Tokenizer,
    sentences: &[T],
    threads: usize,
) -> Result<Vec<f32>> {
    let ids = tokenizer.encode(sentences)?;
    embed_ids(model, &ids, tokenizer.pad_id(), threads, &AtomicBool::new(false))
}

/// Spearman's rank correlation of the cosines of `pairs` with their scores.
///
/// # Errors
/// As [`embed`]; [`Error::Invalid`] if all cosines or all scores are equal.
pub fn similarity(model: &Bert, tokenizer: &Tokenizer, pairs: &ScoredPairs, threads: usize) -> Result<f64> {
    let sentences: Vec<&str> = pairs.first.iter().chain(&pairs.second).map(String::as_str).collect();
    let vectors = embed(model, tokenizer, &sentences, threads)?;
    let dimension = model.config().dimension();
    let (first, second) = vectors.split_at(pairs.len() * dimension);
    let cosines: Vec<f64> = first
        .chunks_exact(dimension)
        .zip(second.chunks_exact(dimension))
        .map(|(a, b)| cosine(a, b))
        .collect();
    spearman(&cosines, &pairs.scores)
        .ok_or_else(|| Error::invalid("pairs", "all similarities or all scores are equal: no correlation"))
}

/// The cosine of the angle between `a` and `b`; 0 if one of them is.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

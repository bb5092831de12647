//! Batches of a corpus, by number.

use std::sync::Arc;

use crate::{
    data::{Batch, Batches, Content, Prefetch},
    error::{Error, Result},
    tensor::rng,
};

use super::{Corpus, shuffled_by_length};

/// Makes batches of texts of like length. An epoch is a fixed number of batches; the epochs go through the corpus round
/// after round.
///
/// # Determinism
/// A batch depends only on the texts, the seed, the epoch and its number.
#[derive(Debug)]
pub struct TextLoader {
    corpus: Arc<Corpus>,
    indices: Vec<u32>,
    batch: usize,
    batches_per_epoch: usize,
    seed: u64,
}

impl TextLoader {
    /// A loader of the texts `indices`, `batch` at a time; an epoch has `per_epoch` of them, or all.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a batch or an epoch does not fit the texts.
    pub fn new(
        corpus: Arc<Corpus>,
        indices: Vec<u32>,
        batch: usize,
        per_epoch: Option<usize>,
        seed: u64,
    ) -> Result<Self> {
        let per_epoch = per_epoch.unwrap_or(indices.len());
        let limits = [("batch", batch, 1, per_epoch), ("per_epoch", per_epoch, batch, indices.len())];
        if let Some((what, found, least, most)) =
            limits.into_iter().find(|(_, n, a, b)| !(a..=b).contains(&n))
        {
            let of = format!("the chosen texts of \"{}\"", corpus.name());
            return Err(Error::OutOfRange {
                what,
                found: found as u64,
                of,
                limit: format!("{least}..={most}"),
            });
        }
        Ok(Self { corpus, indices, batch, batches_per_epoch: per_epoch / batch, seed })
    }

    /// The batches of round `round`, as positions in `indices`.
    fn round(&self, round: usize) -> Vec<Vec<usize>> {
        let lengths: Vec<_> =
            self.indices.iter().map(|index| self.corpus.text(*index as usize).len()).collect();
        let mut random = rng::stream(self.seed, &format!("texts/{round}"));
        shuffled_by_length(&lengths, self.batch, &mut random)
    }

    fn assemble(&self, positions: &[usize]) -> Batch {
        let items: Vec<u32> = positions.iter().map(|position| self.indices[*position]).collect();
        let ids = items.iter().map(|item| self.corpus.text(*item as usize).to_vec()).collect();
        let content = Content::Texts { ids, pad_id: self.corpus.pad_id() };
        Batch { content, labels: Vec::new(), views: vec![0; items.len()], items }
    }
}

impl Batches for TextLoader {
    fn batches_per_epoch(&self) -> usize {
        self.batches_per_epoch
    }

    fn prefetch(self: Arc<Self>, epoch: u64, from_batch: usize, depth: usize) -> Result<Prefetch> {
        let most = self.batches_per_epoch.saturating_sub(from_batch);
        let work = move |send: &mut dyn FnMut(Batch) -> bool| {
            let per_round = self.indices.len() / self.batch;
            let first = epoch as usize * self.batches_per_epoch;
            let mut round = None;
            for number in first + from_batch..first + self.batches_per_epoch {
                let (wanted, at) = (number / per_round, number % per_round);
                let (_, batches) = match round.take() {
                    Some((known, batches)) if known == wanted => round.insert((known, batches)),
                    _ => round.insert((wanted, self.round(wanted))),
                };
                if !send(self.assemble(&batches[at])) {
                    return;
                }
            }
        };
        Prefetch::new(work, depth, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::text::corpus::tests::corpus;

    fn loader(per_epoch: Option<usize>, seed: u64) -> Arc<TextLoader> {
        let corpus = Arc::new(corpus(200));
        let [train, _] = corpus.split();
        Arc::new(TextLoader::new(corpus, train, 8, per_epoch, seed).unwrap())
    }

    fn items(loader: &Arc<TextLoader>, epoch: u64, from: usize) -> Vec<Vec<u32>> {
        loader.clone().prefetch(epoch, from, 2).unwrap().map(|batch| batch.items).collect()
    }

    #[test]
    fn epochs_go_through_the_corpus_round_after_round() {
        // 196 texts make 24 batches a round, and an epoch is 5 batches.
        let loader = loader(Some(47), 1);
        assert_eq!(loader.batches_per_epoch(), 5);
        let all: Vec<_> = (0..10).flat_map(|epoch| items(&loader, epoch, 0)).collect();
        for round in all.chunks_exact(24) {
            let mut items = round.concat();
            items.sort_unstable();
            items.dedup();
            assert_eq!(items.len(), 192, "no text comes twice in a round");
        }
        assert_ne!(all[..24], all[24..48]);
        assert_eq!(items(&loader, 4, 3), all[23..25], "a run that was stopped goes on with the same batches");
        assert_eq!(items(&loader, 0, 9).len(), 0);
    }

    #[test]
    fn batches_follow_the_seed_and_hold_the_texts_of_their_items() {
        let one = loader(None, 1);
        assert_eq!(one.batches_per_epoch(), 24);
        assert_eq!(items(&one, 0, 0), items(&loader(None, 1), 0, 0));
        assert_ne!(items(&one, 0, 0), items(&loader(None, 2), 0, 0));
        let batch = one.clone().prefetch(0, 0, 1).unwrap().next().unwrap();
        let padded = batch.content.padded(2..4).unwrap();
        let longest = batch.items[2..4].iter().map(|item| one.corpus.text(*item as usize).len()).max();
        assert_eq!((padded.batch, Some(padded.tokens)), (2, longest));
        assert!(batch.pixels().unwrap_err().to_string().contains("texts, not images"));
    }

    #[test]
    fn sizes_beyond_the_texts_are_refused() {
        let corpus = Arc::new(corpus(20));
        for (batch, per_epoch, what) in
            [(0, None, "batch"), (21, None, "batch"), (4, Some(21), "per_epoch"), (4, Some(3), "batch")]
        {
            let error = TextLoader::new(corpus.clone(), (0..20).collect(), batch, per_epoch, 0).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

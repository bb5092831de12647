//! Batches of a data set, by number. A training run that was stopped can resume at any (epoch, batch) with the same
//! bytes.
//!
//! This file changes when the order or the content of batches changes; reading ahead must follow the same order. Almost
//! a third of it is tests.

use std::sync::Arc;

use super::augment::{Augment, Table};
use super::batch::{Batch, Batches, Content, Pixels, Prefetch};
use super::dataset::Dataset;
use crate::blueprint::Preprocessing;
use crate::error::{Error, Result};
use crate::tensor::rng;

/// The order of the items in one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    epoch: u64,
    order: Vec<u32>,
}

impl Epoch {
    /// Number of the epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Item numbers in the order of this epoch.
    pub fn order(&self) -> &[u32] {
        &self.order
    }
}

/// The kind of a pass, with its settings.
#[derive(Debug, Clone, Copy)]
enum Pass {
    /// Items are shuffled and augmented from `seed`. A last partial batch is dropped.
    Train { seed: u64, augment: Augment },
    /// Items come in order, and all or none are mirrored. A last partial batch is kept.
    Evaluate { mirrored: bool },
}

/// Makes batches from chosen items of a data set.
///
/// # Determinism
/// A batch depends only on the items, the seed, the epoch and its number. It does not depend on threads or on earlier
/// calls. The augmentation of an item depends on (seed, epoch, item), not on its position.
pub struct Loader {
    dataset: Arc<Dataset>,
    indices: Vec<u32>,
    batch: usize,
    pass: Pass,
    table: Table,
}

impl Loader {
    /// A training loader over the items `indices`, `batch` at a time.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::OutOfRange`] if a setting does not fit the data set.
    pub fn new(
        dataset: Arc<Dataset>,
        indices: Vec<u32>,
        batch: usize,
        seed: u64,
        augment: Augment,
        normalize: &Preprocessing,
    ) -> Result<Self> {
        augment.validate(dataset.shape().size)?;
        if batch > indices.len() {
            return Err(Error::OutOfRange {
                what: "batch",
                found: batch as u64,
                of: format!("the chosen items of data set \"{}\"", dataset.name()),
                limit: format!("1..={}", indices.len()),
            });
        }
        Self::checked(dataset, indices, batch, Pass::Train { seed, augment }, normalize)
    }

    /// An evaluation loader: the items in the order of `indices`, without augmentation, with the last partial batch.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn evaluation(
        dataset: Arc<Dataset>,
        indices: Vec<u32>,
        batch: usize,
        normalize: &Preprocessing,
    ) -> Result<Self> {
        Self::checked(dataset, indices, batch, Pass::Evaluate { mirrored: false }, normalize)
    }

    /// How many different images this loader can make of one item, if they are few enough to count.
    pub fn views(&self) -> Option<u8> {
        match self.pass {
            Pass::Train { augment, .. } => augment.views(),
            Pass::Evaluate { .. } => Some(1),
        }
    }

    /// An evaluation loader of the same items in the order of `indices`, each as view `view`.
    #[must_use]
    pub fn view(&self, view: u8) -> Self {
        Self {
            dataset: Arc::clone(&self.dataset),
            indices: self.indices.clone(),
            pass: Pass::Evaluate { mirrored: view == 1 },
            table: self.table.clone(),
            ..*self
        }
    }

    fn checked(
        dataset: Arc<Dataset>,
        indices: Vec<u32>,
        batch: usize,
        pass: Pass,
        normalize: &Preprocessing,
    ) -> Result<Self> {
        if batch == 0 {
            return Err(Error::invalid("batch", "0 is not a batch size, 1 is the smallest"));
        }
        normalize.validate(dataset.shape().channels)?;
        for &item in &indices {
            check_item(&dataset, item)?;
        }
        Ok(Self { table: Table::new(normalize), dataset, indices, batch, pass })
    }

    /// The data set that the batches come from.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Number of items in one epoch, including those of a last partial batch.
    pub fn items(&self) -> usize {
        self.indices.len()
    }

    /// The order of epoch `epoch`.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        let mut order = self.indices.clone();
        match self.pass {
            Pass::Train { seed, .. } => rng::stream(seed, &format!("shuffle/{epoch}")).shuffle(&mut order),
            Pass::Evaluate { .. } => {}
        }
        Epoch { epoch, order }
    }

    /// Batch number `b` of `epoch`, from 0.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `b` is not below [`Loader::batches_per_epoch`], or if the data set does not have an
    /// item of `epoch`.
    pub fn batch(&self, epoch: &Epoch, b: usize) -> Result<Batch> {
        let start = b.saturating_mul(self.batch).min(epoch.order.len());
        let end = start.saturating_add(self.batch).min(epoch.order.len());
        let items = &epoch.order[start..end];
        if b >= self.batches_per_epoch() || items.is_empty() {
            return Err(Error::OutOfRange {
                what: "batch number",
                found: b as u64,
                of: format!("an epoch of {} items in batches of {}", epoch.order.len(), self.batch),
                limit: format!("0..{}", self.batches_per_epoch()),
            });
        }

        for &item in items {
            check_item(&self.dataset, item)?;
        }
        Ok(self.assemble(epoch.epoch, items))
    }

    /// Every number in `items` must be below the length of the data set.
    fn assemble(&self, epoch: u64, items: &[u32]) -> Batch {
        let shape = self.dataset.shape();
        let mut images = vec![0.0; items.len() * shape.values()];
        let mut views = vec![0; items.len()];
        let outs = images.chunks_exact_mut(shape.values());
        let items_and_outs = items.iter().map(|&item| (item, self.dataset.image(item as usize))).zip(outs);
        let items_and_outs = items_and_outs.zip(&mut views);
        match self.pass {
            Pass::Train { seed, augment } => {
                for (((item, pixels), out), view) in items_and_outs {
                    let mut random = rng::stream(seed, &format!("augment/{epoch}/{item}"));
                    *view = augment.apply(pixels, shape, &self.table, &mut random, out);
                }
            }
            Pass::Evaluate { mirrored } => {
                for (((_, pixels), out), view) in items_and_outs {
                    *view = self.table.view(pixels, shape, mirrored, out);
                }
            }
        }
        let labels = items.iter().map(|&item| self.dataset.label(item as usize) as u32).collect();
        let pixels = Pixels { values: images, shape: [shape.channels, shape.size, shape.size] };
        Batch { content: Content::Images(pixels), labels, items: items.to_vec(), views }
    }
}

impl Batches for Loader {
    fn batches_per_epoch(&self) -> usize {
        match self.pass {
            Pass::Train { .. } => self.indices.len() / self.batch,
            Pass::Evaluate { .. } => self.indices.len().div_ceil(self.batch),
        }
    }

    fn prefetch(self: Arc<Self>, epoch: u64, from_batch: usize, depth: usize) -> Result<Prefetch> {
        let batches = self.batches_per_epoch().saturating_sub(from_batch);
        let work = move |send: &mut dyn FnMut(Batch) -> bool| {
            let order = self.epoch(epoch).order;
            let mut rest = order.chunks(self.batch).skip(from_batch).take(batches);
            while rest.next().is_some_and(|items| send(self.assemble(epoch, items))) {}
        };
        Prefetch::new(work, depth, batches)
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("dataset", &self.dataset)
            .field("items", &self.indices.len())
            .field("batch", &self.batch)
            .field("pass", &self.pass)
            .finish_non_exhaustive()
    }
}

fn check_item(dataset: &Dataset, item: u32) -> Result<()> {
    if (item as usize) < dataset.len() {
        return Ok(());
    }
    Err(Error::OutOfRange {
        what: "item",
        found: u64::from(item),
        of: format!("data set \"{}\"", dataset.name()),
        limit: format!("0..{}", dataset.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::augment::Erase;
    use super::super::dataset::tests::sample;
    use super::*;

    fn normalize() -> Preprocessing {
        Preprocessing { mean: vec![0.286], std: vec![0.353] }
    }

    fn augment() -> Augment {
        let erase = Erase { probability_per_mille: 500, min_area_per_mille: 20, max_area_per_mille: 300 };
        Augment { crop_padding: 2, flip: true, erase: Some(erase) }
    }

    /// 23 items: 5 batches of 4, and 3 items left.
    fn train(seed: u64) -> Arc<Loader> {
        let indices = (100..123).collect();
        Arc::new(Loader::new(sample().train, indices, 4, seed, augment(), &normalize()).unwrap())
    }

    fn evaluation() -> Arc<Loader> {
        let indices = (100..123).rev().collect();
        Arc::new(Loader::evaluation(sample().test, indices, 4, &normalize()).unwrap())
    }

    fn all(loader: &Loader, epoch: u64) -> Vec<Batch> {
        let epoch = loader.epoch(epoch);
        (0..loader.batches_per_epoch()).map(|b| loader.batch(&epoch, b).unwrap()).collect()
    }

    #[test]
    fn same_seed_gives_the_same_batches_and_another_does_not() {
        assert_eq!(all(&train(1), 3), all(&train(1), 3));
        assert_ne!(train(1).epoch(3).order(), train(2).epoch(3).order());
    }

    #[test]
    fn every_item_appears_once_in_an_epoch_and_in_another_order_in_the_next() {
        let loader = train(1);
        for epoch in 0..3 {
            let mut order = loader.epoch(epoch).order().to_vec();
            order.sort_unstable();
            assert_eq!(order, (100..123).collect::<Vec<_>>());
        }
        assert_ne!(loader.epoch(0).order(), loader.epoch(1).order());
    }

    #[test]
    fn training_drops_the_last_partial_batch() {
        let loader = train(1);
        let batches = all(&loader, 0);
        assert_eq!(batches.len(), 5);
        assert!(
            batches.iter().all(|batch| batch.len() == 4 && batch.pixels().unwrap().values.len() == 4 * 784)
        );
        let items: Vec<u32> = batches.iter().flat_map(|batch| batch.items.clone()).collect();
        assert_eq!(items, loader.epoch(0).order()[..20]);
    }

    #[test]
    fn evaluation_keeps_order_pixels_and_the_last_partial_batch() {
        let loader = evaluation();
        let batches = all(&loader, 7);
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 3]);
        let items: Vec<u32> = batches.iter().flat_map(|batch| batch.items.clone()).collect();
        assert_eq!(items, (100..123).rev().collect::<Vec<_>>());
        let last = &batches[5];
        for (slot, &item) in last.items.iter().enumerate() {
            assert_eq!(last.labels[slot] as usize, loader.dataset().label(item as usize));
            let pixels = loader.dataset().image(item as usize);
            let expected: Vec<f32> =
                pixels.iter().map(|&pixel| (f32::from(pixel) / 255.0 - 0.286) / 0.353).collect();
            assert_eq!(last.pixels().unwrap().values[slot * 784..][..784], expected);
        }
    }

    #[test]
    fn resuming_at_a_batch_equals_the_uninterrupted_epoch() {
        for loader in [train(1), evaluation()] {
            let whole = all(&loader, 2);
            for from in 0..=whole.len() {
                let rest: Vec<Batch> = loader.clone().prefetch(2, from, 2).unwrap().collect();
                assert_eq!(rest, whole[from..], "from {from}");
            }
            assert_eq!(loader.clone().prefetch(2, usize::MAX, usize::MAX).unwrap().count(), 0);
        }
    }

    #[test]
    fn changes_of_an_item_follow_the_item_and_the_epoch_not_its_place() {
        let wide = train(1);
        let alone = Loader::new(sample().train, vec![110], 1, 1, augment(), &normalize()).unwrap();
        let image = |loader: &Loader, epoch| {
            let order = loader.epoch(epoch).order;
            let at = order.iter().position(|&item| item == 110).unwrap();
            loader.assemble(epoch, &order[at..=at]).pixels().unwrap().values.clone()
        };
        assert_eq!(image(&wide, 0), image(&alone, 0));
        let epochs: Vec<Vec<f32>> = (0..4).map(|epoch| image(&alone, epoch)).collect();
        assert!(epochs.iter().any(|other| *other != epochs[0]));
    }

    #[test]
    fn dropping_the_iterator_stops_its_thread() {
        let loader = train(1);
        for depth in [0, 1, 3] {
            let mut batches = loader.clone().prefetch(0, 0, depth).unwrap();
            assert!(batches.next().is_some());
            drop(batches);
            assert_eq!(Arc::strong_count(&loader), 1, "the thread still holds the loader");
        }
    }

    #[test]
    fn settings_and_numbers_beyond_their_limits_are_refused() {
        let make = |indices: Vec<u32>, batch, normalize: &Preprocessing| {
            let dataset = sample().train;
            Loader::new(Arc::clone(&dataset), indices.clone(), batch, 0, Augment::default(), normalize)
                .and(Loader::evaluation(dataset, indices, batch, normalize))
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert_eq!(make(vec![0, 999], 2, &normalize()), Ok(()));
        assert!(make(vec![0, 1000], 2, &normalize()).unwrap_err().contains("item 1000 is beyond"));
        assert!(make(vec![0, 1], 3, &normalize()).unwrap_err().contains("batch 3 is beyond"));
        assert!(make(vec![0, 1], 0, &normalize()).unwrap_err().contains("batch: 0"));
        let colour = Preprocessing { mean: vec![0.0; 3], std: vec![1.0; 3] };
        assert!(make(vec![0, 1], 2, &colour).unwrap_err().contains("normalize.mean"));

        let loader = train(1);
        for b in [5, usize::MAX] {
            let error = loader.batch(&loader.epoch(0), b).unwrap_err().to_string();
            assert!(error.contains("batch number") && error.contains("0..5"), "{error}");
        }
        let foreign = Epoch { epoch: 0, order: vec![5000; 4] };
        assert!(loader.batch(&foreign, 0).unwrap_err().to_string().contains("item 5000"));
    }
}

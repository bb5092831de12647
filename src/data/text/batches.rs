//! Batches of texts of like length, so that little of a batch is padding.

use crate::tensor::rng;

/// How many batches' texts are sorted by length together while training. Larger windows leave less padding and less
/// chance.
const WINDOW: usize = 50;

/// Token ids of several texts, padded to the longest.
#[derive(Debug, Clone, PartialEq)]
pub struct Padded {
    /// `[batch, tokens]` in row-major order.
    pub ids: Vec<u32>,
    /// 1 for a token and 0 for padding, as `ids`.
    pub mask: Vec<f32>,
    /// Number of texts.
    pub batch: usize,
    /// Length of the longest.
    pub tokens: usize,
}

/// Pads `rows` with `pad_id` to the longest.
pub fn pad<T: AsRef<[u32]>>(rows: &[T], pad_id: u32) -> Padded {
    let tokens = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let (mut ids, mut mask) = (vec![pad_id; rows.len() * tokens], vec![0.0; rows.len() * tokens]);
    for (index, row) in rows.iter().map(AsRef::as_ref).enumerate() {
        ids[index * tokens..][..row.len()].copy_from_slice(row);
        mask[index * tokens..][..row.len()].fill(1.0);
    }
    Padded { ids, mask, batch: rows.len(), tokens }
}

/// Groups items of these `lengths` into batches of at most `tokens` tokens, padding included, unless one item alone is
/// longer. Items come in the order of their lengths, so at most the change of length within a batch is padding.
pub fn by_length(lengths: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| (lengths[*index], *index));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for index in order {
        // The newest item is the longest, so it sets the area of the batch.
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * lengths[index] <= tokens => batch.push(index),
            _ => batches.push(vec![index]),
        }
    }
    batches
}

/// Shuffles items of these `lengths` into batches of `batch` items of like length: windows of shuffled items are sorted
/// by length and cut, and the batches are shuffled. What does not fill a batch is left out.
pub fn shuffled_by_length(lengths: &[usize], batch: usize, random: &mut rng::Stream) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    random.shuffle(&mut order);
    let whole = order.len() - order.len() % batch.max(1);
    let mut batches = Vec::with_capacity(whole / batch.max(1));
    for window in order[..whole].chunks_mut((WINDOW * batch).max(1)) {
        window.sort_by_key(|index| (lengths[*index], *index));
        batches.extend(window.chunks(batch.max(1)).map(<[usize]>::to_vec));
    }
    random.shuffle(&mut batches);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of `batches` that is padding.
    fn padding(lengths: &[usize], batches: &[Vec<usize>]) -> f64 {
        let (mut area, mut full) = (0, 0);
        for batch in batches {
            let longest = batch.iter().map(|index| lengths[*index]).max().unwrap();
            area += longest * batch.len();
            full += batch.iter().map(|index| lengths[*index]).sum::<usize>();
        }
        1.0 - full as f64 / area as f64
    }

    /// Lengths like those of sentences: 5 to about 60, most below 15.
    fn lengths(count: usize) -> Vec<usize> {
        let mut random = rng::stream(1, "lengths");
        (0..count)
            .map(|_| 5 + (random.unit_f32() * random.unit_f32() * random.unit_f32() * 60.0) as usize)
            .collect()
    }

    #[test]
    fn every_item_is_in_one_batch_and_little_is_padding() {
        let lengths = lengths(3000);
        let batches = by_length(&lengths, 1024);
        let mut all: Vec<_> = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..3000).collect::<Vec<_>>());
        assert!(
            batches
                .iter()
                .all(|batch| batch.iter().map(|i| lengths[*i]).max().unwrap() * batch.len() <= 1024)
        );
        assert!(padding(&lengths, &batches) <= 0.15);
        assert_eq!(by_length(&[9, 2, 3], 4), [vec![1], vec![2], vec![0]], "an item alone may be longer");
        assert!(by_length(&[], 4).is_empty());
    }

    #[test]
    fn shuffled_batches_are_full_and_follow_the_seed() {
        let lengths = lengths(6500);
        let of = |seed| shuffled_by_length(&lengths, 64, &mut rng::stream(seed, "order"));
        let batches = of(1);
        assert!(padding(&lengths, &batches) <= 0.15, "{}", padding(&lengths, &batches));
        assert!(batches.len() == 101 && batches.iter().all(|batch| batch.len() == 64));
        let mut all = batches.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 101 * 64);
        assert_eq!(batches, of(1));
        assert_ne!(batches, of(2));
        assert!(shuffled_by_length(&lengths[..5], 64, &mut rng::stream(1, "order")).is_empty());
    }

    #[test]
    fn padding_is_masked() {
        let padded = pad(&[vec![7, 8, 9], vec![4]], 1);
        assert_eq!(padded.ids, [7, 8, 9, 4, 1, 1]);
        assert_eq!(padded.mask, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!((padded.batch, padded.tokens), (2, 3));
        assert_eq!(pad::<Vec<u32>>(&[], 1).ids, [] as [u32; 0]);
    }
}

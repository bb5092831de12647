//! Labelled square images in memory, and their split into parts.

use std::sync::Arc;

use serde::Serialize;
use strum::{Display, EnumString};

use super::colour;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::tensor::rng;

/// Number of items held out of a training set that has at least [`SMALL_SET_ITEMS`].
pub const HELD_OUT_ITEMS: usize = 5_000;

/// In a training set with fewer items than this, one item in twenty is held out.
pub const SMALL_SET_ITEMS: usize = 20_000;

/// Limit on the height and width of images in the user's own data sets, pixels.
pub(super) const MAX_SIZE: usize = 1024;

/// Limit on the classes of a data set, because labels are u16.
pub(super) const MAX_CLASSES: usize = 1 << 16;

/// Shape of one square image, `[channels, size, size]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Height and width, pixels.
    pub size: usize,
}

impl ImageShape {
    /// Values in one image.
    pub const fn values(self) -> usize {
        self.channels * self.size * self.size
    }
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Display, EnumString)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = Error, parse_err_fn = unknown)]
pub enum Split {
    /// The training set without its held-out part.
    Train,
    /// The part of the training set on which every choice is made, drawn with a seed.
    HeldOut,
    /// The whole training set.
    TrainFull,
    /// The test set, for final results only.
    Test,
}

fn unknown(_: &str) -> Error {
    Error::invalid("--split", "use one of test, held-out, train, train-full")
}

/// Labelled grey or colour images as bytes.
pub struct Dataset {
    name: String,
    shape: ImageShape,
    /// `[items, channels, size, size]`.
    images: Vec<u8>,
    labels: Vec<u16>,
    classes: Vec<String>,
    licence: String,
    digest: String,
}

/// Licence of a data set that does not state one.
pub const NO_LICENCE: &str = "unknown";

impl Dataset {
    /// Checks images of shape `[items, channels, size, size]` and their labels, and makes a data set of them.
    ///
    /// # Errors
    /// [`Error::Corrupt`], with `name` as the source, if the shape cannot be read, the lengths do not agree, the set is
    /// empty or too long, or a label has no class.
    pub fn new(
        name: &str,
        shape: ImageShape,
        images: Vec<u8>,
        labels: Vec<u16>,
        classes: Vec<String>,
    ) -> Result<Self> {
        let items = labels.len();
        let ImageShape { channels, size } = shape;
        if !matches!(channels, 1 | 3) || size == 0 {
            return Err(Error::corrupt(
                name,
                format!("images are {channels}x{size}x{size}, 1 or 3 channels are read"),
            ));
        }
        // Item numbers are u32.
        if items == 0 || u32::try_from(items).is_err() {
            return Err(Error::corrupt(name, format!("holds {items} items, 1..={} are read", u32::MAX)));
        }
        let expected =
            size.checked_mul(size).and_then(|n| n.checked_mul(channels)).and_then(|n| n.checked_mul(items));
        if expected != Some(images.len()) {
            let found = images.len();
            return Err(Error::corrupt(
                name,
                format!(
                    "{found} pixel bytes do not make {items} labelled images of {channels}x{size}x{size}"
                ),
            ));
        }
        if let Some((item, label)) =
            labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= classes.len())
        {
            return Err(Error::corrupt(
                name,
                format!("label {label} of item {item} is beyond the {} classes", classes.len()),
            ));
        }
        let digest = digest(shape, &images, &labels).to_string();
        let (name, licence) = (name.to_owned(), NO_LICENCE.to_owned());
        Ok(Self { name, shape, images, labels, classes, licence, digest })
    }

    /// Sets the SPDX identifier of the data's licence. It does not enter the digest.
    pub(super) fn with_licence(self, licence: &str) -> Self {
        Self { licence: licence.to_owned(), ..self }
    }

    /// The same images with `channels` channels, 1 or 3.
    fn with_channels(&self, channels: usize) -> Result<Self> {
        let own = self.shape;
        let images = self.images.chunks_exact(own.values());
        let images =
            images.flat_map(|image| colour::convert(image.to_vec(), own.channels, channels)).collect();
        let shape = ImageShape { channels, ..own };
        let dataset = Self::new(&self.name, shape, images, self.labels.clone(), self.classes.clone())?;
        Ok(dataset.with_licence(&self.licence))
    }

    /// Name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of items, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a data set is never empty")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Pixels of item `i`, `[channels, size, size]`.
    ///
    /// # Panics
    /// When `i` is not below [`Dataset::len`], as slices do.
    pub fn image(&self, i: usize) -> &[u8] {
        let values = self.shape.values();
        &self.images[i * values..][..values]
    }

    /// Class of item `i`.
    ///
    /// # Panics
    /// When `i` is not below [`Dataset::len`], as slices do.
    pub fn label(&self, i: usize) -> usize {
        usize::from(self.labels[i])
    }

    /// Class names in label order.
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// SPDX identifier of the data's licence; `unknown` if none is stated.
    pub fn licence(&self) -> &str {
        &self.licence
    }

    /// SHA-256 of shape, pixels and labels as lower-case hex. It names the content, independently of the file format.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Every item number, in order.
    pub fn indices(&self) -> Vec<u32> {
        (0..self.len() as u32).collect()
    }

    /// Divides the items into a training and a held-out part, each in ascending order.
    ///
    /// # Determinism
    /// The parts depend only on `seed` and the number of items.
    pub fn held_out_split(&self, seed: u64) -> (Vec<u32>, Vec<u32>) {
        let items = self.len();
        let held = if items < SMALL_SET_ITEMS { items.div_ceil(20).min(items - 1) } else { HELD_OUT_ITEMS };
        let mut held_out = self.indices();
        rng::stream(seed, "held-out").shuffle(&mut held_out);
        let mut train = held_out.split_off(held);
        train.sort_unstable();
        held_out.sort_unstable();
        (train, held_out)
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("items", &self.len())
            .field("shape", &self.shape)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// A training and a test set of the same shape and classes.
#[derive(Debug, Clone)]
pub struct DatasetPair {
    /// The training set.
    pub train: Arc<Dataset>,
    /// The test set.
    pub test: Arc<Dataset>,
}

impl DatasetPair {
    /// A data set of these parts.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the training set has one item: at least one has to be trained on, and one held out.
    pub fn new(train: Arc<Dataset>, test: Arc<Dataset>) -> Result<Self> {
        if train.len() < 2 {
            let reason = "the training set holds 1 item, at least 2 are needed, because one is held out";
            return Err(Error::corrupt(format!("data set \"{}\"", train.name()), reason));
        }
        Ok(Self { train, test })
    }

    /// The data set with the images in `channels` channels: grey from colour, or colour from grey.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for other channels than 1 and 3.
    pub fn with_channels(&self, channels: usize) -> Result<Self> {
        let part = |set: &Arc<Dataset>| {
            if set.shape.channels == channels {
                return Ok(Arc::clone(set));
            }
            set.with_channels(channels).map(Arc::new)
        };
        Ok(Self { train: part(&self.train)?, test: part(&self.test)? })
    }

    /// The data set that holds `split`, and the item numbers in ascending order. `seed` chooses the held-out part.
    pub fn select(&self, split: Split, seed: u64) -> (Arc<Dataset>, Vec<u32>) {
        match split {
            Split::Train => (Arc::clone(&self.train), self.train.held_out_split(seed).0),
            Split::HeldOut => (Arc::clone(&self.train), self.train.held_out_split(seed).1),
            Split::TrainFull => (Arc::clone(&self.train), self.train.indices()),
            Split::Test => (Arc::clone(&self.test), self.test.indices()),
        }
    }
}

/// SHA-256 over length-prefixed fields, so that different contents never give the same input.
fn digest(shape: ImageShape, images: &[u8], labels: &[u16]) -> Digest {
    let numbers = [labels.len(), shape.channels, shape.size, shape.size];
    let numbers: Vec<u8> = numbers.iter().flat_map(|&n| (n as u64).to_le_bytes()).collect();
    let labels: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let fields = [b"genebank dataset 1", &numbers[..], images, &labels];
    let lengths = fields.map(|field| (field.len() as u64).to_le_bytes());
    Digest::of_parts(lengths.iter().zip(fields).flat_map(|(length, field)| [&length[..], field]))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::super::open;
    use super::*;

    pub(in crate::data) const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

    pub(in crate::data) fn sample() -> DatasetPair {
        open("fashion-mnist", Path::new(SAMPLE)).unwrap()
    }

    fn tiny(images: usize, labels: &[u16]) -> Result<Dataset> {
        let shape = ImageShape { channels: 1, size: 2 };
        Dataset::new(
            "tiny",
            shape,
            vec![0; images * 4],
            labels.to_vec(),
            vec!["a".to_owned(), "b".to_owned()],
        )
    }

    #[test]
    fn sample_is_the_upstream_bytes_in_order() {
        let DatasetPair { train, test } = sample();
        assert_eq!((train.len(), test.len()), (1000, 500));
        assert_eq!((0..10).map(|i| train.label(i)).collect::<Vec<_>>(), [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
        assert_eq!((0..10).map(|i| test.label(i)).collect::<Vec<_>>(), [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
        assert_eq!(train.class_names()[train.label(0)], "Ankle boot");
        // Computed in Python from the unpacked files. This pins the canonical form.
        assert_eq!(train.digest(), "2d7f9da93b24217e1ec5745ccf726cf578368fc590309200cd2582a18463f32a");
        assert_eq!(test.digest(), "8d2b833aaf61e5911839ae01e61e9a94e3b0a809de528e860122f95ddcaeeab2");
    }

    #[test]
    fn lengths_and_labels_are_checked() {
        assert_eq!(tiny(2, &[0, 1]).unwrap().len(), 2);
        let says = |result: Result<Dataset>| result.unwrap_err().to_string();
        assert_eq!(says(tiny(3, &[0, 1])), "tiny: 12 pixel bytes do not make 2 labelled images of 1x2x2");
        assert_eq!(says(tiny(2, &[0, 2])), "tiny: label 2 of item 1 is beyond the 2 classes");
        assert!(says(tiny(0, &[])).contains("holds 0 items"));
        let huge = ImageShape { channels: 3, size: usize::MAX };
        assert!(
            says(Dataset::new("huge", huge, vec![], vec![0], vec!["a".to_owned()])).contains("do not make")
        );
        let planes = ImageShape { channels: 2, size: 1 };
        assert!(
            says(Dataset::new("two", planes, vec![0; 2], vec![0], vec!["a".to_owned()])).contains("channels")
        );
    }

    #[test]
    fn digest_tells_shape_pixels_and_labels_apart() {
        let base = tiny(2, &[0, 1]).unwrap();
        assert_ne!(base.digest(), tiny(2, &[1, 0]).unwrap().digest());
        let changed =
            |shape, images| Dataset::new("tiny", shape, images, vec![0, 1], base.class_names().to_vec());
        let mut images = vec![0; 8];
        images[3] = 1;
        assert_ne!(base.digest(), changed(base.shape(), images).unwrap().digest());
        let one = ImageShape { channels: 1, size: 1 };
        let three = ImageShape { channels: 3, size: 1 };
        assert_ne!(changed(one, vec![0; 2]).unwrap().digest(), changed(three, vec![0; 6]).unwrap().digest());
    }

    #[test]
    fn held_out_part_is_seeded_and_disjoint() {
        let train = sample().train;
        let (kept, held) = train.held_out_split(1);
        assert_eq!((kept.len(), held.len()), (950, 50));
        let mut all = [kept, held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, train.indices());
        assert_eq!(train.held_out_split(1).1, held);
        assert_ne!(train.held_out_split(2).1, held);
    }

    #[test]
    fn held_out_size_follows_the_size_of_the_set() {
        for (items, held) in [(1, 0), (2, 1), (40, 2), (19_999, 1_000), (20_000, 5_000)] {
            let set = tiny(items, &vec![0; items]).unwrap();
            assert_eq!(set.held_out_split(0).1.len(), held, "of {items}");
        }
    }

    #[test]
    fn splits_select_their_items() {
        let pair = sample();
        let count = |split| pair.select(split, 3).1.len();
        assert_eq!(
            [Split::Train, Split::HeldOut, Split::TrainFull, Split::Test].map(count),
            [950, 50, 1000, 500]
        );
        assert_eq!(pair.select(Split::HeldOut, 3).1, pair.train.held_out_split(3).1);
        assert_eq!(pair.select(Split::Test, 3).0.digest(), pair.test.digest());
    }
}

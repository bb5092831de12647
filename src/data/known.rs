//! The data sets known by name, and where to find their files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cifar;
use super::dataset::{Dataset, DatasetPair, ImageShape};
use super::idx::Idx;
use crate::error::{Error, Result};

/// Environment variable with the folder of the data sets.
pub const DATA_ENV: &str = "GENEBANK_DATA";

/// Every data set that [`open`](super::open()) knows by name.
pub const KNOWN: &[Known] = &[
    Known {
        name: "cifar-10",
        shape: cifar::SHAPE,
        classes: &CIFAR_10,
        licence: "unknown",
        files: Published::Cifar {
            folder: "cifar-10-batches-bin",
            label_bytes: 1,
            train: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            test: &["test_batch.bin"],
        },
    },
    Known {
        name: "cifar-100",
        shape: cifar::SHAPE,
        classes: &CIFAR_100,
        licence: "unknown",
        files: Published::Cifar {
            folder: "cifar-100-binary",
            label_bytes: 2,
            train: &["train.bin"],
            test: &["test.bin"],
        },
    },
    Known {
        name: "fashion-mnist",
        shape: ImageShape { channels: 1, size: 28 },
        classes: &FASHION_MNIST,
        licence: "MIT",
        files: Published::Idx {
            train: IdxFiles { images: "train-images-idx3-ubyte", labels: "train-labels-idx1-ubyte" },
            test: IdxFiles { images: "t10k-images-idx3-ubyte", labels: "t10k-labels-idx1-ubyte" },
        },
    },
];

const FASHION_MNIST: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// As in `batches.meta.txt`.
const CIFAR_10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The fine labels, as in `fine_label_names.txt`.
#[rustfmt::skip]
const CIFAR_100: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
];

/// A data set that can be opened by name.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Name of the data set and of its folder under the data root.
    pub name: &'static str,
    /// Shape of every image.
    pub shape: ImageShape,
    /// Class names in label order.
    pub classes: &'static [&'static str],
    /// SPDX identifier of the data's licence; `unknown` if the authors state none.
    pub licence: &'static str,
    files: Published,
}

/// The files in which a data set is published.
#[derive(Debug, Clone, Copy)]
enum Published {
    /// The MNIST family.
    Idx { train: IdxFiles, test: IdxFiles },
    /// The binary version of CIFAR. `folder` is the folder inside the published archive.
    Cifar {
        folder: &'static str,
        label_bytes: usize,
        train: &'static [&'static str],
        test: &'static [&'static str],
    },
}

/// File names, without an optional `.gz`.
#[derive(Debug, Clone, Copy)]
struct IdxFiles {
    images: &'static str,
    labels: &'static str,
}

impl Known {
    /// The data set called `name`, if it is known.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// Reads both parts. The files may be in `root/name`, in the archive's own folder, or in `root` itself.
    pub(super) fn open(&self, root: &Path) -> Result<DatasetPair> {
        let (train, test) = match self.files {
            Published::Idx { train, test } => (self.read_idx(train, root)?, self.read_idx(test, root)?),
            Published::Cifar { folder, label_bytes, train, test } => {
                let own = root.join(self.name);
                let folders = [own.join(folder), own, root.join(folder), root.to_owned()];
                let read = |files| self.read_cifar(files, label_bytes, &folders);
                (read(train)?, read(test)?)
            }
        };
        DatasetPair::new(Arc::new(train), Arc::new(test))
    }

    fn read_idx(&self, files: IdxFiles, root: &Path) -> Result<Dataset> {
        let folders = [root.join(self.name), root.to_owned()];
        let find = |file: &str| find(&[file, &format!("{file}.gz")], &folders);
        let (images_path, labels_path) = (find(files.images)?, find(files.labels)?);
        let labels = Idx::open(&labels_path)?;
        let [items] = *labels.dims() else {
            return Err(Error::corrupt(
                labels_path.display().to_string(),
                format!("shape {:?} is not that of labels, [items]", labels.dims()),
            ));
        };
        let images = Idx::open(&images_path)?;
        let ImageShape { channels, size } = self.shape;
        let expected =
            if channels == 1 { vec![items, size, size] } else { vec![items, channels, size, size] };
        if images.dims() != expected {
            return Err(Error::corrupt(
                images_path.display().to_string(),
                format!("shape {:?}, {} with {items} labels has {expected:?}", images.dims(), self.name),
            ));
        }
        let labels = labels.bytes().iter().map(|&label| u16::from(label)).collect();
        self.dataset(images.into_bytes(), labels)
    }

    fn read_cifar(&self, files: &[&str], label_bytes: usize, folders: &[PathBuf]) -> Result<Dataset> {
        let mut records = cifar::Records::default();
        for file in files {
            records.append(&find(&[file], folders)?, label_bytes)?;
        }
        self.dataset(records.images, records.labels)
    }

    fn dataset(&self, images: Vec<u8>, labels: Vec<u16>) -> Result<Dataset> {
        let classes = self.classes.iter().map(|&class| class.to_owned()).collect();
        let dataset = Dataset::new(self.name, self.shape, images, labels, classes)?;
        Ok(dataset.with_licence(self.licence))
    }
}

/// The first file found under one of `names`, in the order of `folders`.
fn find(names: &[&str], folders: &[PathBuf]) -> Result<PathBuf> {
    let mut paths = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        Error::invalid("data", format!("none of {} holds {}", folders.join(", "), names.join(" or ")))
    })
}

/// The folder of the data sets: `flag` (`--data`) if given, otherwise the environment variable [`DATA_ENV`].
///
/// # Errors
/// [`Error::Invalid`] if neither is given or the folder does not exist.
pub fn data_root(flag: Option<&Path>) -> Result<PathBuf> {
    root_from(flag, std::env::var_os(DATA_ENV))
}

fn root_from(flag: Option<&Path>, env: Option<OsString>) -> Result<PathBuf> {
    let (field, root) = match (flag, env) {
        (Some(flag), _) => ("--data", flag.to_owned()),
        (None, Some(env)) if !env.is_empty() => (DATA_ENV, PathBuf::from(env)),
        (None, _) => {
            let reason = format!("no folder of data sets: give --data DIR or set {DATA_ENV}=DIR");
            return Err(Error::invalid("--data", reason));
        }
    };
    if root.is_dir() {
        Ok(root)
    } else {
        Err(Error::invalid(field, format!("{} is not a folder", root.display())))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::cifar::tests::file;
    use super::super::dataset::tests::{SAMPLE, sample};
    use super::super::open;
    use super::*;
    use crate::tensor::codec::write_atomic;

    #[test]
    fn root_may_hold_the_files_itself() {
        let direct = open("fashion-mnist", &Path::new(SAMPLE).join("fashion-mnist")).unwrap();
        assert_eq!(direct.train.digest(), sample().train.digest());
    }

    /// Writes CIFAR files with these records into a folder named as in the archive.
    fn cifar_files(files: Published, root: &Path, labels: &[&[u8]]) {
        let Published::Cifar { folder, train, test, .. } = files else { panic!("{files:?}") };
        fs::create_dir_all(root.join(folder)).unwrap();
        for name in train.iter().chain(test) {
            write_atomic(&root.join(folder).join(name), [&file(labels)[..]]).unwrap();
        }
    }

    #[test]
    fn cifar_opens_wherever_its_archive_was_unpacked() {
        for (name, labels, items, class) in [
            ("cifar-10", [&[9u8][..], &[0]], 10, "truck"),
            ("cifar-100", [&[3u8, 99][..], &[0, 0]], 2, "worm"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let known = Known::named(name).unwrap();
            let Published::Cifar { folder: archive, .. } = known.files else { panic!("{known:?}") };
            cifar_files(known.files, folder.path(), &labels);
            let pair = open(name, folder.path()).unwrap();
            assert_eq!((pair.train.len(), pair.test.len()), (items, 2));
            assert_eq!(pair.train.class_names()[pair.train.label(0)], class);
            assert_eq!((pair.test.image(1)[0], pair.test.licence()), (1, "unknown"));

            let digest = pair.train.digest();
            let direct = open(name, &folder.path().join(archive)).unwrap();
            assert_eq!(direct.train.digest(), digest);
            let own = folder.path().join("root").join(name);
            fs::create_dir_all(&own).unwrap();
            fs::rename(folder.path().join(archive), own.join(archive)).unwrap();
            assert_eq!(open(name, &folder.path().join("root")).unwrap().train.digest(), digest);
        }
    }

    #[test]
    fn cifar_without_a_file_or_with_a_label_beyond_the_classes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::named("cifar-10").unwrap();
        cifar_files(known.files, folder.path(), &[&[0], &[10]]);
        let error = open("cifar-10", folder.path()).unwrap_err().to_string();
        assert_eq!(error, "cifar-10: label 10 of item 1 is beyond the 10 classes");
        fs::remove_file(folder.path().join("cifar-10-batches-bin/data_batch_4.bin")).unwrap();
        let error = open("cifar-10", folder.path()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains("holds data_batch_4.bin"), "{error}");
    }

    #[test]
    fn absent_and_mismatched_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = open("fashion-mnist", folder.path()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains("train-images-idx3-ubyte.gz"), "{error}");

        let source = Path::new(SAMPLE).join("fashion-mnist");
        for kind in ["images-idx3", "labels-idx1"] {
            let from = if kind == "images-idx3" { "train" } else { "t10k" };
            fs::copy(
                source.join(format!("{from}-{kind}-ubyte.gz")),
                folder.path().join(format!("train-{kind}-ubyte")),
            )
            .unwrap();
        }
        let error = open("fashion-mnist", folder.path()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("[1000, 28, 28]"), "{error}");
        assert!(error.to_string().contains("500 labels"), "{error}");
    }

    #[test]
    fn data_root_prefers_the_flag_and_names_both_sources() {
        let env = || Some(OsString::from(SAMPLE));
        let flag = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(root_from(Some(flag), env()).unwrap(), flag);
        assert_eq!(root_from(None, env()).unwrap(), Path::new(SAMPLE));
        for unset in [None, Some(OsString::new())] {
            let message = root_from(None, unset).unwrap_err().to_string();
            assert!(message.contains("--data") && message.contains(DATA_ENV), "{message}");
        }
        let message = root_from(Some(Path::new("no/such")), None).unwrap_err().to_string();
        assert_eq!(message, "--data: no/such is not a folder");
    }
}

//! The data sets that are known by name, and where their files are found.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::dataset::{Dataset, ImageShape};
use super::idx::Idx;
use crate::error::{Error, Result};

/// Environment variable that names the folder of the data sets.
pub const DATA_ENV: &str = "GENEBANK_DATA";

/// Every data set that [`Dataset::open`] knows.
pub const KNOWN: &[Known] = &[Known {
    name: "fashion-mnist",
    shape: ImageShape { channels: 1, size: 28 },
    classes: &[
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
    ],
    licence: "MIT",
    train: Files { images: "train-images-idx3-ubyte", labels: "train-labels-idx1-ubyte" },
    test: Files { images: "t10k-images-idx3-ubyte", labels: "t10k-labels-idx1-ubyte" },
}];

/// A data set that can be opened by name.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Name, and folder under the data root.
    pub name: &'static str,
    /// Shape of every image.
    pub shape: ImageShape,
    /// Class names in label order.
    pub classes: &'static [&'static str],
    /// SPDX identifier of the data's licence.
    pub licence: &'static str,
    train: Files,
    test: Files,
}

/// SPDX identifier of the licence of the data set called `name`; `unknown` where it is not of [`KNOWN`].
pub fn licence(name: &str) -> &'static str {
    KNOWN.iter().find(|known| known.name == name).map_or("unknown", |known| known.licence)
}

/// File names, without an optional `.gz`.
#[derive(Debug, Clone, Copy)]
struct Files {
    images: &'static str,
    labels: &'static str,
}

impl Known {
    pub(super) fn read_train(&self, root: &Path) -> Result<Dataset> {
        self.read(self.train, root)
    }

    pub(super) fn read_test(&self, root: &Path) -> Result<Dataset> {
        self.read(self.test, root)
    }

    fn read(&self, files: Files, root: &Path) -> Result<Dataset> {
        let images_path = self.find(files.images, root)?;
        let labels_path = self.find(files.labels, root)?;
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
        let classes = self.classes.iter().map(|&class| class.to_owned()).collect();
        Dataset::new(self.name, self.shape, images.into_bytes(), labels, classes)
    }

    fn find(&self, file: &str, root: &Path) -> Result<PathBuf> {
        [root.join(self.name), root.to_owned()]
            .into_iter()
            .flat_map(|folder| [folder.join(file), folder.join(format!("{file}.gz"))])
            .find(|path| path.is_file())
            .ok_or_else(|| {
                let (root, name) = (root.display(), self.name);
                Error::invalid("data", format!("neither {root}/{name} nor {root} holds {file} or {file}.gz"))
            })
    }
}

/// The folder of the data sets: `flag` (`--data`), else the environment variable [`DATA_ENV`].
///
/// # Errors
/// [`Error::Invalid`] when neither is given or the folder does not exist.
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

    use super::super::dataset::tests::{SAMPLE, sample};
    use super::*;

    #[test]
    fn root_may_hold_the_files_itself() {
        let direct = Dataset::open("fashion-mnist", &Path::new(SAMPLE).join("fashion-mnist")).unwrap();
        assert_eq!(direct.train.digest(), sample().train.digest());
    }

    #[test]
    fn unknown_name_lists_the_known_ones() {
        let error = Dataset::open("mnist", Path::new(SAMPLE)).unwrap_err();
        assert_eq!(error.to_string(), "data set \"mnist\" is not known (known: fashion-mnist)");
    }

    #[test]
    fn absent_and_mismatched_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Dataset::open("fashion-mnist", folder.path()).unwrap_err();
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
        let error = Dataset::open("fashion-mnist", folder.path()).unwrap_err();
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

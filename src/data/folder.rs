//! Folders of images, as torchvision's `ImageFolder` reads them: `train/CLASS/IMAGE` and `test/CLASS/IMAGE`.
//!
//! Classes are the folders of the training part, sorted by name. Images are sorted by name within their class. Inside
//! the two parts, names that begin with a dot are skipped, and anything else that is not an image of a class is an
//! error.

use std::path::{Path, PathBuf};

use super::dataset::{DatasetPair, MAX_CLASSES};
use super::picture::{CHUNK, Gathered, Picture, decode_all};
use super::settings::{Settings, entries};
use crate::error::{Error, Result};
use crate::file;

/// Folder of the training images.
const TRAIN: &str = "train";
/// Folders of the test images; the first one that exists is read, and a message names the others.
const TEST: [&str; 3] = ["test", "val", "validation"];
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];
/// Size limit of an image file, bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// An image and its class.
struct Labelled {
    path: PathBuf,
    label: u16,
}

/// Whether `folder` holds a training or a test part.
pub(super) fn is_one(folder: &Path) -> bool {
    [TRAIN].iter().chain(&TEST).any(|part| folder.join(part).is_dir())
}

/// Reads both parts of the data set in `folder`.
///
/// # Errors
/// [`Error::Invalid`] if a folder or a size is missing; [`Error::Corrupt`], naming the image, if one cannot be read.
pub(super) fn open(name: &str, folder: &Path, settings: &Settings) -> Result<DatasetPair> {
    let part = |names: &[&str]| {
        names.iter().map(|name| folder.join(name)).find(|path| path.is_dir()).ok_or_else(|| {
            Error::invalid("data", format!("{} holds no folder {}", folder.display(), names.join(" or ")))
        })
    };
    let (train, test) = (part(&[TRAIN])?, part(&TEST)?);
    for other in TEST.map(|name| folder.join(name)).iter().filter(|other| **other != test && other.is_dir()) {
        tracing::warn!("{} is not read: the test images are those of {}", other.display(), test.display());
    }
    let classes = entries(&train)?;
    if !(1..=MAX_CLASSES).contains(&classes.len()) {
        let found = classes.len();
        let reason = format!("{} holds {found} class folders, 1..={MAX_CLASSES} are read", train.display());
        return Err(Error::invalid("data", reason));
    }
    let train = gather(&train, &list(&train, &classes, true)?, settings)?;
    let test = gather(&test, &list(&test, &classes, false)?, settings)?;
    Gathered::pair(name, train, test, &classes, settings)
}

/// The images of one part, class by class.
fn list(part: &Path, classes: &[String], every_class: bool) -> Result<Vec<Labelled>> {
    let invalid =
        |path: &Path, reason: String| Err(Error::invalid("data", format!("{}: {reason}", path.display())));
    if let Some(foreign) = entries(part)?.into_iter().find(|name| classes.binary_search(name).is_err()) {
        return invalid(&part.join(foreign), format!("is none of the {} classes of {TRAIN}", classes.len()));
    }
    let mut images = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = part.join(class);
        if !folder.exists() && !every_class {
            continue;
        }
        if !folder.is_dir() {
            return invalid(&folder, "is a file, where a folder for each class is read".to_owned());
        }
        let names = entries(&folder)?;
        if names.is_empty() && every_class {
            return invalid(&folder, "holds 0 images, a class has at least 1".to_owned());
        }
        for name in names {
            let path = folder.join(name);
            let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
            if !ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
                return invalid(&path, format!("does not end in {}", ENDINGS.join(", ")));
            }
            images.push(Labelled { path, label: label as u16 });
        }
    }
    Ok(images)
}

fn gather(part: &Path, images: &[Labelled], settings: &Settings) -> Result<Gathered> {
    let mut gathered = Gathered::new(images.len() as u64, part)?;
    for chunk in images.chunks(CHUNK) {
        let pictures = decode_all(chunk, |image| read(&image.path, settings))?;
        for (image, picture) in chunk.iter().zip(pictures) {
            gathered.push(picture, image.label, &image.path.display().to_string())?;
        }
    }
    Ok(gathered)
}

fn read(path: &Path, settings: &Settings) -> Result<Picture> {
    Picture::decode(&file::read(path, MAX_FILE_BYTES)?, &path.display().to_string(), settings)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::dataset::{
        Dataset,
        tests::{SAMPLE, sample},
    };
    use super::super::open::tests::put;
    use super::super::picture::tests::{bomb, colour, grey};
    use super::*;
    use crate::data;

    /// A data root whose data set `set` has these files.
    fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            put(&root.path().join("set").join(path), bytes);
        }
        root
    }

    fn open(files: &[(&str, &[u8])]) -> Result<DatasetPair> {
        data::open("set", root(files).path())
    }

    #[test]
    fn sample_holds_the_upstream_pixels_by_class_and_name() {
        let DatasetPair { train, test } = data::open("fashion-folder", Path::new(SAMPLE)).unwrap();
        assert_eq!(train.class_names(), ["bag", "sneaker", "trouser"]);
        assert_eq!((train.len(), test.len(), train.licence()), (18, 9, "MIT"));
        assert_eq!((0..18).map(|i| train.label(i)).collect::<Vec<_>>(), [[0; 6], [1; 6], [2; 6]].concat());
        let upstream = sample();
        for (found, upstream) in [(&train, &upstream.train), (&test, &upstream.test)] {
            for (label, class) in [8, 7, 1].into_iter().enumerate() {
                let of_class = |set: &Dataset, class| {
                    let items = (0..set.len()).filter(|&i| set.label(i) == class);
                    items.map(|i| set.image(i).to_vec()).collect::<Vec<_>>()
                };
                let found = of_class(found, label);
                assert_eq!(found, of_class(upstream, class)[..found.len()]);
            }
        }
    }

    #[test]
    fn settings_decide_size_and_channels() {
        let (wide, high, square) = (colour(12, 8), grey(8, 20), colour(8, 8));
        let files = |settings| {
            let images = [("train/a/1.PNG", &wide), ("train/b/1.png", &high), ("val/b/x.png", &square)];
            let images = images.map(|(path, bytes)| (path, bytes.as_slice()));
            [&images[..], &[("dataset.toml", settings), ("train/.DS_Store", b"x"), ("train/a/._1", b"x")]]
                .concat()
        };
        let pair = open(&files(b"size = 4\nchannels = 1")).unwrap();
        assert_eq!((pair.train.shape().channels, pair.train.shape().size, pair.test.len()), (1, 4, 1));
        assert_eq!((pair.test.label(0), pair.test.licence()), (1, "unknown"));
        let pair = open(&files(b"size = 4")).unwrap();
        assert_eq!((pair.train.shape().channels, pair.test.shape().channels), (3, 3));
        let error = open(&files(b"")).unwrap_err().to_string();
        assert!(error.contains("a/1.PNG: 12x8 pixels") && error.contains("`size = N`"), "{error}");
    }

    #[test]
    fn folders_that_are_no_data_set_are_refused() {
        let image = grey(2, 2);
        let good: [(&str, &[u8]); 3] =
            [("train/a/0.png", &image), ("test/a/1.png", &image), ("train/a/1.png", &image)];
        open(&good).unwrap();
        let with = |path, bytes| [&good[..], &[(path, bytes)]].concat();
        for (files, words) in [
            (good[..1].to_vec(), "holds no folder test or val or validation"),
            (good[1..2].to_vec(), "holds no folder train"),
            (with("test/b/1.png", &image), "test/b: is none of the 1 classes of train"),
            (with("train/b.png", &image), "train/b.png: is a file"),
            (with("train/b/.keep", b""), "train/b: holds 0 images, a class has at least 1"),
            (with("train/a/2.webp", b""), "2.webp: does not end in png, jpg, jpeg"),
            (with("train/a/more.png/2.png", &image), "more.png: is a folder"),
            (with("train/a/2.png", &image[..40]), "2.png: cannot be decoded"),
            (with("train/a/2.png", &bomb(1 << 20, 9)), "2.png: 1048576x9 pixels are beyond 1..=16384"),
            (with("test/a/2.png", &grey(3, 3)), "3x3 pixels, those before 2x2"),
            (vec![("train/.keep", b""), good[1]], "holds 0 class folders, 1..=65536"),
            (good[..2].to_vec(), "data set \"set\": the training set holds 1 item, at least 2 are needed"),
            (vec![good[0], ("test/a/.keep", b"")], "holds 0 images, 1..="),
            (vec![good[0], ("test/a/1.png", &grey(3, 3))], "the test set of \"set\": 3x3 pixels"),
        ] {
            let error = open(&files).unwrap_err().to_string();
            assert!(error.contains(words), "\"{error}\" does not say \"{words}\"");
        }
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_refused_wherever_a_file_is_read() {
        let image = grey(2, 2);
        for file in ["train/a/1.png", "test/a/1.png", "dataset.toml", "test.parquet"] {
            let root = root(&[("train/a/0.png", &image), ("test/a/0.png", &image)]);
            let set = root.path().join("set");
            std::os::unix::fs::symlink("/dev/zero", set.join(file)).unwrap();
            if file == "test.parquet" {
                std::os::unix::fs::symlink(file, set.join("train.parquet")).unwrap();
            }
            let error = data::open("set", root.path()).unwrap_err().to_string();
            assert!(error.contains(": is a device; only regular files are read"), "{file}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_a_loop_ends() {
        let image = grey(2, 2);
        let root = root(&[("train/a/0.png", &image), ("train/a/1.png", &image), ("test/a/1.png", &image)]);
        let class = root.path().join("set/train/a");
        std::os::unix::fs::symlink("1.png", class.join("2.png")).unwrap();
        assert_eq!(data::open("set", root.path()).unwrap().train.len(), 3);
        std::os::unix::fs::symlink("3.png", class.join("3.png")).unwrap();
        let error = data::open("set", root.path()).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("3.png")), "{error:?}");
        fs::remove_file(class.join("3.png")).unwrap();
        std::os::unix::fs::symlink(&class, class.join("4.png")).unwrap();
        let error = data::open("set", root.path()).unwrap_err().to_string();
        assert!(error.contains("4.png: is a folder"), "{error}");
    }
}

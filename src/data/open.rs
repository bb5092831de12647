//! Opens a data set by name: a known one, or the user's own in the folder of that name.

use std::path::{Path, PathBuf};

use super::dataset::DatasetPair;
use super::folder;
use super::known::{KNOWN, Known};
use super::parquet;
use super::settings::{Settings, entries};
use crate::error::{Error, Result};

const MAX_NAME_BYTES: usize = 64;
/// How many of the user's data sets an error lists at most.
const LISTED_NAMES: usize = 32;

/// How the images in a folder are stored.
enum Form {
    Parquet(parquet::Files),
    Folder,
}

/// Opens the data set `name`. It is a known one, or the user's own in the folder `root/name`, stored as Parquet files
/// or as folders of images.
///
/// # Errors
/// [`Error::NotFound`] for an unknown name; [`Error::Invalid`] if files are absent or need settings; [`Error::Corrupt`]
/// if the files do not hold that data set.
pub fn open(name: &str, root: &Path) -> Result<DatasetPair> {
    if let Some(known) = Known::named(name) {
        return known.open(root);
    }
    let Some((folder, form)) = find(name, root)? else {
        let known = KNOWN.iter().map(|known| known.name.to_owned());
        let known: Vec<String> = known.chain(names(root)?).collect();
        return Err(Error::NotFound { what: "data set", name: name.to_owned(), known: known.join(", ") });
    };
    let settings = Settings::open(&folder)?;
    match form {
        Form::Parquet(files) => parquet::open(name, &files, &settings),
        Form::Folder => folder::open(name, &folder, &settings),
    }
}

/// The folder of the data set `name`, and how its images are stored. Names come from clients, so only plain names
/// become paths.
fn find(name: &str, root: &Path) -> Result<Option<(PathBuf, Form)>> {
    if !is_plain(name) {
        return Ok(None);
    }
    let folder = root.join(name);
    if !folder.is_dir() {
        return Ok(None);
    }
    for place in [folder.clone(), folder.join("data")] {
        if let Some(files) = parquet::Files::find(&place)? {
            return Ok(Some((folder, Form::Parquet(files))));
        }
    }
    Ok(folder::is_one(&folder).then_some((folder, Form::Folder)))
}

/// Whether `name` has only letters, digits, `.`, `_` and `-`, and begins with a letter or digit. Such a name cannot
/// lead out of the root.
fn is_plain(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Names of the user's data sets in `root`, sorted. The search stops after [`LISTED_NAMES`], because any client can
/// trigger it with an unknown name.
fn names(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for name in entries(root)?.into_iter().filter(|name| !KNOWN.iter().any(|known| known.name == name)) {
        if find(&name, root)?.is_some() {
            names.push(name);
        }
        if names.len() == LISTED_NAMES {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::super::dataset::tests::SAMPLE;
    use super::*;
    use crate::tensor::codec::write_atomic;

    /// Writes a file and the folders above it.
    pub(in crate::data) fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_atomic(path, [bytes]).unwrap();
    }

    #[test]
    fn names_that_are_not_plain_are_not_known() {
        let root = Path::new(SAMPLE).join("fashion-mnist");
        let long = "x".repeat(65);
        for name in [
            "../fashion-folder",
            "..",
            ".",
            "",
            "/",
            "a/b",
            "a\\b",
            ".hidden",
            "a\0b",
            "-x",
            "é",
            long.as_str(),
        ] {
            let error = open(name, &root).unwrap_err();
            assert!(matches!(error, Error::NotFound { .. }), "{name:?}: {error:?}");
        }
        assert!(open("fashion-folder", Path::new(SAMPLE)).is_ok());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        for name in ["mnist", "golden", "fashion-mnist-2"] {
            assert_eq!(
                open(name, Path::new(SAMPLE)).unwrap_err().to_string(),
                format!(
                    "data set \"{name}\" is not known (known: cifar-10, cifar-100, fashion-mnist, fashion-folder, \
                     fashion-parquet)"
                )
            );
        }
    }

    #[test]
    fn a_folder_without_images_is_not_a_data_set() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("texts/train.txt"), b"text");
        let error = open("texts", root.path()).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }

    #[test]
    fn bad_settings_are_refused_with_their_file() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("set/dataset.toml"), b"size = 0");
        fs::create_dir_all(root.path().join("set/train")).unwrap();
        let error = open("set", root.path()).unwrap_err().to_string();
        assert!(error.contains("dataset.toml: size 0"), "{error}");
    }
}

//! Data sets of one's own: found by the name of their folder, with the few things that images do not say.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::dataset::{DatasetPair, NO_LICENCE};
use super::folder;
use super::known::KNOWN;
use super::parquet;
use super::picture::MAX_SIZE;
use crate::error::{Error, Result};

/// Settings of a data set, in its folder.
pub(super) const SETTINGS: &str = "dataset.toml";

const MAX_SETTINGS_BYTES: u64 = 64 << 10;
const MAX_NAME_BYTES: usize = 64;
const MAX_LICENCE_BYTES: usize = 128;
/// Names that an error lists.
const LISTED_NAMES: usize = 32;

/// What `dataset.toml` may say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Height and width that every image is fitted to; absent: all have one square size.
    pub(super) size: Option<usize>,
    /// 1 (grey) or 3 (red, green, blue); absent: grey where every image is.
    pub(super) channels: Option<usize>,
    /// SPDX identifier of the data's licence, which goes into what is trained on them.
    pub(super) licence: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { size: None, channels: None, licence: NO_LICENCE.to_owned() }
    }
}

impl Settings {
    /// Reads and checks the settings of the data set in `folder`; without a file, the default.
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(SETTINGS);
        if !path.exists() {
            return Ok(Self::default());
        }
        let mut text = String::new();
        let file = File::open(&path).map_err(Error::io(&path))?;
        file.take(MAX_SETTINGS_BYTES + 1).read_to_string(&mut text).map_err(Error::io(&path))?;
        Self::parse(&text).map_err(|reason| Error::invalid(path.display().to_string(), reason))
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() as u64 > MAX_SETTINGS_BYTES {
            return Err(format!("is longer than the limit of {MAX_SETTINGS_BYTES} bytes"));
        }
        let settings: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if let Some(size) = settings.size.filter(|size| !(1..=MAX_SIZE).contains(size)) {
            return Err(format!("size {size} is beyond 1..={MAX_SIZE}"));
        }
        if let Some(channels) = settings.channels.filter(|channels| !matches!(channels, 1 | 3)) {
            return Err(format!("channels {channels} is neither 1 nor 3"));
        }
        if !(1..=MAX_LICENCE_BYTES).contains(&settings.licence.len()) {
            return Err(format!(
                "licence has {} bytes, beyond 1..={MAX_LICENCE_BYTES}",
                settings.licence.len()
            ));
        }
        Ok(settings)
    }
}

/// How the images of a folder are stored.
enum Layout {
    Parquet(parquet::Files),
    Folder,
}

/// Opens the data set in the folder `root/name`.
///
/// # Errors
/// [`Error::NotFound`] where `name` is not plain or its folder holds no data set; those of the readers.
pub(super) fn open(name: &str, root: &Path) -> Result<DatasetPair> {
    let Some((folder, layout)) = find(name, root)? else {
        let known = KNOWN.iter().map(|known| known.name.to_owned());
        let known: Vec<String> = known.chain(names(root)?).collect();
        return Err(Error::NotFound { what: "data set", name: name.to_owned(), known: known.join(", ") });
    };
    let settings = Settings::open(&folder)?;
    match layout {
        Layout::Parquet(files) => parquet::open(name, &files, &settings),
        Layout::Folder => folder::open(name, &folder, &settings),
    }
}

/// The folder of the data set `name` and how it is stored. Names come from clients: only a plain one becomes a path.
fn find(name: &str, root: &Path) -> Result<Option<(PathBuf, Layout)>> {
    if !is_plain(name) {
        return Ok(None);
    }
    let folder = root.join(name);
    if !folder.is_dir() {
        return Ok(None);
    }
    for place in [folder.clone(), folder.join("data")] {
        if let Some(files) = parquet::Files::find(&place)? {
            return Ok(Some((folder, Layout::Parquet(files))));
        }
    }
    Ok(folder::is_one(&folder).then_some((folder, Layout::Folder)))
}

/// Letters, digits, `.`, `_` and `-`, beginning with a letter or digit: never a path out of the root.
fn is_plain(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Names of the data sets in `root`, sorted; an error lists no more than a reader wants, and looks into no more
/// folders than that takes, because clients ask for names that are not there.
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

/// Names in a folder, sorted; those that begin with a dot are passed over.
pub(super) fn entries(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().into_string().map_err(|name| {
            let reason = format!("the name {} is not UTF-8", name.display());
            Error::invalid("data", format!("{}: {reason}", folder.display()))
        })?;
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::dataset::{Dataset, tests::SAMPLE};
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
            let error = Dataset::open(name, &root).unwrap_err();
            assert!(matches!(error, Error::NotFound { .. }), "{name:?}: {error:?}");
        }
        assert!(Dataset::open("fashion-folder", Path::new(SAMPLE)).is_ok());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        for name in ["mnist", "golden", "fashion-mnist-2"] {
            assert_eq!(
                Dataset::open(name, Path::new(SAMPLE)).unwrap_err().to_string(),
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
        let error = Dataset::open("texts", root.path()).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }

    #[test]
    fn settings_beyond_their_limits_are_refused() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        let full = Settings::parse("size = 32\nchannels = 3\nlicence = \"CC0-1.0\"").unwrap();
        assert_eq!(full, Settings { size: Some(32), channels: Some(3), licence: "CC0-1.0".to_owned() });
        for (text, words) in [
            ("size = 0", "size 0 is beyond 1..=1024"),
            ("size = 1025", "size 1025 is beyond 1..=1024"),
            ("channels = 2", "channels 2 is neither 1 nor 3"),
            ("licence = \"\"", "licence has 0 bytes, beyond 1..=128"),
            ("license = \"MIT\"", "unknown field `license`"),
            ("size = -1", "size"),
            (&" ".repeat(65_537), "longer than the limit of 65536 bytes"),
        ] {
            let reason = Settings::parse(text).unwrap_err();
            assert!(reason.contains(words), "\"{reason}\" does not say \"{words}\"");
        }
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("set/dataset.toml"), b"size = 0");
        fs::create_dir_all(root.path().join("set/train")).unwrap();
        let error = Dataset::open("set", root.path()).unwrap_err().to_string();
        assert!(error.contains("dataset.toml: size 0"), "{error}");
    }
}

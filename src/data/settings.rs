//! The settings file of a data set, and the sorted names in a folder. The settings state what the images do not.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::dataset::{MAX_SIZE, NO_LICENCE};
use crate::error::{Error, Result};
use crate::file;

/// Name of the settings file in a data set's folder.
pub(super) const SETTINGS: &str = "dataset.toml";

const MAX_SETTINGS_BYTES: u64 = 64 << 10;
const MAX_LICENCE_BYTES: usize = 128;

/// The contents of `dataset.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Height and width to which every image is fitted. If absent, all images must be square and of one size.
    pub(super) size: Option<usize>,
    /// 1 (grey) or 3 (red, green, blue). If absent: 1 if every image is grey, otherwise 3.
    pub(super) channels: Option<usize>,
    /// SPDX identifier of the data's licence. Models trained on the data carry it.
    pub(super) licence: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { size: None, channels: None, licence: NO_LICENCE.to_owned() }
    }
}

impl Settings {
    /// Reads and checks the settings of the data set in `folder`. Returns the defaults if there is no settings file.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(SETTINGS);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = file::text(&path, MAX_SETTINGS_BYTES)?;
        Self::parse(&text).map_err(|reason| Error::invalid(path.display().to_string(), reason))
    }

    fn parse(text: &str) -> Result<Self, String> {
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

/// The sorted names in a folder. Names that begin with a dot are skipped.
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
mod tests {
    use super::*;

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
        ] {
            let reason = Settings::parse(text).unwrap_err();
            assert!(reason.contains(words), "\"{reason}\" does not say \"{words}\"");
        }
    }
}

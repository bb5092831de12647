//! Reads files that others name, and writes files whole. Only regular files are opened, and their size is checked before
//! a byte is read.
//!
//! A FIFO would block the reader until somebody writes, and a device such as `/dev/zero` never ends.

mod atomic;

use std::{
    fs::{File, FileType, Metadata, OpenOptions},
    io::Read as _,
    path::Path,
};

use crate::error::{Error, Result};

pub use atomic::{check_target, check_writable, write_atomic};

/// Opens the regular file at `path` for reading, if it has at most `limit` bytes. Links are followed.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened; [`Error::Corrupt`] if it is not a regular file or is longer than `limit`.
pub fn open(path: &Path, limit: u64) -> Result<(File, Metadata)> {
    let check = |metadata: Metadata| {
        let corrupt = |reason: String| Err(Error::corrupt(path.display().to_string(), reason));
        if !metadata.is_file() {
            return corrupt(format!("is {}; only regular files are read", kind(metadata.file_type())));
        }
        if metadata.len() > limit {
            return corrupt(format!("{} bytes are more than the limit of {limit}", metadata.len()));
        }
        Ok(metadata)
    };
    // To open some devices has an effect, so the first check comes before that.
    check(std::fs::metadata(path).map_err(Error::io(path))?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // If a FIFO has taken the place of the file since then, opening it must not wait for a writer.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path).map_err(Error::io(path))?;
    let metadata = check(file.metadata().map_err(Error::io(path))?)?;
    Ok((file, metadata))
}

/// The bytes of the regular file at `path`.
///
/// # Errors
/// As [`open`], also if the file grows beyond `limit` while it is read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, metadata) = open(path, limit)?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::corrupt(
            path.display().to_string(),
            format!("grew beyond the limit of {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// The text of the regular file at `path`.
///
/// # Errors
/// As [`read`]; [`Error::Corrupt`] if it is not UTF-8.
pub fn text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|error| Error::corrupt(path.display().to_string(), format!("is not text: {error}")))
}

/// What a file of another type is, in words.
fn kind(found: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if found.is_fifo() {
            return "a FIFO";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    if found.is_dir() {
        "a folder"
    } else if found.is_symlink() {
        "a link"
    } else {
        "no file"
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn regular_files_up_to_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        File::create(&path).unwrap().write_all(b"text").unwrap();
        assert_eq!(text(&path, 4).unwrap(), "text");
        let error = read(&path, 3).unwrap_err();
        assert!(error.to_string().ends_with("a: 4 bytes are more than the limit of 3"), "{error}");
        File::create(&path).unwrap().write_all(&[0xff]).unwrap();
        assert!(text(&path, 4).unwrap_err().to_string().contains("is not text"));
        assert!(matches!(open(&folder.path().join("b"), 4).unwrap_err(), Error::Io { .. }));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_a_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for (path, words) in [
            (fifo.as_path(), "is a FIFO; only regular files are read"),
            (&link, "is a FIFO"),
            (&socket, "is a socket"),
            (Path::new("/dev/zero"), "is a device"),
            (folder.path(), "is a folder"),
        ] {
            let error = open(path, u64::MAX).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
            assert!(error.to_string().contains(words), "\"{error}\" does not say \"{words}\"");
        }
    }
}

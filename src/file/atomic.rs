//! Writes a file whole or not at all.
//!
//! On Linux the bytes go to a file without a name, which gets its name at the end. A process that is killed leaves
//! nothing behind. Where the file system has no such files, they go to a temporary file in the same folder.

#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use tempfile::{Builder, NamedTempFile};

use crate::error::{Error, Result};

use super::kind;

/// Writes `parts` to a new file and gives it the name `path`. A reader sees the old file or the new one, never a
/// partial one.
///
/// # Errors
/// Those of [`check_writable`], and [`Error::Io`]; nothing is left behind.
pub fn write_atomic<'a>(path: &Path, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let mut new = New::create(path)?;
    let written = parts.into_iter().try_for_each(|part| new.file().write_all(part));
    written.and_then(|()| new.publish(path)).map_err(Error::io(path))
}

/// Checks that a file can be written to `path`, before work whose result will go there.
///
/// # Errors
/// Those of [`check_target`]; [`Error::Io`] if the folder cannot be written.
pub fn check_writable(path: &Path) -> Result<()> {
    New::create(path).map(drop)
}

/// Checks that `path` is in a folder, and names a regular file or nothing. Only the user can say whether a link, a FIFO
/// or a device may be replaced, and whether a missing folder is a mistake.
///
/// # Errors
/// [`Error::Invalid`] naming `path`; [`Error::Io`] if the system does not say.
pub fn check_target(path: &Path) -> Result<()> {
    let invalid = |reason: String| Err(Error::invalid(path.display().to_string(), reason));
    let folder = folder(path);
    if !folder.is_dir() {
        return invalid(format!("there is no folder {}; create it first", folder.display()));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) => invalid(format!("is {}; only a regular file is replaced", kind(found.file_type()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path)(error)),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that does not have its name yet.
enum New {
    #[cfg(target_os = "linux")]
    Unnamed(File),
    Temporary(NamedTempFile),
}

impl New {
    fn create(path: &Path) -> Result<Self> {
        check_target(path)?;
        #[cfg(target_os = "linux")]
        if let Some(file) = unnamed(folder(path)) {
            return Ok(Self::Unnamed(file));
        }
        let mut builder = Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // tempfile makes private files, but this one becomes an ordinary file.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        builder.tempfile_in(folder(path)).map(Self::Temporary).map_err(Error::io(path))
    }

    fn file(&mut self) -> &mut File {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => file,
            Self::Temporary(temporary) => temporary.as_file_mut(),
        }
    }

    /// Syncs the file and gives it its name.
    fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file().sync_all()?;
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => match link(&file, path) {
                // A link cannot replace a file, but a renaming can.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let linked = Builder::new().make_in(folder(path), |temporary| link(&file, temporary))?;
                    linked.persist(path).map_err(|error| error.error)
                }
                linked => linked,
            },
            Self::Temporary(temporary) => temporary.persist(path).map(drop).map_err(|error| error.error),
        }
    }
}

/// A file without a name in `folder`, if it can get one later.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> Option<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let file =
        openat(CWD, folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
    file.ok().map(File::from).filter(|file| descriptor(file).exists())
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    Ok(linkat(CWD, descriptor(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// The link to an open file, by which it gets a name (open(2), `O_TMPFILE`).
#[cfg(target_os = "linux")]
fn descriptor(file: &File) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for parts in [["on".as_bytes(), b"e"], [b"tw", b"o"]] {
            write_atomic(&path, parts).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), parts.concat());
        }
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_unfinished_file_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut new = New::create(&folder.path().join("a")).unwrap();
        new.file().write_all(b"half").unwrap();
        assert!(matches!(new, New::Temporary(_)) || names(folder.path()).is_empty());
    }

    #[test]
    fn a_temporary_file_gets_the_name_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut new = New::Temporary(Builder::new().tempfile_in(folder.path()).unwrap());
        new.file().write_all(b"text").unwrap();
        new.publish(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn only_a_regular_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("folder")).unwrap();
        let mut cases =
            vec![("folder", "folder: is a folder"), ("no/a", "there is no folder"), ("", "is a folder")];
        #[cfg(unix)]
        {
            use std::os::unix::{fs::symlink, net::UnixListener};
            symlink("/dev/null", path("link")).unwrap();
            UnixListener::bind(path("socket")).unwrap();
            cases.extend([("link", "link: is a link"), ("socket", "socket: is a socket")]);
        }
        let before = names(folder.path());
        for (name, words) in cases {
            let error = write_atomic(&path(name), [b"x".as_slice()]).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains(words), "\"{error}\" does not say \"{words}\"");
            assert_eq!(check_writable(&path(name)).unwrap_err().to_string(), error.to_string());
        }
        assert_eq!(names(folder.path()), before);
    }
}

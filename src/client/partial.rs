//! A file that is arriving. It lies beside its target under the identity of the model until it is whole, so that a run
//! that was killed is gone on with at the byte.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    error::{Error, Result},
    tensor::hex,
};

/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// What has arrived of a file, and its digest so far. Everything here blocks.
#[derive(Debug)]
pub(super) struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Partial {
    /// What has arrived of the model called `identity`, of `size` bytes, for `target`; nothing at first.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] where another process is writing it.
    pub(super) fn open(target: &Path, identity: &str, size: u64) -> Result<Self> {
        let path = path(target, identity)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let mut file = locked(&path)?;
        let found = file.metadata().map_err(Error::io(&path))?.len();
        if found > size {
            file.set_len(0).map_err(Error::io(&path))?;
        }
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; READ_BYTES]);
        loop {
            match file.read(&mut buffer).map_err(Error::io(&path))? {
                0 => break,
                count => {
                    hash.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
        Ok(Self { target: target.to_owned(), path, file, hash, bytes })
    }

    /// Bytes so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the bytes that follow.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk).map_err(Error::io(&self.path))?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// SHA-256 of what has arrived, hex.
    pub(super) fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Gives it the name of the target.
    pub(super) fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))?;
        std::fs::rename(&self.path, &self.target).map_err(Error::io(&self.target))
    }

    /// Leaves nothing behind.
    pub(super) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(Error::io(&self.path))
    }
}

/// First digits of the identity that are in a name: a file system takes 255 bytes, and the digest of the whole is checked.
const IDENTITY_DIGITS: usize = 16;

/// `.{target}.{identity}.part` beside the target.
fn path(target: &Path, identity: &str) -> Result<PathBuf> {
    let Some(name) = target.file_name() else {
        return Err(Error::invalid("output", format!("\"{}\" names no file", target.display())));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    let identity = identity.get(..IDENTITY_DIGITS).unwrap_or(identity);
    hidden.push(format!(".{identity}.part"));
    Ok(target.with_file_name(hidden))
}

/// The file at `path`, which no other process has while it is open.
fn locked(path: &Path) -> Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path).map_err(Error::io(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::invalid(
                    "output",
                    format!("another process is writing {}", path.display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(path)(error)),
        }
        // Who had it before may have renamed or removed it in between, and then this is not the file of that name.
        if is_named(&file, path)? {
            return Ok(file);
        }
    }
}

#[cfg(unix)]
fn is_named(file: &File, path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let own = file.metadata().map_err(Error::io(path))?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// An open file cannot be renamed there.
#[cfg(not(unix))]
fn is_named(_: &File, _: &Path) -> Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::sha256;

    #[test]
    fn what_has_arrived_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new/m.safetensors");
        let mut partial = Partial::open(&target, "id", 4).unwrap();
        partial.write(b"ab").unwrap();
        let busy = Partial::open(&target, "id", 4).unwrap_err().to_string();
        assert!(busy.contains("another process is writing"), "{busy}");
        drop(partial);
        assert!(!target.exists());

        assert_eq!(Partial::open(&target, "other", 4).unwrap().bytes(), 0);
        let mut partial = Partial::open(&target, "id", 4).unwrap();
        assert_eq!(partial.bytes(), 2);
        partial.write(b"cd").unwrap();
        assert_eq!(partial.sha256(), hex(&sha256(b"abcd")));
        partial.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"abcd");

        let mut partial = Partial::open(&target, "id", 4).unwrap();
        partial.write(b"longer").unwrap();
        drop(partial);
        assert_eq!(Partial::open(&target, "id", 4).unwrap().bytes(), 0, "more than the file has");
        Partial::open(&target, "id", 4).unwrap().remove().unwrap();
        Partial::open(Path::new("/"), "id", 4).unwrap_err();
    }
}

//! A partial file. It lies beside its target and has the identity of the model in its name, so that after a kill the
//! next run resumes at the last byte received.
//!
//! A file that is received in order holds the bytes received so far. A file that is received in parts has its full
//! length from the start, followed by a record of how much of each part has arrived. The record may be wrong, because
//! the whole file is checked before it gets its name.
//!
//! This file changes only when the form of a partial file on disk changes, because opening, writing and resuming all
//! depend on it. More than a quarter of it is tests.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    error::{Error, Result},
    file,
};

/// The first bytes of a record.
const MAGIC: [u8; 8] = *b"gb-parts";
/// Length of a record before its numbers: [`MAGIC`] and the length of a part.
const RECORD_HEAD_BYTES: u64 = 16;
/// The record of a part is updated after this many bytes. A kill loses at most this much of each part.
const RECORD_EVERY_BYTES: u64 = 1 << 20;

/// A partial file. Every method blocks.
#[derive(Debug)]
pub(super) struct Partial {
    place: Place,
    size: u64,
    arrived: Arrived,
}

/// An open file and its path, shared by several threads. Errors name the target, because only that is known to the
/// user.
#[derive(Debug, Clone)]
pub(super) struct Place {
    target: PathBuf,
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

/// Which bytes have arrived.
#[derive(Debug)]
enum Arrived {
    /// The first bytes of the file.
    Prefix(u64),
    /// The first bytes of each part of `length` bytes, and how many of them are recorded.
    Parts { length: u64, bytes: Vec<u64>, recorded: Vec<u64> },
}

impl Partial {
    /// Opens the partial file of the model called `identity`, which has `size` bytes, for `target`. With `part_bytes`
    /// it will be received in parts of this length, otherwise in order. It resumes what either way left behind.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] if another process is writing the file.
    pub(super) fn open(target: &Path, identity: &str, size: u64, part_bytes: Option<u64>) -> Result<Self> {
        file::check_target(target)?;
        let path = path(target, identity)?;
        let file = Arc::new(Mutex::new(locked(&path, target)?));
        let place = Place { path, file, target: target.to_owned() };
        let found = place.length()?;
        let arrived = if found <= size { Some(Arrived::Prefix(found)) } else { Arrived::read(&place, size)? };
        let mut partial = Self { place, size, arrived: arrived.unwrap_or(Arrived::Prefix(0)) };
        match (part_bytes, &partial.arrived) {
            (None, _) => partial.keep_prefix(partial.prefix())?,
            (Some(wanted), Arrived::Parts { length, .. }) if *length == wanted => {}
            (Some(length), _) => {
                partial.keep_prefix(partial.prefix())?;
                partial.divide(length)?;
            }
        }
        Ok(partial)
    }

    /// Number of bytes that have arrived from the first byte on, up to the first gap.
    pub(super) fn prefix(&self) -> u64 {
        match &self.arrived {
            Arrived::Prefix(bytes) => *bytes,
            Arrived::Parts { length, bytes, .. } => {
                let whole =
                    bytes.iter().enumerate().take_while(|(part, bytes)| self.part(*part, *length) == **bytes);
                let whole = whole.count();
                (whole as u64 * length + bytes.get(whole).unwrap_or(&0)).min(self.size)
            }
        }
    }

    /// Number of bytes that have arrived.
    pub(super) fn bytes(&self) -> u64 {
        match &self.arrived {
            Arrived::Prefix(bytes) => *bytes,
            Arrived::Parts { bytes, .. } => bytes.iter().sum(),
        }
    }

    /// The missing ranges in file order, none longer than a part.
    pub(super) fn missing(&self) -> Vec<Range<u64>> {
        match &self.arrived {
            Arrived::Prefix(bytes) => {
                std::iter::once(*bytes..self.size).filter(|range| !range.is_empty()).collect()
            }
            Arrived::Parts { length, bytes, .. } => {
                let rest = |(part, bytes): (usize, &u64)| {
                    let start = part as u64 * length;
                    start + bytes..start + self.part(part, *length)
                };
                bytes.iter().enumerate().map(rest).filter(|range| !range.is_empty()).collect()
            }
        }
    }

    /// Appends bytes to the file, or to a part of it.
    pub(super) fn write(&mut self, offset: u64, chunk: &[u8]) -> Result<()> {
        let (size, path) = (self.size, self.place.target.clone());
        let misplaced =
            || Error::corrupt(path.display().to_string(), format!("{} bytes at {offset}", chunk.len()));
        let count = chunk.len() as u64;
        if offset > size {
            return Err(misplaced());
        }
        match &mut self.arrived {
            Arrived::Prefix(bytes) if *bytes == offset && count <= size - offset => *bytes += count,
            Arrived::Prefix(_) => return Err(misplaced()),
            Arrived::Parts { length, bytes, .. } => {
                let part = offset / *length;
                let end = ((part + 1) * *length).min(size);
                let arrived = bytes.get_mut(part as usize).filter(|bytes| part * *length + **bytes == offset);
                let arrived =
                    arrived.filter(|_| count <= end.saturating_sub(offset)).ok_or_else(misplaced)?;
                *arrived += count;
            }
        }
        self.place.write(offset, chunk)?;
        self.record(RECORD_EVERY_BYTES)
    }

    /// Records each part that is complete or has grown by at least `every` bytes.
    pub(super) fn record(&mut self, every: u64) -> Result<()> {
        let (place, size) = (&self.place, self.size);
        let Arrived::Parts { length, bytes, recorded } = &mut self.arrived else { return Ok(()) };
        for (part, (bytes, recorded)) in bytes.iter().zip(recorded).enumerate() {
            let start = part as u64 * *length;
            let end = *bytes == (*length).min(size - start);
            if bytes > recorded && (end || bytes - *recorded >= every) {
                place.write(size + RECORD_HEAD_BYTES + 8 * part as u64, &bytes.to_le_bytes())?;
                *recorded = *bytes;
            }
        }
        Ok(())
    }

    /// The file, for a thread that reads it back.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    /// Renames the file to its target.
    pub(super) fn finish(self) -> Result<()> {
        let Place { target, path, file } = &self.place;
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = file.set_len(self.size).and_then(|()| file.sync_all());
        whole.and_then(|()| std::fs::rename(path, target)).map_err(Error::io(target))
    }

    /// Removes the file.
    pub(super) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.place.path).map_err(Error::io(&self.place.path))
    }

    /// Length of a part.
    fn part(&self, part: usize, length: u64) -> u64 {
        length.min(self.size.saturating_sub(part as u64 * length))
    }

    /// Drops everything after the first `bytes` bytes.
    fn keep_prefix(&mut self, bytes: u64) -> Result<()> {
        self.place.set_length(bytes)?;
        self.arrived = Arrived::Prefix(bytes);
        Ok(())
    }

    /// Prepares the file to be received in parts from now on.
    fn divide(&mut self, length: u64) -> Result<()> {
        let prefix = self.prefix();
        let count = self.size.div_ceil(length) as usize;
        let bytes = |part| prefix.saturating_sub(part as u64 * length).min(self.part(part, length));
        let bytes: Vec<_> = (0..count).map(bytes).collect();
        let numbers = bytes.iter().flat_map(|bytes| bytes.to_le_bytes());
        let record: Vec<_> = MAGIC.into_iter().chain(length.to_le_bytes()).chain(numbers).collect();
        self.place.write(self.size, &record)?;
        self.arrived = Arrived::Parts { length, recorded: bytes.clone(), bytes };
        Ok(())
    }
}

impl Arrived {
    /// Reads the record after the file, if there is a valid one.
    fn read(place: &Place, size: u64) -> Result<Option<Self>> {
        let found = place.length()? - size;
        let mut head = [0; RECORD_HEAD_BYTES as usize];
        if found < RECORD_HEAD_BYTES {
            return Ok(None);
        }
        place.read(size, &mut head)?;
        let [magic, length] = [&head[..8], &head[8..]].map(|half| half.try_into().unwrap_or([0; 8]));
        let length = u64::from_le_bytes(length);
        // The length of the file limits what is allocated below.
        if magic != MAGIC || length == 0 || found != RECORD_HEAD_BYTES + 8 * size.div_ceil(length) {
            return Ok(None);
        }
        let mut numbers = vec![0; (found - RECORD_HEAD_BYTES) as usize];
        place.read(size + RECORD_HEAD_BYTES, &mut numbers)?;
        let numbers = numbers.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number));
        let within = |(part, bytes): (usize, u64)| {
            if bytes <= length.min(size - part as u64 * length) { bytes } else { 0 }
        };
        let bytes: Vec<_> = numbers.enumerate().map(within).collect();
        Ok(Some(Self::Parts { length, recorded: bytes.clone(), bytes }))
    }
}

impl Place {
    /// Fills `buffer` with the bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(buffer));
        read.map_err(Error::io(&self.target))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
        written.map_err(Error::io(&self.target))
    }

    fn length(&self) -> Result<u64> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.metadata().map(|metadata| metadata.len()).map_err(Error::io(&self.target))
    }

    fn set_length(&self, bytes: u64) -> Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.set_len(bytes).map_err(Error::io(&self.target))
    }
}

/// Digits of the identity in a name. File systems limit a name to 255 bytes, and the whole file is checked anyway.
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

/// Opens the file at `path` and locks out other processes while it is open. Errors name its `target`.
fn locked(path: &Path, target: &Path) -> Result<File> {
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(Error::io(target))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::invalid(
                    "output",
                    format!("another process is writing {}", target.display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(target)(error)),
        }
        // The process that had the lock may have renamed or removed the file. Then this is no longer the file at
        // `path`.
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

/// On this system an open file cannot be renamed.
#[cfg(not(unix))]
fn is_named(_: &File, _: &Path) -> Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::codec::write_atomic;

    #[test]
    fn what_has_arrived_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.safetensors");
        let open = || Partial::open(&target, "id", 4, None);
        let mut partial = open().unwrap();
        partial.write(0, b"ab").unwrap();
        let busy = open().unwrap_err().to_string();
        // The user knows the target, and not the partial file.
        assert!(busy.ends_with(&format!("another process is writing {}", target.display())), "{busy}");
        drop(partial);
        assert!(!target.exists());

        assert_eq!(Partial::open(&target, "other", 4, None).unwrap().bytes(), 0);
        let mut partial = open().unwrap();
        assert_eq!((partial.bytes(), partial.prefix()), (2, 2));
        for (offset, bytes) in [(1, &b"c"[..]), (3, b"d"), (2, b"cde")] {
            partial.write(offset, bytes).unwrap_err();
        }
        partial.write(2, b"cd").unwrap();
        partial.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"abcd");

        write_atomic(&folder.path().join(".m.safetensors.id.part"), [&b"longer"[..]]).unwrap();
        assert_eq!(open().unwrap().bytes(), 0, "more than the file has");
        open().unwrap().remove().unwrap();
        for target in [Path::new("/"), &folder.path().join("new/m")] {
            Partial::open(target, "id", 4, None).unwrap_err();
        }
        assert!(!folder.path().join("new").exists());
    }

    #[test]
    fn parts_come_in_any_order_and_are_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m");
        let open = |part_bytes| Partial::open(&target, "id", 10, part_bytes).unwrap();
        let mut partial = open(Some(4));
        assert_eq!(partial.missing(), [0..4, 4..8, 8..10]);
        partial.write(8, b"ij").unwrap();
        partial.write(0, b"a").unwrap();
        partial.write(1, b"bc").unwrap();
        for (offset, bytes) in
            [(2, &b"c"[..]), (3, b"de"), (5, b"f"), (10, b"k"), (12, b"k"), (u64::MAX, b"k")]
        {
            partial.write(offset, bytes).unwrap_err();
        }
        assert_eq!((partial.prefix(), partial.bytes()), (3, 5));
        // After a kill only complete parts count here, because others are recorded every MiB.
        drop(partial);
        let mut partial = open(Some(4));
        assert_eq!((partial.bytes(), partial.missing()), (2, vec![0..4, 4..8]));
        partial.write(0, b"abcd").unwrap();
        partial.write(4, b"e").unwrap();
        partial.record(0).unwrap();
        drop(partial);

        let mut partial = open(Some(4));
        assert_eq!((partial.prefix(), partial.missing().first()), (5, Some(&(5..8))));
        partial.write(5, b"fgh").unwrap();
        assert_eq!((partial.prefix(), partial.bytes()), (10, 10));
        partial.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"abcdefghij");
    }

    #[test]
    fn a_file_is_gone_on_with_in_the_other_way() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m");
        let open = |part_bytes| Partial::open(&target, "id", 10, part_bytes).unwrap();
        open(None).write(0, b"abcde").unwrap();
        let mut partial = open(Some(4));
        assert_eq!((partial.prefix(), partial.missing()), (5, vec![5..8, 8..10]));
        partial.write(8, b"ij").unwrap();
        drop(partial);
        // With another part length, everything after the first gap is lost.
        assert_eq!(open(Some(3)).missing(), [5..6, 6..9, 9..10]);
        assert_eq!(open(None).missing().first(), Some(&(5..10)));
        let mut partial = open(None);
        partial.write(5, b"fghij").unwrap();
        drop(partial);
        let partial = open(Some(4));
        assert_eq!((partial.prefix(), partial.missing()), (10, vec![]));
        partial.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"abcdefghij");
    }

    #[test]
    fn a_record_that_is_none_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m");
        let part = folder.path().join(".m.id.part");
        let open = || Partial::open(&target, "id", 10, Some(4)).unwrap();
        drop(open());
        let record = std::fs::read(&part).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut record = record.clone();
            record.splice(at..at + bytes.len(), bytes.iter().copied());
            record
        };
        for (bytes, arrived) in [
            (record.clone(), 0),
            (with(26, &[4]), 4),
            (with(26, &[5]), 0),
            (with(42, &[2]), 2),
            (with(42, &[3]), 0),
            (with(26, &[255; 24]), 0),
            (with(10, b"x"), 0),
            (with(18, &[0]), 0),
            (with(18, &[255; 8]), 0),
            (record[..record.len() - 1].to_vec(), 0),
            (record[..12].to_vec(), 0),
        ] {
            write_atomic(&part, [bytes.as_slice()]).unwrap();
            assert_eq!(open().bytes(), arrived);
        }
    }
}

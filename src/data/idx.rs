//! IDX files of bytes, plain or compressed with gzip: the file format of the MNIST family.
//!
//! The header is big-endian: two zero bytes, the element type (8 = u8), the number of dimensions, and each dimension as
//! u32. The elements follow, last index fastest. The header is checked before memory is allocated, and memory grows
//! with the bytes that are actually read. So neither a false header nor a gzip bomb can use more memory than the file
//! justifies.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::error::{Error, Result};
use crate::file;

/// Size limit of the elements, bytes.
pub const MAX_PAYLOAD_BYTES: u64 = 2 << 30;

/// Largest number of dimensions.
pub const MAX_RANK: usize = 4;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const TYPE_U8: u8 = 8;
/// Size limit of a file, bytes. Gzip may make an array a little longer.
const MAX_FILE_BYTES: u64 = MAX_PAYLOAD_BYTES + (16 << 20);
const FIRST_CAPACITY: u64 = 64 << 10;

/// An array of bytes with its shape.
#[derive(Clone, PartialEq, Eq)]
pub struct Idx {
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

impl Idx {
    /// Reads the file at `path`. Gzip is recognised by the first bytes, not by the name.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Corrupt`] if it is not exactly one IDX array of bytes.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, _) = file::open(path, MAX_FILE_BYTES)?;
        Self::decode(BufReader::new(file), path)
    }

    /// Reads from `source`, plain or gzip. Errors name it by `path`.
    ///
    /// # Errors
    /// As [`Idx::open`].
    pub fn decode(mut source: impl BufRead, path: &Path) -> Result<Self> {
        let start = source.fill_buf().map_err(Error::io(path))?;
        if !start.starts_with(&GZIP_MAGIC) {
            return Self::decode_plain(source, path);
        }
        let mut decoder = GzDecoder::new(source);
        let idx = Self::decode_plain(&mut decoder, path)?;
        if decoder.into_inner().fill_buf().map_err(Error::io(path))?.is_empty() {
            Ok(idx)
        } else {
            Err(corrupt(path, "bytes follow the gzip member"))
        }
    }

    fn decode_plain(mut source: impl Read, path: &Path) -> Result<Self> {
        let mut magic = [0; 4];
        source.read_exact(&mut magic).map_err(|error| unreadable(path, error, "the header"))?;
        let [zero, also_zero, element, rank] = magic;
        if zero != 0 || also_zero != 0 {
            return Err(corrupt(
                path,
                format!("starts with {zero:#04x} {also_zero:#04x}, an IDX file with 0x00 0x00"),
            ));
        }
        if element != TYPE_U8 {
            return Err(corrupt(path, format!("element type is {element:#04x}, only 0x08 (u8) is read")));
        }
        let rank = usize::from(rank);
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(corrupt(path, format!("has {rank} dimensions, 1..={MAX_RANK} are read")));
        }
        let mut header = [0; 4 * MAX_RANK];
        let header = &mut header[..4 * rank];
        source.read_exact(header).map_err(|error| unreadable(path, error, "the dimensions"))?;
        let dims: Vec<u32> =
            header.as_chunks().0.iter().map(|&big_endian| u32::from_be_bytes(big_endian)).collect();
        if dims.contains(&0) {
            return Err(corrupt(path, format!("shape {dims:?} is empty")));
        }
        let declared = dims
            .iter()
            .try_fold(1_u64, |product, &dim| product.checked_mul(u64::from(dim)))
            .filter(|&declared| declared <= MAX_PAYLOAD_BYTES)
            .ok_or_else(|| {
                corrupt(path, format!("shape {dims:?} is more than the limit of {MAX_PAYLOAD_BYTES} bytes"))
            })?;

        let mut bytes = Vec::with_capacity(declared.min(FIRST_CAPACITY) as usize);
        // Reading one byte beyond the declared length detects trailing data, and makes gzip verify its checksum.
        source
            .take(declared + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(path, error, "the payload"))?;
        match (bytes.len() as u64).cmp(&declared) {
            std::cmp::Ordering::Less => Err(corrupt(
                path,
                format!("ends after {} bytes, shape {dims:?} needs {declared}", bytes.len()),
            )),
            std::cmp::Ordering::Greater => {
                Err(corrupt(path, format!("bytes follow the {declared} of shape {dims:?}")))
            }
            std::cmp::Ordering::Equal => {
                Ok(Self { dims: dims.into_iter().map(|dim| dim as usize).collect(), bytes })
            }
        }
    }

    /// Between 1 and [`MAX_RANK`] dimensions, outermost first. None of them is 0.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The elements, last index fastest.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl std::fmt::Debug for Idx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idx").field("dims", &self.dims).finish_non_exhaustive()
    }
}

fn corrupt(path: &Path, reason: impl Into<String>) -> Error {
    Error::corrupt(path.display().to_string(), reason)
}

/// Tells errors in the file's content (corrupt) from failures of the system (io).
fn unreadable(path: &Path, error: std::io::Error, part: &str) -> Error {
    let kind = error.kind();
    if kind == ErrorKind::UnexpectedEof {
        corrupt(path, format!("ends within {part}"))
    } else if kind == ErrorKind::InvalidData || kind == ErrorKind::InvalidInput {
        corrupt(path, format!("gzip is damaged within {part}: {error}"))
    } else {
        Error::io(path)(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn plain(element: u8, dims: &[u32], payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, element, dims.len() as u8];
        file.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
        file.extend(payload);
        file
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(file: &[u8]) -> Result<Idx> {
        Idx::decode(file, Path::new("a.idx"))
    }

    #[track_caller]
    fn refused(file: &[u8], words: &str) {
        let error = decode(file).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "\"{error}\" does not say \"{words}\"");
    }

    #[test]
    fn plain_and_gzip_read_alike() {
        let file = plain(8, &[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let idx = decode(&file).unwrap();
        assert_eq!((idx.dims(), idx.bytes()), (&[2, 1, 3][..], &[1, 2, 3, 4, 5, 6][..]));
        assert_eq!(decode(&gzip(&file)).unwrap(), idx);
    }

    #[test]
    fn hostile_headers_are_refused() {
        refused(&[], "ends within the header");
        refused(&[1, 0, 8, 1, 0, 0, 0, 1, 7], "starts with 0x01 0x00");
        refused(&plain(0x0d, &[1], &[0; 4]), "element type is 0x0d");
        refused(&plain(8, &[], &[]), "has 0 dimensions, 1..=4");
        refused(&plain(8, &[1; 5], &[0]), "has 5 dimensions, 1..=4");
        refused(&plain(8, &[3, 0], &[]), "shape [3, 0] is empty");
        refused(&plain(8, &[1 << 20; 3], &[]), "more than the limit of 2147483648 bytes");
        refused(&plain(8, &[u32::MAX; 4], &[]), "more than the limit");
        refused(&plain(8, &[(2 << 30) + 1], &[]), "more than the limit");
        refused(&[0, 0, 8, 2, 0, 0, 0, 1, 0], "ends within the dimensions");
    }

    #[test]
    fn payload_must_be_exactly_as_declared() {
        refused(&plain(8, &[3], &[1, 2]), "ends after 2 bytes, shape [3] needs 3");
        refused(&plain(8, &[2 << 30], &[1, 2]), "ends after 2 bytes");
        refused(&plain(8, &[3], &[1, 2, 3, 4]), "bytes follow the 3 of shape [3]");
    }

    #[test]
    fn gzip_bomb_is_read_no_further_than_declared() {
        let bomb = gzip(&plain(8, &[3], &vec![0; 16 << 20]));
        let mut unread = &bomb[..];
        let error =
            Idx::decode(std::io::BufReader::with_capacity(64, &mut unread), Path::new("bomb")).unwrap_err();
        assert!(error.to_string().contains("bytes follow the 3"), "{error}");
        assert!(unread.len() > bomb.len() / 2, "{} of {} bytes are unread", unread.len(), bomb.len());
    }

    #[test]
    fn damaged_gzip_is_refused() {
        let good = gzip(&plain(8, &[300], &[9; 300]));
        refused(&good[..good.len() - 9], "ends within the payload");
        let mut wrong_checksum = good.clone();
        let at = good.len() - 8;
        wrong_checksum[at] ^= 1;
        refused(&wrong_checksum, "gzip is damaged");
        refused(&[&good[..], b"more"].concat(), "bytes follow the gzip member");
    }

    #[test]
    fn missing_file_is_not_called_corrupt() {
        let error = Idx::open(Path::new("no/such/file.gz")).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }
}

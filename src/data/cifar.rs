//! CIFAR's binary files: records of label bytes followed by one 3x32x32 image.
//!
//! *Source:* Krizhevsky 2009, <https://www.cs.toronto.edu/~kriz/cifar.html>. A CIFAR-10 record has one label byte. A
//! CIFAR-100 record has a coarse and a fine label, and the fine label is read. The files have no header, so only their
//! length can be checked.

use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use super::dataset::ImageShape;
use crate::error::{Error, Result};
use crate::file;

/// Shape of every image.
pub(super) const SHAPE: ImageShape = ImageShape { channels: 3, size: 32 };

/// Size limit of a file, bytes. The largest official file has 153,700,000.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 30;

/// Pixels and labels of one or more files, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Records {
    /// `[items, 3, 32, 32]`.
    pub(super) images: Vec<u8>,
    /// `[items]`.
    pub(super) labels: Vec<u16>,
}

impl Records {
    /// Appends the records of the file at `path`. Each record has `label_bytes` bytes before its image.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Corrupt`] if it is too long, or is not a sequence of whole
    /// records.
    pub(super) fn append(&mut self, path: &Path, label_bytes: usize) -> Result<()> {
        let (file, metadata) = file::open(path, MAX_FILE_BYTES)?;
        let bytes = metadata.len();
        let record = label_bytes + SHAPE.values();
        let corrupt = |reason: String| Error::corrupt(path.display().to_string(), reason);
        if bytes == 0 || !bytes.is_multiple_of(record as u64) {
            return Err(corrupt(format!(
                "{bytes} bytes are not a number of whole records of {record} bytes"
            )));
        }
        let items = bytes as usize / record;
        self.images.reserve_exact(items * SHAPE.values());
        self.labels.reserve_exact(items);
        let mut source = BufReader::new(file);
        let mut buffer = vec![0; record];
        for item in 0..items {
            source.read_exact(&mut buffer).map_err(|error| {
                if error.kind() == ErrorKind::UnexpectedEof {
                    corrupt(format!("became shorter while it was read: record {item} of {items} is cut"))
                } else {
                    Error::io(path)(error)
                }
            })?;
            let (labels, image) = buffer.split_at(label_bytes);
            self.labels.push(labels.last().copied().map_or(0, u16::from));
            self.images.extend_from_slice(image);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tensor::codec::write_atomic;

    /// A file of records. The pixels of each record count up by one from its item number.
    pub(in crate::data) fn file(labels: &[&[u8]]) -> Vec<u8> {
        let image = |item: usize| (0..SHAPE.values()).map(move |at| (item + at) as u8);
        labels
            .iter()
            .enumerate()
            .flat_map(|(item, &label)| label.iter().copied().chain(image(item)))
            .collect()
    }

    fn read(bytes: &[u8], label_bytes: usize) -> Result<Records> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.bin");
        write_atomic(&path, [bytes]).unwrap();
        let mut records = Records::default();
        records.append(&path, label_bytes).map(|()| records)
    }

    #[test]
    fn last_label_byte_is_the_class_and_pixels_follow_it() {
        let coarse_and_fine = read(&file(&[&[1, 99], &[2, 0]]), 2).unwrap();
        assert_eq!(coarse_and_fine.labels, [99, 0]);
        assert_eq!(
            coarse_and_fine,
            Records { labels: vec![99, 0], ..read(&file(&[&[7], &[8]]), 1).unwrap() }
        );
        assert_eq!(coarse_and_fine.images[..3], [0, 1, 2]);
        assert_eq!(coarse_and_fine.images[SHAPE.values()..][..3], [1, 2, 3]);
    }

    #[test]
    fn files_that_are_not_whole_records_are_refused() {
        let whole = file(&[&[1], &[2]]);
        for (bytes, label_bytes, words) in [
            (&whole[..whole.len() - 1], 1, "6145 bytes are not a number of whole records of 3073"),
            (&whole[..], 2, "6146 bytes are not a number of whole records of 3074"),
            (&[][..], 1, "0 bytes are not a number of whole records of 3073"),
        ] {
            let error = read(bytes, label_bytes).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
            assert!(error.to_string().contains("some.bin") && error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse.bin");
        std::fs::File::create(&path).unwrap().set_len(3073 << 20).unwrap();
        let error = Records::default().append(&path, 1).unwrap_err().to_string();
        assert!(error.contains("3222274048 bytes are more than the limit of 1073741824"), "{error}");
    }
}

//! The header of a safetensors file: what the file holds and where, without the tensors.

use std::{collections::BTreeMap, io::Read as _, ops::Range, path::Path};

use safetensors::tensor::Metadata;
use strum::VariantArray as _;

use crate::{
    error::{Error, Result},
    file,
};

use super::Dtype;

/// Largest accepted header, bytes.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Largest accepted file, bytes.
pub const MAX_FILE_BYTES: u64 = 8 << 30;

/// A checked header.
#[derive(Debug, Clone)]
pub struct TensorHeader {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Slot>,
    /// Names and dtypes of tensors that are no weights of a network.
    others: BTreeMap<String, String>,
    size: u64,
}

/// A tensor in a file.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) bytes: Range<usize>,
}

impl TensorHeader {
    /// Reads the header of the file at `path`, and nothing behind it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Corrupt`] if it is not the header of a well-formed safetensors file
    /// of this length, of f32, f16 and bf16 tensors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_any(path)?.of_weights(&path.display().to_string())
    }

    /// As [`TensorHeader::open`], for a file that may hold tensors of any type ([`TensorHeader::others`]).
    ///
    /// # Errors
    /// Those of [`TensorHeader::open`].
    pub fn open_any(path: &Path) -> Result<Self> {
        let (file, metadata) = file::open(path, MAX_FILE_BYTES)?;
        let (size, origin, mut start) = (metadata.len(), path.display().to_string(), Vec::new());
        let read =
            |start: &mut Vec<u8>, length| (&file).take(length).read_to_end(start).map_err(Error::io(path));
        read(&mut start, 8)?;
        let length = length(&start, size, &origin)?;
        read(&mut start, length)?;
        Self::parse(&start, size, &origin)
    }

    /// The header at the `start` of a file of `size` bytes, which may hold tensors of any type; `origin` names it in
    /// errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] as for [`TensorHeader::open`].
    pub(super) fn parse(start: &[u8], size: u64, origin: &str) -> Result<Self> {
        let corrupt = |reason: String| Error::corrupt(origin, reason);
        let data = 8 + length(start, size, origin)? as usize;
        let json = start.get(8..data).ok_or_else(|| corrupt("the header is cut".to_owned()))?;
        let header: Metadata = serde_json::from_slice(json).map_err(|error| corrupt(error.to_string()))?;
        check_length(&header, size - data as u64).map_err(corrupt)?;
        let (mut tensors, mut others) = (BTreeMap::new(), BTreeMap::new());
        for (name, info) in header.tensors() {
            let found = info.dtype.to_string();
            let dtype = Dtype::VARIANTS.iter().copied().find(|dtype| dtype.safetensors_name() == found);
            let Some(dtype) = dtype else {
                others.insert(name.clone(), found);
                continue;
            };
            let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
            tensors.insert(name.clone(), Slot { dtype, shape: info.shape.clone(), bytes });
        }
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Self { metadata, tensors, others, size })
    }

    /// The value of `__metadata__[key]`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Names and shapes in name order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, slot)| (name.as_str(), slot.shape.as_slice()))
    }

    /// Names and dtypes of the tensors of other types than f32, f16 and bf16, in name order.
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        self.others.iter().map(|(name, dtype)| (name.as_str(), dtype.as_str()))
    }

    /// The header, if every tensor is f32, f16 or bf16.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the first that is not.
    pub(super) fn of_weights(self, origin: &str) -> Result<Self> {
        match self.others.first_key_value() {
            None => Ok(self),
            Some((name, dtype)) => {
                let reason = format!("tensor \"{name}\" has dtype {dtype}, not F32, F16 or BF16");
                Err(Error::corrupt(origin, reason))
            }
        }
    }

    /// Length of the file.
    pub const fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Names and places in name order.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&String, &Slot)> {
        self.tensors.iter()
    }
}

/// Length of the JSON header of a file of `size` bytes that begins with `prefix`.
///
/// # Errors
/// A message with the length and the limit, if the length exceeds the file or [`MAX_HEADER_BYTES`].
pub fn header_bytes(prefix: [u8; 8], size: u64) -> Result<u64, String> {
    let (found, limit) = (u64::from_le_bytes(prefix), MAX_HEADER_BYTES.min(size.saturating_sub(8)));
    if found > limit {
        let cut = if limit < MAX_HEADER_BYTES { "; the file is cut, or no safetensors file" } else { "" };
        return Err(format!("header of {found} bytes is beyond the limit of {limit}{cut}"));
    }
    Ok(found)
}

/// Checks that `data_bytes` of tensors are what `header` announces.
///
/// # Errors
/// A message with both numbers.
pub(super) fn check_length(header: &Metadata, data_bytes: u64) -> Result<(), String> {
    let announced = header.data_len();
    if announced as u64 == data_bytes {
        return Ok(());
    }
    Err(format!(
        "its header announces {announced} bytes of tensors and {data_bytes} follow; the file is cut or damaged"
    ))
}

/// Length of the JSON behind the prefix at the `start` of a file of `size` bytes.
fn length(start: &[u8], size: u64, origin: &str) -> Result<u64> {
    let short = || Error::corrupt(origin, format!("{size} bytes are too few for a safetensors header"));
    let prefix = start.first_chunk().ok_or_else(short)?;
    header_bytes(*prefix, size).map_err(|reason| Error::corrupt(origin, reason))
}

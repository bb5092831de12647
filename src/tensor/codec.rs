//! The safetensors container: strict reading from memory, writing as lists of slices.
//!
//! The `safetensors` crate parses and validates headers. Size limits are checked first, so that a header that promises
//! too much never causes an allocation.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use safetensors::tensor::Metadata;

use crate::{
    digest::Digest,
    error::{Error, Result},
    file,
};

pub use crate::file::write_atomic;

use super::{
    Dtype, TensorHeader,
    header::{Slot, check_length},
};

pub use super::header::{MAX_FILE_BYTES, MAX_HEADER_BYTES, header_bytes};

/// One stored tensor: little-endian elements in row-major order.
#[derive(Debug, Clone)]
pub struct TensorBytes {
    /// Element type.
    pub dtype: Dtype,
    /// Shape; its product times the element size is the length of `bytes`.
    pub shape: Vec<usize>,
    /// The elements; a slice of the file's memory if they were read from a file.
    pub bytes: Bytes,
}

/// A safetensors file in memory, with a checked header.
#[derive(Debug, Clone)]
pub struct TensorFile {
    bytes: Bytes,
    header: Arc<TensorHeader>,
    tensors: BTreeMap<String, TensorBytes>,
}

impl TensorFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Corrupt`] if it is not a well-formed safetensors file
    /// of f32, f16 and bf16 tensors within the limits.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(file::read(path, MAX_FILE_BYTES)?.into(), &path.display().to_string())
    }

    /// Checks a file that is already in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] as for [`TensorFile::open`].
    pub fn from_bytes(bytes: Bytes, origin: &str) -> Result<Self> {
        let header = TensorHeader::parse(&bytes, bytes.len() as u64, origin)?.of_weights(origin)?;
        Ok(Self::with_header(header, bytes))
    }

    /// As [`TensorFile::open`], for a file that may also hold tensors of other types ([`TensorHeader::others`]).
    ///
    /// # Errors
    /// Those of [`TensorFile::open`].
    pub fn open_any(path: &Path) -> Result<Self> {
        let (bytes, origin) = (file::read(path, MAX_FILE_BYTES)?, path.display().to_string());
        Ok(Self::with_header(TensorHeader::parse(&bytes, bytes.len() as u64, &origin)?, bytes.into()))
    }

    fn with_header(header: TensorHeader, bytes: Bytes) -> Self {
        let tensor = |(name, slot): (&String, &Slot)| {
            let Slot { dtype, shape, bytes: place } = slot.clone();
            (name.clone(), TensorBytes { dtype, shape, bytes: bytes.slice(place) })
        };
        let tensors = header.slots().map(tensor).collect();
        Self { header: Arc::new(header), tensors, bytes }
    }

    /// The whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The header.
    pub fn header(&self) -> &TensorHeader {
        &self.header
    }

    /// The value of `__metadata__[key]`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata(key)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorBytes> {
        self.tensors.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
    }

    /// Names and tensors in name order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorBytes)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Checks that every element is a finite number.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the first element that is not finite; `origin` names the file.
    pub fn check_finite(&self, origin: &str) -> Result<()> {
        for (name, tensor) in self.tensors() {
            if let Some(at) = tensor.dtype.read(&tensor.bytes).iter().position(|v| !v.is_finite()) {
                return Err(Error::corrupt(
                    origin,
                    format!("tensor \"{name}\" is not finite at element {at}"),
                ));
            }
        }
        Ok(())
    }

    /// Names and shapes in name order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.header.shapes()
    }
}

/// Lengths of the tensors in file order, from the `json` of a header in front of `data_bytes` of tensors. Tensors lie
/// without gaps.
///
/// # Errors
/// A message that says why `json` is not the header of such a file.
pub fn lengths(json: &[u8], data_bytes: u64) -> Result<Vec<u64>, String> {
    let header: Metadata = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    check_length(&header, data_bytes)?;
    let keys = header.offset_keys();
    let tensors = keys.iter().filter_map(|name| header.info(name));
    Ok(tensors.map(|tensor| (tensor.data_offsets.1 - tensor.data_offsets.0) as u64).collect())
}

/// The header of a safetensors file: length prefix, JSON, and spaces up to a multiple of 8 bytes.
///
/// Tensors lie in the order given, without gaps; JSON keys keep that order.
pub fn header<'a>(
    metadata: &BTreeMap<String, String>,
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize])>,
) -> Bytes {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut json = String::from("{\"__metadata__\":{");
    for (i, (key, value)) in metadata.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        json += &format!("{comma}{}:{}", quoted(key), quoted(value));
    }
    json.push('}');
    let mut start = 0;
    for (name, dtype, shape) in tensors {
        let end = start + shape.iter().product::<usize>() * dtype.size_bytes();
        json += &format!(
            ",{}:{{\"dtype\":\"{}\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}",
            quoted(name),
            dtype.safetensors_name(),
        );
        start = end;
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.into()
}

/// One line per tensor, with its name and the SHA-256 of its bytes. Results that depend on the tensors are keyed by it.
pub fn digests<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a TensorBytes)>) -> String {
    let line = |(name, tensor): (&str, &TensorBytes)| format!("{name} {}\n", Digest::of(&tensor.bytes));
    tensors.into_iter().map(line).collect()
}

/// A whole safetensors file in memory.
pub fn render(metadata: &BTreeMap<String, String>, tensors: &[(String, TensorBytes)]) -> Bytes {
    let shapes = tensors.iter().map(|(name, t)| (name.as_str(), t.dtype, t.shape.as_slice()));
    let mut file = header(metadata, shapes).to_vec();
    for (_, tensor) in tensors {
        file.extend_from_slice(&tensor.bytes);
    }
    file.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], values: &[f32]) -> TensorBytes {
        let mut bytes = Vec::new();
        Dtype::F32.write(values.iter().copied(), &mut bytes);
        TensorBytes { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.into() }
    }

    fn raw(header: &str, data: usize) -> Bytes {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes.into()
    }

    fn reason(bytes: Bytes) -> String {
        match TensorFile::from_bytes(bytes, "x.safetensors") {
            Err(Error::Corrupt { reason, .. }) => reason,
            other => panic!("expected Corrupt, got {other:?}"),
        }
    }

    #[test]
    fn a_rendered_file_reads_back() {
        let metadata = BTreeMap::from([("a \"quoted\"".to_owned(), "line\nbreak".to_owned())]);
        let tensors =
            vec![("b".to_owned(), tensor(&[2, 1], &[1.0, -2.0])), ("a".to_owned(), tensor(&[1], &[0.5]))];
        let file = TensorFile::from_bytes(render(&metadata, &tensors), "x").unwrap();
        assert_eq!(file.metadata("a \"quoted\""), Some("line\nbreak"));
        assert_eq!(Dtype::F32.read(&file.tensor("b").unwrap().bytes), [1.0, -2.0]);
        assert_eq!(file.tensor("a").unwrap().shape, [1]);
        assert_eq!((file.bytes().len() - 12) % 8, 0);
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert!(reason(Bytes::from_static(b"1234")).contains("too few"));
        let mut huge = (1u64 << 60).to_le_bytes().to_vec();
        huge.push(b'{');
        assert!(reason(huge.into()).contains("1152921504606846976"));
        let overlap = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#;
        reason(raw(overlap, 6));
        reason(raw(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}"#, 4));
        reason(raw(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4));
        assert!(reason(raw(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#, 8)).contains("I64"));
        let cut = reason(raw(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 3));
        assert_eq!(cut, "its header announces 4 bytes of tensors and 3 follow; the file is cut or damaged");
        assert!(
            reason(raw(&" ".repeat(99), 0).slice(..60)).ends_with("the file is cut, or no safetensors file")
        );
        reason(raw("\u{0}\u{1}", 0));
    }
}

//! Named tensors, ordered and strict: both a missing and an unexpected name are errors.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::error::{Context, Error, Result};

use super::{Dtype, TensorBytes, TensorFile, Weight};

/// Weights by name. Whoever builds them ensures that all have the same dtype and device.
#[derive(Debug, Clone, Default)]
pub struct Weights(BTreeMap<String, Weight>);

impl Weights {
    /// Decodes every tensor of `file` to f32 on `device`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device refuses.
    pub fn from_file(file: &TensorFile, device: &Device) -> Result<Self> {
        Self::of(file.tensors(), device)
    }

    /// Decodes `tensors` to f32 on `device`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device refuses.
    pub fn of<'a>(
        tensors: impl IntoIterator<Item = (&'a str, &'a TensorBytes)>,
        device: &Device,
    ) -> Result<Self> {
        tensors
            .into_iter()
            .map(|(name, tensor)| {
                let values = tensor.dtype.read(&tensor.bytes);
                let tensor = Tensor::from_vec(values, tensor.shape.as_slice(), device);
                Ok((name.to_owned(), tensor.and_then(|t| Weight::new(&t)).context(name)?))
            })
            .collect()
    }

    /// The same tensors on `device`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device refuses.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = |weight: &Weight| Weight::new(&weight.tensor()?.to_device(device)?);
        self.iter().map(|(name, weight)| Ok((name.to_owned(), moved(weight).context(name)?))).collect()
    }

    /// Adds or replaces a weight.
    pub fn insert(&mut self, name: impl Into<String>, weight: Weight) {
        self.0.insert(name.into(), weight);
    }

    /// The weight called `name`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn get(&self, name: &str) -> Result<&Weight> {
        self.0.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
    }

    /// The weight called `name` as one contiguous tensor.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or [`Error::Tensor`] if it cannot be copied.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.get(name)?.tensor().context(name)
    }

    /// Names and weights in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Weight)> {
        self.0.iter().map(|(name, weight)| (name.as_str(), weight))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that names and shapes are exactly `expected`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`] or [`Error::ShapeMismatch`].
    pub fn check(&self, expected: impl IntoIterator<Item = (String, Vec<usize>)>) -> Result<()> {
        let found = self.iter().map(|(name, tensor)| (name, tensor.dims()));
        check_schema(found, expected)
    }

    /// The weights in `dtype`. Weights that already have it are kept; the others are cast in candle's graph and leave
    /// their tape.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a cast fails.
    pub fn to_dtype(&self, dtype: candle_core::DType) -> Result<Self> {
        let cast = |weight: &Weight| Weight::new(&weight.tensor()?.to_dtype(dtype)?);
        let one = |(name, weight): (&str, &Weight)| {
            let weight = if weight.dtype() == dtype { weight.clone() } else { cast(weight).context(name)? };
            Ok((name.to_owned(), weight))
        };
        self.iter().map(one).collect()
    }

    /// The tensors as little-endian bytes of `dtype`, in name order, ready for [`super::codec::render`].
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor cannot be read.
    pub fn to_bytes(&self, dtype: Dtype) -> Result<Vec<(String, TensorBytes)>> {
        let single = |(name, weight): (&str, &Weight)| {
            let tensor = weight.tensor().and_then(|tensor| tensor.detach().to_dtype(DType::F32));
            tensor.context(name)
        };
        let tensors = self.iter().map(single).collect::<Result<Vec<_>>>()?;
        let values = read_back(&tensors).context("reading weights")?;
        let bytes = |((name, weight), values): ((&str, &Weight), Vec<f32>)| {
            let mut bytes = Vec::with_capacity(values.len() * dtype.size_bytes());
            dtype.write(values.into_iter(), &mut bytes);
            (name.to_owned(), TensorBytes { dtype, shape: weight.dims().to_vec(), bytes: bytes.into() })
        };
        Ok(self.iter().zip(values).map(bytes).collect())
    }
}

impl FromIterator<(String, Weight)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, Weight)>>(weights: I) -> Self {
        Self(weights.into_iter().collect())
    }
}

/// Checks that `found` has exactly the names and shapes in `expected`.
///
/// # Errors
/// [`Error::MissingTensor`], [`Error::UnexpectedTensor`] or [`Error::ShapeMismatch`].
pub fn check_schema<'a>(
    found: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    expected: impl IntoIterator<Item = (String, Vec<usize>)>,
) -> Result<()> {
    let mut found: BTreeMap<_, _> = found.into_iter().collect();
    for (name, expected) in expected {
        match found.remove(name.as_str()) {
            Some(shape) if shape == expected => {}
            Some(shape) => return Err(Error::ShapeMismatch { name, expected, found: shape.to_vec() }),
            None => return Err(Error::MissingTensor { name }),
        }
    }
    match found.pop_first() {
        Some((name, _)) => Err(Error::UnexpectedTensor { name: name.to_owned() }),
        None => Ok(()),
    }
}

/// The f32 values of each tensor in `tensors`, which all lie on one device.
fn read_back(tensors: &[Tensor]) -> candle_core::Result<Vec<Vec<f32>>> {
    #[cfg(feature = "cuda")]
    if let Some(Device::Cuda(device)) = tensors.first().map(Tensor::device) {
        return super::pinned::read(device, tensors);
    }
    tensors.iter().map(|tensor| tensor.flatten_all()?.to_vec1()).collect()
}

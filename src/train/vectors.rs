//! The ancestor's vectors of the texts of a corpus. Texts are not augmented, so each has one vector, which is computed
//! once and kept in a file beside the checkpoint.

use std::{collections::BTreeMap, path::Path, sync::atomic::AtomicBool};

use candle_core::{Device, Tensor};

use crate::{
    data::text::Corpus,
    error::{Context as _, Error, Result},
    nn::bert::Bert,
    tensor::{Dtype, TensorBytes, TensorFile, codec},
};

use super::embed::embed_ids;

const METADATA_KEY: &str = "genebank.vectors";
const TENSOR: &str = "vectors";
/// Texts whose vectors are in memory in f32 at once.
const CHUNK: usize = 1 << 14;

/// A vector of each text of a corpus, in f16.
#[derive(Debug)]
pub struct Vectors {
    /// `[texts, dimension]`.
    tensor: TensorBytes,
}

impl Vectors {
    /// The vectors that `network` gives to the texts of `corpus`; from `cache`, if that file holds those of the same
    /// `identity`. Otherwise they are computed and written there.
    ///
    /// # Errors
    /// [`Error::Tensor`], [`Error::Io`]; [`Error::Cancelled`] once `cancel` is set.
    pub fn new(
        network: &Bert,
        corpus: &Corpus,
        identity: &str,
        cache: Option<&Path>,
        threads: usize,
        cancel: &AtomicBool,
    ) -> Result<Self> {
        if let Some(path) = cache.filter(|path| path.exists()) {
            let file = TensorFile::open(path)?;
            if file.metadata(METADATA_KEY) == Some(identity) {
                return Ok(Self { tensor: file.tensor(TENSOR)?.clone() });
            }
        }
        let dimension = network.config().dimension();
        let mut bytes = Vec::with_capacity(corpus.len() * dimension * Dtype::F16.size_bytes());
        for first in (0..corpus.len()).step_by(CHUNK) {
            let ids: Vec<&[u32]> =
                (first..corpus.len().min(first + CHUNK)).map(|index| corpus.text(index)).collect();
            let vectors = embed_ids(network, &ids, corpus.pad_id(), threads, cancel)?;
            Dtype::F16.write(vectors.into_iter(), &mut bytes);
        }
        let shape = vec![corpus.len(), dimension];
        let tensor = TensorBytes { dtype: Dtype::F16, shape, bytes: bytes.into() };
        if let Some(path) = cache {
            let metadata = BTreeMap::from([(METADATA_KEY.to_owned(), identity.to_owned())]);
            let file = codec::render(&metadata, &[(TENSOR.to_owned(), tensor.clone())]);
            codec::write_atomic(path, [file.as_ref()])?;
        }
        Ok(Self { tensor })
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.tensor.shape.first().copied().unwrap_or(0)
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vectors of the texts `items` on `device`, `[items, dimension]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text that the corpus has not; [`Error::Tensor`].
    pub fn of(&self, items: &[u32], device: &Device) -> Result<Tensor> {
        let dimension = self.tensor.shape.get(1).copied().unwrap_or(0);
        let row = dimension * self.tensor.dtype.size_bytes();
        let mut values = Vec::with_capacity(items.len() * dimension);
        for item in items {
            let at = *item as usize * row;
            let bytes = self.tensor.bytes.get(at..at + row);
            let bytes =
                bytes.ok_or_else(|| Error::invalid("teacher", format!("no vector of text {item}")))?;
            values.extend(self.tensor.dtype.read(bytes));
        }
        Tensor::from_vec(values, (items.len(), dimension), device).context("teacher")
    }
}

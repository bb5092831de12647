//! Writes a gene file from learned tensors.

use std::collections::BTreeMap;

use bytes::Bytes;
use candle_core::Device;

use crate::{
    blueprint::{Blueprint, record::METADATA_KEY},
    error::Result,
    tensor::{Dtype, TensorBytes, TensorFile, Weights, codec},
};

use super::{
    GeneMeta, Learngene, Probe, SizeRequest, Target,
    learngene::{blueprint_of, probe_logits},
    record,
};

/// Number of items in the probe of a new gene.
const PROBE_BATCH: usize = 2;

/// The blueprint of a size of a gene that is still being learned. Without numbers it is the auxiliary model's.
///
/// # Errors
/// Those of [`Learngene::blueprint`].
pub fn blueprint(meta: &GeneMeta, size: &SizeRequest) -> Result<Blueprint> {
    blueprint_of(meta, "", size, &Target::default())
}

/// The record of `meta`, as it stands in the gene file.
pub fn record(meta: &GeneMeta) -> String {
    record::write(meta)
}

/// The gene file of `meta` and `weights` with a fresh probe of seed `probe_seed`. Reads the file back to check it.
///
/// # Errors
/// Those of [`Learngene::from_file`].
pub fn render(mut meta: GeneMeta, weights: &Weights, probe_seed: u64) -> Result<(Learngene, Bytes)> {
    let expanded =
        crate::blueprint::expand(&blueprint(&meta, &SizeRequest::default())?, weights, &Device::Cpu)?;
    let logits = probe_logits(&meta.config, &expanded, probe_seed, PROBE_BATCH)?;
    meta.probe = Probe { seed: probe_seed, batch: PROBE_BATCH, logits };
    let bytes = write(&meta, weights.to_bytes(Dtype::F32)?);
    let gene = Learngene::from_file(TensorFile::from_bytes(bytes.clone(), &meta.name)?, &meta.name)?;
    Ok((gene, bytes))
}

/// The file of `gene` with other metadata, for example a measured quality grid, and the same tensors.
pub fn with_meta(gene: &Learngene, meta: &GeneMeta) -> Bytes {
    write(meta, gene.file().tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect())
}

fn write(meta: &GeneMeta, tensors: Vec<(String, TensorBytes)>) -> Bytes {
    let format = ("format".to_owned(), "pt".to_owned());
    let metadata = BTreeMap::from([format, (METADATA_KEY.to_owned(), record::write(meta))]);
    codec::render(&metadata, &tensors)
}

//! Writes a gene file from learned tensors.

use std::collections::BTreeMap;

use bytes::Bytes;
use candle_core::Device;

use crate::{
    blueprint::{
        Blueprint,
        record::{METADATA_KEY, TOKENIZER_KEY},
    },
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

/// The gene file of `meta` and `weights` in f32 with a fresh probe of seed `probe_seed`. Reads the file back to check it.
///
/// # Errors
/// Those of [`Learngene::from_file`].
pub fn render(meta: GeneMeta, weights: &Weights, probe_seed: u64) -> Result<(Learngene, Bytes)> {
    render_as(meta, weights, probe_seed, Dtype::F32, None)
}

/// As [`render`], in `dtype` and with the `tokenizer.json` of text encoders. The probe is that of the rounded values.
///
/// # Errors
/// Those of [`Learngene::from_file`].
pub fn render_as(
    mut meta: GeneMeta,
    weights: &Weights,
    probe_seed: u64,
    dtype: Dtype,
    tokenizer: Option<&str>,
) -> Result<(Learngene, Bytes)> {
    let tensors = weights.to_bytes(dtype)?;
    let rounded = Weights::of(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), &Device::Cpu)?;
    let blueprint = blueprint(&meta, &SizeRequest::default())?;
    let expanded = crate::blueprint::expand(&blueprint, &rounded, &Device::Cpu)?;
    let logits = probe_logits(&meta.config, &expanded, probe_seed, PROBE_BATCH)?;
    meta.probe = Probe { seed: probe_seed, batch: PROBE_BATCH, logits };
    let bytes = write(&meta, tensors, tokenizer);
    let gene = Learngene::from_file(TensorFile::from_bytes(bytes.clone(), &meta.name)?, &meta.name)?;
    Ok((gene, bytes))
}

/// The file of `gene` with other metadata, for example a measured quality grid, and the same tensors.
pub fn with_meta(gene: &Learngene, meta: &GeneMeta) -> Bytes {
    let tensors = gene.file().tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    write(meta, tensors, gene.tokenizer())
}

fn write(meta: &GeneMeta, tensors: Vec<(String, TensorBytes)>, tokenizer: Option<&str>) -> Bytes {
    let format = ("format".to_owned(), "pt".to_owned());
    let mut metadata = BTreeMap::from([format, (METADATA_KEY.to_owned(), record::write(meta))]);
    metadata.extend(tokenizer.map(|json| (TOKENIZER_KEY.to_owned(), json.to_owned())));
    codec::render(&metadata, &tensors)
}

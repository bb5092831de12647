//! A gene file: any bytes, or a whole file with any record. It is a gene or refused with a reason.
#![no_main]

use std::{collections::BTreeMap, sync::LazyLock};

use genebank::{
    blueprint::record::METADATA_KEY,
    gene::Learngene,
    tensor::{TensorBytes, TensorFile, codec},
};
use libfuzzer_sys::fuzz_target;

static TENSORS: LazyLock<Vec<(String, TensorBytes)>> = LazyLock::new(|| {
    let file = TensorFile::from_bytes(genebank_fuzz::gene().into(), "gene").expect("a file");
    file.tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
});

fuzz_target!(|data: &[u8]| {
    let bytes = match std::str::from_utf8(data) {
        Ok(record) if record.starts_with('{') => {
            codec::render(&BTreeMap::from([(METADATA_KEY.to_owned(), record.to_owned())]), &TENSORS)
        }
        _ => data.to_vec().into(),
    };
    let gene = TensorFile::from_bytes(bytes, "gene").and_then(|file| Learngene::from_file(file, "gene"));
    if let Err(error) = gene {
        assert!(!error.to_string().is_empty());
    }
});

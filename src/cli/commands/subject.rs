//! The subject of a command: a model file, a gene file, or a gene given by name.

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::Value;

use crate::{
    bank::Registry,
    blueprint::{Ancestor, record::METADATA_KEY},
    cli::{args, config},
    error::{Error, Result},
    gene::{Learngene, Target, meta},
    tensor::TensorFile,
    train::Model,
};

/// The path of the file if it exists, otherwise of the gene with that name.
pub(super) fn find(options: &args::Subject) -> Result<PathBuf> {
    let path = Path::new(&options.source);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let folder = config::models(&options.models);
    let file = folder.join(format!("{}.safetensors", options.source));
    if meta::check_name(&options.source).is_ok() && file.is_file() {
        return Ok(file);
    }
    let known = Registry::open(&folder, None).map_or_else(
        |_| String::new(),
        |genes| genes.iter().map(|gene| gene.meta().name.clone()).collect::<Vec<_>>().join(", "),
    );
    Err(Error::NotFound { what: "file or gene", name: options.source.clone(), known })
}

/// Whether `file` is a gene. Genes and models keep their records under the same key, but only a gene has stages.
pub(super) fn is_gene(file: &TensorFile) -> bool {
    let record = file.metadata(METADATA_KEY).and_then(|json| serde_json::from_str::<Value>(json).ok());
    record.is_some_and(|record| record.get("stages").is_some())
}

/// Loads the model onto `device`: the model file, or the gene's model of the requested size. `classes` are those of the
/// data.
pub(super) fn model(options: &args::Subject, classes: &[String], device: &Device) -> Result<Model> {
    let target = config::target(&options.target, Some(classes))?;
    let path = find(options)?;
    let file = TensorFile::open(&path)?;
    if !is_gene(&file) {
        let size = &options.size;
        if size.depth.is_some() || size.width.is_some() {
            return Err(Error::invalid("--depth, --width", "a model file has its size; these are for genes"));
        }
        if target != Target::default() {
            let flags = "--image-size, --patch-size, --labels";
            return Err(Error::invalid(
                flags,
                "a model file has its images and classes; these are for genes",
            ));
        }
        return Model::of(&Ancestor::from_file(file, &path.display().to_string())?, device);
    }
    let gene = Learngene::from_file(file, &path.display().to_string())?;
    let (info, weights) = gene.expand_for(&config::size(&options.size), &target, device)?;
    Ok(Model { info, weights })
}

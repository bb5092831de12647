//! The subject of a command: a model file, a gene file, or a gene given by name.

use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use crate::{
    bank::{Registry, builtin},
    blueprint::{Ancestor, record::METADATA_KEY},
    cli::{args, config},
    error::{Error, Result},
    gene::{Learngene, Target, meta},
    tensor::TensorFile,
    train::Model,
};

/// The file at the path if it exists, otherwise of the gene with that name; and what errors call it.
pub(super) fn find(options: &args::Subject) -> Result<(TensorFile, String)> {
    let open = |path: &Path| Ok((TensorFile::open(path)?, path.display().to_string()));
    let path = Path::new(&options.source);
    if path.is_file() {
        return open(path);
    }
    let folder = config::models(&options.models);
    if let Some(folder) = &folder {
        let file = folder.join(format!("{}.safetensors", options.source));
        if meta::check_name(&options.source).is_ok() && file.is_file() {
            return open(&file);
        }
    } else if options.source == builtin::NAME {
        return Ok((builtin::file()?, options.source.clone()));
    }
    let known = Registry::open(folder.as_deref(), None).map_or_else(
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
    let (file, name) = find(options)?;
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
        return Model::of(&Ancestor::from_file(file, &name)?, device);
    }
    let gene = Learngene::from_file(file, &name)?;
    let (info, weights) = gene.expand_for(&config::size(&options.size), &target, device)?;
    Ok(Model { info, weights })
}

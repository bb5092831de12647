//! The subject of a command: a model file, a gene file, or a gene given by name.

use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use crate::{
    bank::{Registry, builtin},
    blueprint::{
        Ancestor,
        model::{NO_DATA, UNKNOWN_DATA, data_name},
        record::METADATA_KEY,
    },
    cli::{args, config, output},
    data::text::Tokenizer,
    error::{Error, Result},
    gene::{Head, Learngene, Target, meta},
    import::{self, Report},
    nn::Config,
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
    // A folder comes last, so that one with the name of a gene changes nothing.
    if path.is_dir() {
        return Ok((ancestor(path)?.file().clone(), options.source.clone()));
    }
    let known = Registry::open(folder.as_deref(), None).map_or_else(
        |_| String::new(),
        |genes| genes.iter().map(|meta| meta.name.clone()).collect::<Vec<_>>().join(", "),
    );
    Err(Error::NotFound { what: "file or gene", name: options.source.clone(), known })
}

/// The model at `path`: a model file, or a folder of another library, which is imported and named.
pub(super) fn ancestor(path: &Path) -> Result<Ancestor> {
    let (ancestor, report) = import::ancestor(path)?;
    if let Some(Report { architecture, parameters, .. }) = report {
        output::talk(format_args!("note: {} is a {architecture} of {parameters} parameters", path.display()));
    }
    Ok(ancestor)
}

/// Whether `file` is a gene. Genes and models keep their records under the same key, but only a gene has stages.
pub(super) fn is_gene(file: &TensorFile) -> bool {
    let record = file.metadata(METADATA_KEY).and_then(|json| serde_json::from_str::<Value>(json).ok());
    record.is_some_and(|record| record.get("stages").is_some())
}

/// A checked model file or gene.
pub(super) enum Source {
    Model(Ancestor),
    Gene(Learngene),
}

impl Source {
    pub(super) fn open(options: &args::Subject) -> Result<Self> {
        let (file, origin) = find(options)?;
        if is_gene(&file) {
            return Learngene::from_file(file, &origin).map(Self::Gene);
        }
        Ancestor::from_file(file, &origin).map(Self::Model)
    }

    /// The data set to use: `asked`, or the one of the record.
    pub(super) fn dataset<'a>(&'a self, asked: Option<&'a str>) -> Result<&'a str> {
        let recorded = match self {
            Self::Model(model) => &model.info().data,
            Self::Gene(gene) => &gene.meta().data,
        };
        let recorded = Some(data_name(recorded)).filter(|name| ![NO_DATA, UNKNOWN_DATA].contains(name));
        let none = || Error::invalid("--dataset", "the file records no data set; name one");
        asked.or(recorded).ok_or_else(none)
    }

    /// Shape of the network; of a gene, of its trained size.
    pub(super) fn config(&self) -> &Config {
        match self {
            Self::Model(model) => &model.info().config,
            Self::Gene(gene) => &gene.meta().config,
        }
    }

    /// The tokenizer of a text encoder.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        let (json, origin) = match self {
            Self::Model(model) => (model.tokenizer(), "the file"),
            Self::Gene(gene) => (gene.tokenizer(), gene.meta().name.as_str()),
        };
        let none = || Error::invalid(origin, "it has no tokenizer; give the folder that has one beside it");
        Tokenizer::stored(json.ok_or_else(none)?, origin)
    }

    /// Loads the model onto `device`: that of the file, or the gene's of the requested size. If no labels are asked for,
    /// it has the `classes` of the data.
    pub(super) fn model(self, options: &args::Subject, classes: &[String], device: &Device) -> Result<Model> {
        let classes_of_data = (!classes.is_empty()).then_some(classes);
        let mut target = config::target(&options.target, classes_of_data)?;
        let gene = match self {
            Self::Gene(gene) => gene,
            Self::Model(model) => {
                refuse_for_models(options, &target)?;
                return Model::of(&model, device);
            }
        };
        if target.head.is_none() && !classes.is_empty() && gene.meta().labels != classes {
            target.head = Some(Head { labels: classes.to_vec(), seed: options.target.head_seed });
        }
        let size = config::size(&options.size);
        let fresh = gene.blueprint_for(&size, &target)?.fresh_classes();
        if fresh > 0 {
            let (name, all) = (&gene.meta().name, classes.len());
            output::talk(format_args!(
                "note: gene \"{name}\" does not know {fresh} of the {all} classes; their rows of the head are fresh"
            ));
        }
        let (info, weights) = gene.expand_for(&size, &target, device)?;
        Ok(Model { info, weights })
    }
}

/// Refuses flags that mean nothing for a model file.
fn refuse_for_models(options: &args::Subject, target: &Target) -> Result<()> {
    let size = &options.size;
    if size.depth.is_some() || size.width.is_some() {
        return Err(Error::invalid("--depth, --width", "a model file has its size; these are for genes"));
    }
    if *target != Target::default() {
        let flags = "--image-size, --patch-size, --labels";
        return Err(Error::invalid(flags, "a model file has its images and classes; these are for genes"));
    }
    Ok(())
}

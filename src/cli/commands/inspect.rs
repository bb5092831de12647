//! `genebank inspect`: shows the contents of a gene file, a model file, or a gene given by name.

use serde::Serialize;

use super::subject::{self, is_gene};
use crate::{
    bank::{GeneSummary, ModelRequest, ModelSummary, Quote},
    blueprint::{
        ModelInfo, TrainingData,
        record::{Family, METADATA_KEY},
    },
    cli::{args, config, output},
    error::Result,
    gene::Learngene,
    tensor::TensorFile,
};

/// Everything that the command shows.
#[derive(Debug, Serialize)]
struct Contents {
    file: String,
    size_bytes: u64,
    /// Only for a gene.
    gene: Option<GeneSummary>,
    /// Only for a model file.
    info: Option<ModelInfo>,
    /// Only for a gene: the model of `--depth` and `--width`.
    model: Option<ModelSummary>,
    tensors: Vec<TensorLine>,
}

#[derive(Debug, Serialize)]
struct TensorLine {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: usize,
}

pub(in crate::cli) fn run(options: &args::Inspect) -> Result<()> {
    let (file, name) = subject::find(&options.subject)?;
    let contents = read(file, name, &options.subject)?;
    if options.json { output::json(&contents) } else { show(&contents) }
}

fn read(file: TensorFile, origin: String, options: &args::Subject) -> Result<Contents> {
    let line = |(name, tensor): (&str, &crate::tensor::TensorBytes)| TensorLine {
        name: name.to_owned(),
        dtype: tensor.dtype.safetensors_name(),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes.len(),
    };
    let mut contents = Contents {
        file: origin.clone(),
        size_bytes: file.bytes().len() as u64,
        gene: None,
        info: None,
        model: None,
        tensors: file.tensors().map(line).collect(),
    };
    if is_gene(&file) {
        let gene = std::sync::Arc::new(Learngene::from_file(file, &origin)?);
        let (size, target) = (config::size(&options.size), config::target(&options.target, None)?);
        let request = ModelRequest { size, target, ..ModelRequest::default() };
        contents.model = Some(ModelSummary::of(&Quote::new(&gene, None, &request, None)?));
        contents.gene = Some(GeneSummary::of(&gene, false));
    } else if file.metadata(METADATA_KEY).is_some() {
        contents.info = Some(ModelInfo::from_file(&file, &origin)?);
    }
    Ok(contents)
}

fn show(contents: &Contents) -> Result<()> {
    output::line(format_args!("{}: {} bytes", contents.file, contents.size_bytes))?;
    if let Some(gene) = &contents.gene {
        show_gene(gene)?;
    }
    if let Some(info) = &contents.info {
        show_info(info)?;
    }
    if let Some(model) = &contents.model {
        show_model(model)?;
    }
    output::line("")?;
    let mut rows = vec![["TENSOR", "DTYPE", "SHAPE", "BYTES"].map(ToOwned::to_owned).to_vec()];
    rows.extend(contents.tensors.iter().map(|tensor| {
        let shape = format!("{:?}", tensor.shape);
        vec![tensor.name.clone(), tensor.dtype.to_owned(), shape, tensor.bytes.to_string()]
    }));
    output::table(&rows)
}

fn show_gene(gene: &GeneSummary) -> Result<()> {
    let GeneSummary { channels, image_size: size, patch_size, labels, dimension, .. } = gene;
    let (input, output) = if *dimension > 0 {
        ("texts".to_owned(), format!("vectors of {dimension}"))
    } else {
        (format!("{channels} x {size} x {size}, patches of {patch_size}"), labels.join(", "))
    };
    let facts = [
        ("gene", gene.name.clone()),
        ("digest", gene.digest.clone()),
        ("trained", format!("depth {}, width {}", gene.trained_depth, gene.trained_width)),
        ("stages", output::list(&gene.stages)),
        ("depths", format!("{}..={}", gene.min_depth, gene.max_depth)),
        ("widths", format!("{} (heads of {})", output::list(&gene.trained_widths), gene.head_dim)),
        ("input", input),
        ("output", output),
        ("data", gene.data.clone()),
        ("licence", gene.licence.clone()),
        ("teacher", gene.teacher.clone()),
        ("recipe", gene.recipe.clone()),
    ];
    facts.iter().try_for_each(|(name, value)| output::line(format_args!("{name:<9}{value}")))?;
    if gene.quality.is_empty() {
        return output::line("quality  not measured");
    }
    output::line("")?;
    let titles = ["DEPTH", "WIDTH", "TUNING EPOCHS", "QUALITY"].map(ToOwned::to_owned).to_vec();
    let rows = gene.quality.iter().map(|q| {
        let [depth, width] = [q.depth, q.width].map(|n| n.to_string());
        vec![depth, width, q.tuning_epochs.to_string(), output::quality(gene.metric, Some(q.value))]
    });
    output::table(&std::iter::once(titles).chain(rows).collect::<Vec<_>>())
}

fn show_info(info: &ModelInfo) -> Result<()> {
    let config = &info.config;
    output::line(format_args!(
        "model    {}, depth {}, width {}",
        Family::of_network(config).name(),
        config.depth(),
        config.width()
    ))?;
    if let Some(origin) = &info.origin {
        output::line(format_args!("gene     {} {}", origin.gene, origin.digest))?;
        output::line(format_args!("identity {}", origin.identity))?;
        output::line(format_args!("layers   {} by stage", output::list(&origin.stage_layers)))?;
    }
    output::line(format_args!("data     {}", info.data))?;
    output::line(format_args!("licence  {}", info.licence))?;
    for TrainingData { data, licence } in &info.earlier {
        output::line(format_args!("before   {data}, licence {licence}"))?;
    }
    info.training.iter().try_for_each(|step| output::line(format_args!("training {step}")))
}

fn show_model(model: &ModelSummary) -> Result<()> {
    let ModelSummary { depth, width, parameters, macs, size_bytes, inheritance, .. } = model;
    let quality = output::quality(model.metric, model.expected);
    output::line("")?;
    output::line(format_args!(
        "depth {depth}, width {width}: {parameters} parameters, {macs} MACs, {size_bytes} bytes, measured {quality}"
    ))?;
    output::line(format_args!(
        "layers by stage {}; tensors: {} copied, {} repeated, {} sliced, {} resized, {} mixed, {} fresh",
        output::list(&model.stage_layers),
        inheritance.copied,
        inheritance.repeated,
        inheritance.sliced,
        inheritance.resized,
        inheritance.mixed,
        inheritance.fresh
    ))?;
    if model.fresh_classes > 0 {
        let (fresh, classes) = (model.fresh_classes, model.classes);
        output::line(format_args!("classes with fresh rows of the head: {fresh} of {classes}"))?;
    }
    Ok(())
}

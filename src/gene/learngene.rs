//! The learngene: a gene file that has passed its checks, and the blueprints of its models.
//!
//! Source: Xia et al. 2024 (SWS, arXiv 2404.16897), section 3. Layer `l` of a model of `L` layers copies the one stored
//! layer of the stage that `l` belongs to; everything else is copied unchanged.
//!
//! Differs from the official code in two points. Epsilon, head dimension and pooling are the trained ones, so a model
//! of the trained depth computes the trained function. The assignment of layers to stages is computed and recorded in
//! the model, not written by hand.

use std::{path::Path, sync::Arc};

use candle_core::Device;

use crate::{
    blueprint::{
        Blueprint, Entry, Identity, ModelInfo, Origin, Piece, Resident, Source, expand,
        record::{METADATA_KEY, TOKENIZER_KEY},
    },
    digest::Digest,
    error::{Context, Error, Result},
    nn::{Config, Network, Spec},
    tensor::{Dtype, TensorFile, TensorHeader, Weights, weights::check_schema},
};

use super::{
    DepthRule, GeneMeta, Probe, Quality, Target,
    meta::{stage_name, stage_of, width_norm},
    record, width,
};

/// The requested size of a model, and how to expand it from the gene. Absent numbers mean the trained ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SizeRequest {
    /// Transformer blocks.
    pub depth: Option<u64>,
    /// Embedding dimension.
    pub width: Option<u64>,
    /// How layers are distributed over stages.
    pub rule: DepthRule,
    /// Element type of the file.
    pub dtype: Dtype,
    /// Whether to accept a width that was not trained.
    pub allow_untrained_width: bool,
}

/// What is known about a gene without its weights.
#[derive(Debug, Clone)]
pub struct GeneHeader {
    /// Its record.
    pub meta: GeneMeta,
    /// Length of its file.
    pub size_bytes: u64,
}

impl GeneHeader {
    /// Reads the header of the gene at `path`, whose name must be the stem of the file, and checks the record and the
    /// shapes of the tensors. No weight is read. None for a file that is not of this program.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] and the schema errors if an invariant is broken.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let header = TensorHeader::open_any(path)?;
        if header.metadata(METADATA_KEY).is_none() {
            return Ok(None);
        }
        let meta = checked_record(&header, &path.display().to_string())?;
        check_stem(path, &meta)?;
        Ok(Some(Self { meta, size_bytes: header.size_bytes() }))
    }

    /// The header of a gene that is in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// As for [`GeneHeader::open`].
    pub fn of(file: &TensorFile, origin: &str) -> Result<Self> {
        let meta = checked_record(file.header(), origin)?;
        Ok(Self { meta, size_bytes: file.bytes().len() as u64 })
    }
}

/// The record in `header`, which fits the shapes of the tensors.
fn checked_record(header: &TensorHeader, origin: &str) -> Result<GeneMeta> {
    let meta = record::read(header, origin)?;
    let dims = meta.config.dims();
    check_schema(header.shapes(), meta.specs().into_iter().map(|spec| spec.named_shape(&dims)))?;
    Ok(meta)
}

/// Checks that the file at `path` has the name of the gene in it.
fn check_stem(path: &Path, meta: &GeneMeta) -> Result<()> {
    if path.file_stem().is_some_and(|stem| stem == meta.name.as_str()) {
        return Ok(());
    }
    let reason = format!("the file holds the gene \"{}\"", meta.name);
    Err(Error::corrupt(path.display().to_string(), reason))
}

/// A gene in memory. Cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Learngene {
    meta: Arc<GeneMeta>,
    file: TensorFile,
    digest: String,
}

impl Learngene {
    /// Reads and checks the gene at `path`; its name must be the stem of the file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] and the schema errors if an invariant is broken or the probe fails.
    pub fn open(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let gene = Self::from_file(TensorFile::open(path)?, &origin)?;
        check_stem(path, &gene.meta)?;
        Ok(gene)
    }

    /// Checks a gene file in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and the schema errors if an invariant is broken or the probe fails.
    pub fn from_file(file: TensorFile, origin: &str) -> Result<Self> {
        let meta = checked_record(file.header(), origin)?;
        file.check_finite(origin)?;
        let gene = Self { meta: Arc::new(meta), digest: Digest::of(file.bytes()).to_string(), file };
        gene.check_probe(origin)?;
        Ok(gene)
    }

    /// The gene's record: everything except the tensors.
    pub fn meta(&self) -> &GeneMeta {
        &self.meta
    }

    /// The file.
    pub const fn file(&self) -> &TensorFile {
        &self.file
    }

    /// The `tokenizer.json` of text encoders.
    pub fn tokenizer(&self) -> Option<&str> {
        self.file.metadata(TOKENIZER_KEY)
    }

    /// SHA-256 of the file, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The measured figure of a size, if there is one.
    pub fn quality(&self, depth: usize, width: usize, tuning_epochs: u32) -> Option<&Quality> {
        let wanted = |q: &&Quality| (q.depth, q.width, q.tuning_epochs) == (depth, width, tuning_epochs);
        self.meta.quality.iter().find(wanted)
    }

    /// The blueprint of the model of `size`. Reads no weights.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] naming value and limit.
    pub fn blueprint(&self, size: &SizeRequest) -> Result<Blueprint> {
        self.blueprint_for(size, &Target::default())
    }

    /// The blueprint of the model of `size` for `target`. Reads no weights.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] naming value and limit.
    pub fn blueprint_for(&self, size: &SizeRequest, target: &Target) -> Result<Blueprint> {
        blueprint_of(&self.meta, &self.digest, size, target)
    }

    /// The model of `size`, expanded from the stored tensors without an autograd graph.
    ///
    /// # Errors
    /// As [`Learngene::blueprint`], and [`Error::Tensor`].
    pub fn expand(&self, size: &SizeRequest, device: &Device) -> Result<(ModelInfo, Weights)> {
        self.expand_for(size, &Target::default(), device)
    }

    /// As [`Learngene::expand`], for `target`.
    ///
    /// # Errors
    /// As [`Learngene::blueprint_for`], and [`Error::Tensor`].
    pub fn expand_for(
        &self,
        size: &SizeRequest,
        target: &Target,
        device: &Device,
    ) -> Result<(ModelInfo, Weights)> {
        let blueprint = self.blueprint_for(size, target)?;
        let weights = if device.is_cpu() {
            expand(&blueprint, &Weights::from_file(&self.file, device)?, device)?
        } else {
            self.resident(device)?.materialize(&blueprint)?
        };
        Ok((blueprint.info, weights))
    }

    /// The gene in the memory of `device`, ready to expand any size there.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device refuses.
    pub fn resident(&self, device: &Device) -> Result<Resident> {
        Resident::new(&self.file, device, stage_of)
    }

    fn check_probe(&self, origin: &str) -> Result<()> {
        let probe = &self.meta.probe;
        let found = self.probe_logits(probe.seed, probe.batch)?;
        let largest = probe.logits.iter().fold(0f32, |m, l| m.max(l.abs()));
        let differences = found.iter().zip(&probe.logits).map(|(a, b)| (a - b).abs());
        // `f32::max` would ignore NaN.
        let difference = differences.fold(0f32, |most, d| if d > most || d.is_nan() { d } else { most });
        let limit = Probe::TOLERANCE * largest;
        // Written so that NaN fails.
        if difference <= limit {
            return Ok(());
        }
        Err(Error::corrupt(origin, format!("probe logits differ by {difference:e}, limit {limit:e}")))
    }

    /// Logits of the auxiliary model for the probe's input.
    fn probe_logits(&self, seed: u64, batch: usize) -> Result<Vec<f32>> {
        let (info, weights) = self.expand(&SizeRequest::default(), &Device::Cpu)?;
        probe_logits(&info.config, &weights, seed, batch)
    }
}

/// The shape of the model of `size`, within the gene's limits.
fn config_of(meta: &GeneMeta, size: &SizeRequest) -> Result<Config> {
    let of = || format!("gene \"{}\"", meta.name);
    let depth = size.depth.unwrap_or(meta.config.depth() as u64);
    let [least, greatest] = meta.depth_range;
    if !(least as u64..=greatest as u64).contains(&depth) {
        let limit = format!("{least}..={greatest}");
        return Err(Error::OutOfRange { what: "depth", found: depth, of: of(), limit });
    }
    let width = size.width.unwrap_or(meta.config.width() as u64);
    let out_of_range = |limit| Error::OutOfRange { what: "width", found: width, of: of(), limit };
    let trained = meta.trained_widths.iter().any(|w| *w as u64 == width);
    if !trained && !size.allow_untrained_width {
        return Err(out_of_range(format!("trained widths {:?}", meta.trained_widths)));
    }
    if width == 0
        || width > meta.config.width() as u64
        || !width.is_multiple_of(meta.config.head_dim() as u64)
    {
        let limit = format!("multiples of head_dim {} up to {}", meta.config.head_dim(), meta.config.width());
        return Err(out_of_range(limit));
    }
    meta.config.resized(depth as usize, width as usize)
}

/// The blueprint of the model of `size` for `target`. `digest` is the gene file's, hex.
pub(super) fn blueprint_of(
    meta: &GeneMeta,
    digest: &str,
    size: &SizeRequest,
    target: &Target,
) -> Result<Blueprint> {
    let sized = config_of(meta, size)?;
    let config = target.config(sized)?;
    let stage_layers = size.rule.layers(sized.depth(), &meta.stages);
    let (schema, trained) = (sized.schema(), meta.config.dims());
    let entry = |spec: &Spec, name: String, stored: &str| {
        let shape = spec.shape(&schema.dims);
        let pieces = if meta.own_norm(spec.role, sized.width()) {
            vec![Piece::whole(&width_norm(stored, sized.width()), &shape)]
        } else {
            width::pieces(spec, stored, &trained, &schema.dims)
        };
        Entry { name, shape, dtype: size.dtype, source: Source::Pieces(pieces) }
    };
    let shared = |spec: &Spec| entry(spec, spec.name.clone(), &spec.name);
    let mut entries: Vec<_> = schema.stem.iter().map(shared).collect();
    // θ_l = θ_{s(l)}: every layer of a stage is the stage's layer under another name.
    let mut first = 0;
    for (stage, layers) in stage_layers.iter().enumerate().filter(|(_, layers)| **layers > 0) {
        let specs = &schema.layers[first];
        let of_stage = |spec: &Spec| entry(spec, String::new(), &stage_name(stage, &spec.name));
        let block: Vec<_> = specs.iter().map(of_stage).collect();
        for layer in first..first + layers {
            let named = |(spec, entry): (&Spec, &Entry)| Entry {
                name: schema.layer_name(layer, &spec.name),
                ..entry.clone()
            };
            entries.extend(specs.iter().zip(&block).map(named));
        }
        first += layers;
    }
    entries.extend(schema.tail.iter().map(shared));
    target.apply(&mut entries, meta.into(), &config);
    let form = Identity::form("genebank.model")
        .text(digest)
        .integer(sized.depth() as u64)
        .integer(sized.width() as u64)
        .text(&size.rule.to_string())
        .text(&size.dtype.to_string())
        .text("timm");
    let identity = Identity::from(target.canonical(form, meta.into(), &config));
    let origin = Origin {
        gene: meta.name.clone(),
        digest: digest.to_owned(),
        stage_layers,
        identity: identity.to_string(),
    };
    let info = ModelInfo {
        config,
        preprocessing: meta.preprocessing.clone(),
        labels: target.labels(meta.into()),
        licence: meta.licence.clone(),
        data: meta.data.clone(),
        earlier: Vec::new(),
        origin: Some(origin),
        training: Vec::new(),
    };
    Ok(Blueprint { identity, info, entries, has_record: true })
}

/// What the network of `weights` answers to the input of a probe, `[batch, outputs]` in row-major order.
///
/// # Errors
/// The schema errors and [`Error::Tensor`].
pub fn probe_logits(config: &Config, weights: &Weights, seed: u64, batch: usize) -> Result<Vec<f32>> {
    let network = Network::new(*config, weights)?;
    let answer = network.forward(&Probe::input(seed, batch, config)?);
    answer.and_then(|answer| answer.flatten_all()?.to_vec1()).context("probe")
}

//! Whole runs: from a recipe and a data set to a model or gene.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use candle_core::Device;

use crate::{
    blueprint::{
        Blueprint, ModelInfo, Preprocessing, expand,
        model::{self, METADATA_KEY},
    },
    data::{Dataset, DatasetPair, Loader, Split},
    error::{Context as _, Error, Result},
    gene::{GeneMeta, Learngene, Probe, Size, meta, store},
    nn::{
        ParamSpec, Vit, VitConfig,
        config::{NORM_EPS, RawVitConfig},
        schema,
    },
    tensor::{Dtype, Params, TensorFile, Weight, Weights, codec, hex, sha256},
};

use super::{
    Accuracy, Control, Event, Objective, Recipe, Trainer,
    classify::Classification,
    evaluate,
    evaluate::{labels, logits, score},
    learn_gene::{Distillation, StageSharing},
    nested::NestedSharing,
    recipe::GeneRecipe,
    teacher::Teacher,
};

/// Images per batch of an evaluation.
pub const EVALUATION_BATCH: usize = 250;
/// Seed of the held-out part; one for all runs, so that no choice sees what another trained on.
pub const SPLIT_SEED: u64 = 0;

/// A model and what it is.
#[derive(Debug, Clone)]
pub struct Model {
    /// Record that goes into the file.
    pub info: ModelInfo,
    /// Tensors under timm's names.
    pub weights: Weights,
}

impl Model {
    /// Reads a model file of this program.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corrupt`] and the schema errors.
    pub fn open(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let info = ModelInfo::from_file(&file, &path.display().to_string())?;
        let model = Self { info, weights: Weights::from_file(&file, &Device::Cpu)? };
        model.vit()?;
        Ok(model)
    }

    /// Writes the model file whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Tensor`] where a tensor cannot be read.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = codec::render(&self.info.metadata(), &self.weights.to_bytes(Dtype::F32)?);
        codec::write_atomic(path, [file.as_ref()])
    }

    /// The network.
    ///
    /// # Errors
    /// The schema errors.
    pub fn vit(&self) -> Result<Vit> {
        Vit::new(self.info.config, &self.weights)
    }

    /// A network that inherits nothing, for `data`, drawn from the recipe's seed.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the recipe has no model or its shape does not fit the data.
    pub fn fresh(recipe: &Recipe, data: &Dataset) -> Result<Self> {
        let info = model_info(recipe, data, preprocessing(data))?;
        let blueprint = Blueprint::fresh(info, recipe.seed);
        let weights = expand(&blueprint, &Weights::default(), &Device::Cpu)?;
        Ok(Self { info: blueprint.info, weights })
    }
}

/// What a run reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Report {
    /// The trainer's event.
    Trainer(Event),
    /// Accuracy on the held-out part after an epoch.
    HeldOut {
        /// Epochs finished.
        epoch: u64,
        /// The accuracy.
        accuracy: Accuracy,
    },
}

/// Data, recipe and means of a run.
#[derive(Debug)]
pub struct Run<'a> {
    /// What is asked for.
    pub recipe: &'a Recipe,
    /// Training and test images.
    pub data: &'a DatasetPair,
    /// Threads of computation on the CPU.
    pub threads: usize,
    /// Where is computed.
    pub device: Device,
    /// Where the state is kept; absent: nowhere.
    pub checkpoint: Option<&'a Path>,
    /// Measure the held-out part after every epoch.
    pub watch_held_out: bool,
}

/// What is trained, and how a network is made of it.
struct Task<'a> {
    objective: &'a dyn Objective,
    network: &'a dyn Fn(&Weights) -> Result<Vit>,
    initial: Weights,
    /// Changes with everything that the result depends on.
    identity: String,
    preprocessing: &'a Preprocessing,
    config: VitConfig,
}

impl Run<'_> {
    /// Trains `model` as it is: an ancestor, a scratch control or a descendant.
    ///
    /// # Errors
    /// Those of [`Trainer::run`].
    pub fn classify(
        &self,
        model: Model,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(Report),
    ) -> Result<Model> {
        let Model { info, weights } = model;
        check_data(&self.data.train, &info.config)?;
        check_labels(&self.data.train, &info.labels)?;
        let config = info.config;
        let task = Task {
            objective: &Classification::new(config, &self.recipe.optim, self.recipe.seed),
            network: &|weights| Vit::new(config, weights),
            identity: self.identity(&info.metadata()[METADATA_KEY], &weights)?,
            initial: weights.to_device(&self.device)?,
            preprocessing: &info.preprocessing,
            config,
        };
        drop(weights);
        let weights = self.train(task, cancel, report)?;
        let mut info = info;
        info.training.push(self.note());
        Ok(Model { info, weights })
    }

    /// Trains `model` as it is on labels and `teacher`'s answers, `α` of them (`τ = 1`): the control of a learned gene, with
    /// no stage shared.
    ///
    /// # Errors
    /// [`Error::Invalid`] where teacher and data do not fit; those of [`Trainer::run`].
    pub fn distil(
        &self,
        model: Model,
        teacher: &Model,
        alpha: f64,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(Report),
    ) -> Result<Model> {
        let Model { mut info, weights } = model;
        check_data(&self.data.train, &teacher.info.config)?;
        if alpha < 1.0 {
            check_labels(&self.data.train, &info.labels)?;
        }
        let (config, optim) = (info.config, &self.recipe.optim);
        let distillation = Distillation { alpha, temperature: 1.0, label_smoothing: optim.label_smoothing };
        let task = Task {
            objective: &StageSharing {
                auxiliary: Blueprint::whole(info.clone()),
                teacher: self.teacher(teacher, &config, cancel)?,
                distillation,
                drop_path: optim.drop_path,
                seed: self.recipe.seed,
                dtype: optim.dtype(),
            },
            network: &|weights| Vit::new(config, weights),
            identity: self
                .identity(&self.identity(&info.metadata()[METADATA_KEY], &weights)?, &teacher.weights)?,
            initial: weights.to_device(&self.device)?,
            preprocessing: &teacher.info.preprocessing,
            config,
        };
        drop(weights);
        let weights = self.train(task, cancel, report)?;
        info.preprocessing = teacher.info.preprocessing.clone();
        info.training.push(self.note());
        Ok(Model { info, weights })
    }

    /// `teacher` for the images of this run.
    fn teacher(&self, teacher: &Model, student: &VitConfig, cancel: &AtomicBool) -> Result<Teacher> {
        let network = Vit::new(teacher.info.config, &teacher.weights.to_device(&self.device)?)?;
        let loader = self.loader(&teacher.info.preprocessing, student)?;
        let optim = &self.recipe.optim;
        let images = optim.length.steps(loader.batches_per_epoch() as u64) * optim.batch as u64;
        Teacher::new(network, &loader, images, self.threads, cancel)
    }

    /// Learns the gene of the recipe from `teacher`, by SWS.
    ///
    /// # Errors
    /// [`Error::Invalid`] where teacher, recipe and data do not fit; those of [`Trainer::run`].
    pub fn learn(
        &self,
        gene: &GeneRecipe,
        teacher: &Model,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(Report),
    ) -> Result<(Learngene, bytes::Bytes)> {
        let (meta, device) = (self.gene_meta(gene, teacher)?, &self.device);
        let initial = if gene.from_teacher {
            inherited_gene(&meta, teacher, self.recipe.seed)?
        } else {
            meta.schema().iter().map(|spec| fresh(spec, &meta, self.recipe.seed)).collect::<Result<_>>()?
        };
        let auxiliary = store::blueprint(&meta, &Size::default())?;
        let json = serde_json::to_string(&meta).expect("a record of finite numbers and text serialises");
        let identity = self.identity(&json, &teacher.weights)?;
        let (vit, optim) = (self.teacher(teacher, &meta.config, cancel)?, &self.recipe.optim);
        let objective: Box<dyn Objective> = match &gene.nested {
            None => Box::new(StageSharing::new(auxiliary.clone(), vit, gene, optim, self.recipe.seed)),
            Some(nested) => Box::new(NestedSharing::new(&meta, nested, vit, gene, optim, self.recipe.seed)?),
        };
        let task = Task {
            network: &|weights| Vit::new(meta.config, &expand(&auxiliary, weights, device)?),
            initial: initial.to_device(device)?,
            identity,
            preprocessing: &teacher.info.preprocessing,
            config: meta.config,
            objective: objective.as_ref(),
        };
        let weights = self.train(task, cancel, report)?;
        store::render(meta, &weights.to_device(&Device::Cpu)?, self.recipe.seed)
    }

    /// Training images of the recipe.
    fn loader(&self, preprocessing: &Preprocessing, config: &VitConfig) -> Result<Loader> {
        let (dataset, indices) = self.data.select(Split::Train, SPLIT_SEED);
        check_data(&dataset, config)?;
        let recipe = self.recipe;
        Loader::new(dataset, indices, recipe.optim.batch, recipe.seed, recipe.augment, preprocessing)
    }

    /// Trains and reports the held-out accuracy of the network after every epoch.
    fn train(&self, task: Task<'_>, cancel: &AtomicBool, report: &mut dyn FnMut(Report)) -> Result<Weights> {
        let Task { objective, network, initial, identity, preprocessing, config } = task;
        let recipe = self.recipe;
        let loader = self.loader(preprocessing, &config)?;
        let held_out = loader_of(self.data, Split::HeldOut, preprocessing)?;
        let trainer = Trainer {
            objective,
            loader: &Arc::new(loader),
            config,
            optim: &recipe.optim,
            threads: self.threads,
            checkpoint: self.checkpoint.map(|path| (path, identity.as_str())),
        };
        let mut on_event = |event: Event, params: &Params| {
            report(Report::Trainer(event));
            if let (Event::Epoch { epoch, .. }, true) = (event, self.watch_held_out) {
                let model = network(&params.snapshot()?)?;
                report(Report::HeldOut { epoch, accuracy: evaluate(&model, &held_out, self.threads)? });
            }
            Ok(())
        };
        trainer.run(initial, &mut Control { cancel, on_event: &mut on_event })
    }

    /// What the result depends on: recipe, data, and what is trained.
    fn identity(&self, what: &str, weights: &Weights) -> Result<String> {
        let recipe = serde_json::to_string(self.recipe).expect("a recipe of finite numbers serialises");
        let tensors = weights.to_bytes(Dtype::F32)?;
        let tensors = codec::digests(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        let parts = format!("{}\n{recipe}\n{what}\n{tensors}", self.data.train.digest());
        Ok(hex(&sha256(parts.as_bytes())))
    }

    fn note(&self) -> String {
        let recipe = serde_json::to_string(self.recipe).expect("a recipe of finite numbers serialises");
        format!("genebank {} {recipe}", env!("CARGO_PKG_VERSION"))
    }

    fn gene_meta(&self, gene: &GeneRecipe, teacher: &Model) -> Result<GeneMeta> {
        meta::check_name(&gene.name)?;
        let info = model_info(self.recipe, &self.data.train, teacher.info.preprocessing.clone())?;
        if teacher.info.config.classes() != info.config.classes() {
            let reason = format!(
                "teacher has {} classes, data {}",
                teacher.info.config.classes(),
                info.config.classes()
            );
            return Err(Error::invalid("gene.teacher", reason));
        }
        let meta = GeneMeta {
            format: meta::FORMAT,
            name: gene.name.clone(),
            family: info.family,
            config: info.config,
            stages: gene.stages.clone(),
            trained_widths: gene
                .nested
                .as_ref()
                .map_or_else(|| vec![info.config.width()], |n| n.widths.clone()),
            width_norms: gene.nested.as_ref().is_some_and(|nested| nested.width_norms),
            depth_range: gene.depth_range,
            head_dim: info.config.head_dim(),
            norm_eps: NORM_EPS,
            pooling: meta::Pooling::Token,
            preprocessing: info.preprocessing,
            labels: info.labels,
            licence: info.licence,
            data: info.data,
            teacher: teacher.info.training.join("; "),
            recipe: self.note(),
            probe: Probe { seed: 0, batch: 1, logits: vec![0.0; info.config.classes()] },
            quality: Vec::new(),
        };
        meta.check(&format!("recipe of gene \"{}\"", gene.name))?;
        Ok(meta)
    }
}

/// An evaluation loader over a part of `data`.
///
/// # Errors
/// [`Error::Invalid`] where the preprocessing has other channels.
pub fn loader_of(data: &DatasetPair, split: Split, preprocessing: &Preprocessing) -> Result<Arc<Loader>> {
    let (dataset, indices) = data.select(split, SPLIT_SEED);
    Loader::evaluation(dataset, indices, EVALUATION_BATCH, preprocessing).map(Arc::new)
}

/// Accuracy of `model`, on the device of its weights, on a part of `data`.
///
/// # Errors
/// [`Error::Invalid`] where model and data do not fit; [`Error::Tensor`].
pub fn measure(model: &Model, data: &DatasetPair, split: Split, threads: usize) -> Result<Accuracy> {
    measure_logits(model, data, split, threads).map(|(accuracy, _)| accuracy)
}

/// As [`measure`], with the logits of every image, `[images, classes]` in row-major order.
///
/// # Errors
/// As [`measure`].
pub fn measure_logits(
    model: &Model,
    data: &DatasetPair,
    split: Split,
    threads: usize,
) -> Result<(Accuracy, Vec<f32>)> {
    check_data(&data.train, &model.info.config)?;
    check_labels(&data.train, &model.info.labels)?;
    let loader = loader_of(data, split, &model.info.preprocessing)?;
    let logits = logits(&model.vit()?, &loader, threads)?;
    Ok((score(&logits, model.info.config.classes(), &labels(&loader)), logits))
}

/// Checks that images and classes of `data` are the network's.
fn check_data(data: &Dataset, config: &VitConfig) -> Result<()> {
    let found = [data.shape().size, data.shape().channels, data.class_names().len()];
    let expected = [config.image_size(), config.channels(), config.classes()];
    if found != expected {
        let reason =
            format!("size, channels, classes of \"{}\" are {found:?}, the model's {expected:?}", data.name());
        return Err(Error::invalid("data", reason));
    }
    Ok(())
}

/// Checks that a class which both know has one number.
fn check_labels(data: &Dataset, labels: &[String]) -> Result<()> {
    let numbers: BTreeMap<_, _> = labels.iter().enumerate().map(|(number, label)| (label, number)).collect();
    for (number, class) in data.class_names().iter().enumerate() {
        if let Some(other) = numbers.get(class).filter(|other| **other != number) {
            let reason =
                format!("\"{class}\" is class {number} of \"{}\", and {other} of the model", data.name());
            return Err(Error::invalid("data", reason));
        }
    }
    Ok(())
}

/// Fresh values of a tensor of a gene.
fn fresh(spec: &ParamSpec, meta: &GeneMeta, seed: u64) -> Result<(String, Weight)> {
    let shape = spec.shape(&meta.config);
    let values = spec.init.values(seed, &spec.name, shape.iter().product());
    let tensor = candle_core::Tensor::from_vec(values, shape, &Device::Cpu);
    Ok((spec.name.clone(), tensor.and_then(|t| Weight::new(&t)).context(&spec.name)?))
}

/// First values of a gene from its teacher: shared tensors as they are, and for stage `s` of `M` the layer
/// `⌊s (L - 1) / (M - 1)⌉` of `L`. Norms of narrower widths are fresh.
fn inherited_gene(meta: &GeneMeta, teacher: &Model, seed: u64) -> Result<Weights> {
    let (layers, stages) = (teacher.info.config.depth(), meta.stages.len());
    if teacher.info.config.resized(meta.config.depth(), teacher.info.config.width())? != meta.config {
        return Err(Error::invalid("gene.from_teacher", "the teacher's shape differs in more than depth"));
    }
    let shared = schema::stem(&meta.config).into_iter().chain(schema::tail(&meta.config));
    let shared = shared.map(|spec| (spec.name.clone(), spec.name));
    let block = schema::block(&meta.config);
    let stage = |s: usize| {
        let layer = (2 * s * (layers - 1) + (stages - 1)) / (2 * (stages - 1).max(1));
        block.iter().map(move |spec| (meta::stage_name(s, &spec.name), schema::block_name(layer, &spec.name)))
    };
    let pairs = shared.chain((0..stages).flat_map(stage));
    let inherited = pairs.map(|(name, teachers)| Ok((name, teacher.weights.get(&teachers)?.clone())));
    let inherited: BTreeMap<String, Weight> = inherited.collect::<Result<_>>()?;
    let weight = |spec: ParamSpec| match inherited.get(&spec.name) {
        Some(weight) => Ok((spec.name, weight.clone())),
        None => fresh(&spec, meta, seed),
    };
    meta.schema().into_iter().map(weight).collect()
}

fn model_info(recipe: &Recipe, data: &Dataset, preprocessing: Preprocessing) -> Result<ModelInfo> {
    let shape = recipe.model.ok_or_else(|| Error::invalid("model", "the recipe has no [model]"))?;
    let config = VitConfig::try_from(RawVitConfig {
        image_size: data.shape().size,
        patch_size: shape.patch_size,
        channels: data.shape().channels,
        classes: data.class_names().len(),
        depth: shape.depth,
        width: shape.width,
        heads: shape.heads,
        mlp_ratio: shape.mlp_ratio,
    })?;
    Ok(ModelInfo {
        format: model::FORMAT,
        family: model::FAMILY.to_owned(),
        config,
        preprocessing,
        labels: data.class_names().to_vec(),
        licence: data.licence().to_owned(),
        data: format!("{} {}", data.name(), data.digest()),
        origin: None,
        training: Vec::new(),
    })
}

/// Mean and standard deviation of each channel over the whole training set, to four decimals.
fn preprocessing(data: &Dataset) -> Preprocessing {
    let channels = data.shape().channels;
    let plane = data.shape().size * data.shape().size;
    let mut sums = vec![[0u64; 2]; channels];
    for item in 0..data.len() {
        for (sums, plane) in sums.iter_mut().zip(data.image(item).chunks_exact(plane)) {
            sums[0] += plane.iter().map(|p| u64::from(*p)).sum::<u64>();
            sums[1] += plane.iter().map(|p| u64::from(*p) * u64::from(*p)).sum::<u64>();
        }
    }
    let count = (data.len() * plane) as f64;
    let round = |value: f64| (libm::round(value * 1e4) / 1e4) as f32;
    let moments = sums.iter().map(|[first, second]| {
        let mean = *first as f64 / count;
        let variance = (*second as f64 / count - mean * mean).max(1e-6);
        (round(mean / 255.0), round(libm::sqrt(variance) / 255.0))
    });
    let (mean, std) = moments.unzip();
    Preprocessing { mean, std }
}

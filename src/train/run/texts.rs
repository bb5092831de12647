//! Learns a gene of text encoders from a teacher.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use candle_core::Device;

use crate::{
    blueprint::{Ancestor, Metric, Preprocessing, expand},
    data::text::{Corpus, TextLoader},
    error::{Error, Result},
    gene::{self, GeneMeta, Learngene, Probe, SizeRequest, meta, store},
    nn::bert::{Bert, RawBertConfig},
    tensor::{Params, Weights},
    train::{
        Control, Decay, Event, Recipe, Trainer,
        embed::{cosine, embed_ids},
        learn_vectors::VectorSharing,
        recipe::{GeneRecipe, Nested},
        vectors::Vectors,
    },
};

use super::{RunEvent, identity, note};

/// Held-out texts that are measured after an epoch.
const WATCHED: usize = 512;

/// Recipe, texts and resources of a run.
#[derive(Debug)]
pub struct TextRun<'a> {
    /// The settings.
    pub recipe: &'a Recipe,
    /// The texts.
    pub corpus: &'a Arc<Corpus>,
    /// Threads for computation on the CPU.
    pub threads: usize,
    /// The device that computes.
    pub device: Device,
    /// File for the state after every epoch; without it no state is saved.
    pub checkpoint: Option<&'a Path>,
    /// File for the teacher's vectors; without it they are computed in each process.
    pub vectors: Option<&'a Path>,
    /// A gene of the same shape to go on from, in place of the teacher's values.
    pub start: Option<&'a Learngene>,
}

impl TextRun<'_> {
    /// Learns the gene `recipe` from `teacher`; returns the gene and its file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if teacher, recipe and texts do not fit; those of [`Trainer::run`].
    pub fn learn(
        &self,
        recipe: &GeneRecipe,
        teacher: &Ancestor,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(RunEvent),
    ) -> Result<(Learngene, bytes::Bytes)> {
        let nested = recipe.nested.as_ref().ok_or_else(|| {
            Error::invalid("gene.nested", "a gene of text encoders has sizes; the recipe names none")
        })?;
        let (meta, optim) = (self.gene_meta(recipe, nested, teacher)?, &self.recipe.optim);
        let initial = match self.start {
            Some(start) => same_shape(&meta, start)?,
            None => gene::ordered_values(&meta, teacher)?,
        };
        let json = store::record(&meta);
        let weights = teacher.weights(&Device::Cpu)?;
        let what = format!("{json}\n{}", self.start.map_or("", Learngene::digest));
        let identity = identity(self.recipe, &self.corpus.digest(), &what, &weights)?;
        let texts = format!("{} {}", teacher.digest(), self.corpus.digest());
        let network = Bert::new(*teacher.info().config.bert()?, &weights.to_device(&self.device)?)?;
        let vectors = Vectors::new(&network, self.corpus, &texts, self.vectors, self.threads, cancel)?;
        let [train, held_out] = self.corpus.split();
        let watched =
            Watched::new(self.corpus, &held_out[..held_out.len().min(WATCHED)], &network, self, cancel)?;
        drop(network);
        let per_epoch = self.recipe.texts.as_ref().and_then(|texts| texts.per_epoch);
        let loader = TextLoader::new(self.corpus.clone(), train, optim.batch, per_epoch, self.recipe.seed)?;
        let trainer = Trainer {
            objective: &VectorSharing::new(&meta, nested, vectors, recipe, optim, self.recipe.seed)?,
            loader: Arc::new(loader),
            decay: &Decay::of(meta.specs()),
            optim,
            threads: self.threads,
            checkpoint: self.checkpoint.map(|path| (path, identity.as_str())),
        };
        let mut on_event = |event: Event, params: &Params| {
            report(RunEvent::Trainer(event));
            if let Event::Epoch { epoch, .. } = event {
                for &width in &nested.widths {
                    let cosine = watched.agreement(&meta, width, &params.snapshot()?)?;
                    report(RunEvent::Vectors { epoch, width, cosine });
                }
            }
            Ok(())
        };
        let weights = trainer
            .run(initial.to_device(&self.device)?, &mut Control { cancel, on_event: &mut on_event })?;
        let weights = weights.to_device(&Device::Cpu)?;
        store::render_as(meta, &weights, self.recipe.seed, recipe.dtype, teacher.tokenizer())
    }

    fn gene_meta(&self, gene: &GeneRecipe, nested: &Nested, teacher: &Ancestor) -> Result<GeneMeta> {
        meta::check_name(&gene.name)?;
        if !gene.importance {
            let reason =
                "a gene of text encoders begins with its teacher's values in the order of importance";
            return Err(Error::invalid("gene.importance", reason));
        }
        let own = teacher.info().config.bert()?;
        let depth = gene.stages.iter().fold(0usize, |sum, layers| sum.saturating_add(*layers));
        // Every model answers with a vector of the teacher's dimension.
        let raw = RawBertConfig { depth, dimension: own.dimension(), ..*own.raw() };
        let config = crate::nn::BertConfig::try_from(raw)?;
        let meta = GeneMeta {
            name: gene.name.clone(),
            config: config.into(),
            stages: gene.stages.clone(),
            trained_widths: nested.widths.clone(),
            width_norms: nested.width_norms,
            depth_range: gene.depth_range,
            preprocessing: Preprocessing::default(),
            labels: Vec::new(),
            licence: self.corpus.licence().to_owned(),
            weights_licence: gene.licence.clone(),
            data: format!("{} {}", self.corpus.name(), self.corpus.digest()),
            teacher: teacher.info().training.join("; "),
            recipe: note(self.recipe),
            probe: Probe { seed: 0, batch: 1, logits: vec![0.0; config.dimension()] },
            metric: Metric::Spearman,
            quality: Vec::new(),
        };
        meta.check().map_err(|reason| Error::invalid(format!("recipe of gene \"{}\"", gene.name), reason))?;
        Ok(meta)
    }
}

/// The tensors of `start`, a gene of the shape `meta`.
fn same_shape(meta: &GeneMeta, start: &Learngene) -> Result<Weights> {
    let shape =
        |meta: &GeneMeta| (meta.config, meta.stages.clone(), meta.trained_widths.clone(), meta.width_norms);
    if shape(meta) != shape(start.meta()) {
        let reason =
            format!("gene \"{}\" has another shape, other stages or other widths", start.meta().name);
        return Err(Error::invalid("start", reason));
    }
    Weights::from_file(start.file(), &Device::Cpu)
}

/// Held-out texts with the teacher's vectors.
struct Watched<'a> {
    ids: Vec<&'a [u32]>,
    teacher: Vec<f32>,
    run: &'a TextRun<'a>,
    cancel: &'a AtomicBool,
}

impl<'a> Watched<'a> {
    fn new(
        corpus: &'a Corpus,
        items: &[u32],
        network: &Bert,
        run: &'a TextRun<'a>,
        cancel: &'a AtomicBool,
    ) -> Result<Self> {
        let ids: Vec<_> = items.iter().map(|item| corpus.text(*item as usize)).collect();
        let teacher = embed_ids(network, &ids, corpus.pad_id(), run.threads, cancel)?;
        Ok(Self { ids, teacher, run, cancel })
    }

    /// The mean cosine between the vectors of the teacher and of the model of this width and of the trained depth.
    fn agreement(&self, meta: &GeneMeta, width: usize, weights: &Weights) -> Result<f64> {
        let size = SizeRequest { width: Some(width as u64), ..SizeRequest::default() };
        let blueprint = store::blueprint(meta, &size)?;
        let network =
            Bert::new(*blueprint.info.config.bert()?, &expand(&blueprint, weights, &self.run.device)?)?;
        let vectors =
            embed_ids(&network, &self.ids, self.run.corpus.pad_id(), self.run.threads, self.cancel)?;
        let dimension = network.config().dimension().max(1);
        let pairs = vectors.chunks_exact(dimension).zip(self.teacher.chunks_exact(dimension));
        Ok(pairs.map(|(a, b)| cosine(a, b)).sum::<f64>() / self.ids.len().max(1) as f64)
    }
}

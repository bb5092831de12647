//! Cells of a study. Each cell is one run that is finished once, and is found again by a key of all that it depends on.

use std::{collections::BTreeMap, path::PathBuf, sync::atomic::AtomicBool, time::Duration};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::{
    blueprint::expand,
    digest::Digest,
    error::{Error, Result},
    file,
    gene::{Head, Learngene, Method, SizeRequest, Target, baselines},
    tensor::{Weights, codec},
    train::{
        Event, Length, Model, Optim, Recipe, finetune,
        run::{Run, RunEvent},
    },
    version,
};

use super::{Arm, Study, plan::TaughtBy};

/// One run of an arm.
#[derive(Debug, Clone, Copy)]
pub struct Cell<'a> {
    /// The way in which the model is made.
    pub arm: &'a Arm,
    /// Transformer blocks.
    pub depth: usize,
    /// Embedding dimension.
    pub width: usize,
    /// Epochs of training.
    pub epochs: u32,
    /// Peak learning rate in units of 1e-9; 0 without training.
    pub learning_rate_e9: u64,
    /// Seed of fresh values, data order and augmentation.
    pub seed: u64,
}

/// The results of a finished cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// Figure on held-out data.
    pub held_out: f64,
    /// Figure on the test set, for cells in the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// SHA-256 of the content of that test set, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_digest: Option<String>,
    /// Parameters of the model.
    pub parameters: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Training time in the process that finished the cell, seconds. Time in earlier processes is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Version of training ([`finetune::RECIPE_VERSION`]) that finished the cell. Absent if it was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<u64>,
    /// Commit of the program that finished the cell ([`crate::version::COMMIT`]). Absent if it was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

impl Finished {
    /// Whether this version of the program would train the same model. A model that is not trained has no version.
    fn is_current(&self, epochs: u32) -> bool {
        epochs == 0 || self.training.is_none_or(|training| training == finetune::RECIPE_VERSION)
    }
}

/// The finished cells of a study.
#[derive(Debug)]
pub(super) struct Cells<'a> {
    study: Study<'a>,
    /// SHA-256 of the tensors of each gene and of the ancestor, by name. The metadata does not count.
    tensors: BTreeMap<String, String>,
    recipes: BTreeMap<PathBuf, Recipe>,
    path: PathBuf,
    finished: BTreeMap<String, Finished>,
}

/// Size limit of the file of finished cells, bytes.
const MAX_CELLS_BYTES: u64 = 1 << 30;
/// Name of the ancestor in [`Cells::tensors`]. No gene can have this name.
const ANCESTOR: &str = "/ancestor";

impl<'a> Cells<'a> {
    pub(super) fn open(study: Study<'a>) -> Result<Self> {
        let path = study.output.join("cells.json");
        let finished = if path.exists() {
            let text = file::text(&path, MAX_CELLS_BYTES)?;
            serde_json::from_str(&text)
                .map_err(|e| Error::corrupt(path.display().to_string(), e.to_string()))?
        } else {
            BTreeMap::new()
        };
        let digest = |file: &crate::tensor::TensorFile| codec::digests(file.tensors());
        let genes = study.genes.iter().map(|(name, gene)| (name.clone(), digest(gene.file())));
        let tensors = genes.chain([(ANCESTOR.to_owned(), digest(study.ancestor.file()))]).collect();
        let recipe = |path: &PathBuf| Ok((path.clone(), Recipe::open(path)?));
        let recipes = study.plan.arms.iter().filter_map(|arm| arm.recipe.as_ref()).map(recipe);
        let recipes = recipes.collect::<Result<_>>()?;
        Ok(Self { study, tensors, recipes, path, finished })
    }

    pub(super) fn finished(&self, cell: &Cell<'_>) -> Result<Option<&Finished>> {
        Ok(self.finished.get(&self.key(cell)?).filter(|finished| finished.is_current(cell.epochs)))
    }

    /// Runs `cell` if it is not finished, and measures it on the test set if `test` is true.
    pub(super) fn finish(
        &mut self,
        cell: Cell<'_>,
        test: bool,
        cancel: &AtomicBool,
        say: &mut dyn FnMut(&str, Option<RunEvent>),
    ) -> Result<Finished> {
        let key = self.key(&cell)?;
        let known = self.finished.get(&key).filter(|finished| finished.is_current(cell.epochs)).cloned();
        let digest = self.study.data.test_digest();
        let enough = |finished: &&Finished| !test || finished.test_digest.as_deref() == Some(digest);
        if let Some(finished) = known.as_ref().filter(enough) {
            return Ok(finished.clone());
        }
        let (model, elapsed) = self.model(&cell, &key, cancel, say)?;
        let Study { data, threads, .. } = self.study;
        let measure = |test| data.measure(&model, test, threads);
        let held_out = known.as_ref().map_or_else(|| measure(false), |finished| Ok(finished.held_out))?;
        let test = if test { Some(measure(true)?) } else { None };
        let finished = Finished {
            held_out,
            test,
            test_digest: test.is_some().then(|| digest.to_owned()),
            parameters: model.weights.iter().map(|(_, t)| t.elem_count() as u64).sum(),
            macs: model.info.config.macs(),
            seconds: elapsed
                .map(|elapsed| elapsed.as_secs_f64())
                .or_else(|| known.and_then(|finished| finished.seconds)),
            training: Some(finetune::RECIPE_VERSION),
            commit: Some(version::COMMIT.to_owned()),
        };
        let place = if test.is_some() { "test" } else { "held-out" };
        let shown = data.metric().show(test.unwrap_or(held_out));
        say(&format!("{key}: {place} {shown}"), None);
        self.finished.insert(key, finished.clone());
        let json =
            serde_json::to_vec_pretty(&self.finished).map_err(|e| Error::invalid("cells", e.to_string()))?;
        codec::write_atomic(&self.path, [json.as_slice()])?;
        Ok(finished)
    }

    /// The model of `cell`, and how long this process trained it. The model comes from the cache, or from a run that
    /// continues where an earlier one stopped.
    fn model(
        &self,
        cell: &Cell<'_>,
        key: &str,
        cancel: &AtomicBool,
        say: &mut dyn FnMut(&str, Option<RunEvent>),
    ) -> Result<(Model, Option<Duration>)> {
        let Study { data, threads, device, cache, .. } = self.study;
        if cell.epochs == 0 {
            return Ok((self.start(cell)?, None));
        }
        let stem = format!("{key}-t{}", finetune::RECIPE_VERSION);
        let file = cache.join(format!("{stem}.safetensors"));
        if file.exists() {
            return Ok((Model::open(&file)?, None));
        }
        let recipe = self.recipe(cell)?;
        let checkpoint = cache.join(format!("{stem}.ckpt"));
        let run = Run {
            recipe: &recipe,
            data: data.images()?,
            threads,
            device: device.clone(),
            checkpoint: Some(&checkpoint),
            watch_held_out: false,
        };
        let mut elapsed = Duration::ZERO;
        let mut report = |report: RunEvent| {
            if let RunEvent::Trainer(Event::Epoch { elapsed: epoch, .. }) = report {
                elapsed += epoch;
            }
            say(key, Some(report));
        };
        let model = match cell.arm.taught_by.alpha() {
            None => run.classify(self.start(cell)?, cancel, &mut report)?,
            Some(alpha) => run.distil(self.start(cell)?, &self.ancestor()?, alpha, cancel, &mut report)?,
        };
        model.write(&file)?;
        std::fs::remove_file(&checkpoint).map_err(Error::io(&checkpoint))?;
        Ok((model, Some(elapsed)))
    }

    fn gene(&self, cell: &Cell<'_>) -> &'a Learngene {
        &self.study.genes[cell.arm.gene.as_ref().unwrap_or(&self.study.plan.gene)]
    }

    /// The ancestor as a model.
    pub(super) fn ancestor(&self) -> Result<Model> {
        Model::of(self.study.ancestor, &Device::Cpu)
    }

    /// The target for the classes of the data: the gene's own head, or a new head that keeps the rows of the classes
    /// that the gene knows.
    fn target(&self, cell: &Cell<'_>) -> Target {
        let labels = self.study.data.classes();
        let other = labels != self.gene(cell).meta().labels;
        let head = other.then(|| Head { labels: labels.to_vec(), seed: cell.seed });
        Target { head, ..Target::default() }
    }

    /// The model before training.
    fn start(&self, cell: &Cell<'_>) -> Result<Model> {
        // A study may measure whether an untrained width is of use.
        let (depth, width) = (Some(cell.depth as u64), Some(cell.width as u64));
        let size = SizeRequest { depth, width, allow_untrained_width: true, ..SizeRequest::default() };
        let (gene, ancestor, target) = (self.gene(cell), self.study.ancestor, self.target(cell));
        let method = cell.arm.method;
        let selects = method.selects();
        let of_ancestor = selects || cell.arm.taught_by.alpha().is_some();
        if of_ancestor && target.head.is_some() {
            let reason = "it has the ancestor's classes, and the data have others";
            return Err(Error::invalid(format!("arm \"{}\"", cell.arm.name), reason));
        }
        let (blueprint, file) = match method {
            Method::Gene => (gene.blueprint_for(&size, &target)?, gene.file()),
            Method::Scratch => (baselines::scratch(gene.meta(), &size, &target, cell.seed)?, gene.file()),
            method @ (Method::FirstLayers | Method::Uniform | Method::Importance) => {
                (baselines::select(ancestor, method, &size, &Target::default())?, ancestor.file())
            }
        };
        let weights = expand(&blueprint, &Weights::from_file(file, &Device::Cpu)?, &Device::Cpu)?;
        Ok(Model { info: blueprint.info, weights })
    }

    fn recipe(&self, cell: &Cell<'_>) -> Result<Recipe> {
        let (length, rate) = (Length::Epochs(cell.epochs.max(1)), cell.learning_rate_e9.max(1) as f64 * 1e-9);
        let Some(base) = cell.arm.recipe.as_ref().and_then(|path| self.recipes.get(path)) else {
            return finetune::recipe_on(self.study.data.images()?, length, Some(rate), cell.seed);
        };
        let optim = Optim {
            length,
            learning_rate: rate,
            min_learning_rate: base.optim.min_learning_rate.min(rate),
            ..base.optim.clone()
        };
        let data = self.study.plan.data.clone();
        Ok(Recipe { data, seed: cell.seed, model: None, start: None, gene: None, optim, ..base.clone() })
    }

    /// The key of a cell. It is readable, and differs wherever the trained model may differ.
    pub(super) fn key(&self, cell: &Cell<'_>) -> Result<String> {
        let Cell { arm, depth, width, epochs, learning_rate_e9, seed } = *cell;
        let gene = arm.gene.as_ref().unwrap_or(&self.study.plan.gene);
        let (from, start) = match arm.method {
            Method::Gene => (self.tensors[gene].as_str(), gene.clone()),
            Method::Scratch => ("", arm.method.to_string()),
            Method::FirstLayers | Method::Uniform | Method::Importance => {
                (self.tensors[ANCESTOR].as_str(), arm.method.to_string())
            }
        };
        let data = self.study.data.digest();
        let mut name = format!("{start}-d{depth}-w{width}-e{epochs}");
        let target = self.target(cell);
        let drawn = arm.method != Method::Gene || target.head.is_some();
        let mut parts = format!("{data}\n{from}\n{name}\n{}", if drawn { seed } else { 0 });
        if let Some(head) = target.head {
            parts += &format!("\n{:?}", head.labels);
        }
        if epochs > 0 {
            let recipe = serde_json::to_string(&self.recipe(cell)?)
                .map_err(|e| Error::invalid("recipe", e.to_string()))?;
            name += &format!("-lr{:e}-s{seed}", learning_rate_e9 as f64 / 1e9);
            parts += &format!("\n{recipe}");
            if arm.taught_by.alpha().is_some() {
                name += match arm.taught_by {
                    TaughtBy::Both => "-both",
                    TaughtBy::Ancestor | TaughtBy::Labels => "-taught",
                };
                parts += &format!("\n{}", self.tensors[ANCESTOR]);
            }
        }
        Ok(format!("{name}-{}", &Digest::of_text(&parts).to_string()[..12]))
    }
}

//! Cells: one run each, finished once, found again by what they depend on.

use std::{collections::BTreeMap, path::PathBuf, sync::atomic::AtomicBool};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::{
    data::Split,
    error::{Error, Result},
    gene::Size,
    tensor::{codec, hex, sha256},
    train::{
        Length, Optim, Recipe, finetune,
        run::{Model, Report, Run, measure},
    },
};

use super::Study;

/// Where a model's first values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// The gene.
    Gene,
    /// Nothing: seeded values.
    Scratch,
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Where the first values come from.
    pub arm: Arm,
    /// Transformer blocks.
    pub depth: usize,
    /// Epochs of training.
    pub epochs: u32,
    /// Peak learning rate, 1e-9.
    pub learning_rate_e9: u64,
}

/// What is known of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// Accuracy on held-out training images.
    pub held_out: f64,
    /// Accuracy on the test set, for cells of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// SHA-256 of that test set's content, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_digest: Option<String>,
    /// Parameters of the model.
    pub parameters: u64,
    /// Multiply-accumulates of one image.
    pub macs: u64,
}

/// The finished cells of a study.
#[derive(Debug)]
pub(super) struct Cells<'a> {
    study: Study<'a>,
    scratch: Recipe,
    /// What every cell depends on: data and tensors of the gene.
    base: String,
    path: PathBuf,
    finished: BTreeMap<String, Finished>,
}

impl<'a> Cells<'a> {
    pub(super) fn open(study: Study<'a>) -> Result<Self> {
        let path = study.output.join("cells.json");
        let finished = if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            serde_json::from_str(&text)
                .map_err(|e| Error::corrupt(path.display().to_string(), e.to_string()))?
        } else {
            BTreeMap::new()
        };
        let scratch = Recipe::open(&study.plan.scratch_recipe)?;
        let tensors = codec::digests(study.gene.file().tensors());
        let base = format!("{}\n{tensors}", study.data.train.digest());
        Ok(Self { study, scratch, base, path, finished })
    }

    pub(super) fn finished(&self, cell: &Cell) -> Option<&Finished> {
        self.finished.get(&self.key(cell).ok()?)
    }

    /// Runs `cell` where it is not finished, and reads the test set where it is wanted.
    pub(super) fn finish(
        &mut self,
        cell: Cell,
        test: bool,
        cancel: &AtomicBool,
        say: &mut dyn FnMut(&str, Option<Report>),
    ) -> Result<Finished> {
        let key = self.key(&cell)?;
        let known = self.finished.get(&key).cloned();
        let digest = self.study.data.test.digest();
        let enough = |finished: &&Finished| !test || finished.test_digest.as_deref() == Some(digest);
        if let Some(finished) = known.as_ref().filter(enough) {
            return Ok(finished.clone());
        }
        let model = self.model(cell, &key, cancel, say)?;
        let Study { data, threads, .. } = self.study;
        let share = |split| measure(&model, data, split, threads).map(|accuracy| accuracy.share());
        let held_out = known.map_or_else(|| share(Split::HeldOut), |finished| Ok(finished.held_out))?;
        let test = if test { Some(share(Split::Test)?) } else { None };
        let parameters = model.weights.iter().map(|(_, t)| t.elem_count() as u64).sum();
        let test_digest = test.is_some().then(|| data.test.digest().to_owned());
        let macs = model.info.config.macs();
        let finished = Finished { held_out, test, test_digest, parameters, macs };
        let place = if test.is_some() { "test" } else { "held-out" };
        let shown = test.unwrap_or(held_out) * 100.0;
        say(&format!("{}: {place} {shown:.2} %", name(&cell)), None);
        self.finished.insert(key, finished.clone());
        let json =
            serde_json::to_vec_pretty(&self.finished).map_err(|e| Error::invalid("cells", e.to_string()))?;
        codec::write_atomic(&self.path, [json.as_slice()])?;
        Ok(finished)
    }

    /// The trained model of `cell`: from the cache, or by a run that goes on where it was stopped.
    fn model(
        &self,
        cell: Cell,
        key: &str,
        cancel: &AtomicBool,
        say: &mut dyn FnMut(&str, Option<Report>),
    ) -> Result<Model> {
        let Study { data, threads, device, cache, .. } = self.study;
        let recipe = self.recipe(&cell)?;
        let initial = match cell.arm {
            Arm::Gene => {
                let size = Size { depth: Some(cell.depth as u64), ..Size::default() };
                let (info, weights) = self.study.gene.expand(&size, &Device::Cpu)?;
                Model { info, weights }
            }
            Arm::Scratch => Model::fresh(&recipe, &data.train)?,
        };
        if cell.epochs == 0 {
            return Ok(initial);
        }
        let file = cache.join(format!("{key}.safetensors"));
        if file.exists() {
            return Model::open(&file);
        }
        let checkpoint = cache.join(format!("{key}.ckpt"));
        let run = Run {
            recipe: &recipe,
            data,
            threads,
            device: device.clone(),
            checkpoint: Some(&checkpoint),
            watch_held_out: false,
        };
        let label = name(&cell);
        let model = run.classify(initial, cancel, &mut |report| say(&label, Some(report)))?;
        model.write(&file)?;
        std::fs::remove_file(&checkpoint).map_err(Error::io(&checkpoint))?;
        Ok(model)
    }

    fn recipe(&self, cell: &Cell) -> Result<Recipe> {
        let (length, rate) = (Length::Epochs(cell.epochs.max(1)), cell.learning_rate_e9.max(1) as f64 * 1e-9);
        let plan = self.study.plan;
        match cell.arm {
            Arm::Gene => finetune::recipe(&self.scratch.data, length, Some(rate), plan.seed),
            Arm::Scratch => {
                let base = &self.scratch.optim;
                let optim = Optim {
                    length,
                    learning_rate: rate,
                    min_learning_rate: base.min_learning_rate.min(rate),
                    warmup_steps: plan.scratch_warmup_steps,
                    ..base.clone()
                };
                plan.scratch(&self.scratch, cell.depth, optim)
            }
        }
    }

    /// Readable, and different wherever the trained model may be.
    fn key(&self, cell: &Cell) -> Result<String> {
        let recipe = serde_json::to_string(&self.recipe(cell)?)
            .map_err(|e| Error::invalid("recipe", e.to_string()))?;
        let digest = hex(&sha256(format!("{}{cell:?}\n{recipe}", self.base).as_bytes()));
        Ok(format!("{}-{}", name(cell), &digest[..12]))
    }
}

fn name(cell: &Cell) -> String {
    let arm = match cell.arm {
        Arm::Gene => "gene",
        Arm::Scratch => "scratch",
    };
    match cell.epochs {
        0 => format!("{arm}-d{}-e0", cell.depth),
        epochs => format!("{arm}-d{}-e{epochs}-lr{:e}", cell.depth, cell.learning_rate_e9 as f64 / 1e9),
    }
}

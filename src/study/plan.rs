//! Plans of studies: one TOML file each.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    train::{Optim, Recipe, recipe::ModelShape},
};

/// What is measured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name of the gene.
    pub gene: String,
    /// Model file of the ancestor, relative to the plan's folder.
    pub ancestor: PathBuf,
    /// Recipe of the controls, relative to the plan's folder: shape, optimiser and augmentation. Its depth, length
    /// and learning rate are replaced by the cells'.
    pub scratch_recipe: PathBuf,
    /// Steps of warm-up of the controls, whose runs are shorter than the recipe's.
    pub scratch_warmup_steps: u64,
    /// Depths that are measured as the gene gives them, without tuning.
    pub depths: Vec<usize>,
    /// The gene's models after tuning.
    pub gene_arm: ArmPlan,
    /// Models of the same sizes that inherit nothing.
    pub scratch_arm: ArmPlan,
    /// Seed of every run.
    #[serde(default)]
    pub seed: u64,
}

/// One arm of a study.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmPlan {
    /// Depths in the table.
    pub depths: Vec<usize>,
    /// Epochs in the table.
    pub epochs: Vec<u32>,
    /// Learning rates to pick from, for each number of epochs.
    pub learning_rates: Vec<f64>,
    /// Depth at which the learning rate is picked.
    pub pick_depth: usize,
}

impl ArmPlan {
    /// The learning rates in units of 1e-9.
    pub fn learning_rates_e9(&self) -> impl Iterator<Item = u64> {
        self.learning_rates.iter().map(|rate| (rate * 1e9).round() as u64)
    }
}

impl Plan {
    /// Reads and checks a plan.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Invalid`] naming key, value and limit.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let plan: Self =
            toml::from_str(&text).map_err(|e| Error::invalid(path.display().to_string(), e.to_string()))?;
        for (name, arm) in [("gene_arm", &plan.gene_arm), ("scratch_arm", &plan.scratch_arm)] {
            if arm.learning_rates.iter().any(|rate| !(1e-9..=1.0).contains(rate)) {
                return Err(Error::invalid(format!("{name}.learning_rates"), "a rate is beyond 1e-9..=1"));
            }
            if arm.epochs.iter().any(|epochs| !(1..=1000).contains(epochs)) {
                return Err(Error::invalid(format!("{name}.epochs"), "a number is beyond 1..=1000"));
            }
        }
        if [&plan.depths, &plan.gene_arm.depths, &plan.scratch_arm.depths]
            .iter()
            .all(|depths| depths.is_empty())
        {
            return Err(Error::invalid("depths", "the plan has no cell"));
        }
        Ok(plan)
    }

    /// The recipe of a control.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the recipe of the controls has no model.
    pub fn scratch(&self, base: &Recipe, depth: usize, optim: Optim) -> Result<Recipe> {
        let model = base.model.ok_or_else(|| Error::invalid("scratch_recipe", "it has no [model]"))?;
        Ok(Recipe { seed: self.seed, model: Some(ModelShape { depth, ..model }), optim, ..base.clone() })
    }
}

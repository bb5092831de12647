//! The plan of a study, read from a TOML file.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    file,
    gene::Method,
    nn::Size,
};

/// Size limit of a plan, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Limit on the cells of one arm.
const MAX_CELLS: usize = 100_000;

/// The plan of a study.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name of the data set.
    pub data: String,
    /// Name of the gene in whose file the accuracies can be stored.
    pub gene: String,
    /// Model file of the ancestor, relative to the plan's folder. It is the reference for accuracies, the teacher, and
    /// the model from which baselines select.
    pub ancestor: PathBuf,
    /// Seeds for arms that name none.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// The ways to make a model that are compared.
    pub arms: Vec<Arm>,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// Models that are made in the same way.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Name in tables and plots.
    pub name: String,
    /// Where the initial values come from.
    #[serde(default)]
    pub method: Method,
    /// The gene for method `gene`, if it is not the plan's.
    #[serde(default)]
    pub gene: Option<String>,
    /// Sizes, `[depth, width]`.
    #[serde(default)]
    pub sizes: Vec<[usize; 2]>,
    /// Depths. Each of them with each of `widths` is a size too.
    #[serde(default)]
    pub depths: Vec<usize>,
    /// Widths for `depths`. If empty: the gene's trained width.
    #[serde(default)]
    pub widths: Vec<usize>,
    /// Numbers of epochs of training; 0 measures the initial model.
    pub epochs: Vec<u32>,
    /// The targets of training.
    #[serde(default)]
    pub taught_by: TaughtBy,
    /// Recipe with the optimiser and the augmentation, relative to the plan's folder. The length, learning rate and
    /// seed of each cell replace those of the recipe. If absent: the recipe of tuning.
    #[serde(default)]
    pub recipe: Option<PathBuf>,
    /// Learning rates to pick from, separately for each number of epochs.
    #[serde(default)]
    pub learning_rates: Vec<f64>,
    /// Size at which the learning rate is picked, `[depth, width]`.
    #[serde(default)]
    pub pick: Option<[usize; 2]>,
    /// Seeds, if they are not the plan's.
    #[serde(default)]
    pub seeds: Option<Vec<u64>>,
}

/// What a model learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaughtBy {
    /// Cross-entropy against smoothed labels.
    #[default]
    Labels,
    /// Only the ancestor's predictions: `α = 1`, `τ = 1`.
    Ancestor,
    /// Labels and the ancestor's predictions in equal parts: `α = 1/2`, `τ = 1`.
    Both,
}

impl TaughtBy {
    /// The weight `α` of distillation, or `None` without distillation.
    pub const fn alpha(self) -> Option<f64> {
        match self {
            Self::Labels => None,
            Self::Ancestor => Some(1.0),
            Self::Both => Some(0.5),
        }
    }
}

impl Arm {
    /// The learning rates in units of 1e-9.
    pub fn learning_rates_e9(&self) -> impl ExactSizeIterator<Item = u64> {
        self.learning_rates.iter().map(|rate| (rate * 1e9).round() as u64)
    }

    /// Every size once, in order. `width` is the gene's trained width.
    pub fn sizes(&self, width: usize) -> BTreeSet<Size> {
        let own = [width];
        let widths = if self.widths.is_empty() { own.as_slice() } else { self.widths.as_slice() };
        let pairs =
            widths.iter().flat_map(|width| self.depths.iter().map(|&depth| Size { width: *width, depth }));
        pairs.chain(self.sizes.iter().map(|&[depth, width]| Size { width, depth })).collect()
    }

    fn check(&self, seeds: usize) -> Result<()> {
        let key = |field: &str| format!("arm \"{}\", {field}", self.name);
        let trained = self.epochs.iter().any(|epochs| *epochs > 0);
        // The numbers come from a file, so their product must not overflow.
        let sizes =
            self.depths.len().saturating_mul(self.widths.len().max(1)).saturating_add(self.sizes.len());
        let cells = sizes.saturating_mul(self.epochs.len()).saturating_mul(seeds);
        let rules = [
            (
                "learning_rates",
                self.learning_rates.iter().all(|rate| (1e-9..=1.0).contains(rate)),
                "1e-9..=1",
            ),
            ("learning_rates", !trained || !self.learning_rates.is_empty(), "at least one to train with"),
            ("pick", self.learning_rates.len() < 2 || self.pick.is_some(), "a size where a rate is picked"),
            ("epochs", self.epochs.iter().all(|epochs| *epochs <= 1000), "0..=1000"),
            ("sizes, epochs and seeds", (1..=MAX_CELLS).contains(&cells), "1..=100000 cells"),
            ("gene", self.gene.is_none() || self.method == Method::Gene, "for method gene alone"),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, limit)) => Err(Error::invalid(key(field), format!("must be {limit}"))),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// Reads and checks a plan. Its paths become relative to the working folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`], naming the key and the limit.
    pub fn open(path: &Path) -> Result<Self> {
        let text = file::text(path, MAX_FILE_BYTES)?;
        let mut plan: Self =
            toml::from_str(&text).map_err(|e| Error::invalid(path.display().to_string(), e.to_string()))?;
        let names: BTreeSet<_> = plan.arms.iter().map(|arm| &arm.name).collect();
        if plan.arms.is_empty() || names.len() != plan.arms.len() {
            return Err(Error::invalid("arms", "a plan has at least one, and each has its own name"));
        }
        for arm in &plan.arms {
            arm.check(arm.seeds.as_ref().unwrap_or(&plan.seeds).len())?;
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        plan.ancestor = folder.join(&plan.ancestor);
        for recipe in plan.arms.iter_mut().filter_map(|arm| arm.recipe.as_mut()) {
            *recipe = folder.join(&recipe);
        }
        Ok(plan)
    }

    /// Names of the genes that the study needs.
    pub fn genes(&self) -> BTreeSet<&str> {
        let others = self.arms.iter().filter_map(|arm| arm.gene.as_deref());
        others.chain([self.gene.as_str()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(arm: &str) -> Result<Plan> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        let text = format!("data = \"d\"\ngene = \"g\"\nancestor = \"a\"\n[[arms]]\nname = \"x\"\n{arm}");
        crate::tensor::codec::write_atomic(&path, [text.as_bytes()]).unwrap();
        Plan::open(&path)
    }

    #[test]
    fn plans_without_cells_or_rates_are_refused() {
        open("epochs = [0]\ndepths = [3]").unwrap();
        open("epochs = [1]\nsizes = [[3, 8]]\nlearning_rates = [1e-3]").unwrap();
        for bad in [
            "epochs = [0]",
            "epochs = []\ndepths = [3]",
            "epochs = [1]\ndepths = [3]",
            "epochs = [1001]\ndepths = [3]\nlearning_rates = [1e-3]",
            "epochs = [1]\ndepths = [3]\nlearning_rates = [nan]",
            "epochs = [1]\ndepths = [3]\nlearning_rates = [1e-3, 2e-3]",
            "epochs = [0]\ndepths = [3]\nmethod = \"scratch\"\ngene = \"other\"",
            "epochs = [0]\ndepths = [3]\nsize = 1",
        ] {
            open(bad).unwrap_err();
        }
    }

    #[test]
    fn sizes_are_pairs_and_lists_without_repetition() {
        let plan =
            open("epochs = [0]\ndepths = [3, 4]\nwidths = [8, 16]\nsizes = [[4, 16], [9, 8]]").unwrap();
        let sizes = |plan: Plan| -> Vec<[usize; 2]> {
            plan.arms[0].sizes(99).into_iter().map(|Size { width, depth }| [depth, width]).collect()
        };
        assert_eq!(sizes(plan), [[3, 8], [4, 8], [9, 8], [3, 16], [4, 16]]);
        assert_eq!(sizes(open("epochs = [0]\ndepths = [3]").unwrap()), [[3, 99]]);
    }
}

//! Plans of studies: one TOML file each.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    gene::Method,
    nn::Size,
};

/// Most cells of a study.
const MAX_CELLS: usize = 100_000;

/// What is measured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name of the data set.
    pub data: String,
    /// Name of the gene whose figures can be stored.
    pub gene: String,
    /// Model file of the ancestor, relative to the plan's folder: the measure, who teaches, and what is selected from.
    pub ancestor: PathBuf,
    /// Seeds of arms that name none.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// What is compared.
    pub arms: Vec<Arm>,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// Models that are made in one way.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Name in tables and plots.
    pub name: String,
    /// Where first values come from.
    #[serde(default)]
    pub method: Method,
    /// The gene of method `gene`, where it is not the plan's.
    #[serde(default)]
    pub gene: Option<String>,
    /// Sizes, `[depth, width]`.
    #[serde(default)]
    pub sizes: Vec<[usize; 2]>,
    /// Depths; each of them with each of `widths` is a size too.
    #[serde(default)]
    pub depths: Vec<usize>,
    /// See `depths`; empty: the gene's trained width.
    #[serde(default)]
    pub widths: Vec<usize>,
    /// Epochs of training; 0 is the model as it starts.
    pub epochs: Vec<u32>,
    /// What is learned from.
    #[serde(default)]
    pub taught_by: TaughtBy,
    /// Recipe whose optimiser and augmentation are used, relative to the plan's folder; its length, learning rate and
    /// seed are replaced by the cells'. Absent: the recipe of tuning.
    #[serde(default)]
    pub recipe: Option<PathBuf>,
    /// Learning rates to pick from, for each number of epochs.
    #[serde(default)]
    pub learning_rates: Vec<f64>,
    /// Size at which the learning rate is picked, `[depth, width]`.
    #[serde(default)]
    pub pick: Option<[usize; 2]>,
    /// Seeds, where they are not the plan's.
    #[serde(default)]
    pub seeds: Option<Vec<u64>>,
}

/// Targets of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaughtBy {
    /// Cross-entropy against smoothed labels.
    #[default]
    Labels,
    /// The ancestor's answers alone: `α = 1`, `τ = 1`.
    Ancestor,
    /// Labels and the ancestor's answers in equal parts: `α = 1/2`, `τ = 1`.
    Both,
}

impl TaughtBy {
    /// `α` of the distillation; absent without a distillation.
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

    /// Every size once, in order; `width` is the gene's trained width.
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
        // Without overflow: a product of what was read.
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
    /// Reads and checks a plan; paths in it become relative to the working folder.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Invalid`] naming key and limit.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
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

    /// Names of the genes that it needs.
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

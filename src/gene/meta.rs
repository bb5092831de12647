//! What a gene file says about itself: one JSON value in `__metadata__["genebank"]`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    blueprint::{ModelInfo, Preprocessing, model::FAMILY},
    error::{Error, Result},
    nn::{Axis, Role, Spec, VitConfig, vit::config::NORM_EPS},
    tensor::rng,
};

use super::target::images;

/// Version of the gene file that this program reads and writes.
pub const FORMAT: u32 = 1;
/// Most stages of a gene.
pub const MAX_STAGES: usize = 64;
/// Deepest model that a gene may offer.
pub const MAX_DEPTH: usize = 1024;

/// A measured quality figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Depth of the measured model.
    pub depth: usize,
    /// Width of the measured model.
    pub width: usize,
    /// Epochs of tuning after expansion.
    pub tuning_epochs: u32,
    /// Share of test images classified correctly.
    pub accuracy: f64,
}

/// A self-test: the logits that the auxiliary model gives for a seeded input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Seed of the input.
    pub seed: u64,
    /// Images of the input.
    pub batch: usize,
    /// Expected logits, `[batch, classes]` in row-major order.
    pub logits: Vec<f32>,
}

impl Probe {
    /// Largest accepted difference as a share of the largest logit.
    pub const TOLERANCE: f32 = 1e-3;
    /// Most images of a probe.
    pub const MAX_BATCH: usize = 16;
    /// Most values of its input.
    pub const MAX_VALUES: usize = 1 << 22;

    /// The input: uniform values in `[-1, 1)` from ChaCha bits, without a library function.
    ///
    /// # Shapes
    /// `[batch, channels, height, width]` in row-major order.
    pub fn input(seed: u64, batch: usize, config: &VitConfig) -> Vec<f32> {
        let mut stream = rng::stream(seed, "probe");
        (0..batch * config.image_values()).map(|_| 2.0 * stream.unit_f32() - 1.0).collect()
    }
}

/// How tokens become the input of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// `norm` → token 0 → `head`.
    Token,
}

/// Everything about a gene but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneMeta {
    /// Version of the file, [`FORMAT`].
    pub format: u32,
    /// Name; the stem of the file.
    pub name: String,
    /// Model family, `vit`.
    pub family: String,
    /// Shape of the auxiliary model: the trained depth and width.
    pub config: VitConfig,
    /// Layers of each stage in the auxiliary model.
    pub stages: Vec<usize>,
    /// Widths that were trained.
    pub trained_widths: Vec<usize>,
    /// Whether narrower widths have scales and shifts of the norms of their own, under [`width_norm`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub width_norms: bool,
    /// Least and greatest depth that is served.
    pub depth_range: [usize; 2],
    /// Dimension of one head.
    pub head_dim: usize,
    /// Epsilon of every LayerNorm.
    pub norm_eps: f64,
    /// How tokens become the input of the head.
    pub pooling: Pooling,
    /// How pixels become the network's input.
    pub preprocessing: Preprocessing,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Licence of the training data.
    pub licence: String,
    /// Training data.
    pub data: String,
    /// Who taught.
    pub teacher: String,
    /// How it was learned.
    pub recipe: String,
    /// Self-test.
    pub probe: Probe,
    /// Measured on the test set.
    #[serde(default)]
    pub quality: Vec<Quality>,
}

impl GeneMeta {
    /// Checks every invariant that needs no tensor.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming `origin`, the value and the limit.
    pub fn check(&self, origin: &str) -> Result<()> {
        // A file may say anything: the sum must not overflow.
        let trained = self.stages.iter().fold(0usize, |sum, layers| sum.saturating_add(*layers));
        let [least, greatest] = self.depth_range;
        let (config, widths) = (&self.config, &self.trained_widths);
        let probe = &self.probe;
        let rules = [
            (self.format == FORMAT, format!("format {} is not {FORMAT}", self.format)),
            (self.family == FAMILY, format!("family \"{}\" is not \"{FAMILY}\"", self.family)),
            (check_name(&self.name).is_ok(), format!("\"{}\" is not a gene name", self.name)),
            (
                (1..=MAX_STAGES).contains(&self.stages.len()) && !self.stages.contains(&0),
                format!("{} stages are beyond 1..={MAX_STAGES}, or one has no layer", self.stages.len()),
            ),
            (trained == config.depth(), format!("stages hold {trained} layers, depth is {}", config.depth())),
            (
                1 <= least && least <= trained && trained <= greatest && greatest <= MAX_DEPTH,
                format!(
                    "depth range {least}..={greatest} does not hold depth {trained} within 1..={MAX_DEPTH}"
                ),
            ),
            (
                self.head_dim == config.head_dim(),
                format!("head_dim {} is not the network's {}", self.head_dim, config.head_dim()),
            ),
            (self.norm_eps == NORM_EPS, format!("norm_eps {} is not {NORM_EPS}", self.norm_eps)),
            (
                widths.contains(&config.width())
                    && widths
                        .iter()
                        .all(|w| *w > 0 && *w <= config.width() && w.is_multiple_of(self.head_dim)),
                format!("trained widths {widths:?} do not hold {} or are not heads of it", config.width()),
            ),
            (
                widths.iter().collect::<BTreeSet<_>>().len() == widths.len(),
                format!("trained widths {widths:?} hold one twice"),
            ),
            (
                self.labels.len() == config.classes(),
                format!("{} labels for {} classes", self.labels.len(), config.classes()),
            ),
            (
                self.preprocessing.validate(config.channels()).is_ok(),
                format!("preprocessing {:?} does not fit {} channels", self.preprocessing, config.channels()),
            ),
            (
                (1..=Probe::MAX_BATCH).contains(&probe.batch)
                    && probe.batch * config.image_values() <= Probe::MAX_VALUES
                    && probe.logits.len() == probe.batch * config.classes()
                    && probe.logits.iter().all(|logit| logit.is_finite()),
                format!(
                    "probe of {} images with {} finite logits: at most {} images, {} values, {} logits each",
                    probe.batch,
                    probe.logits.len(),
                    Probe::MAX_BATCH,
                    Probe::MAX_VALUES,
                    config.classes()
                ),
            ),
        ];
        let impossible = |q: &&Quality| {
            !(0.0..=1.0).contains(&q.accuracy) || q.depth > MAX_DEPTH || q.width > config.width()
        };
        if let Some(row) = self.quality.iter().find(impossible) {
            return Err(Error::corrupt(origin, format!("{row:?} is not a quality figure of this gene")));
        }
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err(Error::corrupt(origin, reason)),
            None => Ok(()),
        }
    }

    /// Every tensor of the gene file: the shared ones under timm's names, one block per stage under [`stage_name`], and
    /// the norms of narrower widths under [`width_norm`].
    pub fn specs(&self) -> Vec<Spec> {
        let schema = self.config.schema();
        // The first layer of each stage stands for the others.
        let firsts = self.stages.iter().scan(0, |next, layers| Some(std::mem::replace(next, *next + layers)));
        let stages = firsts.enumerate().flat_map(|(stage, layer)| {
            let layer = schema.layers[layer].iter();
            layer.map(move |spec| Spec { name: stage_name(stage, &spec.name), ..spec.clone() })
        });
        let specs: Vec<_> =
            schema.stem.iter().cloned().chain(stages).chain(schema.tail.iter().cloned()).collect();
        let own = |width: usize| {
            let norms = specs.iter().filter(move |spec| self.own_norm(spec.role, width));
            norms.map(move |spec| Spec {
                name: width_norm(&spec.name, width),
                axes: vec![Axis::Fixed(width)],
                ..spec.clone()
            })
        };
        let norms: Vec<_> = self.trained_widths.iter().flat_map(|width| own(*width)).collect();
        specs.into_iter().chain(norms).collect()
    }

    /// Whether `model` is for the classes and images that the gene was trained and measured on.
    pub fn is_for(&self, model: &ModelInfo) -> bool {
        model.labels == self.labels && images(&model.config) == images(&self.config)
    }

    /// Whether models of `width` have separate values of parameters with this role.
    pub fn own_norm(&self, role: Role, width: usize) -> bool {
        let narrower = width != self.config.width() && self.trained_widths.contains(&width);
        self.width_norms && narrower && role.of_norm()
    }
}

/// Name in a gene file of parameter `parameter` of the layer of `stage`.
pub fn stage_name(stage: usize, parameter: &str) -> String {
    format!("stages.{stage}.{parameter}")
}

/// Stage and parameter of a name that [`stage_name`] gave.
pub fn stage_of(name: &str) -> Option<(usize, String)> {
    let (stage, parameter) = name.strip_prefix("stages.")?.split_once('.')?;
    Some((stage.parse().ok()?, parameter.to_owned()))
}

/// Name in a gene file of the values of norm parameter `name` for models of `width`.
pub fn width_norm(name: &str, width: usize) -> String {
    format!("{name}@w{width}")
}

/// Checks that `name` can be a gene's: letters, digits, `.`, `_` and `-`, at most 64, beginning with a letter or
/// digit, and without the `-d<digits>-w<digits>` that repository names append.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let sized = |name: &str| {
        name.match_indices("-d").any(|(at, _)| {
            let rest = name[at + 2..].trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = rest.len() < name.len() - at - 2;
            digits && rest.strip_prefix("-w").is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.len() > 64 || !starts || !name.chars().all(plain) || name.contains("..") || sized(name) {
        let shown: String = name.chars().take(80).collect();
        let reason =
            "use at most 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, without -d<n>-w<n>";
        return Err(Error::invalid("gene name", format!("\"{shown}\": {reason}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_clash_with_repositories_are_refused() {
        for name in ["fashion-s", "a.b_c", "x-d4", "deit-dw"] {
            check_name(name).unwrap();
        }
        for name in ["", "-x", "a/b", "a..b", "x-d4-w96", "é", &"a".repeat(65)] {
            check_name(name).unwrap_err();
        }
    }
}

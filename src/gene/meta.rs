//! The record of a gene, and the rules that it must satisfy.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    blueprint::{Metric, ModelInfo, Preprocessing},
    error::{Error, Result},
    nn::{Axis, Config, Role, Spec, VitConfig},
};

use super::{Probe, labels};

/// Largest number of stages of a gene.
pub const MAX_STAGES: usize = 64;
/// Deepest model that a gene may offer.
pub const MAX_DEPTH: usize = 1024;

/// A measured quality figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// Depth of the measured model.
    pub depth: usize,
    /// Width of the measured model.
    pub width: usize,
    /// Epochs of tuning after expansion.
    pub tuning_epochs: u32,
    /// Value of the gene's metric.
    pub value: f64,
    /// Number of items of the test set. Absent in genes from before it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
}

/// Everything about a gene except its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneMeta {
    /// Name; the stem of the file.
    pub name: String,
    /// Shape of the auxiliary model: the trained depth and width.
    pub config: Config,
    /// Layers of each stage in the auxiliary model.
    pub stages: Vec<usize>,
    /// Widths that were trained.
    pub trained_widths: Vec<usize>,
    /// Whether narrower widths have separate scales and shifts of the norms, and separate projections of the vector,
    /// under [`width_norm`].
    pub width_norms: bool,
    /// Smallest and largest depth that is served.
    pub depth_range: [usize; 2],
    /// How pixels become the network's input.
    pub preprocessing: Preprocessing,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Licence of the training data.
    pub licence: String,
    /// Licence of the weights, if it is not that of the training data.
    pub weights_licence: Option<String>,
    /// Training data.
    pub data: String,
    /// The teacher.
    pub teacher: String,
    /// How the gene was learned.
    pub recipe: String,
    /// Self-test.
    pub probe: Probe,
    /// The metric of its models.
    pub metric: Metric,
    /// Figures measured on the test set.
    pub quality: Vec<Quality>,
}

impl GeneMeta {
    /// Checks every invariant that needs no tensor.
    ///
    /// # Errors
    /// The broken rule, with the value and the limit. The caller chooses the kind of error, because only the caller
    /// knows whether the record comes from a file, a recipe or a command line.
    pub fn check(&self) -> std::result::Result<(), String> {
        let Self { config, trained_widths: widths, probe, .. } = self;
        if check_name(&self.name).is_err() {
            return Err(format!("\"{}\" is not a gene name", self.name));
        }
        self.check_depths()?;
        let fits = |w: &usize| *w > 0 && *w <= config.width() && w.is_multiple_of(config.head_dim());
        if !widths.contains(&config.width()) || !widths.iter().all(fits) {
            return Err(format!(
                "trained widths {widths:?} do not hold {} or are not heads of it",
                config.width()
            ));
        }
        if widths.iter().collect::<BTreeSet<_>>().len() != widths.len() {
            return Err(format!("trained widths {widths:?} hold one twice"));
        }
        if let Some(config) = config.as_vit() {
            self.check_images(config)?;
        }
        probe.check(config)?;
        let metric = if config.as_vit().is_some() { Metric::Accuracy } else { Metric::Spearman };
        if self.metric != metric {
            return Err(format!("metric {:?} is not {metric:?}, that of the family", self.metric));
        }
        let impossible = |q: &&Quality| {
            !self.metric.bounds().contains(&q.value)
                || q.depth > MAX_DEPTH
                || q.width > config.width()
                || q.items == Some(0)
        };
        match self.quality.iter().find(impossible) {
            Some(row) => Err(format!("{row:?} is not a quality figure of this gene")),
            None => Ok(()),
        }
    }

    fn check_images(&self, config: &VitConfig) -> std::result::Result<(), String> {
        if config.classes() == 0 {
            return Err("the network has no head; a gene has one".to_owned());
        }
        if self.labels.len() != config.classes() {
            return Err(format!("{} labels for {} classes", self.labels.len(), config.classes()));
        }
        labels::check(&self.labels)?;
        if self.preprocessing.validate(config.channels()).is_err() {
            let channels = config.channels();
            return Err(format!("preprocessing {:?} does not fit {channels} channels", self.preprocessing));
        }
        Ok(())
    }

    fn check_depths(&self) -> std::result::Result<(), String> {
        let (stages, [least, greatest]) = (&self.stages, self.depth_range);
        if !(1..=MAX_STAGES).contains(&stages.len()) || stages.contains(&0) {
            return Err(format!("{} stages are beyond 1..={MAX_STAGES}, or one has no layer", stages.len()));
        }
        // A file may hold any numbers, so the sum must not overflow.
        let trained = stages.iter().fold(0usize, |sum, layers| sum.saturating_add(*layers));
        if trained != self.config.depth() {
            return Err(format!("stages hold {trained} layers, depth is {}", self.config.depth()));
        }
        if !(1 <= least && least <= trained && trained <= greatest && greatest <= MAX_DEPTH) {
            return Err(format!(
                "depth range {least}..={greatest} does not hold depth {trained} within 1..={MAX_DEPTH}"
            ));
        }
        Ok(())
    }

    /// Every tensor of the gene file: shared tensors, one block per stage, and the norms and projections of narrower
    /// widths.
    pub fn stored(&self) -> Vec<Stored> {
        let schema = self.config.schema();
        let shared = |spec: &Spec| Stored { parameter: spec.clone(), stage: None, width: None };
        // The first layer of each stage stands for the others.
        let firsts = self.stages.iter().scan(0, |next, layers| Some(std::mem::replace(next, *next + layers)));
        let stages = firsts.enumerate().flat_map(|(stage, layer)| {
            let layer = schema.layers[layer].iter();
            layer.map(move |spec| Stored { parameter: spec.clone(), stage: Some(stage), width: None })
        });
        let all: Vec<_> =
            schema.stem.iter().map(shared).chain(stages).chain(schema.tail.iter().map(shared)).collect();
        let own = |width: usize| {
            let norms = all.iter().filter(move |stored| self.own_norm(stored.parameter.role, width));
            norms.map(move |stored| Stored { width: Some(width), ..stored.clone() })
        };
        let norms: Vec<_> = self.trained_widths.iter().flat_map(|width| own(*width)).collect();
        all.into_iter().chain(norms).collect()
    }

    /// Every tensor of the gene file, under its name there.
    pub fn specs(&self) -> Vec<Spec> {
        self.stored().iter().map(Stored::spec).collect()
    }

    /// Licence of the weights.
    pub fn weights_licence(&self) -> &str {
        self.weights_licence.as_deref().unwrap_or(&self.licence)
    }

    /// Whether `model` has the classes and images that the gene was trained and measured on.
    pub fn is_for(&self, model: &ModelInfo) -> bool {
        model.labels == self.labels && model.config.images() == self.config.images()
    }

    /// Whether models of `width` have separate values for parameters with this role.
    pub fn own_norm(&self, role: Role, width: usize) -> bool {
        let narrower = width != self.config.width() && self.trained_widths.contains(&width);
        self.width_norms && narrower && (role.of_norm() || role == Role::Projection)
    }
}

/// A tensor of a gene file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The parameter of a network that it is for. One of a layer is named without the prefix of the layer.
    pub parameter: Spec,
    /// The stage whose layers have it; none if all models share it.
    pub stage: Option<usize>,
    /// The narrower width that it is for; none if it is for every width that has no own.
    pub width: Option<usize>,
}

impl Stored {
    /// The tensor under its name in the file: that of the parameter, by [`stage_name`] and [`width_norm`].
    fn spec(&self) -> Spec {
        let Self { parameter, stage, width } = self;
        let name = stage.map_or_else(|| parameter.name.clone(), |stage| stage_name(stage, &parameter.name));
        let Some(width) = *width else { return Spec { name, ..parameter.clone() } };
        let fixed = |axis: &Axis| if *axis == Axis::Width { Axis::Fixed(width) } else { *axis };
        let axes = parameter.axes.iter().map(fixed).collect();
        Spec { name: width_norm(&name, width), axes, ..parameter.clone() }
    }
}

/// The name that a gene file gives to `parameter` of the layer of `stage`.
pub fn stage_name(stage: usize, parameter: &str) -> String {
    format!("stages.{stage}.{parameter}")
}

/// Stage and parameter of a name made by [`stage_name`].
pub fn stage_of(name: &str) -> Option<(usize, String)> {
    let (stage, parameter) = name.strip_prefix("stages.")?.split_once('.')?;
    Some((stage.parse().ok()?, parameter.to_owned()))
}

/// The name that a gene file gives to the values of norm parameter `name` for models of `width`.
pub fn width_norm(name: &str, width: usize) -> String {
    format!("{name}@w{width}")
}

/// Checks the name of a gene. It has at most 64 characters: letters, digits, `.`, `_` and `-`. It begins with a letter
/// or digit. It contains neither `..` nor the `-d<digits>-w<digits>` that repository names append.
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
    use crate::nn::vit::RawVitConfig;

    #[test]
    fn a_gene_has_a_head_and_labels_have_a_length() {
        let raw = RawVitConfig {
            image_size: 4,
            patch_size: 2,
            channels: 1,
            classes: 2,
            depth: 1,
            width: 8,
            heads: 1,
            mlp_ratio: 1,
        };
        let synthetic = crate::gene::Synthetic {
            name: "g".to_owned(),
            config: VitConfig::try_from(raw).unwrap(),
            stages: 1,
            widths: Vec::new(),
            seed: 0,
        };
        let meta = synthetic.render().unwrap().0.meta().clone();
        meta.check().unwrap();
        let config = meta.config.vit().unwrap().reshaped(RawVitConfig { classes: 0, ..raw }).unwrap().into();
        let reason = GeneMeta { config, labels: Vec::new(), ..meta.clone() }.check().unwrap_err();
        assert_eq!(reason, "the network has no head; a gene has one");
        for (label, bytes) in [(String::new(), 0), ("a".repeat(100_000), 100_000)] {
            let labels = vec!["a".to_owned(), label];
            let reason = GeneMeta { labels, ..meta.clone() }.check().unwrap_err();
            assert_eq!(reason, format!("label 1 has {bytes} bytes, beyond 1..=256"));
        }
    }

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

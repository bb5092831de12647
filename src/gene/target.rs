//! The target of a model: images and labels that may differ from the gene's, and so need other positions, patch kernels
//! or classifier rows.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    blueprint::{Entry, Piece, Resize, Row, Source, Span},
    digest::Canonical,
    error::{Error, Result},
    nn::{Config, Role, Spec, vit::RawVitConfig},
};

use super::{
    labels::{self, MAX_LABELS},
    meta::GeneMeta,
};

/// Largest number of values that a target adds to those of the gene: 256 MiB in f32.
pub const MAX_MADE_VALUES: u64 = 1 << 26;

/// What a request asks of a model besides its size. Absent values mean the gene's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Height and width of an image, pixels; a multiple of the patch size. The grid of positions is resized.
    pub image_size: Option<u64>,
    /// Height and width of a patch, pixels. Patch kernels are resized.
    pub patch_size: Option<u64>,
    /// Classes of the model.
    pub head: Option<Head>,
}

/// Classes of a model. The classifier keeps the gene's row for every label that the gene knows; other rows are fresh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Names of the classes in order. A name matches one of the gene's only if all bytes are equal.
    pub labels: Vec<String>,
    /// Seed of the fresh rows. A fresh row depends only on the seed and its label.
    pub seed: u64,
}

/// What stored weights are for: the shape of their network, and its classes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) config: &'a Config,
    pub(super) labels: &'a [String],
}

impl<'a> From<&'a GeneMeta> for Own<'a> {
    fn from(meta: &'a GeneMeta) -> Self {
        Self { config: &meta.config, labels: &meta.labels }
    }
}

impl Head {
    /// Checks the labels.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for their number; [`Error::Invalid`] naming a label that is empty, too long or repeated.
    pub fn check(&self) -> Result<()> {
        if !(1..=MAX_LABELS).contains(&self.labels.len()) {
            let (found, limit) = (self.labels.len() as u64, format!("1..={MAX_LABELS}"));
            return Err(Error::OutOfRange { what: "labels", found, of: "a head".to_owned(), limit });
        }
        labels::check(&self.labels).map_err(|reason| Error::invalid("labels", reason))?;
        let mut known = BTreeSet::new();
        match self.labels.iter().enumerate().find(|(_, label)| !known.insert(*label)) {
            Some((index, label)) => {
                let label: String = label.chars().take(80).collect();
                Err(Error::invalid("labels", format!("label {index} is \"{label}\" again")))
            }
            None => Ok(()),
        }
    }

    /// Where the row of each label comes from in a head with labels `known`.
    fn rows(&self, known: &[String]) -> Vec<Row> {
        let known: BTreeMap<_, _> = known.iter().enumerate().map(|(index, label)| (label, index)).collect();
        let row = |label: &String| {
            known.get(label).map_or_else(|| Row::Fresh(label.clone()), |index| Row::Kept(*index))
        };
        self.labels.iter().map(row).collect()
    }

    /// The source of a head parameter with the chosen columns `cols`. A head with a label that is not `known` is
    /// fresh as a whole, because chosen columns and fresh rows do not mix.
    fn selected(&self, spec: &Spec, tensor: &str, of: [usize; 2], cols: &[u32], known: &[String]) -> Source {
        let rows = self.rows(known);
        let kept = rows.iter().map(|row| match row {
            Row::Kept(index) => Some(*index as u32),
            Row::Fresh(_) => None,
        });
        if let Some(rows) = kept.collect() {
            return Source::Selected { tensor: tensor.to_owned(), of, rows, cols: cols.to_vec() };
        }
        let piece =
            Piece { tensor: tensor.to_owned(), of, rows: Span::new(0, 0), cols: Span::new(0, cols.len()) };
        let rows = self.labels.iter().cloned().map(Row::Fresh).collect();
        Source::Rows { piece, rows, init: spec.init, seed: self.seed }
    }
}

impl Target {
    /// The shape of the network. `sized` is the gene's shape at the requested depth and width.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] naming value and limit.
    pub(super) fn config(&self, sized: Config) -> Result<Config> {
        let Some(sized) = sized.as_vit() else { return self.check_texts().map(|()| sized) };
        let raw = RawVitConfig::from(*sized);
        let classes = match &self.head {
            Some(head) => {
                head.check()?;
                head.labels.len()
            }
            None => raw.classes,
        };
        // A number too large for usize is beyond the limit too.
        let size = |asked: Option<u64>, own| asked.map_or(own, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let (image_size, patch_size) =
            (size(self.image_size, raw.image_size), size(self.patch_size, raw.patch_size));
        let config = sized.reshaped(RawVitConfig { image_size, patch_size, classes, ..raw })?;
        let head = self.head.as_ref().map_or(0, |_| config.classes());
        let same = [config.image_size(), config.patch_size()] == [sized.image_size(), sized.patch_size()];
        let images = if same { 0 } else { config.tokens() + config.patch_dim() };
        let found = ((head + images) * config.width()) as u64;
        if found > MAX_MADE_VALUES {
            let (of, limit) = ("a request for other labels or images", format!("0..={MAX_MADE_VALUES}"));
            return Err(Error::OutOfRange { what: "values made", found, of: of.to_owned(), limit });
        }
        Ok(config.into())
    }

    /// Refuses what a text encoder has not.
    fn check_texts(&self) -> Result<()> {
        let images = self.image_size.or(self.patch_size).map(|_| "image_size, patch_size");
        match images.or(self.head.as_ref().map(|_| "labels")) {
            Some(what) => Err(Error::invalid(what, "a text encoder has neither images nor classes")),
            None => Ok(()),
        }
    }

    /// Names of the classes.
    pub(super) fn labels(&self, own: Own<'_>) -> Vec<String> {
        self.head.as_ref().map_or(own.labels, |head| &head.labels).to_vec()
    }

    /// Changes `entries` from their own target to this one: their sources and shapes. `config` is the network.
    pub(super) fn apply(&self, entries: &mut [Entry], own: Own<'_>, config: &Config) {
        if self.head(own).is_none() && config.images() == own.config.images() {
            return;
        }
        let schema = config.schema();
        for Entry { name, shape, source, .. } in entries {
            let Some(spec) = schema.shared().find(|spec| spec.name == *name) else { continue };
            let other = match &*source {
                Source::Pieces(pieces) => match pieces.as_slice() {
                    [piece] => self.source(spec, piece, own, config),
                    // Only query, key and value have several, and they stay the same.
                    _ => None,
                },
                Source::Selected { tensor, of, cols, .. } if spec.role.of_head() => {
                    self.head(own).map(|head| head.selected(spec, tensor, *of, cols, own.labels))
                }
                Source::Selected { .. }
                | Source::Fresh { .. }
                | Source::Resized { .. }
                | Source::Rows { .. } => None,
            };
            if let Some(other) = other {
                (*shape, *source) = (spec.shape(&schema.dims), other);
            }
        }
    }

    /// The new source of a parameter whose source is `piece` for the gene's own target; `None` if it stays the same.
    fn source(&self, spec: &Spec, piece: &Piece, own: Own<'_>, config: &Config) -> Option<Source> {
        let ([image, patch], [own_image, own_patch]) = (config.images(), own.config.images());
        let resized = |resize| Some(Source::Resized { piece: piece.clone(), resize });
        if spec.role == Role::Positions {
            let (from, to) = (own_image / own_patch, image / patch);
            return resized(Resize::Positions { from, to }).filter(|_| from != to);
        }
        if spec.role == Role::PatchKernel {
            let (from, to) = (own_patch, patch);
            return resized(Resize::Kernels { from, to }).filter(|_| from != to);
        }
        let head = self.head(own).filter(|_| spec.role.of_head())?;
        let (piece, rows) = (piece.clone(), head.rows(own.labels));
        Some(Source::Rows { piece, rows, init: spec.init, seed: head.seed })
    }

    /// Adds what differs from the own target. Leaves out values that change nothing, so that equal models have
    /// one identity: the own image size, the own labels in their order, or a seed that draws nothing.
    pub(super) fn canonical(&self, form: Canonical, own: Own<'_>, config: &Config) -> Canonical {
        let form = if config.images() == own.config.images() {
            form
        } else {
            config.images().into_iter().fold(form.text("images"), |form, size| form.integer(size as u64))
        };
        let Some(head) = self.head(own) else { return form };
        let fresh = head.rows(own.labels).iter().any(|row| matches!(row, Row::Fresh(_)));
        let form = form.text("labels").integer(head.labels.len() as u64);
        let form = head.labels.iter().fold(form, |form, label| form.text(label));
        form.integer(if fresh { head.seed } else { 0 })
    }

    /// The head, if its labels differ from the own ones.
    fn head(&self, own: Own<'_>) -> Option<&Head> {
        self.head.as_ref().filter(|head| head.labels != own.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_makes_is_limited() {
        let wide = crate::nn::VitConfig::try_from(RawVitConfig {
            image_size: 224,
            patch_size: 16,
            channels: 3,
            classes: 1000,
            depth: 12,
            width: 1024,
            heads: 16,
            mlp_ratio: 4,
        })
        .expect("a usual shape")
        .into();
        let labels = |n: u32| Some(Head { labels: (0..n).map(|n| n.to_string()).collect(), seed: 0 });
        Target { head: labels(60_000), ..Target::default() }.config(wide).expect("61 of 67 million values");
        for target in [
            Target { head: labels(70_000), ..Target::default() },
            Target { image_size: Some(256), patch_size: Some(256), head: None },
        ] {
            let error = target.config(wide).expect_err("beyond the limit");
            assert!(error.to_string().contains("is beyond a request for other"), "{error}");
        }
    }
}

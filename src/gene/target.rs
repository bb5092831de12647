//! What a model is for: other images and labels, and so other positions, patches and head, than the gene's.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    blueprint::{Entry, Piece, Resize, Row, Source},
    digest::Canonical,
    error::{Error, Result},
    nn::{Role, Spec, VitConfig, vit::RawVitConfig},
};

use super::meta::{GeneMeta, images};

/// Most labels of a head.
pub const MAX_LABELS: usize = 100_000;
/// Longest label, bytes.
pub const MAX_LABEL_BYTES: usize = 256;
/// Most values that a target makes beside the gene: 256 MiB in f32.
pub const MAX_MADE_VALUES: u64 = 1 << 26;

/// What is asked of a model beside its size. Absent values mean the gene's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Height and width of an image, pixels: a multiple of those of a patch. Positions are resized over their grid.
    pub image_size: Option<u64>,
    /// Height and width of a patch, pixels. Patch kernels are resized.
    pub patch_size: Option<u64>,
    /// Other classes.
    pub head: Option<Head>,
}

/// Classes of a model. Rows of the classifier whose label the gene knows are kept, the others are fresh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Names of the classes in order. A name is the gene's where it is equal to the byte.
    pub labels: Vec<String>,
    /// Seed of the rows that the gene does not have. A row depends on the seed and its label alone.
    pub seed: u64,
}

impl Head {
    /// Checks that the labels can be a head's.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for their number, [`Error::Invalid`] naming a label that is empty, too long or twice
    /// there.
    pub fn check(&self) -> Result<()> {
        if !(1..=MAX_LABELS).contains(&self.labels.len()) {
            let (found, limit) = (self.labels.len() as u64, format!("1..={MAX_LABELS}"));
            return Err(Error::OutOfRange { what: "labels", found, of: "a head".to_owned(), limit });
        }
        let mut known = BTreeSet::new();
        for (index, label) in self.labels.iter().enumerate() {
            let wrong = |reason: String| Err(Error::invalid("labels", format!("label {index} {reason}")));
            if label.is_empty() {
                return wrong("is empty".to_owned());
            }
            if label.len() > MAX_LABEL_BYTES {
                return wrong(format!("has {} bytes, at most {MAX_LABEL_BYTES} are taken", label.len()));
            }
            if !known.insert(label) {
                return wrong(format!("is \"{}\" again", label.chars().take(80).collect::<String>()));
            }
        }
        Ok(())
    }

    /// Where the row of each label comes from in a gene with labels `known`.
    fn rows(&self, known: &[String]) -> Vec<Row> {
        let known: BTreeMap<_, _> = known.iter().enumerate().map(|(index, label)| (label, index)).collect();
        let row = |label: &String| {
            known.get(label).map_or_else(|| Row::Fresh(label.clone()), |index| Row::Kept(*index))
        };
        self.labels.iter().map(row).collect()
    }
}

impl Target {
    /// The shape of the network: `sized` is the gene's at the depth and width that are asked for.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] naming value and limit.
    pub(super) fn config(&self, sized: VitConfig) -> Result<VitConfig> {
        let raw = RawVitConfig::from(sized);
        let classes = match &self.head {
            Some(head) => {
                head.check()?;
                head.labels.len()
            }
            None => raw.classes,
        };
        // What does not fit is beyond the limit too.
        let size = |asked: Option<u64>, own| asked.map_or(own, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let (image_size, patch_size) =
            (size(self.image_size, raw.image_size), size(self.patch_size, raw.patch_size));
        let config = VitConfig::try_from(RawVitConfig { image_size, patch_size, classes, ..raw })?;
        let head = self.head.as_ref().map_or(0, |_| config.classes());
        let images = if images(&config) == images(&sized) { 0 } else { config.tokens() + config.patch_dim() };
        let found = ((head + images) * config.width()) as u64;
        if found > MAX_MADE_VALUES {
            let (of, limit) = ("a request for other labels or images", format!("0..={MAX_MADE_VALUES}"));
            return Err(Error::OutOfRange { what: "values made", found, of: of.to_owned(), limit });
        }
        Ok(config)
    }

    /// Names of the classes.
    pub(super) fn labels(&self, meta: &GeneMeta) -> Vec<String> {
        self.head.as_ref().map_or_else(|| meta.labels.clone(), |head| head.labels.clone())
    }

    /// Gives `entries`, those of the gene's own target, the sources and shapes of this one, whose network is `config`.
    pub(super) fn apply(&self, entries: &mut [Entry], meta: &GeneMeta, config: &VitConfig) {
        let schema = config.schema();
        for Entry { name, shape, source, .. } in entries {
            // None of these tensors is in several pieces: only query, key and value are.
            let (Some(spec), Source::Pieces(pieces)) =
                (schema.shared().find(|spec| spec.name == *name), &*source)
            else {
                continue;
            };
            if let [piece] = pieces.as_slice()
                && let Some(other) = self.source(spec, piece, meta, config)
            {
                (*shape, *source) = (spec.shape(&schema.dims), other);
            }
        }
    }

    /// Where the values of a parameter come from that has `piece` for the gene's own target; absent: from there.
    fn source(&self, spec: &Spec, piece: &Piece, meta: &GeneMeta, config: &VitConfig) -> Option<Source> {
        let ([image, patch], [own_image, own_patch]) = (images(config), images(&meta.config));
        let resized = |resize| Some(Source::Resized { piece: piece.clone(), resize });
        if spec.role == Role::Positions {
            let (from, to) = (own_image / own_patch, image / patch);
            return resized(Resize::Positions { from, to }).filter(|_| from != to);
        }
        if spec.role == Role::PatchKernel {
            let (from, to) = (own_patch, patch);
            return resized(Resize::Kernels { from, to }).filter(|_| from != to);
        }
        let head = self.head(meta).filter(|_| spec.role.of_head())?;
        let (piece, rows) = (piece.clone(), head.rows(&meta.labels));
        Some(Source::Rows { piece, rows, init: spec.init, seed: head.seed })
    }

    /// Adds what differs from the gene's own target. What is asked for in vain is no part of a request's name: the
    /// gene's image size, its labels in their order, or a seed that draws nothing.
    pub(super) fn canonical(&self, form: Canonical, meta: &GeneMeta, config: &VitConfig) -> Canonical {
        let form = if images(config) == images(&meta.config) {
            form
        } else {
            images(config).into_iter().fold(form.text("images"), |form, size| form.integer(size as u64))
        };
        let Some(head) = self.head(meta) else { return form };
        let fresh = head.rows(&meta.labels).iter().any(|row| matches!(row, Row::Fresh(_)));
        let form = form.text("labels").integer(head.labels.len() as u64);
        let form = head.labels.iter().fold(form, |form, label| form.text(label));
        form.integer(if fresh { head.seed } else { 0 })
    }

    /// The head where it is not the gene's.
    fn head(&self, meta: &GeneMeta) -> Option<&Head> {
        self.head.as_ref().filter(|head| head.labels != meta.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_makes_is_limited() {
        let wide = VitConfig::try_from(RawVitConfig {
            image_size: 224,
            patch_size: 16,
            channels: 3,
            classes: 1000,
            depth: 12,
            width: 1024,
            heads: 16,
            mlp_ratio: 4,
        })
        .expect("a usual shape");
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

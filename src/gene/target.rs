//! What a model is for: other labels, and so another head, than the gene was trained with.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    blueprint::{Canonical, Entry, Row, Source},
    error::{Error, Result},
    nn::{VitConfig, config::RawVitConfig, schema},
};

use super::GeneMeta;

/// Most labels of a head.
pub const MAX_LABELS: usize = 100_000;
/// Longest label, bytes.
pub const MAX_LABEL_BYTES: usize = 256;

/// What is asked of a model beside its size. Absent values mean the gene's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
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
        VitConfig::try_from(RawVitConfig { classes, ..raw })
    }

    /// Names of the classes.
    pub(super) fn labels(&self, meta: &GeneMeta) -> Vec<String> {
        self.head.as_ref().map_or_else(|| meta.labels.clone(), |head| head.labels.clone())
    }

    /// Gives `entries`, those of the gene's own target, the sources and shapes of this one.
    pub(super) fn apply(&self, entries: &mut [Entry], meta: &GeneMeta, config: &VitConfig) {
        let Some(head) = self.head(meta) else { return };
        let rows = head.rows(&meta.labels);
        for spec in schema::tail(config) {
            let entry = entries.iter_mut().find(|entry| entry.name == spec.name);
            let Some(Entry { shape, source, .. }) = entry.filter(|_| schema::of_head(&spec.name)) else {
                continue;
            };
            if let Source::Pieces(pieces) = source
                && let [piece] = pieces.as_slice()
            {
                let (piece, rows) = (piece.clone(), rows.clone());
                *source = Source::Rows { piece, rows, init: spec.init, seed: head.seed };
                *shape = spec.shape(config);
            }
        }
    }

    /// Adds what differs from the gene's own target. What it asks for in vain is no part of a request's name: the
    /// gene's labels in their order, or a seed that draws nothing.
    pub(super) fn canonical(&self, form: Canonical, meta: &GeneMeta) -> Canonical {
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

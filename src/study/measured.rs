//! The data that a study measures on.

use std::path::Path;

use crate::{
    blueprint::Metric,
    data::{
        self, DatasetPair, Split,
        text::{PairSplit, ScoredPairs, Tokenizer, are_pairs, open_pairs},
    },
    digest::Digest,
    error::{Error, Result},
    nn::bert::Bert,
    train::{Model, embed::similarity, measure::measure},
};

/// A data set of images, or of pairs of sentences.
#[derive(Debug)]
pub enum Measured {
    /// Images with classes: to train on and to measure on.
    Images(DatasetPair),
    /// Scored pairs: to measure on alone.
    Pairs(Box<Pairs>),
}

/// Scored pairs of sentences.
#[derive(Debug)]
pub struct Pairs {
    /// To choose by.
    dev: ScoredPairs,
    /// Read once, for the table.
    test: ScoredPairs,
    test_digest: String,
    tokenizer: Tokenizer,
}

impl Measured {
    /// Opens the data set `name` in `root`. Pairs are cut by the `tokenizer` of the ancestor.
    ///
    /// # Errors
    /// Those of [`data::open`] and [`open_pairs`]; [`Error::Invalid`] for pairs without a tokenizer.
    pub fn open(name: &str, root: &Path, tokenizer: Option<&str>) -> Result<Self> {
        if !are_pairs(name, root) {
            return data::open(name, root).map(Self::Images);
        }
        let none = || Error::invalid("ancestor", "it has no tokenizer, which pairs of sentences need");
        let tokenizer = Tokenizer::stored(tokenizer.ok_or_else(none)?, "the ancestor's tokenizer")?;
        let [dev, test] = [PairSplit::Dev, PairSplit::Test].map(|split| open_pairs(name, root, split));
        let (dev, test) = (dev?, test?);
        Ok(Self::Pairs(Box::new(Pairs { test_digest: digest(&test), dev, test, tokenizer })))
    }

    /// The images to train on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for pairs.
    pub fn images(&self) -> Result<&DatasetPair> {
        match self {
            Self::Images(data) => Ok(data),
            Self::Pairs(_) => {
                Err(Error::invalid("epochs", "a study of sentence encoders measures them untrained: 0"))
            }
        }
    }

    /// Names of the classes; none for pairs.
    pub fn classes(&self) -> &[String] {
        match self {
            Self::Images(data) => data.train.class_names(),
            Self::Pairs(_) => &[],
        }
    }

    /// Digest of the data to train on; empty for pairs.
    pub fn digest(&self) -> &str {
        match self {
            Self::Images(data) => data.train.digest(),
            Self::Pairs(_) => "",
        }
    }

    /// Digest of the test part, hex.
    pub fn test_digest(&self) -> &str {
        match self {
            Self::Images(data) => data.test.digest(),
            Self::Pairs(pairs) => &pairs.test_digest,
        }
    }

    /// Items of the test part.
    pub fn test_items(&self) -> usize {
        match self {
            Self::Images(data) => data.test.len(),
            Self::Pairs(pairs) => pairs.test.len(),
        }
    }

    /// What is measured.
    pub const fn metric(&self) -> Metric {
        match self {
            Self::Images(_) => Metric::Accuracy,
            Self::Pairs(_) => Metric::Spearman,
        }
    }

    /// The metric of `model` on the test part, or on what is held out to choose by.
    ///
    /// # Errors
    /// [`Error::Invalid`] if model and data do not fit; [`Error::Tensor`].
    pub fn measure(&self, model: &Model, test: bool, threads: usize) -> Result<f64> {
        match self {
            Self::Images(data) => {
                let split = if test { Split::Test } else { Split::HeldOut };
                measure(model, data, split, threads).map(|accuracy| accuracy.share())
            }
            Self::Pairs(pairs) => {
                let encoder = Bert::new(*model.info.config.bert()?, &model.weights)?;
                let scored = if test { &pairs.test } else { &pairs.dev };
                similarity(&encoder, &pairs.tokenizer, scored, threads)
            }
        }
    }
}

/// Digest of the content of `pairs`, hex.
fn digest(pairs: &ScoredPairs) -> String {
    let rows = pairs.first.iter().zip(&pairs.second).zip(&pairs.scores);
    let lines: String =
        rows.map(|((first, second), score)| format!("{first:?} {second:?} {score:?}\n")).collect();
    Digest::of_text(&lines).to_string()
}

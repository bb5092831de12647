//! What a request means, before any weight is touched.

use std::{path::Path, sync::Arc};

use crate::{
    blueprint::{Blueprint, Inheritance},
    error::{Error, Result},
    gene::{Learngene, Size, Target},
    tensor::Dtype,
    train::{Length, finetune},
};

/// A request for a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelRequest {
    /// Name of the gene; empty: the default one.
    pub gene: String,
    /// Size and element type.
    pub size: Size,
    /// Other classes and images than the gene's.
    pub target: Target,
    /// Tuning on the server.
    pub tune: Option<Tune>,
}

/// Brief tuning of a model on a data set of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tune {
    /// Name of the data set.
    pub dataset: String,
    /// How long.
    pub length: Length,
    /// Peak learning rate in units of 1e-9; absent: the recipe's.
    pub learning_rate_e9: Option<u64>,
    /// Seed of order and augmentation.
    pub seed: u64,
}

impl Tune {
    fn check(&self) -> Result<()> {
        let (what, found, limit) = match self.length {
            Length::Steps(steps) => ("fine_tune.steps", steps, finetune::MAX_STEPS),
            Length::Epochs(epochs) => ("fine_tune.epochs", epochs, finetune::MAX_EPOCHS),
        };
        let range = |what, found: u64, limit: u64| {
            let (of, limit) = ("this server".to_owned(), format!("1..={limit}"));
            Error::OutOfRange { what, found, of, limit }
        };
        if !(1..=limit).contains(&found) {
            return Err(range(what, u64::from(found), u64::from(limit)));
        }
        match self.learning_rate_e9 {
            Some(rate) if !(1..=MAX_LEARNING_RATE_E9).contains(&rate) => {
                Err(range("fine_tune.learning_rate_e9", rate, MAX_LEARNING_RATE_E9))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Largest learning rate of a tuning, 1e-9.
const MAX_LEARNING_RATE_E9: u64 = 1_000_000_000;

/// A request that was found possible.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The gene.
    pub gene: Arc<Learngene>,
    /// The model before tuning.
    pub blueprint: Blueprint,
    /// Element type of the file.
    pub dtype: Dtype,
    /// Tuning on the server.
    pub tune: Option<Tune>,
    /// Measured accuracy at this size on the gene's test set; absent where the model is to be tuned, or is for
    /// other classes or images.
    pub expected_accuracy: Option<f64>,
    /// The width was not trained.
    pub untrained_width: bool,
}

impl Plan {
    /// Plans `request` on `gene`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] naming value and limit.
    pub fn new(gene: &Arc<Learngene>, request: &ModelRequest, data: Option<&Path>) -> Result<Self> {
        if request.tune.is_some() && data.is_none() {
            return Err(Error::invalid("fine_tune", "this server has no data sets; start it with --data"));
        }
        if let Some(tune) = &request.tune {
            tune.check()?;
        }
        let blueprint = gene.blueprint_for(&request.size, &request.target)?;
        let config = blueprint.info.config;
        let as_measured = gene.meta().is_for(&blueprint.info);
        Ok(Self {
            dtype: request.size.dtype,
            tune: request.tune.clone(),
            expected_accuracy: match request.tune {
                None if !as_measured => None,
                None => gene.quality(config.depth(), config.width(), 0).map(|q| q.accuracy),
                // The grid knows one recipe on one data set; this may be any.
                Some(_) => None,
            },
            untrained_width: !gene.meta().trained_widths.contains(&config.width()),
            gene: gene.clone(),
            blueprint,
        })
    }

    /// Tensors by where their values come from.
    pub fn inheritance(&self) -> Inheritance {
        Inheritance::of(&self.blueprint)
    }

    /// Length of the file before tuning, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blueprint.header().len() as u64 + self.blueprint.parameters() * self.dtype.size_bytes() as u64
    }

    /// Layers of each stage in this model.
    pub fn stage_layers(&self) -> &[usize] {
        self.blueprint.info.origin.as_ref().map_or(&[], |origin| &origin.stage_layers)
    }
}

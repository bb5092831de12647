//! What a request means, before any weight is touched.

use std::{path::Path, sync::Arc};

use crate::{
    blueprint::{Blueprint, Inheritance},
    error::{Error, Result},
    export::Layout,
    gene::{Ancestor, Learngene, Method, Size, Start, Target, baselines},
    tensor::{Dtype, TensorFile},
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
    /// Where first values come from.
    pub start: Start,
    /// How tensors are named and laid out.
    pub layout: Layout,
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

/// Stored tensors.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Their file.
    pub file: TensorFile,
    /// Its SHA-256, hex.
    pub digest: String,
    /// Width of the network that they are of.
    pub width: usize,
}

/// A request that was found possible.
#[derive(Debug, Clone)]
pub struct Quote {
    /// The gene.
    pub gene: Arc<Learngene>,
    /// What the blueprint takes values from.
    pub stored: Stored,
    /// The model before tuning.
    pub blueprint: Blueprint,
    /// Element type of the file.
    pub dtype: Dtype,
    /// How its tensors are named and laid out.
    pub layout: Layout,
    /// Tuning on the server.
    pub tune: Option<Tune>,
    /// Measured accuracy at this size on the gene's test set; absent where the model is to be tuned, or is for
    /// other classes or images.
    pub expected: Option<f64>,
    /// The width was not trained.
    pub untrained_width: bool,
}

impl Quote {
    /// Plans `request` on `gene`, whose ancestor may be at hand.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] naming value and limit, also where the layout cannot hold the model;
    /// [`Error::NotFound`] where a method selects from an ancestor and there is none.
    pub fn new(
        gene: &Arc<Learngene>,
        ancestor: Option<&Ancestor>,
        request: &ModelRequest,
        data: Option<&Path>,
    ) -> Result<Self> {
        if request.tune.is_some() && data.is_none() {
            return Err(Error::invalid("fine_tune", "this server has no data sets; start it with --data"));
        }
        if let Some(tune) = &request.tune {
            tune.check()?;
        }
        let (blueprint, stored) = start(gene, ancestor, request)?;
        let config = blueprint.info.config;
        let as_measured = gene.meta().is_for(&blueprint.info);
        let quote = Self {
            dtype: request.size.dtype,
            layout: Layout::Timm,
            tune: request.tune.clone(),
            expected: match request.tune {
                None if !as_measured || request.start.method != Method::Gene => None,
                None => gene.quality(config.depth(), config.width(), 0).map(|q| q.accuracy),
                // The grid knows one recipe on one data set; this may be any.
                Some(_) => None,
            },
            untrained_width: request.start.method == Method::Gene
                && !gene.meta().trained_widths.contains(&config.width()),
            gene: gene.clone(),
            stored,
            blueprint,
        };
        quote.in_layout(request.layout)
    }

    /// The same model in `layout`. Tuning is done in timm's.
    fn in_layout(self, layout: Layout) -> Result<Self> {
        if self.tune.is_some() && layout != Layout::Timm {
            return Err(Error::invalid("layout", format!("{layout} is for models that are not tuned")));
        }
        Ok(Self { blueprint: layout.of(self.blueprint)?, layout, ..self })
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

/// The model of `request` before tuning, and what it takes values from.
fn start(
    gene: &Learngene,
    ancestor: Option<&Ancestor>,
    request: &ModelRequest,
) -> Result<(Blueprint, Stored)> {
    let ModelRequest { size, target, start, .. } = request;
    start.check()?;
    let of_gene = || Stored {
        file: gene.file().clone(),
        digest: gene.digest().to_owned(),
        width: gene.meta().config.width(),
    };
    if start.method != Method::Gene && *target != Target::default() {
        let reason = format!("method \"{}\" gives the gene's classes and images alone", start.method);
        return Err(Error::invalid("method", reason));
    }
    match start.method {
        Method::Gene => Ok((gene.blueprint_for(size, target)?, of_gene())),
        Method::Scratch => {
            Ok((baselines::scratch(gene.meta(), size, &Target::default(), start.seed)?, of_gene()))
        }
        method @ (Method::FirstLayers | Method::Uniform) => {
            let ancestor = ancestor.ok_or_else(|| Error::NotFound {
                what: "ancestor of gene",
                name: gene.meta().name.clone(),
                known: "none for this gene".to_owned(),
            })?;
            let stored = Stored {
                file: ancestor.file().clone(),
                digest: ancestor.digest().to_owned(),
                width: ancestor.info().config.width(),
            };
            Ok((ancestor.blueprint(method, size)?, stored))
        }
    }
}

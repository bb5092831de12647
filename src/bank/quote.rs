//! A request for a model and its quote: what the model will be, before any weight is touched.

use std::{path::Path, sync::Arc};

use crate::{
    blueprint::{Ancestor, Blueprint, Entry, Inheritance, Reservation},
    error::{Error, Result},
    export::Layout,
    gene::{Learngene, Method, SizeRequest, Start, Target, baselines},
    tensor::{Dtype, TensorFile},
    train::{Length, finetune},
};

/// A request for a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelRequest {
    /// Name of the gene. Empty means the default gene.
    pub gene: String,
    /// Size and element type.
    pub size: SizeRequest,
    /// Classes and images, if they are not the gene's.
    pub target: Target,
    /// Where the values before tuning come from.
    pub start: Start,
    /// How tensors are named and laid out.
    pub layout: Layout,
    /// Tuning on the server, if it is wanted.
    pub tune: Option<Tune>,
}

/// Brief tuning of a model on a data set of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tune {
    /// Name of the data set.
    pub dataset: String,
    /// How long to tune.
    pub length: Length,
    /// Peak learning rate in units of 1e-9. `None` means the recipe's.
    pub learning_rate_e9: Option<u64>,
    /// Seed of the order of the images and of their augmentation.
    pub seed: u64,
}

impl ModelRequest {
    /// Estimated bytes that a quote for this request holds beside the gene: the labels, in the request, in the record
    /// and in the rows of the head.
    pub(super) fn label_bytes(&self) -> usize {
        const COPIES: usize = 4;
        const BESIDE_TEXT: usize = 48;
        let labels = self.target.head.iter().flat_map(|head| &head.labels);
        labels.map(|label| COPIES * (label.len() + BESIDE_TEXT)).sum()
    }
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

/// Largest learning rate of a tuning, in units of 1e-9.
const MAX_LEARNING_RATE_E9: u64 = 1_000_000_000;

/// The stored tensors that a model takes its values from.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The file that holds them.
    pub file: TensorFile,
    /// SHA-256 of that file, in hex.
    pub digest: String,
    /// Width of the stored network.
    pub width: usize,
}

/// What a request will give. It exists only for a request that is possible.
#[derive(Debug, Clone)]
pub struct Quote {
    /// The gene.
    pub gene: Arc<Learngene>,
    /// Where the blueprint takes its values from.
    pub stored: Stored,
    /// The model before tuning.
    pub blueprint: Arc<Blueprint>,
    /// Length of the header of its file, bytes.
    pub header_bytes: usize,
    /// Room for what the request itself holds, if that is much.
    pub room: Option<Arc<Reservation>>,
    /// Element type of the file.
    pub dtype: Dtype,
    /// How its tensors are named and laid out.
    pub layout: Layout,
    /// Tuning on the server, if it is wanted.
    pub tune: Option<Tune>,
    /// Quality that was measured at this size on the gene's test set. `None` if nothing was measured, if the model is
    /// to be tuned, or if its method, classes or images are not the gene's.
    pub expected: Option<f64>,
    /// The gene was not trained at this width.
    pub untrained_width: bool,
}

impl Quote {
    /// Quotes `request` for `gene`. Some methods need its `ancestor`, and tuning needs a folder of `data`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Invalid`] with the value and the limit, also if the layout cannot hold the
    /// model; [`Error::NotFound`] if the method selects from an ancestor and there is none.
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
        // Tuned models exist only in timm's layout.
        if request.tune.is_some() && request.layout != Layout::Timm {
            let reason = format!("{} is for models that are not tuned", request.layout);
            return Err(Error::invalid("layout", reason));
        }
        let config = blueprint.info.config;
        let as_measured = gene.meta().is_for(&blueprint.info);
        let blueprint = request.layout.of(blueprint)?;
        Ok(Self {
            dtype: request.size.dtype,
            layout: request.layout,
            tune: request.tune.clone(),
            expected: match request.tune {
                None if !as_measured || request.start.method != Method::Gene => None,
                None => gene.quality(config.depth(), config.width(), 0).map(|q| q.value),
                // The measurements hold for one recipe on one data set. This request may name others.
                Some(_) => None,
            },
            untrained_width: request.start.method == Method::Gene
                && !gene.meta().trained_widths.contains(&config.width()),
            gene: gene.clone(),
            stored,
            header_bytes: blueprint.header().len(),
            blueprint: Arc::new(blueprint),
            room: None,
        })
    }

    /// The tensors that `keep` gives a name, in a file of their own called `name`.
    #[must_use]
    pub fn part(&self, name: &str, keep: impl Fn(&Entry) -> Option<String>) -> Self {
        let blueprint = self.blueprint.part(name, keep);
        Self { header_bytes: blueprint.header().len(), blueprint: Arc::new(blueprint), ..self.clone() }
    }

    /// How many tensors get their values in which way.
    pub fn inheritance(&self) -> Inheritance {
        Inheritance::of(&self.blueprint)
    }

    /// Length of the file before tuning, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.header_bytes as u64 + self.blueprint.parameters() * self.dtype.size_bytes() as u64
    }

    /// Number of this model's layers that come from each stage.
    pub fn stage_layers(&self) -> &[usize] {
        self.blueprint.info.origin.as_ref().map_or(&[], |origin| &origin.stage_layers)
    }
}

/// The model of `request` before tuning, and where it takes its values from.
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
    match start.method {
        Method::Gene => Ok((gene.blueprint_for(size, target)?, of_gene())),
        Method::Scratch => Ok((baselines::scratch(gene.meta(), size, target, start.seed)?, of_gene())),
        method @ (Method::FirstLayers | Method::Uniform | Method::Importance) => {
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
            Ok((baselines::select(ancestor, method, size, target)?, stored))
        }
    }
}

//! Descriptions of genes and models, the same over gRPC, HTTP and the command line.

use serde::{Deserialize, Serialize};

use crate::{
    blueprint::{Inheritance, Metric, record::Family},
    gene::{GeneMeta, Learngene, Quality},
    nn::Config,
};

use super::Quote;

/// One gene: its trained configuration, sizes, provenance and measured quality.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GeneSummary {
    /// Name.
    pub name: String,
    /// SHA-256 of the gene file, in hex.
    pub digest: String,
    /// Model family.
    pub family: String,
    /// Depth of the auxiliary model.
    pub trained_depth: u32,
    /// Width of the auxiliary model.
    pub trained_width: u32,
    /// Number of layers in each stage while the gene was learned.
    pub stages: Vec<u32>,
    /// Dimension of one head.
    pub head_dim: u32,
    /// Widths that were trained.
    pub trained_widths: Vec<u32>,
    /// Least depth that the server gives.
    pub min_depth: u32,
    /// Greatest depth that the server gives.
    pub max_depth: u32,
    /// Height and width of an image, pixels.
    pub image_size: u32,
    /// Height and width of a patch, pixels.
    pub patch_size: u32,
    /// Colour channels.
    pub channels: u32,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// Licence of the training data.
    pub licence: String,
    /// Training data.
    pub data: String,
    /// The model that taught the gene.
    pub teacher: String,
    /// The recipe that the gene was learned by.
    pub recipe: String,
    /// Length of the gene file in bytes.
    pub size_bytes: u64,
    /// What was measured on the test set.
    pub quality: Vec<Quality>,
    /// Requests that name no gene get this one.
    pub default: bool,
    /// What the figures of `quality` are values of. Absent if the server does not say.
    pub metric: Option<Metric>,
    /// Components of the vector that a text encoder gives; 0 for a vision transformer.
    pub dimension: u32,
}

impl GeneSummary {
    /// Describes `gene`.
    pub fn of(gene: &Learngene, default: bool) -> Self {
        let size_bytes = gene.file().bytes().len() as u64;
        Self::new(gene.meta(), gene.digest().to_owned(), size_bytes, default)
    }

    /// Describes the gene of this record in a file of this digest and length.
    pub(super) fn new(meta: &GeneMeta, digest: String, size_bytes: u64, default: bool) -> Self {
        let images = Images::of(&meta.config);
        let all = |numbers: &[usize]| numbers.iter().map(|n| *n as u32).collect();
        Self {
            name: meta.name.clone(),
            digest,
            family: Family::of_network(&meta.config).name().to_owned(),
            trained_depth: meta.config.depth() as u32,
            trained_width: meta.config.width() as u32,
            stages: all(&meta.stages),
            head_dim: meta.config.head_dim() as u32,
            trained_widths: all(&meta.trained_widths),
            min_depth: meta.depth_range[0] as u32,
            max_depth: meta.depth_range[1] as u32,
            image_size: images.image_size,
            patch_size: images.patch_size,
            channels: images.channels,
            labels: meta.labels.clone(),
            licence: meta.licence.clone(),
            data: meta.data.clone(),
            teacher: meta.teacher.clone(),
            recipe: meta.recipe.clone(),
            size_bytes,
            quality: meta.quality.clone(),
            default,
            metric: Some(meta.metric),
            dimension: if meta.config.as_vit().is_some() { 0 } else { meta.config.outputs() as u32 },
        }
    }

    /// What was measured at the trained size, before tuning.
    pub fn trained_quality(&self) -> Option<f64> {
        let wanted = (self.trained_depth as usize, self.trained_width as usize, 0);
        self.quality.iter().find(|q| (q.depth, q.width, q.tuning_epochs) == wanted).map(|q| q.value)
    }
}

/// What a network reads and tells apart; zeros for a text encoder.
#[derive(Debug, Clone, Copy, Default)]
struct Images {
    image_size: u32,
    patch_size: u32,
    channels: u32,
    classes: u32,
}

impl Images {
    fn of(config: &Config) -> Self {
        let Some(config) = config.as_vit() else { return Self::default() };
        let [image_size, patch_size, channels, classes] =
            [config.image_size(), config.patch_size(), config.channels(), config.classes()].map(|n| n as u32);
        Self { image_size, patch_size, channels, classes }
    }
}

/// One model, as its blueprint describes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ModelSummary {
    /// Name of the gene.
    pub gene: String,
    /// Transformer blocks.
    pub depth: u32,
    /// Embedding dimension.
    pub width: u32,
    /// SHA-256 of the canonical request, the gene's digest and the render version, in hex.
    pub identity: String,
    /// Length of the file in bytes. Tuning may change it.
    pub size_bytes: u64,
    /// Number of parameters.
    pub parameters: u64,
    /// Multiply-accumulate operations of one forward pass on one image.
    pub macs: u64,
    /// Number of this model's layers that come from each stage.
    pub stage_layers: Vec<u32>,
    /// How many tensors get their values in which way.
    pub inheritance: Inheritance,
    /// The gene was not trained at this width.
    pub untrained_width: bool,
    /// Quality that was measured at this size before tuning.
    pub expected: Option<f64>,
    /// Height and width of an image, pixels.
    pub image_size: u32,
    /// Height and width of a patch, pixels.
    pub patch_size: u32,
    /// Number of classes.
    pub classes: u32,
    /// Number of classes whose row of the head is fresh because the gene does not have their label.
    pub fresh_classes: u32,
    /// What `expected` is a value of. Absent if the server does not say, or says something unknown here.
    pub metric: Option<Metric>,
}

impl ModelSummary {
    /// Describes the model of `quote` before it is tuned.
    pub fn of(quote: &Quote) -> Self {
        let config = &quote.blueprint.info.config;
        let images = Images::of(config);
        Self {
            gene: quote.gene.meta().name.clone(),
            depth: config.depth() as u32,
            width: config.width() as u32,
            identity: quote.blueprint.identity.to_string(),
            size_bytes: quote.size_bytes(),
            parameters: quote.blueprint.parameters(),
            macs: config.macs(),
            stage_layers: quote.stage_layers().iter().map(|n| *n as u32).collect(),
            inheritance: quote.inheritance(),
            untrained_width: quote.untrained_width,
            expected: quote.expected,
            image_size: images.image_size,
            patch_size: images.patch_size,
            classes: images.classes,
            fresh_classes: quote.blueprint.fresh_classes() as u32,
            metric: Some(quote.gene.meta().metric),
        }
    }
}

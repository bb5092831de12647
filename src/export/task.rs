//! The task of a model, as the Hub and the libraries call it.

use crate::nn::Config;

use super::Layout;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The class of an image.
    ImageClassification,
    /// The vector of a text.
    SentenceSimilarity,
}

/// The transformers class that loads an image classifier in either layout.
pub const AUTO_CLASS: &str = "AutoModelForImageClassification";

impl Task {
    /// The task of a network of this shape.
    pub const fn of(config: &Config) -> Self {
        match config {
            Config::Vit(_) => Self::ImageClassification,
            Config::Bert(_) => Self::SentenceSimilarity,
        }
    }

    /// The Hub's pipeline tag.
    pub const fn pipeline_tag(self) -> &'static str {
        match self {
            Self::ImageClassification => "image-classification",
            Self::SentenceSimilarity => "sentence-similarity",
        }
    }

    /// The library that a repository in `layout` is for. Repositories of text encoders are the same in every layout.
    pub const fn library(self, layout: Layout) -> &'static str {
        match (self, layout) {
            (Self::ImageClassification, Layout::Timm) => "timm",
            (Self::ImageClassification, Layout::Transformers) => "transformers",
            (Self::SentenceSimilarity, _) => "sentence-transformers",
        }
    }

    /// Tags beside those of the library and of the task.
    pub const fn tags(self, layout: Layout) -> &'static [&'static str] {
        match (self, layout) {
            (Self::ImageClassification, Layout::Timm) => &[],
            (Self::ImageClassification, Layout::Transformers) => &["vit"],
            (Self::SentenceSimilarity, _) => &["transformers", "bert", "feature-extraction"],
        }
    }

    /// The Hub's name of the metric that a model is measured by.
    pub const fn metric(self) -> &'static str {
        match self {
            Self::ImageClassification => "accuracy",
            Self::SentenceSimilarity => "spearman_cosine",
        }
    }
}

//! What a model is for, in the words of the Hub and of transformers.

/// The Hub's pipeline tag.
pub const PIPELINE_TAG: &str = "image-classification";
/// transformers' class that loads a model of this task in either layout.
pub const AUTO_CLASS: &str = "AutoModelForImageClassification";

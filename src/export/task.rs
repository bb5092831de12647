//! The task of a model, as the Hub and transformers call it.

/// The Hub's pipeline tag.
pub const PIPELINE_TAG: &str = "image-classification";
/// The transformers class that loads a model for this task in either layout.
pub const AUTO_CLASS: &str = "AutoModelForImageClassification";

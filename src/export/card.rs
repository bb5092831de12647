//! The model card: `README.md` with the front matter that the Hub and its libraries read.

use std::fmt::Write as _;

use crate::{
    blueprint::{Blueprint, Inheritance},
    tensor::Dtype,
};

use super::{
    Layout,
    task::{AUTO_CLASS, PIPELINE_TAG},
};

/// The content of a card.
#[derive(Debug, Clone)]
pub struct Card<'a> {
    /// Owner and name of the repository.
    pub repository: &'a str,
    /// The model.
    pub blueprint: &'a Blueprint,
    /// Layout of its tensors.
    pub layout: Layout,
    /// Element type of its file.
    pub dtype: Dtype,
    /// Length of its file, bytes.
    pub size_bytes: u64,
    /// Measured share of test images classified correctly, if there is one.
    pub accuracy: Option<f64>,
    /// The teacher of the gene.
    pub teacher: &'a str,
    /// How the gene was learned.
    pub recipe: &'a str,
    /// Recommended tuning, as the recipe's TOML.
    pub tuning: &'a str,
}

impl Card<'_> {
    /// The text of `README.md`.
    pub fn render(&self) -> String {
        let sections = [
            self.front_matter(),
            self.model(),
            self.loading(),
            self.inheritance(),
            self.tuning(),
            self.origin(),
        ];
        sections.join("\n")
    }

    /// The YAML front matter. Values are JSON strings, which are valid YAML whatever the author of a gene wrote.
    fn front_matter(&self) -> String {
        let info = &self.blueprint.info;
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!(
            "---\nlibrary_name: {}\npipeline_tag: {PIPELINE_TAG}\ntags:\n- genebank\n- safetensors\n\
             license: other\nlicense_name: {}\n",
            self.layout,
            quoted(&format!("training data: {}", info.licence)),
        );
        if let Some(accuracy) = self.accuracy {
            let data = data_name(&info.data);
            text += &format!(
                "model-index:\n- name: {}\n  results:\n  - task:\n      type: {PIPELINE_TAG}\n    \
                 dataset:\n      name: {name}\n      type: {name}\n    metrics:\n    - type: accuracy\n      \
                 value: {accuracy}\n",
                quoted(self.repository),
                name = quoted(data),
            );
        }
        text + "---\n"
    }

    fn model(&self) -> String {
        let config = &self.blueprint.info.config;
        let quality = self.accuracy.map_or_else(
            || "not measured at this size".to_owned(),
            |accuracy| {
                format!("{:.2} % on the test images, measured in f32 without tuning", 100.0 * accuracy)
            },
        );
        let rows = [
            ("family", "vision transformer: class token, learned positions, pre-norm blocks".to_owned()),
            ("depth, width, heads", format!("{}, {}, {}", config.depth(), config.width(), config.heads())),
            (
                "input",
                format!(
                    "{} x {side} x {side}, patches of {}",
                    config.channels(),
                    config.patch_size(),
                    side = config.image_size()
                ),
            ),
            ("classes", config.classes().to_string()),
            ("parameters", self.blueprint.parameters().to_string()),
            ("multiply-accumulates of one image", config.macs().to_string()),
            ("file", format!("{} bytes, {}, layout {}", self.size_bytes, self.dtype, self.layout)),
            ("accuracy", quality),
        ];
        let mut text = format!(
            "# {}\n\nAn initialised model that genebank made of a learngene: a start for tuning, not a finished \
             product.\n\n| | |\n| --- | --- |\n",
            self.repository
        );
        for (name, value) in rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text
    }

    fn loading(&self) -> String {
        let repository = self.repository;
        let auto = format!(
            "from transformers import {AUTO_CLASS}\n\nmodel = \
             {AUTO_CLASS}.from_pretrained(\"{repository}\")\n"
        );
        let code = match self.layout {
            Layout::Timm => format!(
                "import timm\n\nmodel = timm.create_model(\"hf-hub:{repository}\", pretrained=True)\n```\n\n\
                 or\n\n```python\n{auto}"
            ),
            Layout::Transformers => auto,
        };
        format!(
            "## Loading\n\nWith `HF_ENDPOINT` set to the address of the server:\n\n```python\n{code}```\n"
        )
    }

    fn inheritance(&self) -> String {
        let Inheritance { copied, repeated, sliced, resized, mixed, fresh } = Inheritance::of(self.blueprint);
        let mut text =
            "## Inheritance\n\nWhere the values of its tensors come from.\n\n| tensors | from |\n| ---: | --- |\n"
                .to_owned();
        for (count, from) in [
            (copied, "a tensor of the gene, used once"),
            (repeated, "a tensor of the gene, used by several layers"),
            (sliced, "a part of a tensor of the gene"),
            (resized, "a tensor of the gene, resized for other images"),
            (mixed, "rows of a tensor of the gene beside fresh ones"),
            (fresh, "nothing: fresh values"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "| {count} | {from} |");
            }
        }
        if let Some(origin) = &self.blueprint.info.origin {
            let layers: Vec<_> = origin.stage_layers.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "\nLayers of each stage: {}.", layers.join(", "));
        }
        text
    }

    fn tuning(&self) -> String {
        let config = &self.blueprint.info.config;
        let gene = self.blueprint.info.origin.as_ref().map_or("", |origin| &origin.gene);
        format!(
            "## Tuning\n\nThe recipe that the figures of genebank were measured with, for one epoch:\n\n\
             ```toml\n{}```\n\n`genebank init {gene} --depth {} --width {} --tune-dataset DATA --tune-epochs 1 \
             -o m.safetensors` does it in one step.\n",
            self.tuning,
            config.depth(),
            config.width(),
        )
    }

    fn origin(&self) -> String {
        let info = &self.blueprint.info;
        let mut text = "## Origin\n\n".to_owned();
        if let Some(origin) = &info.origin {
            let _ = writeln!(text, "- Gene: {}, SHA-256 `{}`", origin.gene, origin.digest);
            let _ = writeln!(text, "- Request: `{}`", origin.identity);
        }
        for (name, value) in [
            ("Training data", info.data.as_str()),
            ("Licence of the training data", &info.licence),
            ("Teacher", self.teacher),
            ("Recipe of the gene", self.recipe),
        ] {
            let _ = writeln!(text, "- {name}: `{}`", one_line(value));
        }
        text
    }
}

/// The name of the data set: the first word of a gene's text about its data.
fn data_name(data: &str) -> &str {
    data.split_whitespace().next().unwrap_or("unknown")
}

/// `text` made safe for a code span, which a line break or a backtick would end.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '`' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gene_says_stays_in_its_place() {
        assert_eq!(one_line("a\n# b`c"), "a # b c");
        assert_eq!((data_name("fashion-mnist abc"), data_name(" ")), ("fashion-mnist", "unknown"));
    }
}

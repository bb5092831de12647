//! The model card: `README.md` with the front matter that the Hub and its libraries read.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{
    blueprint::{
        Blueprint, Inheritance,
        model::{NO_DATA, data_name},
    },
    nn::{Config, VitConfig, network::COSTED_TOKENS},
    tensor::Dtype,
};

use super::{
    Layout,
    task::{AUTO_CLASS, Task},
};

/// Licences that the Hub knows by their identifiers in lower case; any other one has a name beside `other`.
const HUB_LICENCES: [&str; 16] = [
    "afl-3.0",
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "isc",
    "mit",
    "mpl-2.0",
    "odbl",
    "openrail",
    "unknown",
];
/// The Hub's identifier of any other licence.
const OTHER: &str = "other";
/// Key of the measured results in the metadata.
pub const MODEL_INDEX: &str = "model-index";
/// The first lines of a Python program. The libraries read the variable when they are imported.
const ENDPOINT: &str = "import os\n\nos.environ.setdefault(\"HF_ENDPOINT\", \"http://127.0.0.1:8080\")\n\n";
/// Most classes that a card lists.
const MAX_CLASSES: usize = 100;

/// The content of a card.
#[derive(Debug, Clone)]
pub struct Card<'a> {
    /// Owner and name of the repository.
    pub repository: &'a str,
    /// Owner and name of the repository that it was derived from.
    pub base_model: Option<&'a str>,
    /// The model.
    pub blueprint: &'a Blueprint,
    /// Layout of its tensors.
    pub layout: Layout,
    /// Element type of its file.
    pub dtype: Dtype,
    /// Length of its file, bytes.
    pub size_bytes: u64,
    /// What was measured at this size, if anything.
    pub quality: Option<f64>,
    /// Licence of the weights.
    pub licence: &'a str,
    /// The teacher of the gene.
    pub teacher: &'a str,
    /// How the gene was learned.
    pub recipe: &'a str,
    /// Recommended tuning, as the recipe's TOML, if there is one.
    pub tuning: Option<&'a str>,
}

impl Card<'_> {
    /// The text of `README.md`.
    pub fn render(&self) -> String {
        let sections = [
            self.front_matter(),
            self.model(),
            self.loading(),
            self.input(),
            self.limits(),
            self.inheritance(),
            self.tuning(),
            self.origin(),
        ];
        let written: Vec<_> = sections.into_iter().filter(|section| !section.is_empty()).collect();
        written.join("\n")
    }

    /// What the Hub and its libraries read: the front matter of the text.
    pub fn metadata(&self) -> Map<String, Value> {
        let info = &self.blueprint.info;
        let (data, task) = (data_name(&info.data), Task::of(&info.config));
        let mut metadata = Map::from_iter([
            ("library_name".to_owned(), json!(task.library(self.layout))),
            ("license".to_owned(), json!(licence_id(self.licence))),
            ("pipeline_tag".to_owned(), json!(task.pipeline_tag())),
            ("tags".to_owned(), json!([&["genebank", "safetensors"], self.tags()].concat())),
        ]);
        if licence_id(self.licence) == OTHER {
            metadata.insert("license_name".to_owned(), json!(one_line(self.licence)));
        }
        if let Some(base) = self.base_model {
            metadata.insert("base_model".to_owned(), json!(base));
        }
        if data != NO_DATA {
            metadata.insert("datasets".to_owned(), json!([one_line(data)]));
        }
        if let Some(quality) = self.quality {
            let measured = measured_on(task, data);
            let result = json!({
                "task": { "type": task.pipeline_tag() },
                "dataset": { "name": one_line(measured), "type": one_line(measured), "split": "test" },
                "metrics": [{ "type": task.metric(), "value": quality }],
            });
            let index = json!([{ "name": self.repository, "results": [result] }]);
            metadata.insert(MODEL_INDEX.to_owned(), index);
        }
        metadata
    }

    /// Tags that sentence-transformers expects; the others are those of the library.
    fn tags(&self) -> &'static [&'static str] {
        match Task::of(&self.blueprint.info.config) {
            Task::ImageClassification => &[],
            Task::SentenceSimilarity => {
                &["sentence-transformers", "feature-extraction", "sentence-similarity"]
            }
        }
    }

    /// The YAML front matter. Values are JSON, which is YAML whatever the author of a gene wrote.
    fn front_matter(&self) -> String {
        let lines: String = self.metadata().iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        format!("---\n{lines}---\n")
    }

    fn model(&self) -> String {
        let config = &self.blueprint.info.config;
        let metric = match Task::of(config) {
            Task::ImageClassification => "accuracy",
            Task::SentenceSimilarity => "Spearman",
        };
        let quality = match (self.quality, Task::of(config)) {
            (None, _) => "not measured at this size".to_owned(),
            (Some(share), Task::ImageClassification) => {
                format!("{:.2} % on the test images, measured in f32 without tuning", 100.0 * share)
            }
            (Some(spearman), Task::SentenceSimilarity) => {
                format!("{spearman:.4} on the test part of STS-B, measured in f32 without tuning")
            }
        };
        let (family, input, outputs) = match config {
            Config::Vit(config) => (
                "vision transformer: class token, learned positions, pre-norm blocks",
                format!(
                    "{} x {side} x {side}, patches of {}",
                    config.channels(),
                    config.patch_size(),
                    side = config.image_size()
                ),
                ("classes", config.classes()),
            ),
            Config::Bert(config) => (
                "text encoder: learned positions, post-norm blocks",
                format!(
                    "{} pieces of words, at most {} tokens",
                    config.raw().vocabulary,
                    config.raw().positions
                ),
                ("dimension of a vector", config.dimension()),
            ),
        };
        let costed = match config {
            Config::Vit(_) => "multiply-accumulates of one image".to_owned(),
            Config::Bert(_) => format!("multiply-accumulates of a text of {COSTED_TOKENS} tokens"),
        };
        let rows = [
            ("family", family.to_owned()),
            ("depth, width, heads", format!("{}, {}, {}", config.depth(), config.width(), config.heads())),
            ("input", input),
            (outputs.0, outputs.1.to_string()),
            ("parameters", self.blueprint.parameters().to_string()),
            (costed.as_str(), config.macs().to_string()),
            ("file", format!("{} bytes, {}, layout {}", self.size_bytes, self.dtype, self.layout)),
            (metric, quality),
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
        let Config::Vit(config) = &self.blueprint.info.config else { return self.loading_texts() };
        let code = match self.layout {
            Layout::Timm => format!(
                "```python\n{}```\n\ntransformers loads it too:\n\n```python\n{}```\n",
                self.snippet_timm(config),
                self.snippet_transformers(config)
            ),
            Layout::Transformers => format!("```python\n{}```\n", self.snippet_transformers(config)),
        };
        format!(
            "## Loading\n\n`HF_ENDPOINT` is the address of the server. Replace the empty image by your own.\n\n{code}"
        )
    }

    fn snippet_timm(&self, config: &VitConfig) -> String {
        let (repository, image) = (self.repository, empty_image(config));
        format!(
            "{ENDPOINT}\
             import timm\n\
             import torch\n\
             from PIL import Image\n\n\
             model = timm.create_model(\"hf-hub:{repository}\", pretrained=True).eval()\n\
             transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n\
             {image}\
             with torch.no_grad():\n    \
                 shares = model(transform(image).unsqueeze(0)).softmax(-1)[0]\n\
             print(model.pretrained_cfg[\"label_names\"][shares.argmax()], shares.max().item())\n"
        )
    }

    fn snippet_transformers(&self, config: &VitConfig) -> String {
        let (repository, image) = (self.repository, empty_image(config));
        format!(
            "{ENDPOINT}\
             import torch\n\
             from PIL import Image\n\
             from transformers import AutoImageProcessor, {AUTO_CLASS}\n\n\
             processor = AutoImageProcessor.from_pretrained(\"{repository}\")\n\
             model = {AUTO_CLASS}.from_pretrained(\"{repository}\")\n\
             {image}\
             with torch.no_grad():\n    \
                 shares = model(**processor(image, return_tensors=\"pt\")).logits.softmax(-1)[0]\n\
             print(model.config.id2label[shares.argmax().item()], shares.max().item())\n"
        )
    }

    fn loading_texts(&self) -> String {
        format!(
            "## Loading\n\n`HF_ENDPOINT` is the address of the server.\n\n```python\n{ENDPOINT}\
             from sentence_transformers import SentenceTransformer\n\n\
             model = SentenceTransformer(\"{}\")\n\
             vectors = model.encode([\"A man is eating food.\", \"Somebody eats.\"])\n\
             print(model.similarity(vectors, vectors))\n```\n",
            self.repository
        )
    }

    fn input(&self) -> String {
        let info = &self.blueprint.info;
        let config = match &info.config {
            Config::Vit(config) => config,
            Config::Bert(config) => {
                return format!(
                    "## Input\n\nA text, cut into pieces of words by `tokenizer.json`; what is longer than {} tokens is cut \
                     off.\n",
                    config.raw().positions
                );
            }
        };
        let side = config.image_size();
        let fitted = match self.layout {
            Layout::Timm => {
                format!("its shorter side is resized to {side} (bilinear), and the middle is kept")
            }
            Layout::Transformers => format!("it is resized to {side} x {side} (bilinear)"),
        };
        let colours = if config.channels() == 1 { "one channel, grey" } else { "red, green, blue" };
        format!(
            "## Input\n\nImages of {side} x {side} pixels ({colours}), as `(pixel / 255 - mean) / std` with mean {:?} and \
             std {:?} of each channel. If an image has another size, {fitted}.\n\n{}",
            info.preprocessing.mean,
            info.preprocessing.std,
            self.classes()
        )
    }

    fn classes(&self) -> String {
        let labels = &self.blueprint.info.labels;
        let shown: Vec<_> =
            labels.iter().take(MAX_CLASSES).map(|label| format!("`{}`", one_line(label))).collect();
        let more = match labels.len().saturating_sub(MAX_CLASSES) {
            0 => String::new(),
            more => format!(", and {more} more in `config.json`"),
        };
        format!("## Classes\n\n{} classes, in order: {}{more}.\n", labels.len(), shown.join(", "))
    }

    fn limits(&self) -> String {
        if Task::of(&self.blueprint.info.config) == Task::SentenceSimilarity {
            return self.limits_of_texts();
        }
        let data = match data_name(&self.blueprint.info.data) {
            NO_DATA => "Its values were not trained.".to_owned(),
            data => format!(
                "It was trained on `{}` alone. How good it is on other images is unknown.",
                one_line(data)
            ),
        };
        let measured = if self.quality.is_some() {
            "Its accuracy was measured once, on the test images of that data set."
        } else {
            "Its accuracy was not measured at this size, and may be far below that of measured sizes."
        };
        format!(
            "## Limits\n\n\
             - It is a start for tuning, not a finished product. Do not use it for decisions about people.\n\
             - {data}\n\
             - {measured}\n\
             - It has the classes and the image size of its gene. `genebank init` makes models with others.\n"
        )
    }

    fn limits_of_texts(&self) -> String {
        let measured = if self.quality.is_some() {
            "Its figure was measured once, on the test part of STS-B."
        } else {
            "It was not measured at this size, and may be far below measured sizes."
        };
        format!(
            "## Limits\n\n\
             - Its vectors are in the space of its teacher's, so they work against an index that the teacher filled.\n\
             - It learned from `{}`. How good it is in other languages and for long texts is unknown.\n\
             - {measured}\n",
            one_line(data_name(&self.blueprint.info.data)),
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
        let Some(tuning) = self.tuning else { return String::new() };
        let config = &self.blueprint.info.config;
        let gene = self.blueprint.info.origin.as_ref().map_or("", |origin| &origin.gene);
        format!(
            "## Tuning\n\nThe recipe that the figures of genebank were measured with, for one epoch:\n\n\
             ```toml\n{}```\n\n`genebank init {gene} --depth {} --width {} --tune-dataset DATA --tune-epochs 1 \
             -o m.safetensors` does it in one step.\n",
            tuning,
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
            ("Licence of the weights", self.licence),
            ("Teacher", self.teacher),
            ("Recipe of the gene", self.recipe),
        ] {
            let _ = writeln!(text, "- {name}: `{}`", one_line(value));
        }
        text
    }
}

/// The data set that a model for `task` was measured on; `data` is the one that it was trained on.
const fn measured_on(task: Task, data: &str) -> &str {
    match task {
        Task::ImageClassification => data,
        Task::SentenceSimilarity => "sts-b",
    }
}

/// A line of Python that makes an image as the model expects it.
fn empty_image(config: &VitConfig) -> String {
    let (side, mode) = (config.image_size(), if config.channels() == 1 { "L" } else { "RGB" });
    format!("image = Image.new(\"{mode}\", ({side}, {side}))  # Image.open(\"FILE\").convert(\"{mode}\")\n")
}

/// The Hub's identifier of a licence.
pub fn licence_id(licence: &str) -> &'static str {
    let known = |id: &&&str| id.eq_ignore_ascii_case(licence);
    HUB_LICENCES.iter().find(known).copied().unwrap_or(OTHER)
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
    }

    #[test]
    fn licences_have_the_identifiers_of_the_hub() {
        for (licence, id) in
            [("MIT", "mit"), ("CC0-1.0", "cc0-1.0"), ("unknown", "unknown"), ("none", OTHER), ("", OTHER)]
        {
            assert_eq!(licence_id(licence), id);
        }
    }
}

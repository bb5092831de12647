//! Text encoders: transformers' BERT, alone or in a folder of sentence-transformers.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::{
    blueprint::ModelInfo,
    data::text::Tokenizer,
    error::{Context as _, Error, Result},
    gene::meta::MAX_DEPTH,
    nn::{
        BertConfig,
        bert::{
            Pooling, RawBertConfig,
            schema::{FC1, KINDS, POSITIONS, PROJECTION, PROJECTION_ALONE, WORDS, weight_in_block},
        },
        schema::BIAS,
    },
    tensor::{TensorBytes, Weight, Weights},
};

use super::{
    Checkpoint, Hints, Report,
    settings::{Settings, number, only},
};

/// First part of the names in a model with a head, which a bare one lacks.
const BASE: &str = "bert.";

/// Parts of names of tensors that no vector depends on, and why.
const UNUSED: [(&str, &str); 4] = [
    ("position_ids", "numbers of positions"),
    ("pooler.", "a pooler, which no vector depends on"),
    ("cls.predictions.", "predicts masked words while pretraining"),
    ("cls.seq_relationship.", "predicts the next sentence while pretraining"),
];

/// Whether `checkpoint` is one of BERT.
pub(super) fn is_bert(checkpoint: &Checkpoint, hints: &Hints) -> bool {
    let kind = checkpoint.config.as_ref().and_then(|config| config.get("model_type")).and_then(Value::as_str);
    kind.or(hints.architecture.as_deref()) == Some("bert")
}

/// The encoder in `checkpoint`, and its `tokenizer.json`.
pub(super) fn import(
    checkpoint: &Checkpoint,
    hints: &Hints,
) -> Result<(ModelInfo, Weights, Report, Option<String>)> {
    let found = Found { checkpoint };
    found.refuse_settings()?;
    let mut report = Report { architecture: "transformers bert".to_owned(), ..Report::default() };
    let modules = Modules::read(checkpoint, &mut report)?;
    let config = found.config(hints, &modules)?;
    let mut weights = Weights::default();
    let mut used = BTreeSet::new();
    for (own, expected) in config.schema().shapes() {
        let (stored, tensor) = match (&modules.dense, own.as_str()) {
            (Some(dense), PROJECTION) => (PROJECTION_ALONE, dense),
            _ => found.tensor(&own).ok_or_else(|| Error::MissingTensor { name: own.clone() })?,
        };
        if tensor.shape != expected {
            let (name, found) = (stored.to_owned(), tensor.shape.clone());
            return Err(Error::ShapeMismatch { name, expected, found });
        }
        used.insert(stored.to_owned());
        if stored == own {
            report.taken += 1;
        } else {
            report.renamed.push(format!("{stored} -> {own}"));
        }
        report.parameters += expected.iter().product::<usize>() as u64;
        let tensor = Tensor::from_vec(tensor.dtype.read(&tensor.bytes), expected, &Device::Cpu);
        weights.insert(own.clone(), tensor.and_then(|tensor| Weight::new(&tensor)).context(&own)?);
    }
    found.account_for_the_rest(&used, &mut report)?;
    let tokenizer = tokenizer(checkpoint, &config, &mut report)?;
    let settings = Settings::of_texts(checkpoint, &mut report);
    let info = settings.info(checkpoint, config.into(), "transformers bert");
    Ok((info, weights, report, tokenizer))
}

/// A checkpoint in the names of transformers.
struct Found<'a> {
    checkpoint: &'a Checkpoint,
}

impl Found<'_> {
    fn json(&self) -> Option<&Value> {
        self.checkpoint.config.as_ref()
    }

    fn tensor(&self, own: &str) -> Option<(&str, &TensorBytes)> {
        let tensors = &self.checkpoint.tensors;
        let found = tensors.get_key_value(own).or_else(|| tensors.get_key_value(&format!("{BASE}{own}")));
        found.map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Refuses what `config.json` says and no tensor shows.
    fn refuse_settings(&self) -> Result<()> {
        let json = self.json();
        only(json, "hidden_act", &[json!("gelu")], "is another activation than the erf-GELU")?;
        only(json, "position_embedding_type", &[json!("absolute")], "positions cannot be expressed")?;
        only(json, "is_decoder", &[json!(false)], "makes a decoder, which sees only what came before")?;
        only(json, "add_cross_attention", &[json!(false)], "adds attention to another sequence")
    }

    /// The two axes of the tensor `own`.
    fn axes(&self, own: &str) -> Result<[usize; 2]> {
        let missing = || Error::MissingTensor { name: own.to_owned() };
        let (name, tensor) = self.tensor(own).ok_or_else(missing)?;
        <[usize; 2]>::try_from(tensor.shape.as_slice()).map_err(|_| {
            let reason = format!("{name} has shape {:?}, not [rows, columns]", tensor.shape);
            Error::invalid(self.checkpoint.origin.clone(), reason)
        })
    }

    /// The shape of the network, from the shapes of its tensors; no tensor shows the number of heads.
    fn config(&self, hints: &Hints, modules: &Modules) -> Result<BertConfig> {
        let [vocabulary, width] = self.axes(WORDS)?;
        let heads = hints.heads.or_else(|| number(self.json(), "num_attention_heads")).ok_or_else(|| {
            Error::invalid("heads", "no file says how many attention heads there are; give --heads")
        })?;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::invalid("heads", format!("width {width} has no {heads} equal heads")));
        }
        let layer = |index: &usize| self.tensor(&weight_in_block(*index, FC1)).is_some();
        let eps = self.json().and_then(|json| json.get("layer_norm_eps")).filter(|eps| !eps.is_null());
        let eps = eps.map_or(Some(1e-12), Value::as_f64).filter(|eps| (1e-12..=1e-3).contains(eps));
        let eps =
            eps.ok_or_else(|| Error::invalid("config.json: layer_norm_eps", "is not in 1e-12..=1e-3"))?;
        BertConfig::try_from(RawBertConfig {
            vocabulary,
            positions: self.axes(POSITIONS)?[0],
            kinds: self.axes(KINDS)?[0],
            // One more than a network may have, so that the limit is named.
            depth: (0..=MAX_DEPTH).take_while(layer).count(),
            width,
            heads,
            hidden: self.axes(&weight_in_block(0, FC1))?[0],
            norm_eps_e12: libm::round(eps * 1e12) as u64,
            pooling: modules.pooling,
            dimension: modules.dense.as_ref().and_then(|dense| dense.shape.first().copied()).unwrap_or(0),
            normalize: modules.normalize,
        })
    }

    /// Names what no vector depends on, and refuses the rest.
    fn account_for_the_rest(&self, used: &BTreeSet<String>, report: &mut Report) -> Result<()> {
        let names = self.checkpoint.tensors.keys().chain(self.checkpoint.others.keys());
        for name in names.filter(|name| !used.contains(*name)) {
            let Some((_, why)) = UNUSED.iter().find(|(part, _)| name.contains(part)) else {
                let why = "it is no part of a text encoder";
                return Err(Error::invalid(format!("tensor \"{name}\""), why));
            };
            report.ignored.push(format!("{name}: {why}"));
        }
        Ok(())
    }
}

/// The modules of sentence-transformers that can be expressed, in the only order that can.
const MODULES: [&str; 4] = ["Transformer", "Pooling", "Dense", "Normalize"];

/// What sentence-transformers does with the states of the tokens.
struct Modules {
    pooling: Pooling,
    dense: Option<TensorBytes>,
    normalize: bool,
}

impl Modules {
    /// Reads `modules.json` and what it names; a folder without it is pooled by the mean.
    fn read(checkpoint: &Checkpoint, report: &mut Report) -> Result<Self> {
        let mut read = Self { pooling: Pooling::Mean, dense: None, normalize: false };
        let Some(modules) = checkpoint.json("modules.json")? else {
            report.assumed.push("no modules.json: the vector is the mean of the tokens' states".to_owned());
            return Ok(read);
        };
        let wrong = |reason: String| Error::invalid("modules.json", reason);
        let modules = modules.as_array().ok_or_else(|| wrong("is no list".to_owned()))?;
        let text = |module: &Value, key: &str| {
            module.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut seen: Vec<&str> = Vec::new();
        for module in modules {
            let (kind, path) = (text(module, "type"), text(module, "path"));
            if path.contains("..") || path.starts_with('/') {
                return Err(wrong(format!("path \"{path}\" leads out of the folder")));
            }
            let name = MODULES.into_iter().find(|known| kind.rsplit('.').next() == Some(known));
            let name = name.ok_or_else(|| wrong(format!("\"{kind}\" cannot be expressed")))?;
            let place = |name: &str| MODULES.iter().position(|known| *known == name);
            if let Some(last) = seen.last().filter(|last| place(last) >= place(name)) {
                return Err(wrong(format!("{name} comes after {last}")));
            }
            seen.push(name);
            match name {
                "Transformer" if !path.is_empty() && path != "." => {
                    return Err(wrong(format!("the transformer is in \"{path}\"; name that folder")));
                }
                "Pooling" => read.pooling = pooling(checkpoint, &path)?,
                "Dense" => read.dense = Some(dense(checkpoint, &path)?),
                "Normalize" => read.normalize = true,
                _ => {}
            }
        }
        if !seen.starts_with(&MODULES[..2]) {
            let reason =
                format!("{seen:?} does not begin with a Transformer and a Pooling, which gives one vector");
            return Err(wrong(reason));
        }
        Ok(read)
    }
}

/// How the module in `path` pools.
fn pooling(checkpoint: &Checkpoint, path: &str) -> Result<Pooling> {
    let name = format!("{path}/config.json");
    let config = checkpoint.json(&name)?.ok_or_else(|| Error::invalid(&name, "is missing"))?;
    let modes: Vec<String> = match config.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode.clone()],
        Some(Value::Array(modes)) => {
            modes.iter().map(|mode| mode.as_str().unwrap_or_default().to_owned()).collect()
        }
        _ => {
            let set = config.as_object().into_iter().flatten().filter(|(_, value)| **value == json!(true));
            let names = set.filter_map(|(key, _)| key.strip_prefix("pooling_mode_"));
            names.map(|mode| mode.trim_end_matches("_tokens").trim_end_matches("_token").to_owned()).collect()
        }
    };
    match modes.as_slice() {
        [mode] if mode == "mean" => Ok(Pooling::Mean),
        [mode] if mode == "cls" => Ok(Pooling::Cls),
        modes => Err(Error::invalid(name, format!("pooling {modes:?} cannot be expressed; mean or cls is"))),
    }
}

/// The matrix of the module in `path`.
fn dense(checkpoint: &Checkpoint, path: &str) -> Result<TensorBytes> {
    let name = format!("{path}/config.json");
    let config = checkpoint.json(&name)?;
    only(config.as_ref(), BIAS, &[json!(false)], "adds a bias, which cannot be expressed")?;
    let linear = [json!("torch.nn.modules.linear.Identity")];
    only(config.as_ref(), "activation_function", &linear, "is no linear projection")?;
    let file = checkpoint.tensors_of(&format!("{path}/model.safetensors"))?;
    Ok(file.tensor(PROJECTION_ALONE)?.clone())
}

/// The `tokenizer.json` of the folder, or the one that its `vocab.txt` makes.
fn tokenizer(checkpoint: &Checkpoint, config: &BertConfig, report: &mut Report) -> Result<Option<String>> {
    let positions = config.raw().positions;
    let settings = checkpoint.json("tokenizer_config.json")?;
    let own = checkpoint.json("sentence_bert_config.json")?;
    let set = |config: &Option<Value>, name: &str| config.as_ref()?.get(name)?.as_bool();
    // sentence-transformers puts a default prompt before every text.
    let prompts = checkpoint.json("config_sentence_transformers.json")?;
    let prompts = prompts.as_ref().and_then(|config| config.get("default_prompt_name"));
    if let Some(prompt) = prompts.filter(|prompt| !prompt.is_null()) {
        let reason = format!("{prompt} goes before every text, which cannot be expressed");
        return Err(Error::invalid("config_sentence_transformers.json: default_prompt_name", reason));
    }
    let lowercase = set(&own, "do_lower_case") == Some(true);
    let longest =
        number(own.as_ref(), "max_seq_length").or_else(|| number(settings.as_ref(), "model_max_length"));
    let longest = longest.map_or(positions, |longest| longest.min(positions));
    let tokenizer = if let Some(json) = checkpoint.bytes("tokenizer.json")? {
        let tokenizer = Tokenizer::from_json(&json, longest, &checkpoint.named("tokenizer.json"))?;
        if lowercase && tokenizer.encode(&["Aa"])? != tokenizer.encode(&["aa"])? {
            let reason = "texts are made lowercase before a tokenizer.json that tells cases apart";
            return Err(Error::invalid("sentence_bert_config.json: do_lower_case", reason));
        }
        tokenizer
    } else if let Some(vocab) = checkpoint.bytes("vocab.txt")? {
        let origin = checkpoint.named("vocab.txt");
        let vocab = String::from_utf8(vocab).map_err(|error| Error::corrupt(&origin, error.to_string()))?;
        let cased = set(&settings, "do_lower_case") == Some(false);
        only(settings.as_ref(), "strip_accents", &[json!(!cased)], "cannot be expressed with a vocab.txt")?;
        only(
            settings.as_ref(),
            "tokenize_chinese_chars",
            &[json!(true)],
            "cannot be expressed with a vocab.txt",
        )?;
        Tokenizer::from_vocab(&vocab, lowercase || !cased, longest, &origin)?
    } else {
        report.assumed.push("neither tokenizer.json nor vocab.txt: it reads token ids alone".to_owned());
        return Ok(None);
    };
    if tokenizer.vocabulary() > config.raw().vocabulary {
        let reason = format!(
            "gives ids up to {}, the model has {} words",
            tokenizer.vocabulary() - 1,
            config.raw().vocabulary
        );
        return Err(Error::invalid("tokenizer", reason));
    }
    tokenizer.to_json().map(Some)
}

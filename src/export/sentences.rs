//! A text encoder as sentence-transformers and transformers' `BertModel` read it. The tensors have their names already
//! ([`crate::nn::bert::schema`]), but the projection is in a file of its own.

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    nn::{
        BertConfig,
        bert::{Pooling, schema::PROJECTION_ALONE},
    },
    tensor::Dtype,
};

use super::{json::document, transformers::torch_dtype};

/// Path of the projection in a repository.
pub const PROJECTION_FILE: &str = "2_Dense/model.safetensors";
/// Name of the projection in that file.
pub const PROJECTION_NAME: &str = PROJECTION_ALONE;

/// The configuration and the tokenizer, by path. `tokenizer` is the content of `tokenizer.json`.
///
/// # Errors
/// [`Error::Corrupt`] if the tokenizer is no JSON.
pub fn files(config: &BertConfig, dtype: Dtype, tokenizer: &str) -> Result<Vec<(&'static str, String)>> {
    let tokenizer_json: Value =
        serde_json::from_str(tokenizer).map_err(|error| Error::corrupt("tokenizer", error.to_string()))?;
    let longest =
        tokenizer_json["truncation"]["max_length"].as_u64().unwrap_or(config.raw().positions as u64);
    let special = |id: &str| {
        tokenizer_json["added_tokens"].as_array().and_then(|tokens| {
            tokens.iter().filter_map(|token| token["content"].as_str()).find(|content| *content == id)
        })
    };
    let mut files = vec![
        ("config.json", document(&bert(config, dtype))),
        ("modules.json", document(&modules(config))),
        (
            "sentence_bert_config.json",
            document(&json!({ "max_seq_length": longest, "do_lower_case": false })),
        ),
        (
            "config_sentence_transformers.json",
            document(&json!({
                "prompts": {},
                "default_prompt_name": null,
                "similarity_fn_name": "cosine",
            })),
        ),
        ("1_Pooling/config.json", document(&pooling(config))),
        ("tokenizer.json", tokenizer.to_owned()),
        (
            "tokenizer_config.json",
            document(&json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": longest,
                "unk_token": special("[UNK]"),
                "cls_token": special("[CLS]"),
                "sep_token": special("[SEP]"),
                "pad_token": special("[PAD]"),
                "mask_token": special("[MASK]"),
                "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
                "clean_up_tokenization_spaces": false,
            })),
        ),
    ];
    if config.raw().dimension > 0 {
        files.push(("2_Dense/config.json", document(&dense(config))));
    }
    Ok(files)
}

/// transformers' `config.json`.
fn bert(config: &BertConfig, dtype: Dtype) -> Value {
    let raw = config.raw();
    json!({
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": torch_dtype(dtype),
        "vocab_size": raw.vocabulary,
        "max_position_embeddings": raw.positions,
        "type_vocab_size": raw.kinds,
        "hidden_size": raw.width,
        "num_hidden_layers": raw.depth,
        "num_attention_heads": raw.heads,
        "intermediate_size": raw.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps(),
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
    })
}

/// `modules.json`: the steps from a text to its vector.
fn modules(config: &BertConfig) -> Value {
    let raw = config.raw();
    let steps = [
        ("", "Transformer", true),
        ("1_Pooling", "Pooling", true),
        ("2_Dense", "Dense", raw.dimension > 0),
        ("3_Normalize", "Normalize", raw.normalize),
    ];
    let module = |(index, (path, kind, _)): (usize, (&str, &str, bool))| {
        let kind = format!("sentence_transformers.models.{kind}");
        json!({ "idx": index, "name": index.to_string(), "path": path, "type": kind })
    };
    steps.into_iter().filter(|(.., there)| *there).enumerate().map(module).collect()
}

fn pooling(config: &BertConfig) -> Value {
    let raw = config.raw();
    json!({
        "word_embedding_dimension": raw.width,
        "pooling_mode_cls_token": raw.pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": raw.pooling == Pooling::Mean,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_weightedmean_tokens": false,
        "pooling_mode_lasttoken": false,
        "include_prompt": true,
    })
}

fn dense(config: &BertConfig) -> Value {
    json!({
        "in_features": config.raw().width,
        "out_features": config.dimension(),
        "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity",
    })
}

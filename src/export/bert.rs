//! Configuration files for transformers' `BertModel` and for sentence-transformers. The tensors have their names already
//! ([`crate::nn::bert::schema`]).

use serde_json::{Value, json};

use crate::{nn::BertConfig, tensor::Dtype};

use super::transformers::torch_dtype;

/// `config.json`.
pub(super) fn config(config: &BertConfig, dtype: Dtype) -> Value {
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

//! The parameters of a BERT encoder under the names of Hugging Face's transformers.

use std::sync::Arc;

use crate::{
    nn::schema::{self, Axis, Role, Schema, Spec, weight_of},
    tensor::Init,
};

use super::BertConfig;

/// Name of the table of words.
pub const WORDS: &str = "embeddings.word_embeddings.weight";
/// Name of the table of positions.
pub const POSITIONS: &str = "embeddings.position_embeddings.weight";
/// Name of the table of segments.
pub const KINDS: &str = "embeddings.token_type_embeddings.weight";
/// Prefix of the norm after the embedding.
pub const NORM: &str = "embeddings.LayerNorm";
/// Prefix of the blocks.
pub const LAYERS: &str = "encoder.layer";
/// Prefixes in a block of the projections to query, key and value.
pub const QKV: [&str; 3] = ["attention.self.query", "attention.self.key", "attention.self.value"];
/// Prefix in a block of the projection after attention.
pub const PROJ: &str = "attention.output.dense";
/// Prefix in a block of the norm after attention.
pub const NORM1: &str = "attention.output.LayerNorm";
/// Prefix in a block of the first matrix of the MLP.
pub const FC1: &str = "intermediate.dense";
/// Prefix in a block of the second matrix of the MLP.
pub const FC2: &str = "output.dense";
/// Prefix in a block of the norm after the MLP.
pub const NORM2: &str = "output.LayerNorm";
/// Name of the projection of the pooled state.
pub const PROJECTION: &str = "dense.linear.weight";

/// Its name in the file of its own that sentence-transformers keeps it in.
pub const PROJECTION_ALONE: &str = "linear.weight";

/// Initial values of embeddings and of the projection, as in BERT.
const NORMAL: Init = Init::TruncNormal { std_e9: 20_000_000 };

/// Name of module `module` of block `index`.
pub fn in_block(index: usize, module: &str) -> String {
    schema::layer_name(LAYERS, index, module)
}

impl BertConfig {
    /// Every parameter of the network.
    pub fn schema(&self) -> Schema {
        let raw = self.raw();
        let table = |name: &str, rows: usize, role: Role| Spec {
            name: name.to_owned(),
            axes: vec![Axis::Fixed(rows), Axis::Width],
            role,
            init: NORMAL,
        };
        let stem = [
            table(WORDS, raw.vocabulary, Role::Table),
            table(POSITIONS, raw.positions, Role::Table),
            table(KINDS, raw.kinds, Role::Table),
        ];
        let projection = Spec {
            name: PROJECTION.to_owned(),
            axes: vec![Axis::Fixed(raw.dimension), Axis::Width],
            role: Role::Projection,
            init: NORMAL,
        };
        let block: Arc<[Spec]> = self.block().into();
        Schema {
            dims: self.dims(),
            prefix: LAYERS,
            stem: stem.into_iter().chain(Spec::norm(NORM, Axis::Width)).collect(),
            layers: vec![block; raw.depth],
            tail: (raw.dimension > 0).then_some(projection).into_iter().collect(),
        }
    }

    /// The parameters of a block, named without its prefix.
    fn block(&self) -> Vec<Spec> {
        use Axis::{Hidden, Inner, KeyValue, Width};
        let dims = self.dims();
        let [query, key, value] = QKV;
        [
            Spec::linear(query, Inner, Width, &dims),
            Spec::linear(key, KeyValue, Width, &dims),
            Spec::linear(value, KeyValue, Width, &dims),
            Spec::linear(PROJ, Width, Inner, &dims),
            Spec::norm(NORM1, Width),
            Spec::linear(FC1, Hidden, Width, &dims),
            Spec::linear(FC2, Width, Hidden, &dims),
            Spec::norm(NORM2, Width),
        ]
        .concat()
    }
}

/// Name of the weights of `module` of block `index`.
pub fn weight_in_block(index: usize, module: &str) -> String {
    weight_of(&in_block(index, module))
}

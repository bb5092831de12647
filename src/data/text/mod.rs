//! Text data: tokens, sentences, scored pairs, and corpora in batches of like length.

pub mod batches;
pub mod corpus;
pub mod lines;
pub mod loader;
pub mod pairs;
pub mod spearman;
pub mod tokenizer;

pub use batches::{Padded, by_length, pad, shuffled_by_length};
pub use corpus::Corpus;
pub use lines::{Sentences, sentences};
pub use loader::TextLoader;
pub use pairs::{PairSplit, ScoredPairs, are_pairs, open_pairs};
pub use spearman::spearman;
pub use tokenizer::Tokenizer;

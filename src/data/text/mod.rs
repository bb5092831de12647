//! Text data: tokens, sentences, scored pairs and batches by length.

pub mod batches;
pub mod lines;
pub mod pairs;
pub mod spearman;
pub mod tokenizer;

pub use batches::{Padded, by_length, pad, shuffled_by_length};
pub use lines::{Sentences, sentences};
pub use pairs::{PairSplit, ScoredPairs, open_pairs};
pub use spearman::spearman;
pub use tokenizer::Tokenizer;

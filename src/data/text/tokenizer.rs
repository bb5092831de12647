//! From text to token ids, with the tokenizers library.

use std::collections::BTreeMap;

use serde_json::json;
use tokenizers::TruncationParams;

use crate::error::{Error, Result};

/// Size limit of a `tokenizer.json` or `vocab.txt`, bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Size limit of one text, bytes. What is beyond the longest sequence would be cut off anyway.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

const UNKNOWN: &str = "[UNK]";
const CLS: &str = "[CLS]";
const SEP: &str = "[SEP]";
const PAD: &str = "[PAD]";
const MASK: &str = "[MASK]";

/// Cuts texts into pieces of words and gives each its id. Cloning copies the vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_tokens: usize,
    pad: u32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. A sequence has at most `max_tokens` ids; what the file says of truncation and padding
    /// is not used, as in transformers. `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a malformed file; [`Error::Invalid`] if no word fits into `max_tokens`.
    pub fn from_json(json: &[u8], max_tokens: usize, origin: &str) -> Result<Self> {
        check_length(json.len(), origin)?;
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(corrupt(origin))?;
        let pad = inner.get_padding().map(|padding| padding.pad_id);
        let pad = pad.or_else(|| inner.token_to_id(PAD)).or_else(|| inner.token_to_id("<pad>"));
        Self::new(inner, max_tokens, pad.unwrap_or(0), origin)
    }

    /// Reads what [`Tokenizer::to_json`] wrote, with the longest sequence that it says.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a malformed file, or one that says none.
    pub fn stored(json: &str, origin: &str) -> Result<Self> {
        check_length(json.len(), origin)?;
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(corrupt(origin))?;
        let longest = inner.get_truncation().map(|truncation| truncation.max_length);
        let longest =
            longest.ok_or_else(|| Error::corrupt(origin, "the tokenizer names no longest sequence"))?;
        Self::from_json(json.as_bytes(), longest, origin)
    }

    /// BERT's tokenizer (Devlin et al. 2018, arXiv 1810.04805, section 3) with the vocabulary `vocab`, the content of a `vocab.txt`: one piece a line, its id the number
    /// of the line.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a special token is missing or a line is there twice; [`Error::Invalid`] if no word fits
    /// into `max_tokens`.
    pub fn from_vocab(vocab: &str, lowercase: bool, max_tokens: usize, origin: &str) -> Result<Self> {
        check_length(vocab.len(), origin)?;
        let pieces = vocab.lines().map(|line| line.trim_end_matches('\r')).zip(0u32..);
        let ids: BTreeMap<&str, u32> = pieces.collect();
        let lines = vocab.lines().count();
        if ids.len() != lines {
            let reason = format!("{} of {lines} lines are there twice", lines - ids.len());
            return Err(Error::corrupt(origin, reason));
        }
        let id = |token: &str| {
            ids.get(token).copied().ok_or_else(|| Error::corrupt(origin, format!("no line \"{token}\"")))
        };
        let (cls, sep, pad) = (id(CLS)?, id(SEP)?, id(PAD)?);
        id(UNKNOWN)?;
        let special = [PAD, UNKNOWN, CLS, SEP, MASK].into_iter().filter_map(|token| {
            let id = ids.get(token)?;
            Some(json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true }))
        });
        let mut special: Vec<_> = special.collect();
        special.sort_by_key(|token| token["id"].as_u64());
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": special,
            "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": lowercase },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": { "type": "BertProcessing", "sep": [SEP, sep], "cls": [CLS, cls] },
            "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
            "model": { "type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": ids },
        });
        let inner = tokenizers::Tokenizer::from_bytes(file.to_string()).map_err(corrupt(origin))?;
        Self::new(inner, max_tokens, pad, origin)
    }

    fn new(mut inner: tokenizers::Tokenizer, max_tokens: usize, pad: u32, origin: &str) -> Result<Self> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(corrupt(origin))?;
        let added = inner.encode("", true).map_err(corrupt(origin))?.len();
        if max_tokens <= added {
            let reason = format!("{max_tokens} tokens leave no place for a word beside {added} special ones");
            return Err(Error::invalid("max_tokens", reason));
        }
        let truncation = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(corrupt(origin))?;
        Ok(Self { inner, max_tokens, pad })
    }

    /// The `tokenizer.json` of this tokenizer, with its longest sequence and without padding. The same tokenizer gives
    /// the same bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it cannot be written.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(corrupt("tokenizer"))
    }

    /// The ids of each of `texts`, with the special tokens.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a text beyond [`MAX_TEXT_BYTES`]; [`Error::Invalid`] for one that cannot be cut.
    pub fn encode<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        texts.iter().map(|text| self.encode_one(text.as_ref())).collect()
    }

    fn encode_one(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            let (of, limit) = ("a text".to_owned(), format!("0..={MAX_TEXT_BYTES}"));
            return Err(Error::OutOfRange { what: "bytes", found: text.len() as u64, of, limit });
        }
        let encoding = self.inner.encode_fast(text, true);
        let encoding = encoding.map_err(|error| Error::invalid("text", error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// One more than the largest id that it gives.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
    }

    /// The id of padding.
    pub const fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Most ids of one sequence.
    pub const fn max_tokens(&self) -> usize {
        self.max_tokens
    }
}

fn check_length(bytes: usize, origin: &str) -> Result<()> {
    if bytes as u64 <= MAX_FILE_BYTES {
        return Ok(());
    }
    Err(Error::corrupt(origin, format!("{bytes} bytes are more than the limit of {MAX_FILE_BYTES}")))
}

fn corrupt<E: std::fmt::Display>(origin: &str) -> impl FnOnce(E) -> Error {
    let origin = origin.to_owned();
    move |error| Error::corrupt(origin, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\n##s\nsat\n";

    fn tokenizer(max_tokens: usize) -> Tokenizer {
        Tokenizer::from_vocab(VOCAB, true, max_tokens, "vocab.txt").unwrap()
    }

    #[test]
    fn words_are_cut_into_pieces_between_the_special_tokens() {
        let ids = tokenizer(16).encode(&["A cats SAT", "dog", ""]).unwrap();
        assert_eq!(ids, [vec![2, 5, 6, 7, 8, 3], vec![2, 1, 3], vec![2, 3]]);
        let cased = Tokenizer::from_vocab(VOCAB, false, 16, "vocab.txt").unwrap();
        assert_eq!(cased.encode(&["A cat"]).unwrap(), [[2, 1, 6, 3]]);
    }

    #[test]
    fn a_long_text_loses_its_end_and_keeps_its_special_tokens() {
        assert_eq!(tokenizer(4).encode(&["a cat sat"]).unwrap(), [[2, 5, 6, 3]]);
        let refused = Tokenizer::from_vocab(VOCAB, true, 2, "vocab.txt").unwrap_err();
        assert!(refused.to_string().contains("2 tokens leave no place"), "{refused}");
        let long = "a".repeat(MAX_TEXT_BYTES + 1);
        assert!(tokenizer(4).encode(&[long]).unwrap_err().to_string().contains("1048577"));
    }

    #[test]
    fn the_file_is_read_back_without_its_own_padding() {
        let first = tokenizer(6);
        let json = first.to_json().unwrap();
        assert_eq!(json, tokenizer(6).to_json().unwrap());
        let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
        value["padding"] = serde_json::json!({ "strategy": { "Fixed": 9 }, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]" });
        let again = Tokenizer::from_json(value.to_string().as_bytes(), 16, "tokenizer.json").unwrap();
        assert_eq!(again.encode(&["a cats sat cats"]).unwrap(), [[2, 5, 6, 7, 8, 6, 7, 3]]);
        assert_eq!((again.vocabulary(), again.pad_id(), again.max_tokens()), (9, 0, 16));
    }

    #[test]
    fn malformed_files_are_named() {
        for (vocab, reason) in [("[PAD]\n[UNK]\n[CLS]\n", "no line \"[SEP]\""), ("a\na\n", "1 of 2 lines")] {
            let error = Tokenizer::from_vocab(vocab, true, 9, "x/vocab.txt").unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("x/vocab.txt"), "{error}");
        }
        let error = Tokenizer::from_json(b"{}", 9, "x/tokenizer.json").unwrap_err().to_string();
        assert!(error.contains("x/tokenizer.json"), "{error}");
    }
}

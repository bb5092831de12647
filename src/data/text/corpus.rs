//! A set of texts in memory, as token ids.

use std::path::Path;

use crate::{
    digest::Digest,
    error::{Error, Result},
};

use super::{Tokenizer, lines::sentences};

/// Largest number of ids of a corpus: 2 GiB.
const MAX_IDS: usize = 1 << 29;
/// Sentences that are cut into ids together.
const CHUNK: usize = 1 << 14;
/// One text in this many is held out.
const HELD_OUT: usize = 64;

/// Texts as token ids.
#[derive(Debug)]
pub struct Corpus {
    name: String,
    licence: String,
    pad_id: u32,
    ids: Vec<u32>,
    /// Where each text ends in `ids`.
    ends: Vec<usize>,
}

impl Corpus {
    /// Reads every sentence at `path` (see [`sentences`]), which is called `name` and has this licence, and cuts it with
    /// `tokenizer`.
    ///
    /// # Errors
    /// Those of [`sentences`] and of the tokenizer; [`Error::Invalid`] for no sentence, or more than fit into memory.
    pub fn open(
        path: &Path,
        name: &str,
        licence: &str,
        column: Option<&str>,
        tokenizer: &Tokenizer,
        threads: usize,
    ) -> Result<Self> {
        let (name, licence) = (name.to_owned(), licence.to_owned());
        let mut corpus =
            Self { name, licence, pad_id: tokenizer.pad_id(), ids: Vec::new(), ends: Vec::new() };
        let mut lines = sentences(path, column)?;
        loop {
            let chunk = lines.by_ref().take(CHUNK).collect::<Result<Vec<String>>>()?;
            if chunk.is_empty() {
                break;
            }
            let parts: Vec<_> = std::thread::scope(|scope| {
                let part = chunk.len().div_ceil(threads.max(1));
                let encode = |texts| scope.spawn(move || tokenizer.encode::<String>(texts));
                let threads: Vec<_> = chunk.chunks(part).map(encode).collect();
                threads.into_iter().map(|t| t.join().expect("a tokenizer does not panic")).collect()
            });
            for part in parts {
                part?.iter().for_each(|ids| corpus.push(ids));
            }
            if corpus.ids.len() > MAX_IDS {
                let reason = format!("it has more than {MAX_IDS} tokens, the most that are held in memory");
                return Err(Error::invalid(path.display().to_string(), reason));
            }
        }
        if corpus.is_empty() {
            return Err(Error::invalid(path.display().to_string(), "it holds no sentence"));
        }
        Ok(corpus)
    }

    fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has no text.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The ids of text `index`.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn text(&self, index: usize) -> &[u32] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.ids[start..self.ends[index]]
    }

    /// The id of padding.
    pub const fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its licence.
    pub fn licence(&self) -> &str {
        &self.licence
    }

    /// Digest of the ids of all texts, hex.
    pub fn digest(&self) -> String {
        let ids = self.ids.iter().flat_map(|id| id.to_le_bytes());
        let ends = self.ends.iter().flat_map(|end| (*end as u64).to_le_bytes());
        Digest::of(&ids.chain(ends).collect::<Vec<u8>>()).to_string()
    }

    /// The texts to learn from, and those held out: one in 64, whatever the recipe.
    pub fn split(&self) -> [Vec<u32>; 2] {
        let all = || 0..self.len() as u32;
        let held_out = |index: &u32| (*index as usize).is_multiple_of(HELD_OUT);
        // A handful of texts has none to spare.
        if self.len() < 2 * HELD_OUT {
            return [all().collect(), Vec::new()];
        }
        [all().filter(|index| !held_out(index)).collect(), all().filter(held_out).collect()]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\n##s\nsat\n";

    /// `count` texts of 1 to 7 words.
    pub(in super::super) fn corpus(count: usize) -> Corpus {
        let folder = tempfile::tempdir().unwrap();
        let lines: String = (0..count).map(|i| format!("{}\n", vec!["a"; 1 + i % 7].join(" "))).collect();
        crate::file::write_atomic(&folder.path().join("t.txt"), [lines.as_bytes()]).unwrap();
        open(folder.path(), 2).unwrap()
    }

    fn open(path: &Path, threads: usize) -> Result<Corpus> {
        let tokenizer = Tokenizer::from_vocab(VOCAB, true, 16, "vocab.txt").unwrap();
        Corpus::open(path, "texts", "CC0-1.0", None, &tokenizer, threads)
    }

    #[test]
    fn texts_keep_their_order_whatever_the_threads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        crate::file::write_atomic(&path, [b"a cat\n\ncats sat\nsat\n".as_slice()]).unwrap();
        let one = open(folder.path(), 1).unwrap();
        assert_eq!((one.len(), one.text(0), one.text(2)), (3, &[2, 5, 6, 3][..], &[2, 8, 3][..]));
        for threads in [2, 9] {
            assert_eq!(open(&path, threads).unwrap().digest(), one.digest());
        }
        crate::file::write_atomic(&path, [b"a cat\n".as_slice()]).unwrap();
        assert_ne!(open(&path, 1).unwrap().digest(), one.digest());
        crate::file::write_atomic(&path, [b"\n".as_slice()]).unwrap();
        assert!(open(&path, 1).unwrap_err().to_string().contains("no sentence"));
    }

    #[test]
    fn one_text_in_64_is_held_out() {
        let [train, held_out] = corpus(200).split();
        assert_eq!((train.len(), held_out), (196, vec![0, 64, 128, 192]));
        let [train, held_out] = corpus(20).split();
        assert_eq!((train.len(), held_out.len()), (20, 0));
    }
}

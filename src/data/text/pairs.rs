//! Pairs of sentences with people's scores of their similarity.

use std::path::Path;

use strum::Display;

use crate::data::settings::entries;
use crate::error::{Error, Result};
use crate::file;

/// Size limit of a file of pairs, bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// The tasks of STS12 to STS16, and the folder that holds theirs.
const YEARS: [(&str, &str); 5] =
    [("sts12", "STS12"), ("sts13", "STS13"), ("sts14", "STS14"), ("sts15", "STS15"), ("sts16", "STS16")];
const STS_B: &str = "sts-b";
/// First line of a user's file.
const COLUMNS: [&str; 3] = ["sentence1", "sentence2", "score"];

/// A part of a data set of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display)]
#[strum(serialize_all = "lowercase")]
pub enum PairSplit {
    /// To learn from.
    Train,
    /// To choose by.
    Dev,
    /// Read once, for the table.
    Test,
}

/// Pairs of sentences and their scores. The three lists have the same length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScoredPairs {
    /// First sentences.
    pub first: Vec<String>,
    /// Second sentences.
    pub second: Vec<String>,
    /// Scores, the higher the more similar; only their order counts.
    pub scores: Vec<f64>,
}

impl ScoredPairs {
    /// Number of pairs.
    pub const fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there is no pair.
    pub const fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    fn push(&mut self, first: &str, second: &str, score: f64) {
        self.first.push(first.to_owned());
        self.second.push(second.to_owned());
        self.scores.push(score);
    }
}

/// Whether `name` is a data set of pairs in `root`: a known one, or the user's own.
pub fn are_pairs(name: &str, root: &Path) -> bool {
    let known = name == STS_B || YEARS.iter().any(|(year, _)| *year == name);
    known
        || [PairSplit::Train, PairSplit::Dev, PairSplit::Test]
            .into_iter()
            .any(|split| own(name, root, split).is_some())
}

/// The data set of pairs `name` in `root`: `sts-b`, one of `sts12` to `sts16`, which have a test part alone, or the
/// folder of that name with `train`, `dev` and `test` as `.csv` or `.tsv`, whose first line is
/// `sentence1,sentence2,score`.
///
/// # Errors
/// [`Error::Io`]; [`Error::NotFound`] for an unknown name or a part that it has not; [`Error::Corrupt`] naming file and
/// line.
pub fn open_pairs(name: &str, root: &Path, split: PairSplit) -> Result<ScoredPairs> {
    let pairs = if name == STS_B {
        sts_b(&root.join(STS_B).join(format!("sts-{split}.csv")))?
    } else if let Some((_, folder)) = YEARS.iter().find(|(year, _)| *year == name)
        && split == PairSplit::Test
    {
        year(&root.join("sts12-16").join(folder))?
    } else if let Some(path) = own(name, root, split) {
        table(&path)?
    } else {
        let known = YEARS.map(|(year, _)| year).join(", ");
        let known =
            format!("{STS_B}, {known} with --split test, or a folder with {split}.csv or {split}.tsv");
        return Err(Error::NotFound { what: "data set of pairs", name: name.to_owned(), known });
    };
    if pairs.len() < 2 {
        let reason = format!("{} pairs with a score; a correlation needs 2", pairs.len());
        return Err(Error::corrupt(format!("data set \"{name}\", {split}"), reason));
    }
    Ok(pairs)
}

/// The user's file of this part.
fn own(name: &str, root: &Path, split: PairSplit) -> Option<std::path::PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
        return None;
    }
    let file = |extension: &str| root.join(name).join(format!("{split}.{extension}"));
    [file("csv"), file("tsv")].into_iter().find(|path| path.exists())
}

/// `genre, file, year, id, score, sentence 1, sentence 2`, with tabs between them and no quoting.
fn sts_b(path: &Path) -> Result<ScoredPairs> {
    let (text, mut pairs) = (file::text(path, MAX_FILE_BYTES)?, ScoredPairs::default());
    for (line, text) in text.lines().enumerate() {
        let fields: Vec<_> = text.split('\t').collect();
        let [_, _, _, _, score, first, second, ..] = fields.as_slice() else {
            return Err(wrong(path, line, format!("{} of 7 fields", fields.len())));
        };
        pairs.push(first, second, number(score).ok_or_else(|| wrong(path, line, no_number(score)))?);
    }
    Ok(pairs)
}

/// `STS.input.*.txt` with the two sentences, and `STS.gs.*.txt` with the scores line by line; a pair without a score is
/// left out.
fn year(folder: &Path) -> Result<ScoredPairs> {
    let mut pairs = ScoredPairs::default();
    for name in entries(folder)? {
        let Some(task) = name.strip_prefix("STS.input.") else { continue };
        let (input, gold) = (folder.join(&name), folder.join(format!("STS.gs.{task}")));
        if task == "ALL.txt" || !gold.exists() {
            continue;
        }
        let (texts, scores) = (file::text(&input, MAX_FILE_BYTES)?, file::text(&gold, MAX_FILE_BYTES)?);
        let (lines, scored) = (texts.lines().count(), scores.lines().count());
        if lines != scored {
            return Err(wrong(&gold, scored.min(lines), format!("{scored} scores for {lines} pairs")));
        }
        for (line, (text, score)) in texts.lines().zip(scores.lines()).enumerate() {
            if score.trim().is_empty() {
                continue;
            }
            let mut fields = text.split('\t');
            let (Some(first), Some(second)) = (fields.next(), fields.next()) else {
                return Err(wrong(&input, line, "1 of 2 fields".to_owned()));
            };
            pairs.push(first, second, number(score).ok_or_else(|| wrong(&gold, line, no_number(score)))?);
        }
    }
    Ok(pairs)
}

/// A file with a first line of names: commas and quotes as in RFC 4180, or tabs without quotes.
fn table(path: &Path) -> Result<ScoredPairs> {
    let text = file::text(path, MAX_FILE_BYTES)?;
    let rows = if path.extension().is_some_and(|extension| extension == "tsv") {
        let fields = |line: &str| line.split('\t').map(ToOwned::to_owned).collect();
        text.lines().enumerate().map(|(line, text)| (line, fields(text))).collect()
    } else {
        csv(&text).map_err(|line| wrong(path, line, "a quote is not closed".to_owned()))?
    };
    let mut rows = rows.into_iter().filter(|(_, fields): &(usize, Vec<String>)| fields.concat() != "");
    let (line, names) = rows.next().unwrap_or_default();
    let place = |column: &str| names.iter().position(|name| name.trim_start_matches('\u{feff}') == column);
    let [Some(first), Some(second), Some(score)] = COLUMNS.map(place) else {
        return Err(wrong(path, line, format!("its names are {names:?}, not {}", COLUMNS.join(", "))));
    };
    let mut pairs = ScoredPairs::default();
    for (line, fields) in rows {
        let [Some(first), Some(second), Some(score)] = [first, second, score].map(|at| fields.get(at)) else {
            return Err(wrong(path, line, format!("{} of {} fields", fields.len(), names.len())));
        };
        pairs.push(first, second, number(score).ok_or_else(|| wrong(path, line, no_number(score)))?);
    }
    Ok(pairs)
}

/// The rows of `text` with the number of the line that each begins on, or the line of a quote that is never closed.
fn csv(text: &str) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let mut rows = Vec::new();
    let (mut line, mut first) = (0, 0);
    let (mut row, mut field, mut quoted) = (Vec::new(), String::new(), None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        match (c, quoted) {
            ('"', Some(_)) if chars.peek() == Some(&'"') => field.extend(chars.next()),
            ('"', Some(_)) => quoted = None,
            ('"', None) if field.is_empty() => quoted = Some(line),
            (',', None) => row.push(std::mem::take(&mut field)),
            ('\r', None) if chars.peek() == Some(&'\n') => {}
            ('\n', None) => {
                row.push(std::mem::take(&mut field));
                rows.push((first, std::mem::take(&mut row)));
                first = line;
            }
            (c, _) => field.push(c),
        }
    }
    if let Some(line) = quoted {
        return Err(line);
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push((first, row));
    }
    Ok(rows)
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

fn no_number(text: &str) -> String {
    format!("\"{}\" is no score", text.chars().take(40).collect::<String>())
}

/// `line` counts from 0.
fn wrong(path: &Path, line: usize, reason: String) -> Error {
    Error::corrupt(path.display().to_string(), format!("line {}: {reason}", line + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        file::write_atomic(&path, [text.as_bytes()]).unwrap();
    }

    #[test]
    fn known_sets_are_read_in_their_forms() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let b = "g\tf\ty\t1\t5.000\tA \"quote.\tSame.\ng\tf\ty\t2\t0.5\tOne.\tTwo.\tlicence\n";
        write(root, "sts-b/sts-dev.csv", b);
        let pairs = open_pairs("sts-b", root, PairSplit::Dev).unwrap();
        assert_eq!(
            (pairs.first, pairs.second),
            (vec!["A \"quote.".to_owned(), "One.".to_owned()], vec!["Same.".to_owned(), "Two.".to_owned()])
        );
        assert_eq!(pairs.scores, [5.0, 0.5]);
        for (name, text) in [
            ("STS.input.a.txt", "one\ttwo\nthree\tfour\n"),
            ("STS.gs.a.txt", "1.5\n\n"),
            ("STS.input.b.txt", "five\tsix\textra\n"),
            ("STS.gs.b.txt", "0\n"),
            ("STS.input.c.txt", "without\tscores\n"),
            ("STS.gs.ALL.txt", "1\n"),
        ] {
            write(root, &format!("sts12-16/STS13/{name}"), text);
        }
        let pairs = open_pairs("sts13", root, PairSplit::Test).unwrap();
        assert_eq!((pairs.first, pairs.scores), (vec!["one".to_owned(), "five".to_owned()], vec![1.5, 0.0]));
        assert!(are_pairs("sts13", root) && !are_pairs("fashion-mnist", root));
        for (name, split) in
            [("sts13", PairSplit::Dev), ("other", PairSplit::Test), ("../sts-b", PairSplit::Test)]
        {
            let error = open_pairs(name, root, split).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::NotFound);
        }
    }

    #[test]
    fn own_tables_have_names_and_quotes() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let text = "\u{feff}id,sentence1,score,sentence2\r\n1,\"a, \"\"b\"\"\nc\",0.5,d\r\n\r\n2,e,1,f";
        write(root, "mine/test.csv", text);
        let pairs = open_pairs("mine", root, PairSplit::Test).unwrap();
        assert_eq!((pairs.first[0].as_str(), pairs.second[0].as_str()), ("a, \"b\"\nc", "d"));
        assert_eq!(pairs.scores, [0.5, 1.0]);
        write(root, "mine/train.tsv", "sentence1\tsentence2\tscore\n\"a\tb\t1\nc\td\t2\n");
        assert_eq!(open_pairs("mine", root, PairSplit::Train).unwrap().first[0], "\"a");
        assert!(are_pairs("mine", root));
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (text, reason) in [
            ("a,b,c\n", "line 1: its names are"),
            ("sentence1,sentence2,score\na,b,1\nc,d\n", "line 3: 2 of 3 fields"),
            ("sentence1,sentence2,score\na,b,good\n", "line 2: \"good\" is no score"),
            ("sentence1,sentence2,score\na,b,NaN\n", "is no score"),
            ("sentence1,sentence2,score\n\"a,b,1\n", "line 2: a quote is not closed"),
            ("sentence1,sentence2,score\na,b,1\n", "1 pairs with a score"),
        ] {
            write(root, "mine/dev.csv", text);
            let error = open_pairs("mine", root, PairSplit::Dev).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

//! A page of results whose figures are computed again.
//!
//! A statement is a template: its words have to be on the page once, in any wrapping, with a number at each `{}`. A
//! table is found by its header. Both are replaced by what the data say, so the test compares the page with itself, and
//! the same code writes it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use genebank::tensor::codec::write_atomic;

pub(crate) struct Page {
    path: PathBuf,
    text: String,
    original: String,
    /// What was stated or is a fact, from its first to its last byte in `text`.
    known: Vec<Range<usize>>,
    missing: Vec<String>,
    /// Whether every number with decimals has to be stated.
    whole: bool,
}

/// Whether `text` is a number as a page writes it, or a SHA-256.
fn is_number(text: &str) -> bool {
    let digest = text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    digest || (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || ".,+-".contains(c)))
}

impl Page {
    pub(crate) fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        Self { path, original: text.clone(), text, known: Vec::new(), missing: Vec::new(), whole: true }
    }

    /// The same page, which has figures of other kinds too.
    pub(crate) fn of_statements(self) -> Self {
        Self { whole: false, ..self }
    }

    /// The words of the page.
    fn words(&self) -> Vec<Range<usize>> {
        let start = self.text.as_ptr() as usize;
        let place = |word: &str| {
            let at = word.as_ptr() as usize - start;
            at..at + word.len()
        };
        self.text.split_whitespace().map(place).collect()
    }

    /// The number in `word` where `pattern` has `{}`, or nothing for a plain word; `None` if they differ elsewhere.
    fn number(&self, word: &Range<usize>, pattern: &str) -> Option<Range<usize>> {
        let found = &self.text[word.clone()];
        let Some((before, after)) = pattern.split_once("{}") else {
            return (found == pattern).then_some(word.end..word.end);
        };
        let number = found.strip_prefix(before)?.strip_suffix(after)?;
        let start = word.start + before.len();
        is_number(number).then_some(start..start + number.len())
    }

    /// States `template` with `numbers`.
    pub(crate) fn states(&mut self, template: &str, numbers: &[String]) {
        let patterns: Vec<_> = template.split_whitespace().collect();
        let words = self.words();
        let places: Vec<_> = words
            .windows(patterns.len())
            .filter_map(|words| {
                let found: Option<Vec<_>> =
                    words.iter().zip(&patterns).map(|(word, pattern)| self.number(word, pattern)).collect();
                let whole = words[0].start..words[words.len() - 1].end;
                Some((whole, found?.into_iter().filter(|number| !number.is_empty()).collect::<Vec<_>>()))
            })
            .collect();
        let [(whole, places)] = places.as_slice() else {
            self.missing.push(format!("{} times: {template} {numbers:?}", places.len()));
            return;
        };
        assert_eq!(places.len(), numbers.len(), "{template}");
        let mut end = whole.end;
        for (place, number) in places.iter().zip(numbers).rev() {
            self.replace(place.clone(), number);
            end = end + number.len() - place.len();
        }
        self.known.push(whole.start..end);
    }

    /// Words that are on the page and follow from no data of ours.
    pub(crate) fn fact(&mut self, words: &str) {
        self.states(words, &[]);
    }

    /// The table with this `header`, two lines, has these rows.
    pub(crate) fn table(&mut self, header: &str, rows: &[String]) {
        let Some(at) = self.text.find(&format!("{header}\n")) else {
            self.missing.push(format!("table {header}"));
            return;
        };
        let first = at + header.len() + 1;
        let length: usize = self.text[first..]
            .split_inclusive('\n')
            .take_while(|line| line.starts_with('|'))
            .map(str::len)
            .sum();
        let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.replace(first..first + length, &rows);
        self.known.push(at..first + rows.len());
    }

    fn replace(&mut self, place: Range<usize>, text: &str) {
        self.text.replace_range(place.clone(), text);
        let shift = |at: usize| if at >= place.end { at + text.len() - place.len() } else { at };
        for known in &mut self.known {
            *known = shift(known.start)..shift(known.end);
        }
    }

    /// Numbers with decimals that nothing states, outside of code and of links.
    fn unknown(&self) -> Vec<String> {
        let mut code = false;
        let mut at = 0;
        let mut found = Vec::new();
        for line in self.text.split_inclusive('\n') {
            code ^= line.starts_with("```");
            for (offset, _) in line.match_indices('.') {
                let digit = |i: usize| line.as_bytes().get(i).is_some_and(u8::is_ascii_digit);
                let place = at + offset;
                let known = self.known.iter().any(|known| known.contains(&place));
                if !code && !known && offset > 0 && digit(offset - 1) && digit(offset + 1) {
                    found.push(line.trim().to_owned());
                    break;
                }
            }
            at += line.len();
        }
        found
    }

    /// Writes the page where it differs.
    pub(crate) fn write(&self) {
        if self.text != self.original {
            write_atomic(&self.path, [self.text.as_bytes()]).unwrap();
        }
    }

    /// Fails where the page differs from the data.
    pub(crate) fn check(self) {
        let name = self.path.display();
        assert!(self.missing.is_empty(), "{name}: not stated:\n{}", self.missing.join("\n"));
        let changed = |(found, computed): (&str, &str)| {
            (found != computed).then(|| format!("page: {found}\ndata: {computed}"))
        };
        let differences: Vec<_> = self.original.lines().zip(self.text.lines()).filter_map(changed).collect();
        assert!(self.original == self.text, "{name} differs from the data:\n{}", differences.join("\n"));
        let unknown = if self.whole { self.unknown() } else { Vec::new() };
        assert!(unknown.is_empty(), "{name}: figures that nothing computes:\n{}", unknown.join("\n"));
    }
}

#[test]
fn a_wrong_figure_a_lost_sentence_and_a_figure_from_nowhere_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.md");
    let check = |text: &str| {
        write_atomic(&path, [text.as_bytes()]).unwrap();
        let mut page = Page::open(path.to_str().unwrap());
        page.states("The gap is {} points at width {}.", &["1.50".into(), "24".into()]);
        page.table("| depth | accuracy |\n| --- | --- |", &["| 3 | 87.10 |".into()]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| page.check())).is_ok()
    };
    let right =
        "The gap is\n1.50 points at width 24.\n\n| depth | accuracy |\n| --- | --- |\n| 3 | 87.10 |\n";
    assert!(check(right));
    for (from, to) in
        [("1.50", "1.51"), ("24.", "48."), ("gap", "hole"), ("87.10", "87.11"), ("| 3 ", "| 4 ")]
    {
        assert!(!check(&right.replacen(from, to, 1)), "{from} {to}");
    }
    assert!(!check(&format!("{right}| 4 | 87.20 |\n")));
    assert!(!check(&format!("{right}\nIt takes 3.5 hours.\n")));
    assert!(check(&format!("{right}\n```\n3.5\n```\n")));
    // What is written is what the data say.
    write_atomic(&path, [right.replace("1.50", "+0.3").as_bytes()]).unwrap();
    let mut page = Page::open(path.to_str().unwrap());
    page.states("The gap is {} points at width {}.", &["1.50".into(), "24".into()]);
    page.write();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), right);
}

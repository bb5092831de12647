//! Random choices of one request, and values that look like real ones.

use genebank::tensor::rng::{self, Stream};

/// The genes that are served. Names are read from the right, so the second could be taken for a size or a layout.
pub(super) const GENES: [&str; 2] = ["tiny", "a-d4-hf"];

/// The choices of one request.
pub(super) struct Draw {
    random: Stream,
}

/// Numbers at which something ends.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    24,
    48,
    255,
    256,
    1 << 16,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];
/// Text that parsers may stumble over.
const ODD: [&str; 20] = [
    "",
    " ",
    ".",
    "..",
    "/",
    "//",
    "%",
    "%2",
    "%00",
    "%2f",
    "%ff",
    "%E2%82",
    "\u{e9}",
    "\"",
    "\\",
    ";",
    "-",
    "+",
    "\u{1F600}",
    "\u{202e}",
];

impl Draw {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        Self { random: rng::stream(seed, &format!("request/{number}")) }
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.random.below(n as u64) as usize
    }

    /// True one time in `n`.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'t, T: ?Sized>(&mut self, items: &[&'t T]) -> &'t T {
        items[self.below(items.len())]
    }

    pub(super) fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => EDGES[self.below(EDGES.len())],
            1 => self.random.below(u64::MAX),
            _ => self.random.below(40),
        }
    }

    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.random.bits() as u8).collect()
    }

    /// Odd text, or one that is long.
    pub(super) fn text(&mut self) -> String {
        match self.below(12) {
            0 => "x".repeat(1 << self.below(14)),
            1 => String::from_utf8_lossy(&self.bytes(20)).into_owned(),
            _ => (0..=self.below(3)).map(|_| self.pick(&ODD)).collect(),
        }
    }

    /// The name of a gene, usually a real one.
    pub(super) fn gene(&mut self) -> String {
        let name = self.pick(&GENES);
        match self.below(10) {
            0 => self.text(),
            1 => self.mutated_text(name),
            _ => name.to_owned(),
        }
    }

    /// `d{depth}-w{width}`, usually of a real size.
    pub(super) fn size(&mut self) -> String {
        let (mut depth, mut width) = (1 + self.random.below(12), 8 * (1 + self.random.below(3)));
        match self.below(6) {
            0 => depth = self.number(),
            1 => width = self.number(),
            _ => {}
        }
        let name = format!("d{depth}-w{width}");
        if self.one_in(12) { self.mutated_text(&name) } else { name }
    }

    /// `text` with a few characters changed.
    pub(super) fn mutated_text(&mut self, text: &str) -> String {
        String::from_utf8_lossy(&self.mutated(text.as_bytes().to_vec())).into_owned()
    }

    /// `bytes` with one to three places changed, left out, repeated or cut off.
    pub(super) fn mutated(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.insert(at, self.random.bits() as u8),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 => bytes.truncate(at),
                4 => {
                    let again = bytes[at..].to_vec();
                    bytes.extend(again);
                }
                _ => {
                    let odd = self.pick(&ODD);
                    bytes.splice(at..at, odd.bytes());
                }
            }
        }
        bytes
    }
}

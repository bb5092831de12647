//! Blueprints, their entries and the sources of values.

use std::collections::BTreeMap;

use crate::{
    nn::{Dims, Role, Spec},
    tensor::{Dtype, Init, matrix_view},
};

use super::{Identity, ModelInfo, Resize, record::METADATA_KEY};

/// A half-open range of rows or columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// First index.
    pub start: usize,
    /// One past the last index.
    pub end: usize,
}

impl Span {
    /// `start..end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// Number of indices.
    pub const fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether there is no index.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// A rectangle of a stored tensor, seen as a matrix by [`matrix_view`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// Name of the stored tensor.
    pub tensor: String,
    /// Shape of the stored tensor's matrix view, `[rows, cols]`.
    pub of: [usize; 2],
    /// Rows that are taken.
    pub rows: Span,
    /// Columns that are taken.
    pub cols: Span,
}

impl Piece {
    /// The whole of a stored tensor of this shape.
    pub fn whole(tensor: &str, shape: &[usize]) -> Self {
        let [rows, cols] = matrix_view(shape);
        Self {
            tensor: tensor.to_owned(),
            of: [rows, cols],
            rows: Span::new(0, rows),
            cols: Span::new(0, cols),
        }
    }

    /// The same columns in row `index` of the stored tensor.
    #[must_use]
    pub fn row(&self, index: usize) -> Self {
        Self { rows: Span::new(index, index + 1), ..self.clone() }
    }

    /// Whether it covers the whole stored tensor.
    pub const fn is_whole(&self) -> bool {
        self.rows.len() == self.of[0] && self.cols.len() == self.of[1]
    }

    /// Elements that are taken.
    pub const fn len(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    /// Whether no element is taken.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the values of a tensor come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Rectangles of stored tensors, stacked vertically.
    Pieces(Vec<Piece>),
    /// Chosen rows and columns of one stored tensor, seen as a matrix by [`matrix_view`].
    Selected {
        /// Name of the stored tensor.
        tensor: String,
        /// Shape of its matrix view, `[rows, cols]`.
        of: [usize; 2],
        /// Rows in the order in which they are taken.
        rows: Vec<u32>,
        /// Columns in the order in which they are taken.
        cols: Vec<u32>,
    },
    /// Fresh values, which inherit nothing.
    Fresh {
        /// How they are drawn.
        init: Init,
        /// Seed of the stream, which is also keyed by the name of the tensor.
        seed: u64,
    },
    /// A rectangle of a stored tensor, resized.
    Resized {
        /// The rectangle that is resized. It covers every resized axis completely.
        piece: Piece,
        /// How it is resized.
        resize: Resize,
    },
    /// Rows of one stored tensor in any order, mixed with fresh rows.
    Rows {
        /// The columns that are taken, and the rows that may be taken.
        piece: Piece,
        /// The rows in order.
        rows: Vec<Row>,
        /// How a fresh row is drawn.
        init: Init,
        /// Seed of the streams of fresh rows.
        seed: u64,
    },
}

impl Source {
    /// The source of only these rows of the tensor's matrix view; `None` if this kind of source cannot express a part.
    pub fn rows(&self, rows: Span) -> Option<Self> {
        match self {
            Self::Pieces(pieces) => {
                let mut first = 0;
                let within = pieces.iter().filter_map(|piece| {
                    let (start, end) = (first, first + piece.rows.len());
                    first = end;
                    let (from, to) = (rows.start.max(start), rows.end.min(end));
                    let at = piece.rows.start;
                    (from < to).then(|| Piece {
                        rows: Span::new(at + from - start, at + to - start),
                        ..piece.clone()
                    })
                });
                Some(Self::Pieces(within.collect()))
            }
            Self::Selected { tensor, of, rows: chosen, cols } => {
                let rows = chosen.get(rows.start..rows.end)?.to_vec();
                Some(Self::Selected { tensor: tensor.clone(), of: *of, rows, cols: cols.clone() })
            }
            Self::Fresh { .. } | Self::Resized { .. } | Self::Rows { .. } => None,
        }
    }

    /// Whether any values are drawn at random, from a stream keyed by the tensor's name.
    pub fn draws(&self) -> bool {
        match self {
            Self::Fresh { .. } => true,
            Self::Rows { rows, .. } => Row::count_fresh(rows) > 0,
            Self::Pieces(_) | Self::Selected { .. } | Self::Resized { .. } => false,
        }
    }
}

/// One row of [`Source::Rows`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// The row with this index in the stored tensor.
    Kept(usize),
    /// A fresh row from a stream keyed by this label. Its values do not depend on its position, and a narrower row is a
    /// prefix of a wider one.
    Fresh(String),
}

impl Row {
    /// How many of `rows` are fresh.
    pub fn count_fresh(rows: &[Self]) -> usize {
        rows.iter().filter(|row| matches!(row, Self::Fresh(_))).count()
    }

    /// Values of the fresh row `label` of the tensor called `name`.
    pub fn fresh(init: Init, seed: u64, name: &str, label: &str, cols: usize) -> Vec<f32> {
        init.values(seed, &format!("{name}/{label}"), cols)
    }
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// timm's name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
    /// Where its values come from.
    pub source: Source,
}

impl Entry {
    /// A parameter with fresh values.
    pub fn fresh(spec: Spec, dims: &Dims, seed: u64) -> Self {
        let source = Source::Fresh { init: spec.init, seed };
        let (name, shape) = spec.named_shape(dims);
        Self { name, shape, dtype: Dtype::F32, source }
    }

    /// The stored tensor of the same name, unchanged.
    pub fn whole(name: String, shape: Vec<usize>) -> Self {
        let source = Source::Pieces(vec![Piece::whole(&name, &shape)]);
        Self { name, shape, dtype: Dtype::F32, source }
    }
}

/// A model before any weight is touched.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Identity of the request that it answers.
    pub identity: Identity,
    /// What the model is; written into the file.
    pub info: ModelInfo,
    /// Its tensors in file order.
    pub entries: Vec<Entry>,
    /// Whether the file says what the model is. A file with a part of the tensors does not.
    pub has_record: bool,
}

impl Blueprint {
    /// A network of `info`'s shape that inherits nothing: every tensor is drawn from `seed`.
    pub fn fresh(info: ModelInfo, seed: u64) -> Self {
        let schema = info.config.schema();
        let entries = schema.specs().into_iter().map(|spec| Entry::fresh(spec, &schema.dims, seed)).collect();
        let identity = info.config.canonical(Identity::form("genebank.fresh")).integer(seed).into();
        Self { identity, info, entries, has_record: true }
    }

    /// The blueprint of a model file of this shape: every tensor is the stored one of the same name.
    pub fn whole(info: ModelInfo) -> Self {
        let entries = info
            .config
            .schema()
            .shapes()
            .into_iter()
            .map(|(name, shape)| Entry::whole(name, shape))
            .collect();
        let identity = info.config.canonical(Identity::form("genebank.whole")).into();
        Self { identity, info, entries, has_record: true }
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.entries.iter().map(|entry| entry.shape.iter().product::<usize>() as u64).sum()
    }

    /// Number of fresh rows in the classifier if its rows are mixed; otherwise 0.
    pub fn fresh_classes(&self) -> usize {
        let schema = self.info.config.schema();
        let head = schema.tail.iter().find(|spec| spec.role == Role::Head);
        let entry = head.and_then(|head| self.entries.iter().find(|entry| entry.name == head.name));
        match entry.map(|entry| &entry.source) {
            Some(Source::Rows { rows, .. }) => Row::count_fresh(rows),
            _ => 0,
        }
    }

    /// The header of the safetensors file, with the length prefix.
    pub fn header(&self) -> bytes::Bytes {
        let tensors = self.entries.iter().map(|e| (e.name.as_str(), e.dtype, e.shape.as_slice()));
        crate::tensor::codec::header(&self.metadata(), tensors)
    }

    /// The tensors that `keep` gives a name, in a file of their own called `name`, without the record of the model.
    #[must_use]
    pub fn part(&self, name: &str, keep: impl Fn(&Entry) -> Option<String>) -> Self {
        let kept =
            self.entries.iter().filter_map(|entry| Some(Entry { name: keep(entry)?, ..entry.clone() }));
        let form = Identity::form("genebank.part").text(&self.identity.to_string()).text(name);
        Self { identity: form.into(), info: self.info.clone(), entries: kept.collect(), has_record: false }
    }

    /// `__metadata__` of the file.
    fn metadata(&self) -> BTreeMap<String, String> {
        let metadata = self.info.metadata();
        let kept = metadata.into_iter().filter(|(key, _)| self.has_record || key != METADATA_KEY);
        kept.collect()
    }
}

//! Turns a blueprint into the list of `Bytes` that is served.
//!
//! A tensor, or a block of its rows, that is requested as it is stored becomes a refcounted slice of the gene's memory,
//! so depth costs neither memory nor a copy. Everything else makes new bytes, which are kept and shared except for
//! fresh values and reordered rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    digest::Digest,
    error::{Error, Result},
    tensor::{Dtype, TensorFile, codec},
};

use super::{Blueprint, Entry, Identity, ModelInfo, Piece, Reservation, Row, Source};

/// The bytes of one tensor and their digest.
#[derive(Debug)]
pub struct Slice {
    bytes: Bytes,
    /// Whether the bytes take memory beside the gene's.
    made: bool,
    sha256: OnceLock<Digest>,
}

impl Slice {
    fn new(bytes: Bytes, made: bool) -> Arc<Self> {
        Arc::new(Self { bytes, made, sha256: OnceLock::new() })
    }

    /// SHA-256 of the bytes, computed once.
    pub fn sha256(&self) -> Digest {
        *self.sha256.get_or_init(|| Digest::of(&self.bytes))
    }
}

/// Bytes of stored tensors and of tensors made from them; each is made and digested once.
#[derive(Debug)]
pub struct Slices {
    stored: TensorFile,
    stored_width: usize,
    resized_values: u64,
    ready: Mutex<Ready>,
}

/// Slices by element type and source.
type Ready = BTreeMap<Dtype, BTreeMap<Source, Arc<Slice>>>;

impl Slices {
    /// Starts with only the tensors of `stored`, which belong to a network of `stored_width`.
    pub fn new(stored: TensorFile, stored_width: usize) -> Self {
        Self { stored, stored_width, resized_values: 0, ready: Mutex::default() }
    }

    /// Includes in [`Self::most_owned_bytes`] the values that `blueprint`, and others for the same images, make by
    /// resizing.
    #[must_use]
    pub fn with_resized(self, blueprint: &Blueprint) -> Self {
        let resized = blueprint.entries.iter().filter(|entry| matches!(entry.source, Source::Resized { .. }));
        let values = resized.map(|entry| entry.shape.iter().product::<usize>() as u64).sum();
        Self { resized_values: values, ..self }
    }

    /// Upper bound on the bytes held beside the stored file once every tensor has been requested at `width` as `dtype`.
    pub fn most_owned_bytes(&self, width: usize, dtype: Dtype) -> u64 {
        let made = self.stored.tensors().filter(|(_, t)| width != self.stored_width || t.dtype != dtype);
        let made = made.map(|(_, t)| t.shape.iter().product::<usize>() as u64).sum::<u64>();
        (made + self.resized_values) * dtype.size_bytes() as u64
    }

    /// Bytes that [`assemble_in`] has to make for `blueprint` beside its header: the tensors that are not ready, and the
    /// largest array that is needed on the way. The stored tensors that the blueprint names have to exist.
    pub fn missing(&self, blueprint: &Blueprint) -> usize {
        let ready = self.ready();
        let (mut made, mut transient) = (0, 0);
        let mut new = BTreeSet::new();
        for entry in &blueprint.entries {
            let values: usize = entry.shape.iter().product();
            let (keeps, values_on_the_way) = match &entry.source {
                Source::Pieces(pieces) if matches!(pieces.as_slice(), [piece] if self.is_contiguous(piece, entry.dtype)) =>
                {
                    continue;
                }
                Source::Pieces(_) => (true, 0),
                Source::Resized { piece, .. } => (true, 2 * piece.len() + values),
                Source::Selected { of, .. } => (true, of[0] * of[1]),
                Source::Rows { .. } => (false, 0),
                Source::Fresh { .. } => (false, values),
            };
            let known = || ready.get(&entry.dtype).is_some_and(|ready| ready.contains_key(&entry.source));
            if keeps && (known() || !new.insert((&entry.source, entry.dtype))) {
                continue;
            }
            made += values * entry.dtype.size_bytes();
            transient = transient.max(values_on_the_way * size_of::<f32>());
        }
        made + transient
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, entry: &Entry, room: &mut Reservation) -> Result<Arc<Slice>> {
        // Fresh values depend on the tensor's name too, and keeping them gains nothing. Rows come in too many orders to
        // keep.
        let pieces = match &entry.source {
            Source::Pieces(pieces) => pieces.as_slice(),
            Source::Resized { .. } | Source::Selected { .. } => &[],
            Source::Rows { .. } | Source::Fresh { .. } => {
                return Ok(Slice::new(self.make(entry, room)?, true));
            }
        };
        let mut ready = self.ready();
        let ready = ready.entry(entry.dtype).or_default();
        if let Some(slice) = ready.get(&entry.source) {
            return Ok(slice.clone());
        }
        let slice = match pieces {
            [piece] => self.contiguous(piece, entry.dtype)?.map(|bytes| Slice::new(bytes, false)),
            _ => None,
        };
        let slice = match slice {
            Some(slice) => slice,
            None => Slice::new(self.make(entry, room)?, true),
        };
        ready.insert(entry.source.clone(), slice.clone());
        Ok(slice)
    }

    fn make(&self, entry: &Entry, room: &mut Reservation) -> Result<Bytes> {
        let count: usize = entry.shape.iter().product();
        let mut buffer = room.take(count * entry.dtype.size_bytes());
        let out = buffer.as_mut();
        match &entry.source {
            Source::Fresh { init, seed } => {
                entry.dtype.write(init.values(*seed, &entry.name, count).into_iter(), out);
            }
            Source::Pieces(pieces) => {
                for piece in pieces {
                    self.copy(piece, entry.dtype, out)?;
                }
            }
            Source::Selected { tensor, of, rows, cols } => {
                let tensor = self.stored.tensor(tensor)?;
                let values = tensor.dtype.read(&tensor.bytes);
                let at = |row: &u32, col: &u32| values.get(*row as usize * of[1] + *col as usize).copied();
                let chosen = rows.iter().flat_map(|row| cols.iter().filter_map(move |col| at(row, col)));
                entry.dtype.write(chosen, out);
            }
            Source::Resized { piece, resize } => {
                let stored = self.stored.tensor(&piece.tensor)?.dtype;
                let mut bytes = Vec::with_capacity(piece.len() * stored.size_bytes());
                self.copy(piece, stored, &mut bytes)?;
                let values = resize.values(&stored.read(&bytes), piece.cols.len());
                entry.dtype.write(values.into_iter(), out);
            }
            Source::Rows { piece, rows, init, seed } => {
                for row in rows {
                    match row {
                        Row::Kept(index) => self.copy(&piece.row(*index), entry.dtype, out)?,
                        Row::Fresh(label) => {
                            let values = Row::fresh(*init, *seed, &entry.name, label, piece.cols.len());
                            entry.dtype.write(values.into_iter(), out);
                        }
                    }
                }
            }
        }
        if out.len() != count * entry.dtype.size_bytes() {
            return Err(Error::ShapeMismatch {
                name: entry.name.clone(),
                expected: entry.shape.clone(),
                found: vec![out.len() / entry.dtype.size_bytes()],
            });
        }
        Ok(buffer.freeze())
    }

    /// Whether the rectangle is a slice of the file: its rows are whole and `dtype` is the stored one.
    fn is_contiguous(&self, piece: &Piece, dtype: Dtype) -> bool {
        self.stored.tensor(&piece.tensor).is_ok_and(|tensor| tensor.dtype == dtype)
            && piece.cols.len() == piece.of[1]
    }

    /// The rectangle as a slice of the file, if it is one.
    fn contiguous(&self, piece: &Piece, dtype: Dtype) -> Result<Option<Bytes>> {
        let tensor = self.stored.tensor(&piece.tensor)?;
        if !self.is_contiguous(piece, dtype) {
            return Ok(None);
        }
        let row = piece.of[1] * dtype.size_bytes();
        Ok(Some(tensor.bytes.slice(piece.rows.start * row..piece.rows.end * row)))
    }

    fn copy(&self, piece: &Piece, dtype: Dtype, out: &mut Vec<u8>) -> Result<()> {
        let tensor = self.stored.tensor(&piece.tensor)?;
        let size = tensor.dtype.size_bytes();
        for row in piece.rows.start..piece.rows.end {
            let start = row * piece.of[1];
            let bytes = &tensor.bytes[(start + piece.cols.start) * size..(start + piece.cols.end) * size];
            if tensor.dtype == dtype {
                out.extend_from_slice(bytes);
            } else {
                dtype.write(tensor.dtype.read(bytes).into_iter(), out);
            }
        }
        Ok(())
    }
}

/// A model file as a list of slices: the header, then the tensors in file order.
#[derive(Debug)]
pub struct Artifact {
    identity: Identity,
    header: Bytes,
    tensors: Vec<Arc<Slice>>,
    /// End offset of each part, starting with the header.
    ends: Vec<u64>,
    manifest: OnceLock<Digest>,
    sha256: OnceLock<Digest>,
    /// Room for the bytes, if they were not made in it.
    _room: Option<Reservation>,
}

/// Assembles the model file of `blueprint` from `slices`, without a limit on memory.
///
/// # Errors
/// Those of [`assemble_in`].
pub fn assemble(blueprint: &Blueprint, slices: &Slices) -> Result<Artifact> {
    assemble_in(blueprint, slices, &mut Reservation::unlimited(), &AtomicBool::new(false))
}

/// Assembles the model file of `blueprint` from `slices`. New bytes come out of `room`: [`Slices::missing`] and the
/// header.
///
/// # Errors
/// [`Error::MissingTensor`] if the blueprint names a tensor that is not stored, [`Error::ShapeMismatch`]
/// if its pieces do not add up to the shape, [`Error::Cancelled`] soon after `cancel` is true.
pub fn assemble_in(
    blueprint: &Blueprint,
    slices: &Slices,
    room: &mut Reservation,
    cancel: &AtomicBool,
) -> Result<Artifact> {
    let mut tensor = |entry: &Entry| {
        if cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { slices.get(entry, room) }
    };
    let tensors = blueprint.entries.iter().map(&mut tensor).collect::<Result<Vec<_>>>()?;
    Ok(Artifact::new(blueprint.identity, room.keep(blueprint.header()), tensors))
}

impl Artifact {
    fn new(identity: Identity, header: Bytes, tensors: Vec<Arc<Slice>>) -> Self {
        let mut end = header.len() as u64;
        let ends = std::iter::once(end)
            .chain(tensors.iter().map(|slice| {
                end += slice.bytes.len() as u64;
                end
            }))
            .collect();
        Self {
            identity,
            header,
            tensors,
            ends,
            manifest: OnceLock::new(),
            sha256: OnceLock::new(),
            _room: None,
        }
    }

    /// Wraps a stored model file as the answer to the request called `identity`. Its bytes count in `room` until the
    /// artifact is gone.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the file has no valid record of the model.
    pub fn from_file(identity: Identity, file: &TensorFile, origin: &str, room: Reservation) -> Result<Self> {
        ModelInfo::from_file(file, origin)?;
        let data = file.bytes().len() - file.tensors().map(|(_, t)| t.bytes.len()).sum::<usize>();
        let header = file.bytes().slice(..data);
        // Sorting by address gives file order. An empty tensor has no bytes, so its position does not matter.
        let mut tensors: Vec<_> = file.tensors().map(|(_, t)| t.bytes.clone()).collect();
        tensors.sort_by_key(|bytes| bytes.as_ptr());
        let tensors = tensors.into_iter().map(|bytes| Slice::new(bytes, true)).collect();
        Ok(Self { _room: Some(room), ..Self::new(identity, header, tensors) })
    }

    /// Identity of the request that this file answers.
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// Length of the file, bytes.
    pub fn size_bytes(&self) -> u64 {
        *self.ends.last().expect("the header is a part")
    }

    /// The manifest, if it has been computed already.
    pub fn known_manifest(&self) -> Option<Digest> {
        self.manifest.get().copied()
    }

    /// The digest of the whole file, if it has been computed already.
    pub fn known_sha256(&self) -> Option<Digest> {
        self.sha256.get().copied()
    }

    /// SHA-256 of the header followed by each tensor's SHA-256.
    pub fn manifest(&self) -> Digest {
        self.manifest_unless(&AtomicBool::new(false)).expect("nobody cancels")
    }

    /// The same, or `None` if it is not known yet and `cancel` became true.
    pub fn manifest_unless(&self, cancel: &AtomicBool) -> Option<Digest> {
        let goes_on = || !cancel.load(Ordering::Relaxed);
        self.known_manifest().or_else(|| {
            let tensors: Vec<Digest> =
                self.tensors.iter().take_while(|_| goes_on()).map(|slice| slice.sha256()).collect();
            let tensors = tensors.iter().map(AsRef::as_ref);
            let digest = Digest::of_parts(std::iter::once(self.header.as_ref()).chain(tensors));
            goes_on().then(|| *self.manifest.get_or_init(|| digest))
        })
    }

    /// SHA-256 of the whole file. It reads every byte on the first call, so never call it on a thread of the async
    /// runtime.
    pub fn sha256(&self) -> Digest {
        self.sha256_unless(&AtomicBool::new(false)).expect("nobody cancels")
    }

    /// The same, or `None` if it is not known yet and `cancel` became true.
    pub fn sha256_unless(&self, cancel: &AtomicBool) -> Option<Digest> {
        let goes_on = || !cancel.load(Ordering::Relaxed);
        self.known_sha256().or_else(|| {
            let digest = Digest::of_parts(self.parts().take_while(|_| goes_on()));
            goes_on().then(|| *self.sha256.get_or_init(|| digest))
        })
    }

    /// Bytes that this file keeps in memory beside the gene: header, lists, and every slice that was made. A slice
    /// shared by several files counts for each of them.
    pub fn own_bytes(&self) -> u64 {
        let made: BTreeMap<_, _> = self
            .tensors
            .iter()
            .filter(|slice| slice.made)
            .map(|slice| (slice.bytes.as_ptr(), slice.bytes.len()))
            .collect();
        (self.header.len() + self.tensors.len() * 32 + made.values().sum::<usize>()) as u64
    }

    /// The parts of the file in order.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.header).chain(self.tensors.iter().map(|slice| &slice.bytes))
    }

    /// The file from `range.start` to `range.end` as offsets and slices of at most `max_bytes`, without copying. The
    /// range is cut at the end of the file.
    pub fn chunks(
        self: Arc<Self>,
        range: Range<u64>,
        max_bytes: usize,
    ) -> impl Iterator<Item = (u64, Bytes)> + Send {
        let mut offset = range.start;
        let end = range.end.min(self.size_bytes());
        std::iter::from_fn(move || {
            if offset >= end {
                return None;
            }
            let index = self.ends.partition_point(|part_end| *part_end <= offset);
            let part = if index == 0 { &self.header } else { &self.tensors[index - 1].bytes };
            let from = (offset - (self.ends[index] - part.len() as u64)) as usize;
            let to = (from + max_bytes.max(1)).min(part.len()).min(from + (end - offset) as usize);
            let chunk = (offset, part.slice(from..to));
            offset += (to - from) as u64;
            Some(chunk)
        })
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &std::path::Path) -> Result<()> {
        codec::write_atomic(path, self.parts().map(AsRef::as_ref))
    }
}

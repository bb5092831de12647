//! Writes an arriving file: one thread writes its chunks, another reads them back in order and digests them.

use std::{
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::error::{Error, Result};

use super::{
    Expected,
    partial::{Partial, Place},
    verify::{Claims, Found, Verifier},
};

/// Number of chunks that may wait for the writing thread.
const WAITING: usize = 4;
/// Number of bytes that are digested at a time.
const READ_BYTES: usize = 1 << 20;

/// An arriving file, and the threads that write and digest it.
#[derive(Debug)]
pub(super) struct Arriving {
    chunks: mpsc::Sender<(u64, Bytes)>,
    work: JoinHandle<Result<(Partial, Verifier)>>,
    /// An earlier process received the first bytes.
    resumed: bool,
}

/// The result of a download.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The file is right and has its final name.
    Right(Found),
    /// The file was wrong, and an earlier process had received part of it. It is removed.
    Leftover,
    /// The file is not what was announced. It is removed.
    Wrong(String),
}

impl Arriving {
    /// Continues `partial`. With `tensors` it is a safetensors file, and its manifest is computed too.
    pub(super) fn begin(partial: Partial, size: u64, tensors: bool) -> Self {
        let (chunks, received) = mpsc::channel(WAITING);
        let resumed = partial.bytes() > 0;
        let verifier = Verifier::new(size, tensors);
        let work = tokio::task::spawn_blocking(move || write(partial, verifier, received));
        Self { chunks, work, resumed }
    }

    /// Takes chunks and their offsets. It closes early if writing fails, or once the file is known to be wrong.
    pub(super) fn chunks(&self) -> &mpsc::Sender<(u64, Bytes)> {
        &self.chunks
    }

    /// Waits until everything is written, checks the file, and renames it to its target.
    pub(super) async fn conclude(self, claims: Claims, expected: Option<&Expected>) -> Result<Verdict> {
        let resumed = self.resumed;
        let (partial, verifier) = self.written().await?;
        let found = match verifier.finish().and_then(|found| claims.check(&found).map(|()| found)) {
            Ok(found) => found,
            Err(reason) => {
                blocking(move || partial.remove()).await?;
                return Ok(if resumed { Verdict::Leftover } else { Verdict::Wrong(reason) });
            }
        };
        if let Some(Err(error)) = expected.map(|expected| expected.check_sha256(&found.sha256)) {
            blocking(move || partial.remove()).await?;
            return Err(error);
        }
        blocking(move || partial.finish()).await?;
        Ok(Verdict::Right(found))
    }

    /// Keeps what has arrived for another run.
    pub(super) async fn keep(self) -> Result<()> {
        self.written().await.map(drop)
    }

    /// Removes what has arrived.
    pub(super) async fn discard(self) -> Result<()> {
        let (partial, _) = self.written().await?;
        blocking(move || partial.remove()).await
    }

    async fn written(self) -> Result<(Partial, Verifier)> {
        drop(self.chunks);
        self.work.await.map_err(|_| Error::Panicked { what: "writing" })?
    }
}

/// Opens a partial file.
pub(super) async fn open(path: &Path, identity: &str, size: u64, part_bytes: Option<u64>) -> Result<Partial> {
    let (path, identity) = (path.to_owned(), identity.to_owned());
    blocking(move || Partial::open(&path, &identity, size, part_bytes)).await
}

fn write(
    mut partial: Partial,
    verifier: Verifier,
    mut chunks: mpsc::Receiver<(u64, Bytes)>,
) -> Result<(Partial, Verifier)> {
    let place = partial.place();
    thread::scope(|scope| {
        let (prefix, prefixes) = channel();
        let digesting = scope.spawn(move || digest(&place, verifier, &prefixes));
        let written = take(&mut partial, &mut chunks, prefix);
        let verifier = digesting.join().map_err(|_| Error::Panicked { what: "digesting" })?;
        written?;
        Ok((partial, verifier?))
    })
}

/// Writes chunks until there are no more, or until the digesting thread has ended.
fn take(partial: &mut Partial, chunks: &mut mpsc::Receiver<(u64, Bytes)>, prefix: Sender<u64>) -> Result<()> {
    let mut digested = prefix.send(partial.prefix()).is_ok();
    while digested && let Some((offset, chunk)) = chunks.blocking_recv() {
        partial.write(offset, &chunk)?;
        digested = prefix.send(partial.prefix()).is_ok();
    }
    chunks.close();
    partial.record(0)
}

/// Digests the file up to each of `prefixes`, until the file is known to be wrong.
fn digest(place: &Place, mut verifier: Verifier, prefixes: &Receiver<u64>) -> Result<Verifier> {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(prefix) = prefixes.recv() {
        while verifier.bytes() < prefix && verifier.broken().is_none() {
            let count = (prefix - verifier.bytes()).min(READ_BYTES as u64) as usize;
            place.read(verifier.bytes(), &mut buffer[..count])?;
            verifier.update(&buffer[..count]);
        }
        if verifier.broken().is_some() {
            break;
        }
    }
    Ok(verifier)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cancelled)?
}

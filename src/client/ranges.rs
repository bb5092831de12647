//! Downloads a long file in ranges over several HTTP connections.
//!
//! Every range is requested with the entity tag of the first answer, so that all of them belong to the same file. The
//! result is checked like a stream.

use std::{
    collections::VecDeque,
    ops::Range,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE},
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::{Error, Result},
    wire::query::FileDigests,
};

use super::{
    Client, Event, Expected, Summary,
    arriving::{self, Arriving, Verdict},
    http::Connection,
    query::Offer,
    retry::{Interrupted, Patience, patiently},
    transport::Ranges,
    verify::Claims,
};

/// What a connection reports.
enum Note {
    Received(u64),
    Retry { reason: String, pause: Duration },
}

/// State that the connections share.
struct Shared {
    offer: Offer,
    etag: HeaderValue,
    retries: u32,
    /// Ranges that no connection has taken yet, in file order.
    parts: Mutex<VecDeque<Range<u64>>>,
    chunks: mpsc::Sender<(u64, Bytes)>,
    notes: mpsc::UnboundedSender<Note>,
}

impl Client {
    /// Downloads the file of `offer` to `path`.
    pub(super) async fn ranges(
        &self,
        offer: Offer,
        path: &Path,
        expected: Option<&Expected>,
        on_event: &mut impl FnMut(Event),
    ) -> Result<Summary> {
        // The server computes the digests while the file is sent.
        let digests = AbortOnDropHandle::new(tokio::spawn(digests(offer.clone(), self.retries)));
        let mut file = self.fetch(&offer, path, on_event).await?;
        let claims = match digests.await.map_err(|_| Error::Cancelled)? {
            Ok(claims) => claims,
            Err(Interrupted::Again { error, pause: _ }) => {
                file.keep().await?;
                return Err(error);
            }
            Err(Interrupted::Failed(error)) => {
                file.discard().await?;
                return Err(error);
            }
        };
        loop {
            match file.conclude(claims.clone(), expected).await? {
                Verdict::Right(found) => return Ok(Summary::new(offer.model, found)),
                Verdict::Leftover => file = self.fetch(&offer, path, on_event).await?,
                Verdict::Wrong(reason) => return Err(self.broken(reason)),
            }
        }
    }

    /// Fetches all bytes of the file, or stops early once the file is known to be wrong.
    async fn fetch(&self, offer: &Offer, path: &Path, on_event: &mut impl FnMut(Event)) -> Result<Arriving> {
        let Ranges { above_bytes, part_bytes, connections } = self.ranges;
        let of = offer.model.size_bytes;
        let partial = arriving::open(path, &offer.model.identity, of, Some(part_bytes.max(1))).await?;
        let (mut bytes, missing) = (partial.bytes(), partial.missing());
        if bytes > 0 {
            on_event(Event::Resumed { bytes, of });
        }
        let file = Arriving::begin(partial, of, true);
        if missing.is_empty() {
            return Ok(file);
        }
        let connections = if of > above_bytes { connections.clamp(1, missing.len()) } else { 1 };
        let (notes, mut told) = mpsc::unbounded_channel();
        let mut tell = |note| match note {
            Note::Received(length) => {
                bytes += length;
                on_event(Event::Received { bytes, of });
            }
            Note::Retry { reason, pause } => on_event(Event::Retry { reason, pause }),
        };
        let outcome = {
            let work = fetch(offer.clone(), self.retries, missing, connections, file.chunks().clone(), notes);
            let mut work = pin!(work);
            loop {
                tokio::select! {
                    biased;
                    Some(note) = told.recv() => tell(note),
                    outcome = &mut work => break outcome,
                }
            }
        };
        while let Ok(note) = told.try_recv() {
            tell(note);
        }
        match outcome {
            Ok(()) => Ok(file),
            Err(Interrupted::Again { error, pause: _ }) => {
                file.keep().await?;
                Err(error)
            }
            Err(Interrupted::Failed(error)) => {
                file.discard().await?;
                Err(error)
            }
        }
    }
}

/// Asks the server for the digests of the file.
async fn digests(offer: Offer, retries: u32) -> Result<Claims, Interrupted> {
    let FileDigests { identity, manifest, sha256, size_bytes: _ } =
        patiently(retries, |_, _| {}, || offer.digests()).await?;
    if identity != offer.model.identity {
        let reason = format!("the digests of model {identity} instead of {}", offer.model.identity);
        return Err(offer.http.broken(reason))?;
    }
    Ok(Claims { manifest, sha256 })
}

/// Fetches the `missing` ranges.
async fn fetch(
    offer: Offer,
    retries: u32,
    missing: Vec<Range<u64>>,
    connections: usize,
    chunks: mpsc::Sender<(u64, Bytes)>,
    notes: mpsc::UnboundedSender<Note>,
) -> Result<(), Interrupted> {
    let retry = |reason, pause| {
        // The receiver is gone only when the whole download has ended.
        let _ = notes.send(Note::Retry { reason, pause });
    };
    let etag = patiently(retries, retry, || etag(&offer)).await?;
    let parts = Mutex::new(missing.into());
    let shared = Arc::new(Shared { offer, etag, retries, parts, chunks, notes });
    let mut tasks: JoinSet<_> = (0..connections).map(|_| connection(shared.clone())).collect();
    drop(shared);
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|_| Error::Panicked { what: "a connection" })??;
    }
    Ok(())
}

/// Asks for the entity tag that all ranges must have.
async fn etag(offer: &Offer) -> Result<HeaderValue, Interrupted> {
    let mut connection = Connection::open(&offer.http).await?;
    let (_, headers, _) = connection.ask(Method::HEAD, &offer.target, &[]).await?;
    let (size, length) = (offer.model.size_bytes, number(&headers));
    if length.is_some_and(|length| length != size) {
        return Err(offer
            .http
            .broken(format!("a file of {} bytes, announced were {size}", length.unwrap_or(0))))?;
    }
    // A weak tag does not promise equal bytes.
    let strong = headers.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\""));
    Ok(strong.cloned().ok_or_else(|| offer.http.broken("a file without a strong entity tag".to_owned()))?)
}

fn number(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Fetches ranges over one connection until none is left, or until the writer stops taking them.
async fn connection(shared: Arc<Shared>) -> Result<(), Interrupted> {
    let mut open = None;
    while let Some(mut part) = shared.next() {
        let mut patience = Patience::new(shared.retries);
        while !part.is_empty() {
            let start = part.start;
            let (error, pause) = match shared.fetch(&mut open, &mut part).await {
                Ok(true) => break,
                Ok(false) => return Ok(()),
                Err(Interrupted::Failed(error)) => return Err(Interrupted::Failed(error)),
                Err(Interrupted::Again { error, pause }) => (error, pause),
            };
            open = None;
            let Some(pause) = patience.pause(part.start > start, pause) else {
                return Err(Interrupted::again(error));
            };
            let _ = shared.notes.send(Note::Retry { reason: error.to_string(), pause });
            sleep(pause).await;
        }
    }
    Ok(())
}

impl Shared {
    fn next(&self) -> Option<Range<u64>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Fetches `part` and moves its start past the bytes that arrive. Returns false if the writer takes no more.
    async fn fetch(&self, open: &mut Option<Connection>, part: &mut Range<u64>) -> Result<bool, Interrupted> {
        let connection = match open {
            Some(connection) => connection,
            None => open.insert(Connection::open(&self.offer.http).await?),
        };
        let range = HeaderValue::try_from(format!("bytes={}-{}", part.start, part.end - 1));
        let range = range.map_err(|error| Error::invalid("range", error.to_string()))?;
        let headers = [(RANGE, range), (IF_RANGE, self.etag.clone())];
        let (status, headers, mut pieces) = connection.ask(Method::GET, &self.offer.target, &headers).await?;
        self.check(status, &headers, part)?;
        while let Some(piece) = pieces.next().await? {
            let length = piece.len() as u64;
            if length > part.end - part.start {
                return Err(self.offer.http.broken(format!("more than the bytes up to {}", part.end)))?;
            }
            if self.chunks.send((part.start, piece)).await.is_err() {
                return Ok(false);
            }
            part.start += length;
            let _ = self.notes.send(Note::Received(length));
        }
        if part.is_empty() {
            return Ok(true);
        }
        let reason = format!("an answer ended at {} instead of {}", part.start, part.end);
        Err(Interrupted::again(self.offer.http.broken(reason)))
    }

    /// Checks that an answer holds exactly `part` of the expected file.
    fn check(&self, status: StatusCode, headers: &HeaderMap, part: &Range<u64>) -> Result<()> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let broken = |reason: String| Err(self.offer.http.broken(reason));
        let asked = format!("bytes {}-{}/{}", part.start, part.end - 1, self.offer.model.size_bytes);
        if status != StatusCode::PARTIAL_CONTENT {
            return broken(format!(
                "status {status} for {asked}: the file was replaced, or ranges do not pass"
            ));
        }
        if headers.get(ETAG) != Some(&self.etag) {
            return broken(format!("a part of file {} instead of {:?}", text(ETAG), self.etag));
        }
        if text(CONTENT_RANGE) != asked {
            return broken(format!("\"{}\" for {asked}", text(CONTENT_RANGE)));
        }
        match number(headers) {
            Some(length) if length != part.end - part.start => broken(format!("{length} bytes for {asked}")),
            Some(_) | None => Ok(()),
        }
    }
}

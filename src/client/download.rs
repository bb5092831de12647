//! Downloads a model to a file, across lost connections and killed runs: over the stream of `InitModel`, or over HTTP.

use std::path::Path;

use tokio::time::sleep;
use tonic::{Status, Streaming};

use crate::{
    bank::{ModelRequest, ModelSummary},
    digest::Digest,
    error::{Error, Kind, Result},
    proto::{self, init_model_response::Event as Message},
    tensor::codec,
    wire::{header, request},
};

use super::{
    Client, Event, Expected, Summary, Transport,
    arriving::{self, Arriving, Verdict},
    query::Offer,
    retry::{Interrupted, Patience},
    verify::Claims,
};

impl Client {
    /// Writes the model of `request` to `path`. The file is left as it was unless every byte arrived and the announced
    /// digests match. If the connection drops or the process is killed, the next call resumes at the last byte
    /// received.
    ///
    /// # Errors
    /// [`Error::Remote`] with the kind that the server reported, or if the stream is not what it announced;
    /// [`Error::Io`].
    pub async fn init_model(
        &self,
        request: &ModelRequest,
        path: &Path,
        on_event: impl FnMut(Event),
    ) -> Result<Summary> {
        self.download(request, path, None, on_event).await
    }

    /// Like [`Client::init_model`], for a model that was downloaded before. A different model is not written.
    ///
    /// # Errors
    /// Those of [`Client::init_model`], and [`Error::Invalid`] if the identity or the bytes differ.
    pub async fn init_locked(
        &self,
        request: &ModelRequest,
        path: &Path,
        expected: &Expected,
        on_event: impl FnMut(Event),
    ) -> Result<Summary> {
        self.download(request, path, Some(expected), on_event).await
    }

    async fn download(
        &self,
        request: &ModelRequest,
        path: &Path,
        expected: Option<&Expected>,
        mut on_event: impl FnMut(Event),
    ) -> Result<Summary> {
        if self.transport == Transport::Http {
            let offer = self.offer(request, &mut on_event).await?;
            if let Some(expected) = expected {
                expected.check_identity(&offer.model.identity)?;
            }
            on_event(Event::Header(offer.model.clone()));
            return self.ranges(offer, path, expected, &mut on_event).await;
        }
        let mut download = Download {
            client: self,
            asked: request,
            request: request::to_proto(request)?,
            path,
            expected,
            model: None,
            file: None,
            bytes: 0,
        };
        let (mut patience, mut most) = (Patience::new(self.retries), 0);
        loop {
            let outcome = download.run(&mut on_event).await;
            let progress = download.bytes > most;
            most = most.max(download.bytes);
            match outcome {
                Ok(End::Written(summary)) => return Ok(summary),
                Ok(End::Ranges(offer)) => return self.ranges(offer, path, expected, &mut on_event).await,
                Err(Interrupted::Again { error, pause }) => {
                    let Some(pause) = patience.pause(progress, pause) else {
                        download.keep().await?;
                        return Err(error);
                    };
                    on_event(Event::Retry { reason: error.to_string(), pause });
                    sleep(pause).await;
                }
                Err(Interrupted::Failed(error)) => {
                    download.discard().await?;
                    return Err(error);
                }
            }
        }
    }

    /// Checks what a header says before it is used.
    pub(super) fn check(&self, model: &ModelSummary) -> Result<()> {
        if model.size_bytes > codec::MAX_FILE_BYTES {
            let (size, limit) = (model.size_bytes, codec::MAX_FILE_BYTES);
            return Err(self.broken(format!("file of {size} bytes is beyond the limit of {limit}")));
        }
        // It becomes part of a file name.
        if model.identity.parse::<Digest>().is_err() {
            return Err(self.broken("an identity that is not 64 hexadecimal digits".to_owned()));
        }
        Ok(())
    }

    /// Whether a failed call is worth another try.
    fn interrupted(&self, status: &Status) -> Interrupted {
        let error = self.remote(status);
        let seconds =
            status.metadata().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        // This side noticed the failure. No server reported it.
        let lost = std::error::Error::source(status).is_some() || status.code() == tonic::Code::Unavailable;
        if lost || error.kind() == Kind::Overloaded {
            return Interrupted::Again { error, pause: seconds.map(std::time::Duration::from_secs) };
        }
        Interrupted::Failed(error)
    }
}

/// How a download over streams ends.
enum End {
    Written(Summary),
    /// The file is long enough to be downloaded in ranges.
    Ranges(Offer),
}

/// One download.
struct Download<'a> {
    client: &'a Client,
    asked: &'a ModelRequest,
    request: proto::InitModelRequest,
    path: &'a Path,
    expected: Option<&'a Expected>,
    /// The model and the manifest of the last header.
    model: Option<(ModelSummary, String)>,
    /// Open from the first chunk on.
    file: Option<Arriving>,
    /// Bytes received so far, including those that are not written yet.
    bytes: u64,
}

impl Download<'_> {
    /// Starts or resumes the download, and follows it to its end.
    async fn run(&mut self, on_event: &mut impl FnMut(Event)) -> Result<End, Interrupted> {
        loop {
            let mut service = self.client.service.clone();
            let answer = match (&self.file, &self.model) {
                (Some(_), Some((model, _))) => {
                    let identity = model.identity.clone();
                    let rest = request::rest_to_proto(self.request.clone(), identity, self.bytes);
                    service.download_model(self.client.request(rest)).await
                }
                _ => service.init_model(self.client.request(self.request.clone())).await,
            };
            let mut stream = answer.map_err(|status| self.client.interrupted(&status))?.into_inner();
            if let Some(end) = self.follow(&mut stream, on_event).await? {
                return Ok(end);
            }
        }
    }

    /// Follows a stream to its end. Returns `None` if another stream must be followed, from another byte on.
    async fn follow(
        &mut self,
        stream: &mut Streaming<proto::InitModelResponse>,
        on_event: &mut impl FnMut(Event),
    ) -> Result<Option<End>, Interrupted> {
        let mut heads = true;
        while let Some(message) = stream.message().await.map_err(|status| self.client.interrupted(&status))? {
            match message.event {
                Some(Message::Header(header)) if heads => {
                    self.header(header, on_event)?;
                    if let Some(offer) = self.in_ranges().await {
                        return Ok(Some(End::Ranges(offer)));
                    }
                }
                Some(Message::Header(_)) => return Err(self.broken("a second header".to_owned()))?,
                Some(Message::Progress(progress)) => {
                    on_event(Event::Progress(header::progress_from_proto(progress)));
                }
                Some(Message::Chunk(chunk)) => {
                    heads = false;
                    if self.open(on_event).await? {
                        return Ok(None);
                    }
                    if !self.chunk(chunk, on_event).await? {
                        return Ok(self.conclude(Claims::default()).await?);
                    }
                }
                Some(Message::Completed(completed)) => return Ok(self.complete(completed).await?),
                // A message from a newer version of the protocol.
                None => {}
            }
        }
        let bytes = self.bytes;
        Err(self.broken(format!("the stream ended after {bytes} bytes without a digest")))?
    }

    fn header(&mut self, header: proto::ModelHeader, on_event: &mut impl FnMut(Event)) -> Result<()> {
        let (model, manifest) = header::from_proto(header);
        self.client.check(&model)?;
        if let Some((begun, _)) = self.model.as_ref().filter(|_| self.file.is_some()) {
            // A resumed stream repeats the header of its model.
            if (&begun.identity, begun.size_bytes) != (&model.identity, model.size_bytes) {
                let (identity, begun) = (&model.identity, &begun.identity);
                return Err(self.broken(format!("the rest of model {identity} instead of {begun}")));
            }
            return Ok(());
        }
        // Before tuning the identity is not yet the one of the tuned model.
        if let Some(expected) = self.expected.filter(|_| !manifest.is_empty()) {
            expected.check_identity(&model.identity)?;
        }
        on_event(Event::Header(model.clone()));
        self.model = Some((model, manifest));
        Ok(())
    }

    /// The same file over HTTP, if it is long enough and HTTP gets through.
    async fn in_ranges(&self) -> Option<Offer> {
        let (model, _) = self.model.as_ref().filter(|_| self.file.is_none())?;
        let large = self.client.transport == Transport::Auto
            && self.asked.tune.is_none()
            && model.size_bytes > self.client.ranges.above_bytes;
        if !large {
            return None;
        }
        let offer = self.client.offer_of(self.asked, &model.gene, model.depth, model.width).await.ok()?;
        let same = (&offer.model.identity, offer.model.size_bytes) == (&model.identity, model.size_bytes);
        same.then_some(offer)
    }

    /// Opens the file if it is not open. Returns true if it already has bytes, so that this stream starts too early.
    async fn open(&mut self, on_event: &mut impl FnMut(Event)) -> Result<bool> {
        let Some((model, manifest)) = &self.model else { return Err(self.broken("no header".to_owned())) };
        if self.file.is_some() {
            return Ok(false);
        }
        let partial = arriving::open(self.path, &model.identity, model.size_bytes, None).await?;
        self.bytes = partial.bytes();
        self.file = Some(Arriving::begin(partial, model.size_bytes, !manifest.is_empty()));
        if self.bytes > 0 {
            on_event(Event::Resumed { bytes: self.bytes, of: model.size_bytes });
        }
        Ok(self.bytes > 0)
    }

    /// Passes a chunk to the writer. Returns false if the writer takes no more because the file is known to be wrong.
    async fn chunk(&mut self, chunk: proto::Chunk, on_event: &mut impl FnMut(Event)) -> Result<bool> {
        let (Some((model, _)), Some(file)) = (&self.model, &self.file) else { return Ok(false) };
        let proto::Chunk { offset, data } = chunk;
        let (bytes, of, length) = (self.bytes, model.size_bytes, data.len() as u64);
        if offset != bytes || length > of.saturating_sub(bytes) {
            return Err(self.broken(format!("{length} bytes at {offset}, expected {bytes} of {of}")));
        }
        if file.chunks().send((offset, data)).await.is_err() {
            return Ok(false);
        }
        self.bytes += length;
        on_event(Event::Received { bytes: bytes + length, of });
        Ok(true)
    }

    /// Checks the whole file and gives it its final name.
    async fn complete(&mut self, completed: proto::Completed) -> Result<Option<End>> {
        let proto::Completed { sha256, size_bytes } = completed;
        let bytes = self.bytes;
        let complete = |(model, _): &&(ModelSummary, String)| [size_bytes, model.size_bytes] == [bytes; 2];
        let Some((_, manifest)) = self.model.as_ref().filter(complete) else {
            return Err(self.broken(format!("{bytes} bytes arrived of {size_bytes}")));
        };
        let manifest = manifest.clone();
        self.conclude(Claims { manifest, sha256 }).await
    }

    async fn conclude(&mut self, claims: Claims) -> Result<Option<End>> {
        let (Some((model, _)), Some(file)) = (self.model.clone(), self.file.take()) else {
            return Err(self.broken("a file without a byte".to_owned()));
        };
        self.bytes = 0;
        match file.conclude(claims, self.expected).await? {
            Verdict::Right(found) => Ok(Some(End::Written(Summary::new(model, found)))),
            Verdict::Leftover => Ok(None),
            Verdict::Wrong(reason) => Err(self.broken(reason)),
        }
    }

    /// Keeps what has arrived for another run.
    async fn keep(self) -> Result<()> {
        match self.file {
            Some(file) => file.keep().await,
            None => Ok(()),
        }
    }

    /// Removes what has arrived.
    async fn discard(self) -> Result<()> {
        match self.file {
            Some(file) => file.discard().await,
            None => Ok(()),
        }
    }

    fn broken(&self, message: String) -> Error {
        self.client.broken(message)
    }
}

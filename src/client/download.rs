//! `InitModel` to a file, across lost connections and killed runs.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tonic::{Status, Streaming};

use crate::{
    bank::{ModelRequest, ModelSummary, Progress},
    error::{Error, Kind, Result},
    proto::{self, init_model_response::Event as Message},
    tensor::{codec, is_digest},
};

use super::{Client, Event, Expected, Summary, convert, partial::Partial};

/// First pause before another try; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause, also where the server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Why a stream did not come to its end.
enum Interrupted {
    /// By what is worth another try, after a pause that the server may ask for.
    Again {
        error: Error,
        pause: Option<Duration>,
    },
    Failed(Error),
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Client {
    /// Writes the model of `request` to `path`, which is left as it was unless every byte arrived and has the
    /// announced digest. Bytes that arrived before a connection was lost, or before this process was killed, are
    /// kept beside it and not asked for again.
    ///
    /// # Errors
    /// [`Error::Remote`] with the kind that the server reported, or where the stream is not what it announced;
    /// [`Error::Io`].
    pub async fn init_model(
        &self,
        request: &ModelRequest,
        path: &Path,
        on_event: impl FnMut(Event),
    ) -> Result<Summary> {
        self.download(request, path, None, on_event).await
    }

    /// As [`Client::init_model`], for a model that was had before: another one is not written.
    ///
    /// # Errors
    /// Those of [`Client::init_model`], and [`Error::Invalid`] where identity or bytes differ.
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
        let request = convert::message(request)?;
        let mut download = Download { client: self, request, path, expected, model: None, file: None };
        let (mut tries, mut most) = (0, 0);
        loop {
            let outcome = download.run(&mut on_event).await;
            let bytes = download.bytes();
            match outcome {
                Ok(summary) => return Ok(summary),
                Err(Interrupted::Again { error, pause }) if tries < self.retries || bytes > most => {
                    tries = if bytes > most { 0 } else { tries + 1 };
                    most = most.max(bytes);
                    let pause = pause.unwrap_or(PAUSE * 2u32.saturating_pow(tries)).min(LONGEST_PAUSE);
                    on_event(Event::Retry { reason: error.to_string(), pause });
                    sleep(pause).await;
                }
                Err(Interrupted::Again { error, pause: _ }) => {
                    download.keep().await?;
                    return Err(error);
                }
                Err(Interrupted::Failed(error)) => {
                    download.discard().await?;
                    return Err(error);
                }
            }
        }
    }

    /// Whether a failed call is worth another try.
    fn interrupted(&self, status: &Status) -> Interrupted {
        let error = self.remote(status);
        let seconds =
            status.metadata().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        // What this side noticed, and no server said.
        let lost = std::error::Error::source(status).is_some() || status.code() == tonic::Code::Unavailable;
        if lost || error.kind() == Kind::Overloaded {
            return Interrupted::Again { error, pause: seconds.map(Duration::from_secs) };
        }
        Interrupted::Failed(error)
    }
}

/// One model on its way.
struct Download<'a> {
    client: &'a Client,
    request: proto::InitModelRequest,
    path: &'a Path,
    expected: Option<&'a Expected>,
    /// What the last header said, and the manifest.
    model: Option<(ModelSummary, String)>,
    /// Present from the first chunk on.
    file: Option<Arriving>,
}

/// A file and the thread that writes it.
struct Arriving {
    chunks: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<Partial>>,
    /// Bytes so far, those on their way to the writer included.
    bytes: u64,
    /// Whether an earlier process began it.
    resumed: bool,
}

impl Download<'_> {
    fn bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.bytes)
    }

    /// Begins or goes on, to the end.
    async fn run(&mut self, on_event: &mut impl FnMut(Event)) -> Result<Summary, Interrupted> {
        loop {
            let mut service = self.client.service.clone();
            let answer = match (&self.file, &self.model) {
                (Some(file), Some((model, _))) => {
                    let (model, identity) = (Some(self.request.clone()), model.identity.clone());
                    let offset = file.bytes;
                    let rest = proto::DownloadModelRequest { model, identity, offset };
                    service.download_model(self.client.request(rest)).await
                }
                _ => service.init_model(self.client.request(self.request.clone())).await,
            };
            let mut stream = answer.map_err(|status| self.client.interrupted(&status))?.into_inner();
            if let Some(summary) = self.follow(&mut stream, on_event).await? {
                return Ok(summary);
            }
        }
    }

    /// Follows a stream to its end; nothing where the file is to be gone on with at another byte.
    async fn follow(
        &mut self,
        stream: &mut Streaming<proto::InitModelResponse>,
        on_event: &mut impl FnMut(Event),
    ) -> Result<Option<Summary>, Interrupted> {
        let mut heads = true;
        while let Some(message) = stream.message().await.map_err(|status| self.client.interrupted(&status))? {
            match message.event {
                Some(Message::Header(header)) if heads => self.header(header, on_event)?,
                Some(Message::Header(_)) => return Err(self.broken("a second header".to_owned()))?,
                Some(Message::Progress(progress)) => {
                    let proto::TuningProgress { step, total_steps, loss } = progress;
                    on_event(Event::Progress(Progress { step, total_steps, loss }));
                }
                Some(Message::Chunk(chunk)) => {
                    heads = false;
                    if self.open().await? {
                        return Ok(None);
                    }
                    self.chunk(chunk, on_event).await?;
                }
                Some(Message::Completed(completed)) => return Ok(self.complete(completed).await?),
                // A message of a later version.
                None => {}
            }
        }
        let bytes = self.bytes();
        Err(self.broken(format!("the stream ended after {bytes} bytes without a digest")))?
    }

    fn header(&mut self, header: proto::ModelHeader, on_event: &mut impl FnMut(Event)) -> Result<()> {
        let (model, manifest) = convert::model_summary(header);
        if model.size_bytes > codec::MAX_FILE_BYTES {
            let (size, limit) = (model.size_bytes, codec::MAX_FILE_BYTES);
            return Err(self.broken(format!("file of {size} bytes is beyond the limit of {limit}")));
        }
        // It becomes part of a file's name.
        if !is_digest(&model.identity) {
            return Err(self.broken("an identity that is not 64 hexadecimal digits".to_owned()));
        }
        if let Some((begun, _)) = self.model.as_ref().filter(|_| self.file.is_some()) {
            // A stream that goes on says again what it is about.
            if (&begun.identity, begun.size_bytes) != (&model.identity, model.size_bytes) {
                let (identity, begun) = (&model.identity, &begun.identity);
                return Err(self.broken(format!("the rest of model {identity} instead of {begun}")));
            }
            return Ok(());
        }
        // Before tuning the identity is that of what will be tuned.
        if let Some(expected) = self.expected.filter(|_| !manifest.is_empty()) {
            expected.check_identity(&model.identity)?;
        }
        on_event(Event::Header(model.clone()));
        self.model = Some((model, manifest));
        Ok(())
    }

    /// Opens the file where it is not open. True: it has bytes that this stream begins before.
    async fn open(&mut self) -> Result<bool> {
        let Some((model, _)) = &self.model else { return Err(self.broken("no header".to_owned())) };
        if self.file.is_some() {
            return Ok(false);
        }
        let (path, identity, size) = (self.path.to_owned(), model.identity.clone(), model.size_bytes);
        let mut partial = blocking(move || Partial::open(&path, &identity, size)).await?;
        let bytes = partial.bytes();
        let (chunks, mut received) = mpsc::channel::<Bytes>(4);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = received.blocking_recv() {
                partial.write(&chunk)?;
            }
            Ok(partial)
        });
        self.file = Some(Arriving { chunks, writer, bytes, resumed: bytes > 0 });
        Ok(bytes > 0)
    }

    async fn chunk(&mut self, chunk: proto::Chunk, on_event: &mut impl FnMut(Event)) -> Result<()> {
        let (Some((model, _)), Some(file)) = (&self.model, &mut self.file) else { return Ok(()) };
        let proto::Chunk { offset, data } = chunk;
        let (bytes, of, length) = (file.bytes, model.size_bytes, data.len() as u64);
        if offset != bytes || length > of.saturating_sub(bytes) {
            return Err(self.broken(format!("{length} bytes at {offset}, expected {bytes} of {of}")));
        }
        if file.chunks.send(data).await.is_err() {
            // The writer ended, and knows why.
            return Err(self.written().await.err().unwrap_or(Error::Cancelled));
        }
        file.bytes += length;
        on_event(Event::Received { bytes: bytes + length, of });
        Ok(())
    }

    /// Checks the whole file and gives it its name. Nothing: what an earlier process had left was wrong, and all of it
    /// is to be asked for.
    async fn complete(&mut self, completed: proto::Completed) -> Result<Option<Summary>> {
        let proto::Completed { sha256, size_bytes } = completed;
        let bytes = self.bytes();
        let Some((model, manifest)) =
            self.model.clone().filter(|(model, _)| [size_bytes, model.size_bytes] == [bytes; 2])
        else {
            return Err(self.broken(format!("{bytes} bytes arrived of {size_bytes}")));
        };
        let resumed = self.file.as_ref().is_some_and(|file| file.resumed);
        let Some(partial) = self.written().await? else {
            return Err(self.broken("a file without a byte".to_owned()));
        };
        let found = partial.sha256();
        if found == sha256 {
            if let Some(Err(error)) = self.expected.map(|expected| expected.check_sha256(&found)) {
                blocking(move || partial.remove()).await?;
                return Err(error);
            }
            blocking(move || partial.finish()).await?;
            return Ok(Some(Summary { model, manifest, sha256 }));
        }
        blocking(move || partial.remove()).await?;
        if resumed {
            return Ok(None);
        }
        Err(self.broken(format!("the file has SHA-256 {found}, announced was {sha256}")))
    }

    /// The file with all that was handed to its writer.
    async fn written(&mut self) -> Result<Option<Partial>> {
        let Some(Arriving { chunks, writer, .. }) = self.file.take() else { return Ok(None) };
        drop(chunks);
        writer.await.map_err(|_| Error::Panicked { what: "writing" })?.map(Some)
    }

    /// Leaves what has arrived for another run.
    async fn keep(&mut self) -> Result<()> {
        self.written().await.map(drop)
    }

    /// Leaves nothing.
    async fn discard(&mut self) -> Result<()> {
        match self.written().await? {
            Some(partial) => blocking(move || partial.remove()).await,
            None => Ok(()),
        }
    }

    fn broken(&self, message: String) -> Error {
        self.client.broken(message)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cancelled)?
}

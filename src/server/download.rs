//! The stream of `InitModel` and `DownloadModel`: header, progress while tuning, chunks, digest.
//!
//! The producer is one async function that is polled by the stream itself: it runs only as far as the client
//! reads, and dropping the stream drops all of it, a tuning job's handle included.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::{
    bank::{Delivery, ModelSummary, Quote},
    blueprint::Artifact,
    error::{Error, Result},
    proto::{self, init_model_response::Event},
    wire::{header, request::Part},
};

use super::{digests::Digests, status::status};

/// The messages of one call.
pub(super) struct Download {
    producer: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
    messages: mpsc::Receiver<Event>,
    failure: Option<Error>,
}

/// Checks that `artifact` is the model that `part` is of, and long enough.
fn check(part: &Part, artifact: &Artifact) -> Result<()> {
    let found = artifact.identity().to_string();
    if let Some(identity) = part.identity.as_ref().filter(|identity| **identity != found) {
        return Err(Error::NotFound { what: "model", name: identity.clone(), known: found });
    }
    let (size, offset) = (artifact.size_bytes(), part.offset);
    if offset > size {
        let (of, limit) = ("the model".to_owned(), format!("0..={size}"));
        return Err(Error::OutOfRange { what: "offset", found: offset, of, limit });
    }
    Ok(())
}

/// Begins the stream of `delivery`.
pub(super) fn start(quote: Quote, delivery: Delivery, part: Part, digests: Digests) -> Download {
    let (sender, messages) = mpsc::channel(1);
    let producer = produce(quote, delivery, part, digests, sender);
    Download { producer: Some(Box::pin(producer)), messages, failure: None }
}

async fn produce(
    quote: Quote,
    delivery: Delivery,
    part: Part,
    digests: Digests,
    out: mpsc::Sender<Event>,
) -> Result<()> {
    let send = async |event| out.send(event).await.map_err(|_| Error::Cancelled);
    let model = ModelSummary::of(&quote);
    let artifact = match delivery {
        Delivery::Ready(artifact) => artifact,
        Delivery::Tuning(mut job) => {
            let model = ModelSummary { identity: job.identity().to_string(), ..model.clone() };
            send(Event::Header(header::to_proto(model, String::new()))).await?;
            while let Some(progress) = job.progress().await {
                send(Event::Progress(header::progress_to_proto(progress))).await?;
            }
            job.finish().await?
        }
    };
    check(&part, &artifact)?;
    let size_bytes = artifact.size_bytes();
    let manifest = digests.manifest(&artifact).await?;
    let identity = artifact.identity().to_string();
    let header = header::to_proto(ModelSummary { identity, size_bytes, ..model }, manifest);
    send(Event::Header(header)).await?;
    // The digest of the file is computed while its chunks are under way.
    let digest = {
        let artifact = artifact.clone();
        tokio::spawn(async move { digests.sha256(&artifact).await })
    };
    let digest = AbortOnDropHandle::new(digest);
    for (offset, data) in artifact.chunks(part.offset..size_bytes, part.chunk_bytes) {
        send(Event::Chunk(proto::Chunk { offset, data })).await?;
    }
    let sha256 = digest.await.map_err(|_| Error::Cancelled)??;
    send(Event::Completed(proto::Completed { sha256, size_bytes })).await
}

impl Stream for Download {
    type Item = Result<proto::InitModelResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.messages.poll_recv(context) {
                Poll::Ready(Some(event)) => return Poll::Ready(Some(Ok(message(event)))),
                Poll::Ready(None) => {
                    return Poll::Ready(self.failure.take().map(|error| Err(status(error))));
                }
                Poll::Pending => {}
            }
            let Some(producer) = &mut self.producer else { return Poll::Pending };
            let Poll::Ready(ended) = producer.as_mut().poll(context) else {
                // What it sent just now would wake nobody: the sender and the receiver are this one task.
                return match self.messages.poll_recv(context) {
                    Poll::Ready(Some(event)) => Poll::Ready(Some(Ok(message(event)))),
                    Poll::Ready(None) | Poll::Pending => Poll::Pending,
                };
            };
            self.failure = ended.err();
            self.producer = None;
        }
    }
}

const fn message(event: Event) -> proto::InitModelResponse {
    proto::InitModelResponse { event: Some(event) }
}

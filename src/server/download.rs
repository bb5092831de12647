//! `InitModel` and `DownloadModel`: from a message to the stream of header, progress while tuning, chunks, and digest.
//!
//! The stream is one async function that is polled by whoever reads. It runs only as far as the client reads, and
//! dropping it drops everything, including the handle of a tuning job.

use std::pin::Pin;

use async_stream::try_stream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::{
    bank::{Delivery, Guard, ModelRequest, ModelSummary, Quote},
    blueprint::Artifact,
    error::{Error, Result},
    proto::{self, init_model_response::Event},
    wire::{self, header, request::Part},
};

use super::{digests::Digests, state::State, status::status};

/// The messages of one call.
pub(super) type Download = Pin<Box<dyn Stream<Item = Result<proto::InitModelResponse, Status>> + Send>>;

/// Checks that `artifact` is the model that `part` belongs to, and that it has the first byte.
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

/// The whole model that `message` asks for.
///
/// # Errors
/// Those of the message, of admission, of planning, and [`Error::Overloaded`], all before the first message.
pub(super) async fn init_model(
    state: &State,
    guard: Guard<'_>,
    message: proto::InitModelRequest,
) -> Result<Download> {
    let (request, part) = wire::request::from_proto(message)?;
    start(state, guard, request, part).await
}

/// The rest of a model that a client has a part of.
///
/// # Errors
/// Those of [`init_model`].
pub(super) async fn download_model(
    state: &State,
    guard: Guard<'_>,
    message: proto::DownloadModelRequest,
) -> Result<Download> {
    let (request, part) = wire::request::rest_from_proto(message)?;
    start(state, guard, request, part).await
}

async fn start(state: &State, guard: Guard<'_>, request: ModelRequest, part: Part) -> Result<Download> {
    let gene = request.gene.clone();
    let admitted = guard.admit(&gene)?;
    let request = state.bank.with_classes(&admitted, request).await?;
    let quote = state.bank.plan_any(admitted, request).await?;
    let delivery = state.bank.deliver(&quote).await?;
    let events = events(quote, delivery, part, state.digests.clone());
    let message = |event| proto::InitModelResponse { event: Some(event) };
    Ok(Box::pin(events.map(move |event| event.map(message).map_err(status))))
}

fn events(
    quote: Quote,
    delivery: Delivery,
    part: Part,
    digests: Digests,
) -> impl Stream<Item = Result<Event>> {
    try_stream! {
        let model = ModelSummary::of(&quote);
        let artifact = match delivery {
            Delivery::Ready(artifact) => artifact,
            Delivery::Tuning(mut job) => {
                let model = ModelSummary { identity: job.identity().to_string(), ..model.clone() };
                yield Event::Header(header::to_proto(model, String::new()));
                while let Some(progress) = job.progress().await {
                    yield Event::Progress(header::progress_to_proto(progress));
                }
                job.finish().await?
            }
        };
        check(&part, &artifact)?;
        let size_bytes = artifact.size_bytes();
        let manifest = digests.manifest(&artifact).await?;
        let identity = artifact.identity().to_string();
        yield Event::Header(header::to_proto(ModelSummary { identity, size_bytes, ..model }, manifest));
        // The digest of the file is computed while its chunks are on their way.
        let digest = {
            let artifact = artifact.clone();
            AbortOnDropHandle::new(tokio::spawn(async move { digests.sha256(&artifact).await }))
        };
        for (offset, data) in artifact.chunks(part.offset..size_bytes, part.chunk_bytes) {
            yield Event::Chunk(proto::Chunk { offset, data });
        }
        let sha256 = digest.await.map_err(|_| Error::Cancelled)??;
        yield Event::Completed(proto::Completed { sha256, size_bytes });
    }
}

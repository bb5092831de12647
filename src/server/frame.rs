//! `InitModel` and `DownloadModel` without a copy of the weights: gRPC frames around slices of memory.
//!
//! The generated service encodes each message into a new buffer, so it copies every chunk once. Here only the few bytes
//! before a chunk's data are encoded, and the data follow as a slice of the model. Both send the same bytes. The
//! generated service stays for compressed calls, and as the oracle of the tests.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
    response::Response,
    routing::post,
};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use tokio_stream::Stream;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use crate::{
    bank::Bank,
    error::Error,
    proto::{self, init_model_response::Event},
};

use super::{
    download::{self, Download},
    grpc::Service,
    state,
    status::{ERROR_KIND, status, trailers},
};

/// Metadata of a call that wants the generated service, to compare the two or to find a fault.
const FRAMES: &str = "genebank-frames";
/// A larger message is decoded on a thread for blocking work.
const SMALL_MESSAGE: usize = 64 << 10;
/// Length of a frame's prefix: the flag of compression and the length of the message.
pub(super) const PREFIX_BYTES: usize = 5;

/// The methods that are answered here. `generated` answers the calls that are compressed or ask for it.
pub(super) fn routes(state: state::State, generated: Service) -> Router {
    let plain = middleware::from_fn_with_state(generated, unless_plain);
    Router::new()
        .route("/genebank.v1.GeneBank/InitModel", post(init_model).route_layer(plain.clone()))
        .route("/genebank.v1.GeneBank/DownloadModel", post(download_model).route_layer(plain))
        .with_state(state)
}

async fn unless_plain(State(generated): State<Service>, request: Request, next: Next) -> Response {
    if is_plain(request.headers()) {
        return next.run(request).await;
    }
    let Ok(response) = generated.oneshot(request).await;
    response.map(Body::new)
}

async fn init_model(State(state): State<state::State>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let message = message(&state.bank, body).await?;
        download::init_model(&state, state.guard(&headers).map_err(status)?, message).await.map_err(status)
    };
    response(answer.await)
}

async fn download_model(State(state): State<state::State>, headers: HeaderMap, body: Body) -> Response {
    let answer = async {
        let message = message(&state.bank, body).await?;
        download::download_model(&state, state.guard(&headers).map_err(status)?, message)
            .await
            .map_err(status)
    };
    response(answer.await)
}

/// The messages as frames, or the status of a call that has none.
fn response(messages: Result<Download, Status>) -> Response {
    match messages {
        Ok(messages) => {
            let grpc = HeaderValue::from_static("application/grpc");
            let mut response = Response::new(Body::new(Frames::new(messages)));
            response.headers_mut().insert(header::CONTENT_TYPE, grpc);
            response
        }
        Err(status) => status.into_http(),
    }
}

/// Whether a call can be answered here: it is not compressed, and does not ask for the generated service. Calls from
/// browsers were translated before.
fn is_plain(headers: &HeaderMap) -> bool {
    let is = |name: &str, known: &[&str]| {
        headers.get(name).is_none_or(|value| known.iter().any(|known| value.as_bytes() == known.as_bytes()))
    };
    is("content-type", &["application/grpc", "application/grpc+proto"])
        && is("grpc-encoding", &["identity"])
        && !headers.contains_key(FRAMES)
}

/// The one message of a call.
async fn message<M: prost::Message + Default + 'static>(bank: &Bank, body: Body) -> Result<M, Status> {
    let bytes = content(body).await?;
    let message =
        if bytes.len() <= SMALL_MESSAGE { decode(bytes) } else { bank.large(|| decode(bytes)).await };
    message.map_err(status)
}

fn decode<M: prost::Message + Default>(bytes: Bytes) -> crate::error::Result<M> {
    M::decode(bytes).map_err(|error| Error::invalid("message", error.to_string()))
}

/// Reads the bytes of the one message of a call.
async fn content(body: Body) -> Result<Bytes, Status> {
    let limit = proto::MAX_REQUEST_BYTES;
    let mut bytes = axum::body::to_bytes(body, PREFIX_BYTES + limit).await.map_err(|_| {
        Status::out_of_range(format!("the message is beyond the limit of {limit} bytes, or was cut"))
    })?;
    if bytes.len() < PREFIX_BYTES {
        return Err(malformed(format!("a message of {} bytes has no frame", bytes.len())));
    }
    let (compressed, length) = (bytes.get_u8(), bytes.get_u32() as usize);
    if compressed != 0 {
        return Err(Status::unimplemented("a compressed message without grpc-encoding"));
    }
    if length != bytes.len() {
        let reason = format!("the frame announces {length} bytes and holds {}", bytes.len());
        return Err(malformed(reason));
    }
    Ok(bytes)
}

/// The status of a call whose message is none.
fn malformed(reason: String) -> Status {
    status(Error::invalid("message", reason))
}

/// The generated service calls a message that it cannot read an internal error, and so does tonic. It is the caller's
/// error, and those of this server have a kind.
pub(super) async fn blame_caller(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.headers().contains_key(ERROR_KIND) {
        return response;
    }
    match Status::from_header_map(response.headers()) {
        Some(found) if found.code() == Code::Internal => malformed(found.message().to_owned()).into_http(),
        _ => response,
    }
}

/// Messages as frames of a response body, with the status in the trailers.
struct Frames<S> {
    messages: S,
    /// The data whose prefix was sent last.
    data: Option<Bytes>,
    ended: bool,
}

impl<S> Frames<S> {
    const fn new(messages: S) -> Self {
        Self { messages, data: None, ended: false }
    }
}

impl<S> HttpBody for Frames<S>
where
    S: Stream<Item = Result<proto::InitModelResponse, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match ready!(Pin::new(&mut self.messages).poll_next(context)) {
            Some(Ok(message)) => {
                let (head, data) = framed(message);
                self.data = data;
                return Poll::Ready(Some(Ok(Frame::data(head))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// A message as the bytes before its data, and the data.
fn framed(message: proto::InitModelResponse) -> (Bytes, Option<Bytes>) {
    let Some(Event::Chunk(proto::Chunk { offset, data })) = message.event else {
        let mut frame = prefix(message.encoded_len());
        message.encode_raw(&mut frame);
        return (frame.freeze(), None);
    };
    // message Chunk { uint64 offset = 1; bytes data = 2; }; fields that are zero or empty are left out.
    let mut fields = BytesMut::new();
    if offset != 0 {
        encode_key(1, WireType::Varint, &mut fields);
        encode_varint(offset, &mut fields);
    }
    if !data.is_empty() {
        encode_key(2, WireType::LengthDelimited, &mut fields);
        encode_varint(data.len() as u64, &mut fields);
    }
    // message InitModelResponse { oneof event { Chunk chunk = 3; } }
    let mut chunk = BytesMut::new();
    encode_key(3, WireType::LengthDelimited, &mut chunk);
    encode_varint((fields.len() + data.len()) as u64, &mut chunk);
    let mut frame = prefix(chunk.len() + fields.len() + data.len());
    frame.extend_from_slice(&chunk);
    frame.extend_from_slice(&fields);
    (frame.freeze(), Some(data).filter(|data| !data.is_empty()))
}

/// The start of the frame of a message of `length` bytes.
fn prefix(length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(64);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a chunk is at most 3 MiB, a header holds a few names"));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes((head, data): (Bytes, Option<Bytes>)) -> Vec<u8> {
        [head.as_ref(), data.as_deref().unwrap_or_default()].concat()
    }

    fn generated(message: &proto::InitModelResponse) -> Vec<u8> {
        let body = message.encode_to_vec();
        [&[0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
    }

    proptest! {
        #[test]
        fn frames_are_those_of_the_generated_service(offset in any::<u64>(), length in 0usize..100_000, zero: bool) {
            let chunk = proto::Chunk {
                offset: if zero { 0 } else { offset },
                data: Bytes::from((0..length).map(|i| i as u8).collect::<Vec<_>>()),
            };
            let message = proto::InitModelResponse { event: Some(Event::Chunk(chunk)) };
            prop_assert_eq!(bytes(framed(message.clone())), generated(&message));
        }
    }

    #[test]
    fn what_holds_no_data_is_encoded_as_it_is() {
        let header = proto::ModelHeader { gene: "a".into(), depth: 3, ..Default::default() };
        for event in [None, Some(Event::Header(header)), Some(Event::Completed(proto::Completed::default()))]
        {
            let message = proto::InitModelResponse { event };
            assert_eq!(bytes(framed(message.clone())), generated(&message));
        }
    }

    #[tokio::test]
    async fn frames_that_are_none_are_refused() {
        let frame = |flag: u8, length: u32, body: &[u8]| [&[flag][..], &length.to_be_bytes(), body].concat();
        let whole = proto::InitModelRequest { depth: Some(4), ..Default::default() }.encode_to_vec();
        let read = async |bytes: Vec<u8>| {
            let bytes = content(Body::from(bytes)).await?;
            decode::<proto::InitModelRequest>(bytes).map_err(status)
        };
        assert_eq!(read(frame(0, whole.len() as u32, &whole)).await.unwrap().depth, Some(4));
        for (bytes, code) in [
            (vec![0; 4], Code::InvalidArgument),
            (frame(1, whole.len() as u32, &whole), Code::Unimplemented),
            (frame(0, u32::MAX, &whole), Code::InvalidArgument),
            (frame(0, 1, &whole), Code::InvalidArgument),
            (frame(0, 2, &[0xff, 0xff]), Code::InvalidArgument),
            (frame(0, 0, &vec![0; proto::MAX_REQUEST_BYTES + 1]), Code::OutOfRange),
        ] {
            assert_eq!(read(bytes).await.unwrap_err().code(), code);
        }
    }
}

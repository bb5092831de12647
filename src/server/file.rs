//! The answer for one file: method, conditions and range.

use std::{ops::Range, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    blueprint::{Artifact, Identity},
    digest::Digest,
    error::Result,
};

use super::{
    body::Slices,
    range::{self, Asked},
    status::Problem,
};

/// Largest slice that goes to the socket, bytes. Of the sizes that were measured for HTTP/1.1 this is the fastest.
const CHUNK_BYTES: usize = 256 << 10;
/// Content type of weights.
pub(super) const BINARY: &str = "application/octet-stream";

/// What is known about a file before its bytes exist.
pub(super) struct Facts {
    /// Quoted.
    pub(super) etag: HeaderValue,
    /// Length of the file, bytes.
    pub(super) size: u64,
    pub(super) content_type: &'static str,
}

/// SHA-256(identity ‖ path), hex: a name for the bytes of a model under a path. It is known before the bytes exist.
pub(super) fn etag(identity: Identity, path: &str) -> String {
    Digest::of_parts([identity.as_bytes(), path.as_bytes()]).to_string()
}

/// A name as a strong entity tag.
pub(super) fn quoted(etag: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{etag}\"")).expect("quoted hex is a header value")
}

/// The bytes of a file.
pub(super) enum Content {
    Text(Bytes),
    Model(Arc<Artifact>),
}

impl Content {
    fn body(self, part: Range<u64>) -> Body {
        let length = part.end - part.start;
        match self {
            Self::Text(bytes) => Body::from(bytes.slice(part.start as usize..part.end as usize)),
            Self::Model(artifact) => Body::new(Slices::new(artifact.chunks(part, CHUNK_BYTES), length)),
        }
    }
}

/// The response for a file with these `facts`. `content` is awaited only if a body is sent.
pub(super) async fn answer(
    method: &Method,
    headers: &HeaderMap,
    facts: Facts,
    content: impl Future<Output = Result<Content>> + Send,
) -> Result<Response, Problem> {
    let size = facts.size;
    match asked(method, headers, &facts)? {
        Answer::NotModified => Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, facts.etag)]).into_response()),
        Answer::Head => Ok(response(StatusCode::OK, facts, size, Body::empty())),
        Answer::Whole => {
            let body = content.await?.body(0..size);
            Ok(response(StatusCode::OK, facts, size, body))
        }
        Answer::Part(part) => {
            let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            let content_range = HeaderValue::try_from(content_range).expect("numbers are a header value");
            let (length, body) = (part.end - part.start, content.await?.body(part));
            let mut response = response(StatusCode::PARTIAL_CONTENT, facts, length, body);
            response.headers_mut().insert(header::CONTENT_RANGE, content_range);
            Ok(response)
        }
    }
}

/// What the method and the conditions of a request lead to.
enum Answer {
    NotModified,
    Head,
    Whole,
    Part(Range<u64>),
}

/// RFC 9110, sections 13.2.2 and 14.2.
fn asked(method: &Method, headers: &HeaderMap, facts: &Facts) -> Result<Answer, Problem> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let own = facts.etag.to_str().unwrap_or_default();
    // A list may be spread over several lines.
    let tags = |name| {
        let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or_default());
        lines.flat_map(|line| line.split(',').map(str::trim))
    };
    if headers.contains_key(header::IF_MATCH) && !tags(header::IF_MATCH).any(|tag| tag == "*" || tag == own) {
        return Err(Problem::changed(own));
    }
    if tags(header::IF_NONE_MATCH).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own) {
        return Ok(Answer::NotModified);
    }
    // A range is defined for GET only, and holds only if the client has a part of this very file.
    if method == Method::HEAD {
        return Ok(Answer::Head);
    }
    let range = text(header::RANGE).filter(|_| text(header::IF_RANGE).is_none_or(|tag| tag == own));
    match range.map(|value| range::asked(value, facts.size)) {
        None | Some(Asked::Whole) => Ok(Answer::Whole),
        Some(Asked::Part(part)) => Ok(Answer::Part(part)),
        Some(Asked::Unsatisfiable) => Err(Problem::unsatisfiable(facts.size)),
    }
}

fn response(status: StatusCode, facts: Facts, length: u64, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(facts.content_type)),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (header::CONTENT_LENGTH, length.into()),
        (header::ETAG, facts.etag),
    ];
    (status, headers, body).into_response()
}

//! The only place where an error becomes a gRPC status or an HTTP response, by the table of [`Kind::codes`].

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tonic::{Code, Status, metadata::MetadataMap};

use crate::error::{Error, Kind};

/// Longest message for a client, bytes. A status travels in a header, percent-encoded, and long headers break
/// connections.
const MAX_MESSAGE_BYTES: usize = 2048;

/// Key of the gRPC metadata that carries [`crate::error::Codes::word`].
const ERROR_KIND: &str = "error-kind";

/// What a client is told. A failure of ours goes to the log, not to the client.
fn message(error: &Error) -> String {
    // Paths and causes of these are this machine's.
    if matches!(error.kind(), Kind::Internal | Kind::DataLoss) {
        tracing::error!(%error, "failure of this server");
        return format!("{} error, see the server's log", error.kind().codes().word);
    }
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
    text
}

/// When a retry is worth it, seconds.
fn retry_after(error: &Error) -> Option<u64> {
    if let Error::Shared(error) = error {
        return retry_after(error);
    }
    if let Error::Overloaded { retry_after_s, .. } = error { Some(*retry_after_s) } else { None }
}

/// `error` as a gRPC status.
pub(super) fn status(error: Error) -> Status {
    let codes = error.kind().codes();
    let mut metadata = MetadataMap::new();
    metadata.insert(ERROR_KIND, codes.word.parse().expect("words are ASCII"));
    if let Some(seconds) = retry_after(&error) {
        metadata.insert("retry-after", seconds.into());
    }
    Status::with_metadata(Code::from_i32(codes.grpc), message(&error), metadata)
}

/// An error as an HTTP response: RFC 9457 problem details.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    kind: &'a str,
}

impl Problem {
    /// The path exists, the method does not.
    pub(super) fn method_not_allowed() -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, ..Error::invalid("method", "use GET or HEAD").into() }
    }

    /// A range without a byte of the file.
    pub(super) fn unsatisfiable(size: u64) -> Self {
        let error = Error::invalid("range", format!("no byte of it is in the file of {size} bytes"));
        let range = HeaderValue::try_from(format!("bytes */{size}")).expect("a number is a header value");
        let header = Some((header::CONTENT_RANGE, range));
        Self { status: StatusCode::RANGE_NOT_SATISFIABLE, header, ..error.into() }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let codes = error.kind().codes();
        Self {
            status: StatusCode::from_u16(codes.http).expect("the table holds statuses"),
            kind: codes.word,
            detail: message(&error),
            header: retry_after(&error).map(|seconds| (header::RETRY_AFTER, seconds.into())),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = Details {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            kind: self.kind,
        };
        let body = serde_json::to_string(&details).expect("strings and a number serialise");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.header);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn errors() -> Vec<Error> {
        let name = "x".repeat(10_000);
        vec![
            Error::invalid("depth", "é".repeat(10_000)),
            Error::NotFound { what: "gene", name, known: String::new() },
            Error::from(Arc::new(Error::Overloaded { what: "renders", limit: 4, retry_after_s: 7 })),
            Error::Cancelled,
            Error::corrupt("a", "b"),
            Error::Io { path: "/secret".into(), source: std::io::ErrorKind::Other.into() },
        ]
    }

    #[test]
    fn both_protocols_follow_the_table() {
        let kinds: Vec<_> = errors().iter().map(Error::kind).collect();
        assert_eq!(kinds, Kind::ALL);
        for (error, again) in errors().into_iter().zip(errors()) {
            let codes = error.kind().codes();
            let status = status(error);
            assert_eq!(status.code() as i32, codes.grpc);
            assert_eq!(status.metadata().get(ERROR_KIND).unwrap(), codes.word);
            assert!(status.message().len() <= MAX_MESSAGE_BYTES);
            assert!(!status.message().contains("secret"));
            let response = Problem::from(again).into_response();
            assert_eq!(response.status().as_u16(), codes.http);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let retry = response.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
            assert_eq!(retry, (codes.word == "overloaded").then(|| "7".to_owned()));
        }
    }
}

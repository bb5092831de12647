//! The only place where an error becomes a gRPC status or an HTTP response, by the table of [`Kind::codes`].

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::StatusExt as _;

use crate::error::{Error, Kind};

use super::details::details;

/// Longest message for a client, bytes. A status is sent in a header, percent-encoded, and long headers break
/// connections.
const MAX_MESSAGE_BYTES: usize = 2048;

/// Key of the gRPC metadata that carries [`crate::error::Codes::word`].
pub(super) const ERROR_KIND: &str = "error-kind";

/// Headers of an error of the Hub protocol.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// The message for a client. A failure of the server itself goes to the log instead.
fn message(error: &Error) -> String {
    // Their paths and causes are not for clients.
    if matches!(error.kind(), Kind::Internal | Kind::DataLoss) {
        tracing::error!(%error, "failure of this server");
        return format!("{} error, see the server's log", error.kind().codes().word);
    }
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
    text
}

/// Seconds after which a retry may succeed.
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
    let details = details(&error);
    Status::with_error_details_and_metadata(Code::from_i32(codes.grpc), message(&error), details, metadata)
}

/// A status as the trailers of a call.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It fails only for text that no header can hold, and messages are percent-encoded.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", HeaderValue::from_static("2"));
    }
    trailers
}

/// An error as an HTTP response: RFC 9457 problem details.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
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
    /// A path that exists, with a method that does not.
    pub(super) fn method_not_allowed() -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, ..Error::invalid("method", "use GET or HEAD").into() }
    }

    /// A body that is longer than the limit.
    pub(super) fn too_large(limit: usize) -> Self {
        let error = Error::invalid("body", format!("it is longer than {limit} bytes"));
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, ..error.into() }
    }

    /// A file that is none of those that `If-Match` names.
    pub(super) fn changed(etag: &str) -> Self {
        let error = Error::invalid("if-match", format!("the entity tag of the file is {etag}"));
        Self { status: StatusCode::PRECONDITION_FAILED, ..error.into() }
    }

    /// A body that did not arrive in time.
    pub(super) fn too_slow(limit: Duration) -> Self {
        let error = Error::invalid("body", format!("it did not arrive within {limit:?}"));
        Self { status: StatusCode::REQUEST_TIMEOUT, ..error.into() }
    }

    /// A range that holds no byte of the file.
    pub(super) fn unsatisfiable(size: u64) -> Self {
        let error = Error::invalid("range", format!("no byte of it is in the file of {size} bytes"));
        let range = HeaderValue::try_from(format!("bytes */{size}")).expect("a number is a header value");
        let headers = vec![(header::CONTENT_RANGE, range)];
        Self { status: StatusCode::RANGE_NOT_SATISFIABLE, headers, ..error.into() }
    }
}

/// An error as a response of the Hub protocol, which reads it from headers. The table is the same.
#[derive(Debug)]
pub(super) struct HubProblem {
    problem: Problem,
    code: Option<&'static str>,
}

impl HubProblem {
    /// Adds a header, for example the commit in which a file was not found.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.problem.headers.push((name, value));
        self
    }
}

impl From<Error> for HubProblem {
    fn from(error: Error) -> Self {
        Self { code: error.kind().codes().hub, problem: error.into() }
    }
}

impl From<Problem> for HubProblem {
    fn from(problem: Problem) -> Self {
        Self { problem, code: None }
    }
}

impl IntoResponse for HubProblem {
    fn into_response(self) -> Response {
        let Problem { status, detail, headers, .. } = self.problem;
        let body = serde_json::json!({ "error": detail }).to_string();
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        let map = response.headers_mut();
        map.extend(headers);
        map.extend(self.code.map(|code| (ERROR_CODE, HeaderValue::from_static(code))));
        map.insert(ERROR_MESSAGE, printable(&detail));
        response
    }
}

/// Text as the value of a header. Clients print it, and do not agree on its encoding.
fn printable(text: &str) -> HeaderValue {
    let ascii: String = text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
    HeaderValue::try_from(ascii).expect("printable ASCII is a header value")
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let codes = error.kind().codes();
        let status = StatusCode::from_u16(codes.http).expect("the table holds statuses");
        let retry = retry_after(&error).map(|seconds| (header::RETRY_AFTER, seconds.into()));
        // RFC 9110 requires it: how to say who is calling.
        let challenge = (status == StatusCode::UNAUTHORIZED)
            .then(|| (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"genebank\"")));
        let headers = retry.into_iter().chain(challenge).collect();
        Self { status, kind: codes.word, detail: message(&error), headers }
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
        headers.extend(self.headers);
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
            Error::NotFound { what: "gene", name: name.clone(), known: String::new() },
            Error::NoRepository { name: "\u{e9}\n".to_owned(), reason: name.clone() },
            Error::NoRevision { name, known: String::new() },
            Error::NoToken { what: "gene", name: "x".to_owned() },
            Error::BadToken,
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
            assert_eq!(response.headers().contains_key("www-authenticate"), codes.http == 401);
        }
        for error in errors() {
            let codes = error.kind().codes();
            let response = HubProblem::from(error).into_response();
            assert_eq!(response.status().as_u16(), codes.http);
            let code = response.headers().get(ERROR_CODE).map(|code| code.to_str().unwrap());
            assert_eq!(code, codes.hub);
            assert_eq!(response.headers().contains_key("www-authenticate"), codes.http == 401);
            let message = response.headers()[ERROR_MESSAGE].to_str().unwrap();
            assert!(message.len() <= MAX_MESSAGE_BYTES && !message.contains("secret"));
        }
    }
}

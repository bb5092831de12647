//! What is done with every request, whichever interface it is for.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::Body as _;

use crate::error::Error;

use super::status::Problem;

/// For routes that take no body, so that none is read.
pub(super) async fn without_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    Problem::from(Error::invalid("body", "no body is expected")).into_response()
}

/// The value of the header that says who asks.
pub(super) fn authorization(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes)
}

/// A client's text as it comes back to it.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

//! What all interfaces do with requests.

use axum::{
    extract::Request,
    http::{Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::Body as _;

use crate::error::{Error, Result};

use super::status::Problem;

/// Refuses bodies on routes that take none, so that none is read.
pub(super) async fn without_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    Problem::from(Error::invalid("body", "no body is expected")).into_response()
}

/// Refuses a request that does not name exactly one host (RFC 9112, section 3.2). Proxies disagree about which of two
/// they read.
pub(super) async fn with_one_host(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let holds = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Authority::try_from(host.as_bytes()).is_ok(),
        // In HTTP/2 the URI names it, and HTTP/1.0 does without.
        (None, _) => request.version() != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    if holds {
        return next.run(request).await;
    }
    Problem::from(Error::invalid("host", "the request must name exactly one host")).into_response()
}

/// A client's text as an error repeats it.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// An error for a name that is not there, with what is.
pub(super) fn not_found(what: &'static str, name: &str, known: &str) -> Error {
    Error::NotFound { what, name: short(name), known: known.to_owned() }
}

/// A truth value of the Hub protocol. Unlike the flags of `/v1`, it may be false. Clients in Python write `True` and
/// `False`, others `true`, `1` or the bare key.
pub(super) fn truth(key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "True" | "1" | "" => Ok(true),
        "false" | "False" | "0" => Ok(false),
        _ => Err(Error::invalid(key, format!("\"{}\" is neither true nor false", short(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_any_language_write_truth() {
        for (value, read) in [
            ("", Some(true)),
            ("true", Some(true)),
            ("True", Some(true)),
            ("1", Some(true)),
            ("false", Some(false)),
            ("False", Some(false)),
            ("0", Some(false)),
            ("yes", None),
        ] {
            assert_eq!(truth("blobs", value).ok(), read, "{value}");
        }
    }
}

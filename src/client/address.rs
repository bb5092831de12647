//! Addresses of servers, and what it means if one cannot be reached.

use hyper::http::uri::{InvalidUri, PathAndQuery, Uri};

use crate::error::{Error, Result};

/// The address of a server: a scheme and a host, because the routes of a server begin at its root.
///
/// # Errors
/// [`Error::Invalid`] with what to write instead.
pub(super) fn parse(url: &str) -> Result<Uri> {
    let invalid = |reason: String| Error::invalid("server", format!("\"{url}\" {reason}"));
    let uri: Uri = url.parse().map_err(|error: InvalidUri| invalid(format!("is not a URL: {error}")))?;
    let Some(scheme @ ("http" | "https")) = uri.scheme_str() else {
        return Err(invalid("does not begin with http:// or https://".to_owned()));
    };
    match (uri.authority(), uri.path_and_query().map_or("/", PathAndQuery::as_str)) {
        (Some(_), "/") => Ok(uri),
        (Some(host), more) => {
            Err(invalid(format!("has the path {more}, but a server is at its root: {scheme}://{host}")))
        }
        (None, _) => Err(invalid("names no host".to_owned())),
    }
}

/// Why no connection could be opened, and what to try.
pub(super) fn failure(secure: bool, error: &dyn std::error::Error) -> String {
    let text = chain(error);
    // rustls names its error so if the other side does not speak TLS.
    if secure && text.contains("InvalidContentType") {
        return format!("{text}; the server seems to speak plain HTTP: try http://");
    }
    text
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

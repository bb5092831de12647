//! google.rpc details of a status: what a program can act on without reading the message.
//!
//! Every status has `ErrorInfo` with the word of the error's kind. A mistake in a request becomes a field violation, a
//! missing thing a resource, and a limit a quota with the time of a retry.

use std::time::Duration;

use tonic_types::ErrorDetails;

use crate::error::Error;

/// Domain of the reasons.
const DOMAIN: &str = "genebank";
/// Longest text in a detail, bytes: details travel in a header, beside the message.
const MAX_TEXT_BYTES: usize = 256;

/// The details of `error`.
pub(super) fn details(error: &Error) -> ErrorDetails {
    if let Error::Shared(error) = error {
        return details(error);
    }
    let reason = error.kind().codes().word.to_uppercase().replace('-', "_");
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, []);
    match error {
        Error::Invalid { field, reason } => {
            details.add_bad_request_violation(short(field), short(reason));
        }
        Error::OutOfRange { what, .. } => {
            details.add_bad_request_violation(*what, short(&error.to_string()));
        }
        Error::NotFound { what, name, known } => {
            let known = if known.is_empty() { String::new() } else { format!("known: {known}") };
            details.set_resource_info(*what, short(name), "", short(&known));
        }
        Error::NoToken { what, name } => {
            details.set_resource_info(*what, short(name), "", "private");
        }
        Error::Overloaded { what, limit, retry_after_s } => {
            details.add_quota_failure_violation(*what, format!("{limit} at the same time"));
            details.set_retry_info(Some(Duration::from_secs(*retry_after_s)));
        }
        // A client can act on the kind alone; the rest concerns this machine.
        Error::NoRepository { .. }
        | Error::NoRevision { .. }
        | Error::BadToken
        | Error::MissingTensor { .. }
        | Error::UnexpectedTensor { .. }
        | Error::ShapeMismatch { .. }
        | Error::Corrupt { .. }
        | Error::Cancelled
        | Error::Diverged { .. }
        | Error::Tensor { .. }
        | Error::Io { .. }
        | Error::Panicked { .. }
        | Error::Shared(_)
        | Error::Remote { .. } => {}
    }
    details
}

fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_say_what_can_be_acted_on() {
        let invalid = details(&Error::invalid("depth", "é".repeat(10_000)));
        let violation = &invalid.bad_request().unwrap().field_violations[0];
        assert_eq!((violation.field.as_str(), violation.description.len()), ("depth", MAX_TEXT_BYTES));
        assert_eq!(invalid.error_info().unwrap().reason, "INVALID");

        let (of, limit) = ("gene \"g\"".to_owned(), "1..=24".to_owned());
        let beyond = details(&Error::OutOfRange { what: "depth", found: 40, of, limit });
        let violation = &beyond.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.description, "depth 40 is beyond gene \"g\" (1..=24)");

        let missing = details(&Error::NotFound { what: "gene", name: "x".into(), known: "a, b".into() });
        let resource = missing.resource_info().unwrap();
        assert_eq!((resource.resource_name.as_str(), resource.description.as_str()), ("x", "known: a, b"));
        assert_eq!(missing.error_info().unwrap().reason, "NOT_FOUND");

        let busy = Error::Overloaded { what: "renders", limit: 4, retry_after_s: 7 };
        let busy = details(&Error::from(std::sync::Arc::new(busy)));
        assert_eq!(busy.retry_info().unwrap().retry_delay, Some(Duration::from_secs(7)));
        assert_eq!(busy.quota_failure().unwrap().violations[0].subject, "renders");

        let ours = details(&Error::Io { path: "/secret".into(), source: std::io::ErrorKind::Other.into() });
        assert!(!format!("{ours:?}").contains("secret"));
    }
}

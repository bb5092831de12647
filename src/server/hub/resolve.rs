//! `/{owner}/{name}/resolve/{revision}/{path}`: one file.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Method, header},
    response::Response,
};

use crate::server::{
    file::{self, Content, Facts},
    status::HubProblem,
};

use super::{Hub, place::Place, snapshot::File};

/// For what a full commit names: it never changes.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// The same of a private gene, which no cache between may give to others.
const FOREVER_PRIVATE: &str = "private, max-age=31536000, immutable";
/// For what a branch or a tag names.
const ASK_AGAIN: &str = "no-cache";

/// HEAD and GET. The headers are the same for a whole file, a part of it, and none of it.
pub(super) async fn file(
    State(hub): State<Hub>,
    place: Place,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, HubProblem> {
    let File { path, size, etag, text } =
        place.snapshot.file(&place.path).map_err(|error| place.problem(error))?;
    let facts = Facts { etag: file::quoted(&etag), size, content_type: content_type(path) };
    let content = async {
        match text {
            Some(text) => Ok(Content::Text(text)),
            None => hub.bank.fetch(&place.snapshot.repository.quote).await.map(Content::Model),
        }
    };
    let answer = file::answer(&method, &headers, facts, content).await;
    let mut response = answer.map_err(|problem| place.problem(problem))?;
    let caching = match (place.pinned, place.private) {
        (true, false) => FOREVER,
        (true, true) => FOREVER_PRIVATE,
        (false, _) => ASK_AGAIN,
    };
    let name = format!("inline; filename=\"{path}\"");
    response.headers_mut().extend([
        place.commit(),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
        (header::CONTENT_DISPOSITION, HeaderValue::try_from(name).expect("paths are ASCII")),
    ]);
    Ok(response)
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json") => "application/json",
        Some("md") => "text/markdown; charset=utf-8",
        _ => file::BINARY,
    }
}

//! `/{owner}/{name}/resolve/{revision}/{path}`: one file.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    response::Response,
};

use crate::{
    error::Result,
    server::{
        file::{self, Content, Facts},
        status::HubProblem,
    },
};

use super::{
    place::Place,
    snapshot::{File, Known},
    state::Hub,
};

/// For a full commit, which never changes.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// The same for a private gene: shared caches must not keep it.
const FOREVER_PRIVATE: &str = "private, max-age=31536000, immutable";
/// For a branch or a tag.
const ASK_AGAIN: &str = "no-cache";

/// Answers HEAD and GET. The headers are the same with a whole file, a part of it, and no body.
pub(super) async fn file(
    State(hub): State<Hub>,
    place: Place,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, HubProblem> {
    let file = place.snapshot.file(&place.path).map_err(|error| place.problem(error))?;
    let (about, facts) = (about(&place, &file), facts(&file));
    let answer = file::answer(&method, &headers, facts, content(&hub, file)).await;
    let mut response = answer.map_err(|problem| place.problem(problem))?;
    response.headers_mut().extend(about);
    Ok(response)
}

fn facts(File { path, size, etag, content: _ }: &File) -> Facts {
    Facts { etag: file::quoted(etag), size: *size, content_type: content_type(path) }
}

async fn content(hub: &Hub, file: File) -> Result<Content> {
    match file.content {
        Known::Text(text) => Ok(Content::Text(text)),
        Known::Weights(quote) => hub.state.bank.fetch(&quote).await.map(Content::Model),
    }
}

/// The headers of every answer: the commit, how long it may be kept, and the name to save it under.
fn about(place: &Place, file: &File) -> [(HeaderName, HeaderValue); 3] {
    let caching = match (place.pinned, place.private) {
        (true, false) => FOREVER,
        (true, true) => FOREVER_PRIVATE,
        (false, _) => ASK_AGAIN,
    };
    let name = file.path.rsplit('/').next().unwrap_or(file.path);
    let name = format!("inline; filename=\"{name}\"");
    [
        place.commit(),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
        (header::CONTENT_DISPOSITION, HeaderValue::try_from(name).expect("paths are ASCII")),
    ]
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json") => "application/json",
        Some("md") => "text/markdown; charset=utf-8",
        _ => file::BINARY,
    }
}

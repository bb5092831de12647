//! Lists of the files of a repository.

use std::collections::BTreeSet;

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::header,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::{Error, Kind, Result},
    server::{
        bodies::Arrived,
        request::not_found,
        shares::Peer,
        status::{HubProblem, Problem},
    },
};

use super::{place::Place, snapshot::Object, state::Hub};

/// Longest body of a request for paths, bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// `GET /api/models/{owner}/{name}/tree/{revision}[/{path}]`: all files are in the root, so there is one page.
pub(super) async fn list(State(hub): State<Hub>, place: Place) -> Result<Json<Vec<Value>>, HubProblem> {
    if !place.path.is_empty() {
        return Err(place.problem(not_found("folder", &place.path, "none")));
    }
    let objects = place.snapshot.objects(&hub.state).await?;
    Ok(Json(objects.iter().map(Object::entry).collect()))
}

/// `POST /api/models/{owner}/{name}/paths-info/{revision}`: the files at the paths in the body, if they exist.
pub(super) async fn paths(
    State(hub): State<Hub>,
    place: Place,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Json<Vec<Value>>, HubProblem> {
    let (head, body) = request.into_parts();
    let is_json = head
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    let arrived = hub.state.bodies.read(peer, &head, body, MAX_BODY_BYTES).await;
    let Arrived { bytes, share: _share } = arrived.map_err(Problem::from)?;
    let mut found = Vec::new();
    for path in asked(&bytes, is_json)? {
        match place.snapshot.object(&hub.state, &path).await {
            Ok(object) => found.push(object.entry()),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(found))
}

/// The paths in a body, without duplicates. Python clients send a form, Rust clients send JSON.
fn asked(body: &[u8], is_json: bool) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Asked {
        paths: BTreeSet<String>,
    }
    if is_json {
        let asked: Asked =
            serde_json::from_slice(body).map_err(|error| Error::invalid("body", error.to_string()))?;
        return Ok(asked.paths);
    }
    let pairs = form_urlencoded::parse(body);
    Ok(pairs.filter(|(key, _)| key == "paths").map(|(_, path)| path.into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_json_ask_for_the_same() {
        let paths = BTreeSet::from(["a b", "c/d"].map(ToOwned::to_owned));
        assert_eq!(asked(b"paths=a+b&expand=False&paths=c%2Fd&paths=a+b", false).unwrap(), paths);
        assert_eq!(asked(br#"{"paths":["a b","c/d"],"expand":false}"#, true).unwrap(), paths);
        asked(b"{\"paths\":1}", true).unwrap_err();
        assert!(asked(b"\xff&=&paths", false).unwrap().iter().all(String::is_empty));
    }
}

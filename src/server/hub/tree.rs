//! Lists of the files of a repository.

use std::collections::BTreeSet;

use axum::{
    Extension, Json,
    extract::{RawQuery, Request, State},
    http::header,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::{Error, Kind, Result},
    server::{
        bodies::Arrived,
        request::{not_found, truth},
        shares::Peer,
        status::{HubProblem, Problem},
    },
};

use super::{
    place::Place,
    snapshot::{Object, tree_id},
    state::Hub,
};

/// Longest body of a request for paths, bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// `GET /api/models/{owner}/{name}/tree/{revision}[/{path}]`: what is in a folder, and with `recursive` in those within.
/// There are few files, so there is one page.
pub(super) async fn list(
    State(hub): State<Hub>,
    place: Place,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Value>>, HubProblem> {
    let query = query.unwrap_or_default();
    let recursive = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "recursive");
    let recursive = recursive.map(|(key, value)| truth(&key, &value)).try_fold(false, |_, value| value)?;
    let (folder, objects) = (place.path.trim_end_matches('/'), place.snapshot.objects(&hub.state).await?);
    let entries = entries(&objects, folder, recursive);
    if entries.is_empty() {
        let known: BTreeSet<_> =
            objects.iter().filter_map(|object| Some(object.path.split_once('/')?.0)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { Vec::from_iter(known).join(", ") };
        return Err(place.problem(not_found("folder", &place.path, &known)));
    }
    Ok(Json(entries))
}

/// What is in `folder`, which is empty for the root, in the order of paths.
fn entries(objects: &[Object], folder: &str, recursive: bool) -> Vec<Value> {
    let within = |object: &&Object| match folder {
        "" => true,
        folder => object.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
    };
    let mut entries = Vec::new();
    let mut folders = BTreeSet::new();
    for object in objects.iter().filter(within) {
        let start = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let inner = object.path[start..].split_once('/').map(|(name, _)| &object.path[..start + name.len()]);
        if let Some(inner) = inner
            && folders.insert(inner)
        {
            let files: Vec<_> =
                objects.iter().filter(|object| object.path.starts_with(&format!("{inner}/"))).collect();
            entries.push(json!({ "type": "directory", "path": inner, "size": 0, "oid": tree_id(&files) }));
        }
        if inner.is_none() || recursive {
            entries.push(object.entry());
        }
    }
    entries
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
    fn folders_are_listed_once_and_opened_on_request() {
        let object = |path| Object { path, size: 1, oid: "0".repeat(40), stored: None };
        let objects =
            ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "README.md"];
        let objects = objects.map(object);
        let paths = |folder, recursive| -> Vec<String> {
            let entries = entries(&objects, folder, recursive);
            entries
                .iter()
                .map(|entry| {
                    format!("{} {}", &entry["type"].as_str().unwrap()[..1], entry["path"].as_str().unwrap())
                })
                .collect()
        };
        assert_eq!(paths("", false), ["d 1_Pooling", "d 2_Dense", "f README.md"]);
        assert_eq!(
            paths("", true),
            [
                "d 1_Pooling",
                "f 1_Pooling/config.json",
                "d 2_Dense",
                "f 2_Dense/config.json",
                "f 2_Dense/model.safetensors",
                "f README.md"
            ]
        );
        assert_eq!(paths("2_Dense", false), ["f 2_Dense/config.json", "f 2_Dense/model.safetensors"]);
        assert!(paths("2_Den", true).is_empty());
    }

    #[test]
    fn forms_and_json_ask_for_the_same() {
        let paths = BTreeSet::from(["a b", "c/d"].map(ToOwned::to_owned));
        assert_eq!(asked(b"paths=a+b&expand=False&paths=c%2Fd&paths=a+b", false).unwrap(), paths);
        assert_eq!(asked(br#"{"paths":["a b","c/d"],"expand":false}"#, true).unwrap(), paths);
        asked(b"{\"paths\":1}", true).unwrap_err();
        assert!(asked(b"\xff&=&paths", false).unwrap().iter().all(String::is_empty));
    }
}

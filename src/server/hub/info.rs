//! What is said about one repository: the model, its revisions, its commit, the header of its weights.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Query, RawQuery, State},
};
use serde_json::{Value, json};

use crate::{
    bank::{
        RepositoryName,
        repository::{BRANCH, OWNER, WEIGHTS},
    },
    error::{Error, Result},
    export::{Layout, card::MODEL_INDEX},
    server::{
        request::{not_found, truth},
        status::HubProblem,
    },
};

use super::{place::Place, snapshot::Object, state::Hub};

/// The date of every model: the bytes do not depend on when they are made.
pub(super) const DATE: &str = "1970-01-01T00:00:00.000Z";
/// What every model is for.
pub(super) const TASK: &str = crate::export::task::PIPELINE_TAG;

/// What is known of a repository by its name alone.
pub(super) fn summary(name: &RepositoryName, parameters: u64, private: bool) -> Value {
    let id = format!("{OWNER}/{name}");
    let element = name.dtype.safetensors_name();
    json!({
        "_id": id,
        "id": id,
        "modelId": id,
        "author": OWNER,
        "private": private,
        "gated": false,
        "disabled": false,
        "downloads": 0,
        "likes": 0,
        "createdAt": DATE,
        "lastModified": DATE,
        "library_name": name.layout.to_string(),
        "pipeline_tag": TASK,
        "tags": tags(name),
        "safetensors": { "parameters": BTreeMap::from([(element, parameters)]), "total": parameters },
    })
}

/// What a list is filtered by.
pub(super) fn tags(name: &RepositoryName) -> Vec<String> {
    let library = match name.layout {
        Layout::Timm => vec!["timm"],
        Layout::Transformers => vec!["transformers", "vit"],
    };
    let fixed = ["safetensors", TASK, OWNER].into_iter().chain(library).map(ToOwned::to_owned);
    let RepositoryName { gene, depth, width, .. } = name;
    fixed.chain([format!("gene:{gene}"), format!("depth:{depth}"), format!("width:{width}")]).collect()
}

/// `GET /api/models/{owner}/{name}` and `…/revision/{revision}`.
pub(super) async fn model(
    State(hub): State<Hub>,
    place: Place,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, HubProblem> {
    let blobs = wants_blobs(&query.unwrap_or_default())?;
    let (snapshot, quote) = (&place.snapshot, &place.snapshot.repository.quote);
    let mut model = summary(&snapshot.repository.name, quote.blueprint.parameters(), place.private);
    let siblings: Vec<_> = if blobs {
        snapshot.objects(&hub.state).await?.iter().map(Object::sibling).collect()
    } else {
        snapshot.paths().map(|path| json!({ "rfilename": path })).collect()
    };
    model["sha"] = snapshot.commit.clone().into();
    model["siblings"] = siblings.into();
    let card = &snapshot.repository.metadata;
    model["cardData"] = card.clone().into();
    if let Some(index) = card.get(MODEL_INDEX) {
        model[MODEL_INDEX] = index.clone();
    }
    Ok(Json(model))
}

/// Whether a query asks for the object ids of files. Other keys choose among fields, and all fields are given.
fn wants_blobs(query: &str) -> Result<bool> {
    let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "blobs");
    pairs.map(|(key, value)| truth(&key, &value)).try_fold(false, |_, blobs| blobs)
}

/// `GET /api/models/{owner}/{name}/refs`.
pub(super) async fn refs(
    place: Place,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, HubProblem> {
    let named = |kind: &str, name: &str| json!({ "name": name, "ref": format!("refs/{kind}/{name}"), "targetCommit": place.snapshot.commit });
    let mut refs = json!({
        "branches": [named("heads", BRANCH)],
        "tags": [named("tags", place.snapshot.repository.tag())],
        "converts": [],
    });
    if query.contains_key("include_prs") {
        refs["pullRequests"] = json!([]);
    }
    Ok(Json(refs))
}

/// `GET /api/models/{owner}/{name}/commits/{revision}`: there is one.
pub(super) async fn commits(place: Place) -> Json<Value> {
    let name = &place.snapshot.repository.name;
    Json(json!([{
        "id": place.snapshot.commit,
        "title": format!("Gene {} at depth {}, width {}", name.gene, name.depth, name.width),
        "message": "",
        "authors": [{ "user": OWNER }],
        "date": DATE,
    }]))
}

/// `GET /api/models/{owner}/{name}/safetensors-metadata/{path}`: names and shapes without a weight.
pub(super) async fn header(place: Place) -> Result<Json<Value>, HubProblem> {
    if place.path != WEIGHTS {
        return Err(place.problem(not_found("file", &place.path, WEIGHTS)));
    }
    let header = place.snapshot.repository.quote.blueprint.header();
    let header: Value =
        serde_json::from_slice(&header[8..]).map_err(|error| Error::corrupt(WEIGHTS, error.to_string()))?;
    Ok(Json(json!({ "index": { "metadata": {} }, "headers": { WEIGHTS: header } })))
}

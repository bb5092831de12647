//! What is said about one repository: the model, its revisions, its commit, the header of its weights.

use std::{collections::BTreeMap, time::SystemTime};

use axum::{
    Json,
    extract::{Query, RawQuery, State},
};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::{
    bank::{
        RepositoryName,
        repository::{BRANCH, Listed, OWNER},
    },
    blueprint::model::NO_DATA,
    error::{Error, Result},
    export::card::{MODEL_INDEX, licence_id},
    server::{
        request::{not_found, truth},
        status::HubProblem,
    },
};

use super::{place::Place, snapshot::Object, state::Hub};

/// What is known of a repository without its files.
pub(super) fn summary(listed: &Listed) -> Value {
    let Listed { name, parameters, private, task, .. } = listed;
    let date = date(listed.modified);
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
        "createdAt": date,
        "lastModified": date,
        "library_name": task.library(name.layout),
        "pipeline_tag": task.pipeline_tag(),
        "tags": tags(listed),
        "safetensors": { "parameters": BTreeMap::from([(element, parameters)]), "total": parameters },
    })
}

/// A date as the protocol writes it.
fn date(time: SystemTime) -> String {
    let seconds = Timestamp { nanos: 0, ..time.into() };
    // Old clients need the fraction.
    seconds.to_string().replace('Z', ".000Z")
}

/// What a list is filtered by.
pub(super) fn tags(listed: &Listed) -> Vec<String> {
    let Listed { name: RepositoryName { gene, depth, width, layout, .. }, dataset, licence, task, .. } =
        listed;
    let fixed = ["safetensors", task.pipeline_tag(), OWNER, task.library(*layout)];
    let fixed = fixed.into_iter().chain(task.tags(*layout).iter().copied()).map(ToOwned::to_owned);
    let dataset = (dataset != NO_DATA).then(|| format!("dataset:{dataset}"));
    let licence = format!("license:{}", licence_id(licence));
    let size = [format!("gene:{gene}"), format!("depth:{depth}"), format!("width:{width}")];
    fixed.chain(dataset).chain([licence]).chain(size).collect()
}

/// `GET /api/models/{owner}/{name}` and `…/revision/{revision}`.
pub(super) async fn model(
    State(hub): State<Hub>,
    place: Place,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, HubProblem> {
    let blobs = wants_blobs(&query.unwrap_or_default())?;
    let snapshot = &place.snapshot;
    let mut model = summary(&snapshot.repository.listed);
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
    let Listed { name, modified, .. } = &place.snapshot.repository.listed;
    Json(json!([{
        "id": place.snapshot.commit,
        "title": format!("Gene {} at depth {}, width {}", name.gene, name.depth, name.width),
        "message": "",
        "authors": [{ "user": OWNER }],
        "date": date(*modified),
    }]))
}

/// `GET /api/models/{owner}/{name}/safetensors-metadata/{path}`: names and shapes without a weight.
pub(super) async fn header(place: Place) -> Result<Json<Value>, HubProblem> {
    let weights = &place.snapshot.repository.weights;
    let known = || weights.keys().copied().collect::<Vec<_>>().join(", ");
    let quote = weights.get(place.path.as_str());
    let quote = quote.ok_or_else(|| place.problem(not_found("file", &place.path, &known())))?;
    let header = quote.blueprint.header();
    let header: Value = serde_json::from_slice(&header[8..])
        .map_err(|error| Error::corrupt(&place.path, error.to_string()))?;
    Ok(Json(json!({ "index": { "metadata": {} }, "headers": { &place.path: header } })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_protocol() {
        // date -ud @1787654321
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_787_654_321, 987_654_321);
        assert_eq!(date(time), "2026-08-25T10:38:41.000Z");
        assert_eq!(date(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }
}

//! `GET /api/whoami-v2`: whose token it is.

use axum::{Json, extract::State, http::HeaderMap};
use serde_json::{Value, json};

use crate::{error::Error, server::status::HubProblem};

use super::state::Hub;

/// The account of a token.
pub(super) async fn whoami(State(hub): State<Hub>, headers: HeaderMap) -> Result<Json<Value>, HubProblem> {
    let name = hub.state.guard(&headers)?.name().ok_or(Error::BadToken)?;
    Ok(Json(json!({
        "type": "user",
        "id": name,
        "name": name,
        "fullname": name,
        "orgs": [],
        "auth": { "type": "access_token", "accessToken": { "displayName": name, "role": "read" } },
    })))
}

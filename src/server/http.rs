//! The small routes: genes as JSON, and what monitoring asks for.

use axum::{
    Json,
    extract::State as Extract,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};

use crate::bank::GeneSummary;

use super::{state::State, status::Problem};

pub(super) async fn ready(Extract(state): Extract<State>) -> (StatusCode, &'static str) {
    if state.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// What monitoring reads (the text format of Prometheus).
pub(super) async fn metrics(Extract(state): Extract<State>) -> impl IntoResponse {
    let name = "genebank_renders_total";
    let help = "Models rendered since the start, those of the cache not counted.";
    let text = format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n", state.bank.rendered());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

pub(super) async fn genes(
    Extract(state): Extract<State>,
    headers: HeaderMap,
) -> Result<Json<Vec<GeneSummary>>, Problem> {
    Ok(Json(state.bank.genes(state.guard(&headers)?).await?))
}

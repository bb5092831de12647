//! What the path of a request names: a repository at a revision, and a file in it.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::{HeaderName, HeaderValue, request::Parts},
};
use serde::Deserialize;

use crate::{
    bank::repository::BRANCH,
    error::{Error, Result},
    server::status::HubProblem,
};

use super::{snapshot::Snapshot, state::Hub};

const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");

/// Segments of the path. They are decoded after they are split, so a revision may hold an encoded `/`.
#[derive(Debug, Deserialize)]
struct Segments {
    owner: String,
    name: String,
    revision: Option<String>,
    path: Option<String>,
}

/// A repository at a revision that exists.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) snapshot: Arc<Snapshot>,
    /// The gene is private.
    pub(super) private: bool,
    /// The revision is a full commit, so the answer never changes.
    pub(super) pinned: bool,
    /// Path in the repository; empty: its root.
    pub(super) path: String,
}

impl FromRequestParts<Hub> for Place {
    type Rejection = HubProblem;

    async fn from_request_parts(parts: &mut Parts, hub: &Hub) -> Result<Self, HubProblem> {
        let Path(segments) = Path::<Segments>::from_request_parts(parts, hub)
            .await
            .map_err(|rejection| Error::invalid("path", rejection.body_text()))?;
        let name = hub.state.bank.repository_name(&segments.owner, &segments.name)?;
        let admitted = name.admit(hub.state.guard(&parts.headers)?)?;
        let snapshot = hub.snapshot(admitted, &name).await?;
        let revision = segments.revision.as_deref().unwrap_or(BRANCH);
        let pinned = snapshot.repository.is_pinned_by(revision)?;
        Ok(Self { snapshot, private: admitted.is_private(), pinned, path: segments.path.unwrap_or_default() })
    }
}

impl Place {
    /// The header that names the commit.
    pub(super) fn commit(&self) -> (HeaderName, HeaderValue) {
        (COMMIT, HeaderValue::from_str(&self.snapshot.commit).expect("hex is a header value"))
    }

    /// An error about something in the repository, with the commit.
    pub(super) fn problem(&self, problem: impl Into<HubProblem>) -> HubProblem {
        let (name, value) = self.commit();
        problem.into().with(name, value)
    }
}

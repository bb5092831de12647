//! Calls that end when their client ends them: reflection, and watching the health.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;
use tokio_stream::StreamExt as _;

use crate::error::Error;

use super::{
    limits::Limits,
    shares::{Peer, Shares},
    status::status,
};

/// What all such calls have together.
#[derive(Debug, Clone)]
pub(super) struct OpenCalls {
    shares: Arc<Shares>,
    timeout: Duration,
}

impl OpenCalls {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            shares: Shares::new(limits.open_calls, limits.open_calls_of_one),
            timeout: limits.body_timeout,
        }
    }
}

/// Counts a call until it ends, and takes a client that sends no further message for one that has no further message.
pub(super) async fn open_call(
    State(calls): State<OpenCalls>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let mut share = calls.shares.of(peer);
    if let Err(limit) = share.take(1) {
        return status(Error::Overloaded { what: "open calls", limit, retry_after_s: 10 }).into_http();
    }
    let in_time =
        |body: Body| Body::from_stream(body.into_data_stream().timeout(calls.timeout).map_while(Result::ok));
    let response = next.run(request.map(in_time)).await;
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &share;
            frame
        }))
    })
}

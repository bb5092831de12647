//! Bodies of requests: each arrives whole, in time, and within a budget of bytes, before anything is made of it.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::request::Parts,
    middleware::Next,
    response::Response,
};
use bytes::{Bytes, BytesMut};
use hyper::body::Body as _;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Status;

use crate::error::Error;

use super::{
    limits::Limits,
    shares::{Peer, Share, Shares},
    status::{self, Problem},
};

/// What all bodies have together.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    shares: Arc<Shares>,
    timeout: Duration,
}

/// A body that has arrived, and its share of the budget.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) bytes: Bytes,
    pub(super) share: Share,
}

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is longer than this many bytes.
    Long(usize),
    /// It took longer than this.
    Slow(Duration),
    /// All bodies together are longer than this many bytes.
    Full(usize),
    /// The client did not send it to its end.
    Cut,
}

impl Bodies {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            shares: Shares::new(limits.body_bytes, limits.body_bytes_of_one),
            timeout: limits.body_timeout,
        }
    }

    /// Reads the body of `peer`'s request, at most `most` bytes. The head counts too, because it waits as long.
    pub(super) async fn read(
        &self,
        peer: Peer,
        head: &Parts,
        body: Body,
        most: usize,
    ) -> Result<Arrived, Unread> {
        if body.size_hint().lower() > most as u64 {
            return Err(Unread::Long(most));
        }
        let mut share = self.shares.clone().of(peer);
        let names = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        share.take(names.sum()).map_err(Unread::Full)?;
        let (mut bytes, mut chunks) = (BytesMut::new(), body.into_data_stream());
        let arrival = async {
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|_| Unread::Cut)?;
                if bytes.len() + chunk.len() > most {
                    return Err(Unread::Long(most));
                }
                share.take(chunk.len()).map_err(Unread::Full)?;
                bytes.extend_from_slice(&chunk);
            }
            Ok(())
        };
        timeout(self.timeout, arrival).await.map_err(|_| Unread::Slow(self.timeout))??;
        Ok(Arrived { bytes: bytes.freeze(), share })
    }
}

/// Lets a gRPC call begin once its one message, of at most `most` bytes, is here.
pub(super) async fn one_message(
    State((bodies, most)): State<(Bodies, usize)>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    match bodies.read(peer, &head, body, most).await {
        Ok(Arrived { bytes, share }) => {
            let response = next.run(Request::from_parts(head, bytes.into())).await;
            drop(share);
            response
        }
        Err(unread) => unread.into_status().into_http(),
    }
}

impl Unread {
    fn into_status(self) -> Status {
        match self {
            Self::Long(most) => {
                Status::out_of_range(format!("the message is beyond the limit of {most} bytes"))
            }
            Self::Slow(limit) => {
                Status::deadline_exceeded(format!("the message did not arrive within {limit:?}"))
            }
            Self::Full(limit) => status::status(full(limit)),
            Self::Cut => Status::cancelled("the message was cut"),
        }
    }
}

impl From<Unread> for Problem {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Long(most) => Self::too_large(most),
            Unread::Slow(limit) => Self::too_slow(limit),
            Unread::Full(limit) => full(limit).into(),
            Unread::Cut => Error::Cancelled.into(),
        }
    }
}

fn full(limit: usize) -> Error {
    Error::Overloaded { what: "bytes of requests", limit, retry_after_s: 1 }
}

//! Whose turn it is on a connection: the server's, or the client's, whose turns have a limit.
//!
//! It is the client's turn before its first request, between requests, and while a response waits to be read. The limit
//! counts from the last progress: a request, or a piece of a response that the connection had room for because the
//! client read the one before. Bytes on the socket are no progress: a client that reads no response still gets answers to
//! its pings.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

use super::limits::Limits;

/// Longest piece of a response, bytes. Slow clients read one in [`Limits::read_timeout`]. Smaller pieces cost a stream of
/// gRPC frames a third of its rate.
const PIECE_BYTES: usize = 1 << 20;

/// What happens on one connection.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Turns>);

#[derive(Debug)]
struct Turns {
    /// Requests under way.
    requests: usize,
    /// Those that the server is working on.
    working: usize,
    /// Whether there ever was a request.
    asked: bool,
    /// Last progress.
    last: Instant,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Over {
    #[error("the client never asked for anything")]
    Silent,
    #[error("the client asks for nothing more")]
    Idle,
    #[error("the client does not read what it asked for")]
    Unread,
}

impl Activity {
    /// That of a connection which exists since `begun`.
    pub(super) fn new(begun: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Turns { requests: 0, working: 0, asked: false, last: begun })))
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins. It ends when the turn is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Turn {
        let mut turns = self.turns();
        turns.requests += 1;
        turns.asked = true;
        turns.last = Instant::now();
        drop(turns);
        Turn { activity: self.clone(), working: false }
    }

    /// Counts from now on, as if this were progress.
    pub(super) fn restart(&self) {
        self.turns().last = Instant::now();
    }

    /// Waits until the client has taken longer than `limits` allow.
    pub(super) async fn over(&self, limits: &Limits) -> Over {
        loop {
            let (end, now) = (self.end(limits), Instant::now());
            if let Some((_, over)) = end.filter(|(end, _)| *end <= now) {
                return over;
            }
            // The turn may change meanwhile, and the new one may have a shorter limit.
            let again = now + limits.head_timeout.min(limits.read_timeout).min(limits.idle_timeout);
            sleep_until(end.map_or(again, |(end, _)| end.min(again))).await;
        }
    }

    /// When the client's turn ends, if it is the client's.
    fn end(&self, limits: &Limits) -> Option<(Instant, Over)> {
        let Turns { requests, working, asked, last } = *self.turns();
        match (requests, working) {
            (0, _) if !asked => Some((last + limits.head_timeout, Over::Silent)),
            (0, _) => Some((last + limits.idle_timeout, Over::Idle)),
            (_, 0) => Some((last + limits.read_timeout, Over::Unread)),
            _ => None,
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Turn {
    activity: Arc<Activity>,
    working: bool,
}

impl Turn {
    /// The server works on it, or it is the client's turn to read.
    pub(super) fn working(&mut self, working: bool) {
        let mut turns = self.activity.turns();
        turns.last = Instant::now();
        turns.working = turns.working + usize::from(working) - usize::from(self.working);
        self.working = working;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.working(false);
        self.activity.turns().requests -= 1;
    }
}

/// A response body whose pieces are progress.
pub(super) struct Pieces {
    body: Body,
    rest: Bytes,
    turn: Turn,
}

impl Pieces {
    pub(super) const fn new(body: Body, turn: Turn) -> Self {
        Self { body, rest: Bytes::new(), turn }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            self.turn.working(polled.is_pending());
            match ready!(polled).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            self.turn.working(false);
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What ends the connection, and how long after the last progress.
    fn end(activity: &Activity) -> Option<(Over, u64)> {
        let limits = Limits {
            head_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(100),
            ..Limits::default()
        };
        let last = activity.turns().last;
        activity.end(&limits).map(|(end, over)| (over, (end - last).as_secs()))
    }

    #[test]
    fn only_the_turns_of_the_client_have_a_limit() {
        let activity = Activity::new(Instant::now());
        assert_eq!(end(&activity), Some((Over::Silent, 1)));
        let (mut first, second) = (activity.request(), activity.request());
        assert_eq!(end(&activity), Some((Over::Unread, 10)));
        first.working(true);
        assert_eq!(end(&activity), None);
        first.working(true);
        first.working(false);
        assert_eq!(end(&activity), Some((Over::Unread, 10)));
        first.working(true);
        drop(first);
        assert_eq!(end(&activity), Some((Over::Unread, 10)));
        drop(second);
        assert_eq!(end(&activity), Some((Over::Idle, 100)));
    }

    #[tokio::test]
    async fn every_piece_that_is_read_is_progress() {
        let activity = Activity::new(Instant::now());
        let whole: Vec<u8> = (0..PIECE_BYTES * 4 + 7).map(|i| i as u8).collect();
        let mut body = Pieces::new(Body::from(whole.clone()), activity.request());
        let (mut read, mut last) = (Vec::new(), activity.turns().last);
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            let piece = frame.unwrap().into_data().unwrap();
            assert!((1..=PIECE_BYTES).contains(&piece.len()));
            read.extend_from_slice(&piece);
            assert_eq!(body.size_hint().exact(), Some((whole.len() - read.len()) as u64));
            assert_eq!(body.is_end_stream(), read.len() == whole.len());
            let before = std::mem::replace(&mut last, activity.turns().last);
            assert!(last > before);
        }
        assert!(read == whole);
        assert_eq!(end(&activity).unwrap().0, Over::Unread);
    }

    #[tokio::test]
    async fn a_response_that_is_not_ready_is_the_turn_of_the_server() {
        let activity = Activity::new(Instant::now());
        let stream = tokio_stream::pending::<Result<Bytes, std::io::Error>>();
        let mut body = Pieces::new(Body::from_stream(stream), activity.request());
        let polled =
            std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context).is_pending()));
        assert!(polled.await);
        assert_eq!(end(&activity), None);
    }
}

//! `grpc-timeout`: a call is ended once its client no longer waits for it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::HeaderMap,
    middleware::Next,
    response::Response,
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;

use super::status::trailers;

/// Longer times are cut to this.
const LONGEST: Duration = Duration::from_hours(720);

/// Ends `request` when its `grpc-timeout` is over: by a status before the head of the answer, by trailers within the
/// body. Dropping the rest of the call stops its work.
pub(super) async fn deadline(request: Request, next: Next) -> Response {
    let limit = match asked(request.headers()) {
        None => return next.run(request).await,
        Some(Ok(limit)) => limit,
        Some(Err(status)) => return status.into_http(),
    };
    let end = Instant::now() + limit.min(LONGEST);
    match timeout_at(end, next.run(request)).await {
        // The timer counts in milliseconds, the clock does not.
        Ok(response) if Instant::now() < end => response
            .map(|body| Body::new(Until { body, end: Box::pin(sleep_until(end)), limit, over: false })),
        _ => exceeded(limit).into_http(),
    }
}

fn exceeded(limit: Duration) -> Status {
    Status::deadline_exceeded(format!("the call took longer than its grpc-timeout of {limit:?}"))
}

/// 1 to 8 digits and a unit, as in the gRPC protocol over HTTP/2.
fn asked(headers: &HeaderMap) -> Option<Result<Duration, Status>> {
    let value = headers.get("grpc-timeout")?;
    let parse = || {
        let text = value.to_str().ok()?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let count: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(count * 3600),
            "M" => Duration::from_secs(count * 60),
            "S" => Duration::from_secs(count),
            "m" => Duration::from_millis(count),
            "u" => Duration::from_micros(count),
            "n" => Duration::from_nanos(count),
            _ => return None,
        })
    };
    let refused =
        || Status::invalid_argument("grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n");
    Some(parse().ok_or_else(refused))
}

/// A body that is cut off at `end`.
struct Until {
    body: Body,
    end: Pin<Box<Sleep>>,
    limit: Duration,
    over: bool,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.end.as_mut().poll(context).is_ready() || Instant::now() >= self.end.deadline() {
            self.over = true;
            // The rest is dropped now, and not only when the client has read the trailers.
            self.body = Body::empty();
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&exceeded(self.limit))))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http::HeaderValue, routing::get};
    use tokio_stream::StreamExt as _;
    use tower::ServiceExt as _;

    fn parsed(text: &str) -> Option<Duration> {
        let headers =
            HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), HeaderValue::from_str(text).unwrap())]);
        asked(&headers).unwrap().ok()
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        assert!(asked(&HeaderMap::new()).is_none());
        for (text, expected) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("3S", Duration::from_secs(3)),
            ("40m", Duration::from_millis(40)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(parsed(text), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "1s", "+1S", "-1S", "123456789S", "1.5S", " 1S"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    async fn called(timeout: &'static str, router: Router) -> Response {
        let request = Request::builder().uri("/").header("grpc-timeout", timeout);
        let router = router.layer(axum::middleware::from_fn(deadline));
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_call_ends_when_its_time_is_over() {
        // Before the head of the answer.
        let router = || Router::new().route("/", get(std::future::pending::<&str>));
        assert_eq!(called("20m", router()).await.headers()["grpc-status"], "4");
        assert_eq!(called("soon", router()).await.headers()["grpc-status"], "3");
        let ready = Router::new().route("/", get(async || "all"));
        assert_eq!(called("0n", ready).await.headers()["grpc-status"], "4");

        // Within the body, whose work ends too.
        let (work, dropped) = tokio::sync::oneshot::channel::<()>();
        let work = std::sync::Arc::new(std::sync::Mutex::new(Some(work)));
        let body = move || {
            let work = work.lock().unwrap().take();
            let stream = tokio_stream::iter([Ok::<_, std::io::Error>("first")]);
            std::future::ready(Body::from_stream(stream.chain(tokio_stream::pending::<()>().map(
                move |()| {
                    assert!(work.is_some());
                    Ok("never")
                },
            ))))
        };
        let mut body = called("40m", Router::new().route("/", get(body))).await.into_body();
        let mut next = async || std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert_eq!(next().await.unwrap().unwrap().into_data().unwrap(), "first");
        assert_eq!(next().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "4");
        dropped.await.unwrap_err();
        assert!(next().await.is_none());

        // In time.
        let router = Router::new().route("/", get(async || "all"));
        let body = called("1M", router).await.into_body();
        assert_eq!(axum::body::to_bytes(body, 9).await.unwrap(), "all");
    }
}

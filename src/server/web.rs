//! gRPC-Web: calls from browsers over HTTP/1.1 and HTTP/2, and the headers that let pages of other origins make them.
//!
//! gRPC-Web calls are translated to plain gRPC first; the trailers become the last frame of the body, and calls in text
//! form are base64 as a whole. Plain calls do not pass through the translation.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::auth::Origins;

/// The content type of such a call begins with this.
const WEB: &str = "application/grpc-web";
/// The content types that are translated.
const TYPES: [&str; 4] =
    [WEB, "application/grpc-web+proto", "application/grpc-web-text", "application/grpc-web-text+proto"];

/// Headers that a page may send in addition to those that every page may.
const SENT: &str = "authorization, content-type, genebank-frames, grpc-timeout, x-grpc-web, x-user-agent";
/// Headers of an answer that a page may read: an answer without a body has its status in them.
const READ: &str = "error-kind, grpc-message, grpc-status, grpc-status-details-bin, retry-after";
/// How long a browser may remember this permission, seconds. No browser remembers it longer.
const REMEMBERED_S: &str = "7200";

/// Translates a call of gRPC-Web and its answer.
pub(super) async fn translate(request: Request, next: Next) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    if !content_type.starts_with(WEB.as_bytes()) {
        return next.run(request).await;
    }
    if !TYPES.iter().any(|known| known.as_bytes() == content_type) {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("use one of {}\n", TYPES.join(", ")))
            .into_response();
    }
    let plain = service_fn(move |request: axum::http::Request<tonic::body::Body>| {
        let next = next.clone();
        async move { Ok::<_, Infallible>(next.run(request.map(Body::new)).await) }
    });
    let Ok(response) = GrpcWebLayer::new().layer(plain).oneshot(request).await;
    response.map(Body::new)
}

/// Lets pages of known origins call and read (CORS in the Fetch standard). Other origins get none of these headers, so
/// their browser refuses the call.
pub(super) async fn share(State(origins): State<Arc<Origins>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let origin = headers.get(header::ORIGIN).filter(|origin| origins.allow(origin.as_bytes())).cloned();
    let Some(origin) = origin else { return next.run(request).await };
    let asks =
        request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks {
        let allowed = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, SENT),
            (header::ACCESS_CONTROL_MAX_AGE, REMEMBERED_S),
        ];
        (StatusCode::NO_CONTENT, allowed).into_response()
    } else {
        next.run(request).await
    };
    response.headers_mut().extend([
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ)),
        (header::VARY, HeaderValue::from_static("origin")),
    ]);
    response
}

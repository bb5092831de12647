//! Raw requests over HTTP/1.1 and HTTP/2 on any stream, each on a new connection.

use std::{future::poll_fn, pin::Pin};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response, Uri, Version},
};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::support::Server;

/// A complete response.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Reply {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (parts, mut incoming) = response.into_parts();
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await {
            match frame.unwrap().into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        Self { status: parts.status.as_u16(), headers: parts.headers, body, trailers }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// The first bytes of a body.
pub(crate) async fn first_bytes(response: &mut Response<Incoming>) -> Bytes {
    let frame = poll_fn(|context| Pin::new(response.body_mut()).poll_frame(context)).await;
    frame.unwrap().unwrap().into_data().unwrap()
}

/// A request for `uri` in the form of `version`.
pub(crate) fn request(
    version: Version,
    method: Method,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri).version(version);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

/// Sends a request with an absolute address on a new connection.
pub(crate) async fn send<S>(stream: S, mut request: Request<Body>) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    // Dropping the sender would end the connection before the body, so it is kept until then.
    if request.version() == Version::HTTP_2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
        let response = sender.send_request(request);
        tokio::spawn(async move { (connection.await, sender) });
        return response.await;
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let uri = request.uri().clone();
    let host = uri.authority().unwrap().as_str().parse().unwrap();
    request.headers_mut().insert("host", host);
    request.headers_mut().insert("connection", "close".parse().unwrap());
    *request.uri_mut() = Uri::from(uri.path_and_query().unwrap().clone());
    let response = sender.send_request(request);
    tokio::spawn(async move { (connection.await, sender) });
    response.await
}

impl Server {
    /// Makes one request with `version` on a new connection.
    pub(crate) async fn call(
        &self,
        version: Version,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let request = request(version, method, &format!("{}{path}", self.url()), headers, body);
        let stream = TcpStream::connect(self.address).await.unwrap();
        Reply::read(send(stream, request).await.unwrap()).await
    }
}

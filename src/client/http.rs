//! One HTTP/1.1 connection, plain or with TLS, and the meaning of its answers.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::{Body as _, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_ENCODING, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::{Ascii, MetadataValue};

use crate::error::{Error, Kind, Result};

use super::{
    address::{chain, failure},
    retry::Interrupted,
};

/// Longest time to open a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A server that sends nothing for this long is taken to be lost. It may have to render or digest a file first.
const SILENCE: Duration = Duration::from_mins(2);
/// Longest body of an error answer in bytes.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

/// Address of a server, and what every request to it needs.
#[derive(Clone)]
pub(super) struct Http {
    url: String,
    host: String,
    port: u16,
    /// Value of the `host` header.
    authority: HeaderValue,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<HeaderValue>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Http").field(&self.url).finish()
    }
}

impl Http {
    /// The server at `url`. For `https` the certificate is checked as over gRPC.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `url` is not an HTTP URL.
    pub(super) fn new(url: &str, token: Option<&MetadataValue<Ascii>>) -> Result<Self> {
        let invalid =
            |reason: String| Error::invalid("server", format!("\"{url}\" is not a URL of HTTP: {reason}"));
        let uri: Uri =
            url.parse().map_err(|error: hyper::http::uri::InvalidUri| invalid(error.to_string()))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(invalid("it has no scheme and host".to_owned()));
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, tls) = match scheme {
            "http" => (80, None),
            "https" => {
                let name = ServerName::try_from(bare.clone()).map_err(|error| invalid(error.to_string()))?;
                (443, Some((connector()?, name)))
            }
            other => return Err(invalid(format!("the scheme is \"{other}\""))),
        };
        let authority = uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let authority = HeaderValue::try_from(authority).map_err(|error| invalid(error.to_string()))?;
        let header = |token: &MetadataValue<Ascii>| {
            let mut value = HeaderValue::from_bytes(token.as_encoded_bytes())
                .map_err(|_| Error::invalid("token", "it has characters that no header can hold"))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        };
        let (port, token) = (uri.port_u16().unwrap_or(port), token.map(header).transpose()?);
        Ok(Self { url: url.to_owned(), host: bare, port, authority, tls, token })
    }

    fn error(&self, kind: Kind, message: String) -> Error {
        Error::Remote { server: self.url.clone(), kind, message }
    }

    /// The server broke the protocol.
    pub(super) fn broken(&self, message: String) -> Error {
        self.error(Kind::DataLoss, message)
    }

    /// A connection was lost or could not be opened.
    fn lost(&self, message: String) -> Interrupted {
        Interrupted::again(self.error(Kind::Internal, message))
    }

    async fn stream(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

/// Bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Trusts the system's root certificates, or those of `SSL_CERT_FILE`.
fn connector() -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid("server", format!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An open connection.
pub(super) struct Connection {
    http: Http,
    requests: SendRequest<String>,
    /// Drives the connection.
    _task: AbortOnDropHandle<()>,
}

/// The body of an answer, piece by piece.
pub(super) struct Pieces {
    http: Http,
    body: Incoming,
}

impl Pieces {
    /// The next bytes, or `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Interrupted> {
        loop {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            match timeout(SILENCE, frame).await {
                Ok(None) => return Ok(None),
                // Trailers have no meaning here.
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => return Err(self.http.lost(chain(&error))),
                Err(_) => return Err(self.http.lost(format!("nothing came for {} s", SILENCE.as_secs()))),
            }
        }
    }

    /// The whole body.
    async fn all(mut self, limit: usize) -> Result<Bytes, Interrupted> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if piece.len() > limit - all.len() {
                return Err(self.http.broken(format!("an answer beyond the limit of {limit} bytes")))?;
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

impl Connection {
    pub(super) async fn open(http: &Http) -> Result<Self, Interrupted> {
        let stream = match timeout(CONNECT, http.stream()).await {
            Ok(stream) => stream.map_err(|error| {
                http.lost(format!("no connection: {}", failure(http.tls.is_some(), &error)))
            })?,
            Err(_) => return Err(http.lost(format!("no connection within {} s", CONNECT.as_secs()))),
        };
        let opened = handshake(TokioIo::new(stream)).await;
        let (requests, connection) = opened.map_err(|error| http.lost(chain(&error)))?;
        let task = tokio::spawn(async move {
            // A failure also reaches the request that waits for its answer.
            let _ = connection.await;
        });
        Ok(Self { http: http.clone(), requests, _task: AbortOnDropHandle::new(task) })
    }

    /// The head and the body of a successful answer.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        target: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<(StatusCode, HeaderMap, Pieces), Interrupted> {
        let mut request = Request::new(String::new());
        *request.method_mut() = method;
        *request.uri_mut() =
            target.parse().map_err(|_| Error::invalid("request", format!("\"{target}\" is no path")))?;
        let map = request.headers_mut();
        map.insert(HOST, self.http.authority.clone());
        map.extend(self.http.token.clone().map(|token| (AUTHORIZATION, token)));
        map.extend(headers.iter().cloned());
        let lost = |error: hyper::Error| self.http.lost(chain(&error));
        self.requests.ready().await.map_err(lost)?;
        let answer = match timeout(SILENCE, self.requests.send_request(request)).await {
            Ok(answer) => answer.map_err(lost)?,
            Err(_) => return Err(self.http.lost(format!("no answer within {} s", SILENCE.as_secs()))),
        };
        let (head, body) = answer.into_parts();
        let pieces = Pieces { http: self.http.clone(), body };
        if !head.status.is_success() {
            return Err(refusal(head.status, &head.headers, pieces).await);
        }
        if head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(self
                .http
                .broken("an answer in a content encoding that was not asked for".to_owned()))?;
        }
        Ok((head.status, head.headers, pieces))
    }

    /// The JSON answer of a GET.
    pub(super) async fn json<T: DeserializeOwned>(
        &mut self,
        target: &str,
        limit: usize,
    ) -> Result<T, Interrupted> {
        let (_, _, pieces) = self.ask(Method::GET, target, &[]).await?;
        let bytes = pieces.all(limit).await?;
        let answer = serde_json::from_slice(&bytes);
        Ok(answer.map_err(|error| self.http.broken(format!("{target}: {error}")))?)
    }
}

/// The fields of an RFC 9457 answer that are used.
#[derive(Deserialize)]
struct Problem {
    kind: Option<String>,
    detail: String,
}

/// What an answer without success means.
async fn refusal(status: StatusCode, headers: &HeaderMap, pieces: Pieces) -> Interrupted {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let http = pieces.http.clone();
    let problem: Option<Problem> =
        pieces.all(MAX_PROBLEM_BYTES).await.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let kind = problem.as_ref().and_then(|problem| Kind::from_word(problem.kind.as_deref()?));
    let kind = kind.unwrap_or_else(|| Kind::from_http(status.as_u16()));
    let error =
        http.error(kind, problem.map_or_else(|| format!("status {status}"), |problem| problem.detail));
    // A proxy may answer with these too.
    let passing = matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504);
    if passing {
        return Interrupted::Again { error, pause: seconds.map(Duration::from_secs) };
    }
    Interrupted::Failed(error)
}

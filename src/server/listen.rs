//! The accept loop: HTTP/1.1 and HTTP/2 on one port, plain or under TLS, with limits for each connection, and draining.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::tls::H2;

/// What an HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What one client can take from the others.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at the same time; others wait in the system's queue.
    pub connections: usize,
    /// How long a request's head may take to arrive, and how long an idle HTTP/1.1 connection is kept.
    pub head_timeout: Duration,
    /// Calls at the same time on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of a request's headers.
    pub head_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, head_timeout: Duration::from_secs(20), streams: 256, head_bytes: 16 << 10 }
    }
}

/// Accepts connections until `stop`, then waits up to `grace` for those that are open, and cuts the rest.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    limits: Limits,
    grace: Duration,
    stop: &CancellationToken,
) {
    let server = Server { http: server(limits), tls: tls.map(TlsAcceptor::from), router, limits };
    let permits = Arc::new(Semaphore::new(limits.connections));
    let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
    while let Some(permit) = stop.run_until_cancelled(permits.clone().acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely there are no file descriptors left; connections that end will free some.
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, stop, cut) = (server.clone(), stop.clone(), cut.clone());
        connections.spawn(async move {
            cut.run_until_cancelled(server.connection(stream, &stop)).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "grace period is over; cutting connections");
        cut.cancel();
        connections.wait().await;
    }
}

fn server(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    // The slices of a body go to the socket without being joined.
    server.http1().timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).writev(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head_bytes)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    server
}

/// What answers every connection.
#[derive(Clone)]
struct Server {
    http: auto::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
}

impl Server {
    async fn connection(self, stream: TcpStream, stop: &CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let limit = self.limits.head_timeout;
        let Some(tls) = &self.tls else {
            let spoke = stop.run_until_cancelled(timeout(limit, protocol_is_known(&stream))).await;
            if matches!(spoke, Some(Ok(Ok(())))) {
                answer(stream, &self.http, self.router, stop).await;
            }
            return;
        };
        match stop.run_until_cancelled(timeout(limit, tls.accept(stream))).await {
            Some(Ok(Ok(stream))) => {
                // A client that names no protocol speaks the older one.
                let http = if stream.get_ref().1.alpn_protocol() == Some(H2) {
                    self.http.http2_only()
                } else {
                    self.http.http1_only()
                };
                answer(stream, &http, self.router, stop).await;
            }
            Some(Ok(Err(error))) => tracing::debug!(%error, "handshake"),
            Some(Err(_)) | None => {}
        }
    }
}

async fn answer<S>(stream: S, http: &auto::Builder<TokioExecutor>, router: Router, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection");
    }
}

/// Waits until the first bytes decide between HTTP/1.1 and HTTP/2. The library would wait without a limit.
async fn protocol_is_known(stream: &TcpStream) -> io::Result<()> {
    let mut start = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut start).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length == PREFACE.len() || start[..length] != PREFACE[..length] {
            return Ok(());
        }
        // There is something to read, so another peek would return at once: only a timer can wait for more.
        sleep(Duration::from_millis(20)).await;
    }
}

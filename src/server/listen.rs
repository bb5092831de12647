//! The accept loop: HTTP/1.1 and HTTP/2 on one port, plain or under TLS, with limits for each connection, and draining.

use std::{collections::VecDeque, convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{Request, Response},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{
    activity::{Activity, Over, Pieces},
    limits::Limits,
    shares::{Peer, Shares},
    tls::H2,
};

/// What an HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection beyond the limit of connections was told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Full(pub(super) usize);

/// What answers connections.
pub(super) struct Routers {
    /// All requests.
    pub(super) all: Router,
    /// Requests on connections beyond the limit: health, and a refusal that names the limit ([`Full`]).
    pub(super) spare: Router,
}

/// Accepts connections until `stop`, then waits up to `grace` for those that are open, and cuts the rest.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    routers: Routers,
    limits: Limits,
    grace: Duration,
    stop: &CancellationToken,
) {
    let tls = tls.map(TlsAcceptor::from);
    let server = Server { http: builder(&limits), tls: tls.clone(), router: routers.all, limits };
    let spare = Server { http: builder(&limits), tls, router: routers.spare, limits: limits.spare() };
    let shares = Shares::new(limits.connections, limits.connections_of_one);
    let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
    let _cut_when_dropped = cut.clone().drop_guard();
    let mut spares = VecDeque::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely there are no file descriptors left; connections that end will free some.
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let peer = Peer::from(address.ip());
        let mut share = shares.clone().of(peer);
        let full = share.take(1).err().map(Full);
        let server = if full.is_some() { spare.clone() } else { server.clone() };
        let (stop, cut) = (stop.clone(), cut.clone());
        limit_unsent(&stream, connections.len());
        let task = connections.spawn(async move {
            let serving = Box::pin(server.connection(stream, Caller { peer, full }, &stop));
            cut.run_until_cancelled(serving).await;
            drop(share);
        });
        if full.is_some() {
            // Whoever asks for the health asks at once. The oldest has had the most time.
            spares.push_back(task.abort_handle());
            if spares.len() > limits.spare_connections {
                spares.pop_front().inspect(AbortHandle::abort);
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "grace period is over; cutting connections");
        cut.cancel();
        connections.wait().await;
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The slices of a body go to the socket without being joined. The time for a head is that of `Activity`.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).writev(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head_bytes)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    builder
}

/// This number, divided by the number of open connections when one begins, is how many bytes the system holds for that
/// one's client before they are on their way. Without a limit, a thousand clients that do not read use up what
/// the system has for all connections, and then everybody's packets are lost.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: usize = 128 << 20;
/// Above this share the system's own limit for a connection is lower.
#[cfg(any(target_os = "linux", target_os = "android"))]
const WHOLE_BUFFER: usize = 4 << 20;

#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unsent(stream: &TcpStream, open: usize) {
    let share = UNSENT_BYTES / open.max(1);
    if share < WHOLE_BUFFER
        && let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(share as u32)
    {
        tracing::debug!(%error, "no TCP_NOTSENT_LOWAT");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
const fn limit_unsent(_: &TcpStream, _: usize) {}

/// Who is on the other side of a connection.
#[derive(Debug, Clone, Copy)]
struct Caller {
    peer: Peer,
    full: Option<Full>,
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
    async fn connection(self, stream: TcpStream, caller: Caller, stop: &CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let begun = Instant::now();
        let end = begun + self.limits.head_timeout;
        let Some(tls) = &self.tls else {
            let spoke = stop.run_until_cancelled(timeout_at(end, protocol_is_known(&stream))).await;
            if matches!(spoke, Some(Ok(Ok(())))) {
                self.answer(stream, &self.http, begun, caller, stop).await;
            }
            return;
        };
        match stop.run_until_cancelled(timeout_at(end, tls.accept(stream))).await {
            Some(Ok(Ok(stream))) => {
                // A client that names no protocol speaks the older one.
                let http = if stream.get_ref().1.alpn_protocol() == Some(H2) {
                    self.http.clone().http2_only()
                } else {
                    self.http.clone().http1_only()
                };
                self.answer(stream, &http, begun, caller, stop).await;
            }
            Some(Ok(Err(error))) => tracing::debug!(%error, "handshake"),
            Some(Err(_)) | None => {}
        }
    }

    /// Answers what comes over `stream` until it ends, its client takes too long, or it has to close.
    async fn answer<S>(
        &self,
        stream: S,
        http: &auto::Builder<TokioExecutor>,
        begun: Instant,
        caller: Caller,
        stop: &CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new(begun);
        let service = service_fn(|request| respond(self.router.clone(), &activity, caller, request));
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => return log(ended),
            () = stop.cancelled() => {}
            () = sleep_until(begun + self.limits.connection_age) => {}
            over = activity.over(&self.limits) => if over != Over::Idle { return log(Err(over.into())) },
        }
        activity.restart();
        connection.as_mut().graceful_shutdown();
        let leaving = self.limits.leaving();
        tokio::select! {
            ended = connection => log(ended),
            over = activity.over(&leaving) => log(Err(over.into())),
        }
    }
}

/// The response to `request`, as a turn of `activity`.
fn respond(
    mut router: Router,
    activity: &Arc<Activity>,
    Caller { peer, full }: Caller,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Pieces>, Infallible>> + use<> {
    let mut turn = activity.request();
    let extensions = request.extensions_mut();
    extensions.insert(peer);
    full.map(|full| extensions.insert(full));
    async move {
        turn.working(true);
        let response = router.call(request).await?;
        turn.working(false);
        Ok(response.map(|body| Pieces::new(body, turn)))
    }
}

fn log(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
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

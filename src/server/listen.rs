//! The accept loop: HTTP/1.1 and HTTP/2 on one port, limits on what a connection may take, and draining.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Limits;

/// What an HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Accepts until `stop`, then waits up to `grace` for open connections and cuts the rest.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    grace: Duration,
    stop: &CancellationToken,
) {
    let server = server(limits);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
    while let Some(permit) = stop.run_until_cancelled(permits.clone().acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: those in use will be given back.
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, router, stop, cut) = (server.clone(), router.clone(), stop.clone(), cut.clone());
        connections.spawn(async move {
            cut.run_until_cancelled(connection(stream, &server, router, limits, &stop)).await;
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
    // A list of slices goes to the socket as it is.
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

async fn connection(
    stream: TcpStream,
    server: &auto::Builder<TokioExecutor>,
    router: Router,
    limits: Limits,
    stop: &CancellationToken,
) {
    let spoke = stop.run_until_cancelled(timeout(limits.head_timeout, protocol_is_known(&stream))).await;
    if !matches!(spoke, Some(Ok(Ok(())))) {
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
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

/// Waits until what came decides between HTTP/1.1 and HTTP/2. The library waits for that without a limit.
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
        // Readable already, so a further peek returns at once: only a timer can wait for more.
        sleep(Duration::from_millis(20)).await;
    }
}

//! One port for all protocols over the same bank: gRPC, gRPC-Web, HTTP, and the Hub's.
//!
//! `Config` → [`Config::build`] → [`App`] → [`App::serve`]. The socket is bound first, so that a taken port fails
//! before genes are read. Requests are answered once every gene is loaded.

mod auth;
mod body;
mod budget;
mod deadline;
mod details;
mod digests;
mod download;
mod file;
mod frame;
mod grpc;
mod http;
mod hub;
mod listen;
mod models;
mod range;
mod request;
mod routes;
mod state;
mod status;
mod tls;
mod web;

pub use auth::Access;
pub use listen::Limits;
pub use tls::Tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    bank::{self, Bank},
    error::{Error, Result},
};

use self::{auth::Origins, digests::Digests, state::State};

/// What a server needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// How long open downloads may take after a shutdown began.
    pub grace: Duration,
    /// Limits on what one client can take.
    pub limits: Limits,
    /// Genes, caches and work at the same time.
    pub bank: bank::Config,
    /// Private genes and the tokens that open them.
    pub access: Access,
    /// Certificate and key; without them there is no TLS.
    pub tls: Option<Tls>,
}

impl Config {
    /// Binds the socket and loads the genes.
    ///
    /// # Errors
    /// [`Error::Io`] where the address is taken; those of [`Bank::open`] and [`Bank::guarded`]; [`Error::Invalid`] for a
    /// certificate or key that cannot be used.
    pub async fn build(self) -> Result<App> {
        let address = self.listen.to_string();
        let listener = TcpListener::bind(self.listen).await.map_err(Error::io(&address))?;
        let local = listener.local_addr().map_err(Error::io(&address))?;
        let Access { policy, origins } = self.access;
        let bank = tokio::task::spawn_blocking(move || Bank::open(self.bank)?.guarded(policy))
            .await
            .map_err(|_| Error::Cancelled)??;
        let tls = self.tls.as_ref().map(Tls::open).transpose()?;
        let (bank, origins) = (Arc::new(bank), Arc::new(origins));
        Ok(App { listener, local, tls, bank, origins, grace: self.grace, limits: self.limits })
    }
}

/// A server that is bound and loaded.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    local: SocketAddr,
    tls: Option<Arc<tokio_rustls::rustls::ServerConfig>>,
    bank: Arc<Bank>,
    origins: Arc<Origins>,
    grace: Duration,
    limits: Limits,
}

impl App {
    /// The address that it listens on.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What a client is told to connect to.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.local)
    }

    /// Answers until `stop` is cancelled, then drains: readiness goes off, no connection is accepted, and open calls
    /// have the grace period to end.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the reflection service refuses the compiled protocol.
    pub async fn serve(self, stop: CancellationToken) -> Result<()> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<grpc::Service>().await;
        let state = State { bank: self.bank, digests: Digests::new(), stop: stop.clone() };
        let router = routes::all(state, self.origins, health_service)?;
        let draining = async {
            stop.cancelled().await;
            health.set_not_serving::<grpc::Service>().await;
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        };
        let accepting = listen::serve(self.listener, self.tls, router, self.limits, self.grace, &stop);
        tokio::join!(draining, accepting);
        Ok(())
    }
}

/// Cancels `stop` on SIGTERM or ctrl-c.
pub async fn signals(stop: CancellationToken) {
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "no handler for ctrl-c");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::error!(%error, "no handler for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
    tracing::info!("shutting down");
    stop.cancel();
}

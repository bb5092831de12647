//! One port for all protocols over the same bank: gRPC, gRPC-Web, HTTP, and the Hub's.
//!
//! `Config` → [`Config::build`] → [`App`] → [`App::serve`]. The socket is bound first, so that a taken port fails
//! before genes are read. Requests are answered once every gene is loaded.

mod activity;
mod auth;
mod bodies;
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
mod limits;
mod listen;
mod models;
mod open_calls;
mod process;
mod range;
mod request;
mod routes;
mod shares;
mod state;
mod status;
mod tls;
mod web;

pub use auth::Access;
pub use limits::Limits;
pub use process::Signals;
pub use tls::Tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    bank::{self, Bank},
    error::{Error, Result},
};

use self::{auth::Origins, bodies::Bodies, digests::Digests, open_calls::OpenCalls, state::State};

/// What a server needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// How long open downloads may take after a shutdown began.
    pub grace: Duration,
    /// What its clients can take from it.
    pub limits: Limits,
    /// Genes, caches and work at the same time.
    pub bank: bank::Config,
    /// Private genes and the tokens that open them.
    pub access: Access,
    /// Certificate and key; without them there is no TLS.
    pub tls: Option<Tls>,
}

impl Config {
    /// Binds the socket and opens the folder of genes.
    ///
    /// # Errors
    /// [`Error::Io`] where the address is taken; those of [`Bank::open`] and [`Bank::guarded`]; [`Error::Invalid`] for a
    /// certificate or key that cannot be used.
    pub async fn build(self) -> Result<App> {
        process::allow_files(&self.limits);
        let address = self.listen.to_string();
        let listener = listen(self.listen).map_err(Error::io(&address))?;
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

/// Connections that wait to be accepted. One more is not answered, and its client tries again after a second.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A port that was in use a minute ago is free, as `TcpListener::bind` has it.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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
    /// have the grace period to end. Dropping this cuts them off.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the reflection service refuses the compiled protocol.
    pub async fn serve(self, stop: CancellationToken) -> Result<()> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<grpc::Service>().await;
        let bodies = Bodies::new(&self.limits);
        let state = State { bank: self.bank, digests: Digests::new(), bodies, stop: stop.clone() };
        let services = routes::Services { health: health_service, open_calls: OpenCalls::new(&self.limits) };
        let routers = routes::all(state, self.origins, services)?;
        let draining = async {
            stop.cancelled().await;
            health.set_not_serving::<grpc::Service>().await;
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        };
        let accepting = listen::serve(self.listener, self.tls, routers, self.limits, self.grace, &stop);
        tokio::join!(draining, accepting);
        Ok(())
    }
}

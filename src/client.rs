//! A client that writes a model completely or not at all, and resumes where it was interrupted. It uses gRPC, and for
//! long files several HTTP connections.

mod address;
mod arriving;
mod budget;
mod download;
mod expected;
mod http;
mod partial;
mod query;
mod ranges;
mod retry;
mod transport;
mod verify;

use std::time::Duration;

use serde::Serialize;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

pub use expected::Expected;
pub use transport::{Ranges, Transport};

use http::Connection;
use retry::Interrupted;
use verify::Found;

use crate::{
    bank::{GeneSummary, ModelSummary, Progress},
    error::{Error, Kind, Result},
    proto::{self, gene_bank_client::GeneBankClient},
    wire,
};

/// Largest message that the client accepts, in bytes. Chunks have at most 3 MiB.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Largest frame that the server may send, in bytes. The default of 16 KiB halves the throughput.
const FRAME_BYTES: u32 = 1 << 20;

/// A connection to a server.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    service: GeneBankClient<Channel>,
    retries: u32,
    transport: Transport,
    ranges: Ranges,
    /// Value of the `authorization` header of every call.
    token: Option<MetadataValue<Ascii>>,
}

/// How often a client retries by default.
pub const RETRIES: u32 = 5;

/// What happens while a model arrives.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// What the model is. After tuning a second header has the size of the tuned file.
    Header(ModelSummary),
    /// Tuning has made progress.
    Progress(Progress),
    /// The call will be retried.
    Retry {
        /// Why it failed.
        reason: String,
        /// Time until the next try.
        pause: Duration,
    },
    /// An earlier run received this much of the file.
    Resumed {
        /// Bytes so far.
        bytes: u64,
        /// Bytes of the file.
        of: u64,
    },
    /// This many bytes of the file have arrived.
    Received {
        /// Bytes so far.
        bytes: u64,
        /// Bytes of the file.
        of: u64,
    },
}

/// A model that was written to a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// What it is.
    #[serde(flatten)]
    pub model: ModelSummary,
    /// SHA-256 of the file's header and its tensors' digests, in hex. Empty if the server did not announce it.
    pub manifest: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
}

impl Summary {
    fn new(model: ModelSummary, found: Found) -> Self {
        let Found { manifest, sha256 } = found;
        Self { model, manifest, sha256 }
    }
}

impl Client {
    /// Connects to the server at `url`, for example `http://127.0.0.1:8080`. For `https` the certificate is checked
    /// against the root certificates of the system, or those in the file that `SSL_CERT_FILE` names.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `url` is not a URL, [`Error::Remote`] if nobody answers.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_by(url, Transport::Auto).await
    }

    /// Like [`Client::connect`], with models transferred by `transport`. With [`Transport::Http`] they need no gRPC
    /// call.
    ///
    /// # Errors
    /// Those of [`Client::connect`].
    pub async fn connect_by(url: &str, transport: Transport) -> Result<Self> {
        let endpoint = Endpoint::from(address::parse(url)?)
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let secure = endpoint.uri().scheme_str() == Some("https");
        let roots = || ClientTlsConfig::new().with_native_roots();
        let endpoint = if secure { endpoint.tls_config(roots()) } else { Ok(endpoint) };
        let endpoint = endpoint.map_err(|error| Error::invalid("server", format!("TLS: {error}")))?;
        let channel = match transport {
            Transport::Auto | Transport::Grpc => endpoint.connect().await.map_err(|error| {
                let message = address::failure(secure, &error);
                Error::Remote { server: url.to_owned(), kind: Kind::Internal, message }
            })?,
            Transport::Http => endpoint.connect_lazy(),
        };
        let service = GeneBankClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (url, ranges) = (url.to_owned(), Ranges::default());
        let client = Self { url, service, retries: RETRIES, transport, ranges, token: None };
        if transport == Transport::Http {
            Connection::open(&client.http()?).await.map_err(Interrupted::into_error)?;
        }
        Ok(client)
    }

    /// Sends a token that gives access to private genes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the token has characters that a header cannot hold.
    pub fn with_token(self, token: &str) -> Result<Self> {
        let mut value = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Error::invalid("token", "it has characters that no header can hold"))?;
        value.set_sensitive(true);
        Ok(Self { token: Some(value), ..self })
    }

    /// `message` with the headers of every call.
    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    /// Retries at most `retries` times in a row without receiving a byte, if a connection is lost or the server is
    /// overloaded.
    #[must_use]
    pub fn with_retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// Sets which files are long, and how they are downloaded.
    #[must_use]
    pub fn with_ranges(self, ranges: Ranges) -> Self {
        Self { ranges, ..self }
    }

    /// The genes of the server in the order of their names.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn genes(&self) -> Result<Vec<GeneSummary>> {
        let answer = self.service.clone().list_genes(self.request(proto::ListGenesRequest {})).await;
        let proto::ListGenesResponse { genes } = answer.map_err(|status| self.remote(&status))?.into_inner();
        Ok(genes.into_iter().map(wire::gene::from_proto).collect())
    }

    /// The server broke the protocol.
    fn broken(&self, message: String) -> Error {
        Error::Remote { server: self.url.clone(), kind: Kind::DataLoss, message }
    }

    fn remote(&self, status: &Status) -> Error {
        let word = status.metadata().get("error-kind").and_then(|word| word.to_str().ok());
        let kind = word.and_then(Kind::from_word);
        Error::Remote {
            server: self.url.clone(),
            kind: kind.unwrap_or_else(|| Kind::from_grpc(status.code() as i32)),
            message: if status.message().is_empty() {
                status.code().to_string()
            } else {
                status.message().to_owned()
            },
        }
    }
}

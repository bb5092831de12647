//! The ways to a model, with one interface for the suite in [`crate::conformance`].

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, Response, Version, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use genebank::{
    bank::{Bank, Delivery, ModelRequest},
    client::Client,
    digest::{hex, sha256},
    error::{Error, Kind},
    gene::{Head, SizeRequest, Target},
    proto::{self, gene_bank_client::GeneBankClient, init_model_response::Event},
    server::{Access, Limits},
};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_web::GrpcWebClientLayer;
use tower::{Layer as _, ServiceExt as _, service_fn, util::BoxCloneService};

use crate::{
    support::{self, GENE, Server, bank_config, gene_bytes, models},
    tls::Secure,
    web,
    wire::{self, Reply, first_bytes},
};

/// A way to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The bank in this process.
    Embedded,
    /// This crate's client.
    Client,
    /// gRPC with the server's own framing.
    Grpc,
    /// gRPC with the generated service.
    GeneratedGrpc,
    /// gRPC-Web over HTTP/1.1.
    Web,
    /// gRPC-Web over HTTP/2.
    WebHttp2,
    /// gRPC-Web in base64 over HTTP/1.1.
    WebText,
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// The Hub protocol.
    Hub,
    /// HTTP/2 over TLS, chosen by ALPN.
    Tls,
}

pub(crate) const ALL: [Transport; 11] = [
    Transport::Embedded,
    Transport::Client,
    Transport::Grpc,
    Transport::GeneratedGrpc,
    Transport::Web,
    Transport::WebHttp2,
    Transport::WebText,
    Transport::Http1,
    Transport::Http2,
    Transport::Hub,
    Transport::Tls,
];

/// A request in untyped form, so that it can hold any wrong value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) gene: &'static str,
    pub(crate) depth: u64,
    pub(crate) width: u64,
    pub(crate) dtype: &'static str,
    pub(crate) untrained: bool,
    pub(crate) layout: &'static str,
    pub(crate) labels: Option<&'static [&'static str]>,
    pub(crate) image_size: Option<u64>,
}

pub(crate) const GOOD: Asked = Asked {
    gene: GENE,
    depth: 5,
    width: 24,
    dtype: "f32",
    untrained: false,
    layout: "timm",
    labels: None,
    image_size: None,
};

impl Asked {
    pub(crate) fn request(self) -> Result<ModelRequest, Error> {
        let size = SizeRequest {
            depth: Some(self.depth),
            width: Some(self.width),
            dtype: self.dtype.parse()?,
            allow_untrained_width: self.untrained,
            ..SizeRequest::default()
        };
        let labels = self.labels.map(|labels| labels.iter().map(ToString::to_string).collect());
        let head = labels.map(|labels| Head { labels, seed: 0 });
        let target = Target { image_size: self.image_size, head, ..Target::default() };
        let (gene, layout) = (self.gene.to_owned(), self.layout.parse()?);
        Ok(ModelRequest { gene, size, target, layout, ..ModelRequest::default() })
    }

    /// The request as a message. Numbers that the message cannot hold become `u32::MAX`.
    pub(crate) fn message(self) -> proto::InitModelRequest {
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let labels = self.labels.map(|labels| labels.iter().map(ToString::to_string).collect());
        proto::InitModelRequest {
            gene: self.gene.to_owned(),
            depth: Some(number(self.depth)),
            width: Some(number(self.width)),
            dtype: match self.dtype {
                "f32" => proto::Dtype::F32 as i32,
                "f16" => proto::Dtype::F16 as i32,
                "bf16" => proto::Dtype::Bf16 as i32,
                _ => 64,
            },
            allow_untrained_width: self.untrained,
            layout: match self.layout {
                "timm" => proto::Layout::Timm as i32,
                "transformers" => proto::Layout::Transformers as i32,
                _ => 64,
            },
            max_chunk_bytes: 64 << 10,
            head: labels.map(|labels| proto::Head { labels, seed: 0 }),
            image_size: self.image_size.map(number),
            ..Default::default()
        }
    }

    fn file(self) -> String {
        let Self { gene, depth, width, dtype, untrained, layout, labels, image_size } = self;
        let mut path = format!(
            "/v1/models/{gene}/d{depth}-w{width}.safetensors?dtype={dtype}&allow_untrained_width={untrained}&layout={layout}"
        );
        if let Some(labels) = labels {
            let json = serde_json::to_string(labels).unwrap();
            path +=
                &format!("&labels={}", json.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>());
        }
        path + &image_size.map_or_else(String::new, |size| format!("&image_size={size}"))
    }

    fn repository(self) -> String {
        let Self { gene, depth, width, dtype, layout, .. } = self;
        let mut ending = if layout == "transformers" { "-hf".to_owned() } else { String::new() };
        if dtype != "f32" {
            ending += &format!("-{dtype}");
        }
        format!("genebank/{gene}-d{depth}-w{width}{ending}")
    }
}

/// The servers of a suite.
pub(crate) struct Places {
    open: Server,
    secure: Secure,
}

impl Places {
    /// Starts servers that allow one render at a time, so that a render that is not released blocks all later ones.
    pub(crate) async fn start(access: Access) -> Self {
        let folder = models(&gene_bytes());
        let bank = genebank::bank::Config { renders: 1, ..bank_config(folder.path()) };
        let open = Server::guarded(Limits::default(), folder, bank, access.clone()).await;
        Self { open, secure: Secure::guarded(access).await }
    }

    /// The embedded model, which every way must give.
    pub(crate) async fn embedded(&self, asked: Asked) -> Result<Got, Error> {
        embedded(&self.open.models(), asked).await
    }
}

/// The embedded model, from the genes in a folder.
pub(crate) async fn embedded(folder: &Path, asked: Asked) -> Result<Got, Error> {
    let bank = Arc::new(Bank::open(bank_config(folder))?);
    let plan = support::plan(&bank, &asked.request()?)?;
    let Delivery::Ready(artifact) = bank.deliver(&plan).await? else { panic!("nothing to tune") };
    assert_eq!(plan.size_bytes(), artifact.size_bytes());
    Ok(Got { bytes: artifact.parts().flatten().copied().collect(), sha256: artifact.sha256().to_string() })
}

/// A file and its announced SHA-256.
#[derive(PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sha256: String,
}

impl Got {
    pub(crate) fn checked(self) -> Self {
        assert_eq!(hex(&sha256(&self.bytes)), self.sha256, "the announced digest");
        self
    }
}

/// A caller that uses one transport to the servers of a suite.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) transport: Transport,
    pub(crate) places: Arc<Places>,
    pub(crate) token: Option<&'static str>,
}

type Stub = GeneBankClient<BoxCloneService<Request<tonic::body::Body>, Response<tonic::body::Body>, Status>>;

impl Way {
    /// Whether this way can express `asked`.
    pub(crate) fn can_say(&self, asked: Asked) -> bool {
        let known = ["timm", "transformers"].contains(&asked.layout);
        let plain = asked.labels.is_none() && asked.image_size.is_none() && !asked.untrained && known;
        self.transport != Transport::Hub || plain
    }

    /// Whether a caller of this way chooses the first byte. This crate's client chooses it on its own.
    pub(crate) fn has_offsets(&self) -> bool {
        !matches!(self.transport, Transport::Embedded | Transport::Client)
    }

    /// Whether this way requires tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        self.transport != Transport::Embedded
    }

    /// The kind with which this way reports a failure of `kind`. The Hub reports a missing repository.
    pub(crate) fn kind(&self, kind: Kind) -> Kind {
        let unnamed = self.transport == Transport::Hub && matches!(kind, Kind::Invalid | Kind::NotFound);
        if unnamed { Kind::NoRepository } else { kind }
    }

    /// Requests a whole model.
    pub(crate) async fn ask(&self, asked: Asked) -> Result<Got, Kind> {
        match self.transport {
            Transport::Embedded => self.places.embedded(asked).await.map_err(|error| error.kind()),
            Transport::Client => self.write(asked).await.map_err(|error| error.kind()),
            Transport::Http1 | Transport::Http2 | Transport::Tls => {
                let whole = self.get(&asked.file(), &[]).await?;
                let digest = self.get(&format!("{}&digest", asked.file()), &[]).await?.json();
                Ok(Got { bytes: whole.body, sha256: digest["sha256"].as_str().unwrap().to_owned() })
            }
            Transport::Hub => {
                let repository = asked.repository();
                let whole = self.get(&format!("/{repository}/resolve/main/model.safetensors"), &[]).await?;
                let tree = self.get(&format!("/api/models/{repository}/tree/main"), &[]).await?.json();
                let files = tree.as_array().unwrap();
                let weights = files.iter().find(|file| file["path"] == "model.safetensors").unwrap();
                let sha256 = weights["lfs"]["oid"].as_str().unwrap().to_owned();
                Ok(Got { bytes: whole.body, sha256 })
            }
            Transport::Grpc
            | Transport::GeneratedGrpc
            | Transport::Web
            | Transport::WebHttp2
            | Transport::WebText => {
                let request = self.call(asked.message());
                let answer = self.stub().init_model(request).await.map_err(|status| kind_of(&status))?;
                collect(answer.into_inner(), 0).await.map_err(|status| kind_of(&status))
            }
        }
    }

    /// Requests the bytes from `offset` on.
    pub(crate) async fn rest(&self, asked: Asked, offset: u64) -> Result<Vec<u8>, Kind> {
        let range = format!("bytes={offset}-");
        match self.transport {
            Transport::Embedded | Transport::Client => unreachable!("asks for whole models only"),
            Transport::Http1 | Transport::Http2 | Transport::Tls => {
                let etag = self.get(&asked.file(), &[("range", "bytes=0-0")]).await?;
                let etag = etag.header("etag").unwrap();
                Ok(self.get(&asked.file(), &[("range", &range), ("if-range", etag)]).await?.body)
            }
            Transport::Hub => {
                let path = format!("/{}/resolve/main/model.safetensors", asked.repository());
                Ok(self.get(&path, &[("range", &range)]).await?.body)
            }
            Transport::Grpc
            | Transport::GeneratedGrpc
            | Transport::Web
            | Transport::WebHttp2
            | Transport::WebText => {
                let (mut stub, model) = (self.stub(), asked.message());
                let first = stub.init_model(self.call(model.clone())).await;
                let first = first.map_err(|status| kind_of(&status))?.into_inner().message().await;
                let Some(Event::Header(header)) = first.unwrap().unwrap().event else {
                    panic!("a header comes first")
                };
                let rest =
                    proto::DownloadModelRequest { model: Some(model), identity: header.identity, offset };
                let answer = self.stub().download_model(self.call(rest)).await;
                let stream = answer.map_err(|status| kind_of(&status))?.into_inner();
                collect(stream, offset).await.map(|got| got.bytes).map_err(|status| kind_of(&status))
            }
        }
    }

    /// Begins to read a model, and then leaves.
    pub(crate) async fn leave(&self, asked: Asked) {
        match self.transport {
            Transport::Embedded => {
                let bank = Arc::new(Bank::open(bank_config(&self.places.open.models())).unwrap());
                let plan = support::plan(&bank, &asked.request().unwrap()).unwrap();
                let _ = tokio::time::timeout(Duration::ZERO, bank.deliver(&plan)).await;
                bank.deliver(&plan).await.unwrap();
            }
            Transport::Client => {
                let (began, begins) = tokio::sync::oneshot::channel();
                let (client, folder) = (self.client().await, tempfile::tempdir().unwrap());
                let mut began = Some(began);
                let path = folder.path().join("m");
                let request = asked.request().unwrap();
                let reading = client.init_model(&request, &path, move |_| {
                    began.take().map(|began| began.send(()));
                });
                tokio::select! {
                    _ = reading => {}
                    _ = begins => {}
                }
                // The file must be complete or absent.
                if path.exists() {
                    let whole = self.places.embedded(asked).await.unwrap().bytes;
                    assert!(std::fs::read(&path).unwrap() == whole);
                }
            }
            Transport::Http1 | Transport::Http2 | Transport::Tls => {
                first_bytes(&mut self.send(&asked.file(), &[]).await).await;
            }
            Transport::Hub => {
                let path = format!("/{}/resolve/main/model.safetensors", asked.repository());
                first_bytes(&mut self.send(&path, &[]).await).await;
            }
            Transport::Grpc
            | Transport::GeneratedGrpc
            | Transport::Web
            | Transport::WebHttp2
            | Transport::WebText => {
                let answer = self.stub().init_model(self.call(asked.message())).await.unwrap();
                let mut stream = answer.into_inner();
                for _ in 0..2 {
                    stream.message().await.unwrap().unwrap();
                }
            }
        }
    }

    /// Names of the genes that this caller can see.
    pub(crate) async fn genes(&self) -> Result<Vec<String>, Kind> {
        let names = |list: &serde_json::Value, key: &str, start: &str| -> Vec<String> {
            let text =
                |one: &serde_json::Value| one[key].as_str().unwrap().strip_prefix(start).unwrap().to_owned();
            list.as_array().unwrap().iter().map(text).collect()
        };
        match self.transport {
            Transport::Embedded => {
                let bank = Bank::open(bank_config(&self.places.open.models())).unwrap();
                let genes = bank.genes(bank.owner()).await.map_err(|error| error.kind())?;
                Ok(genes.into_iter().map(|gene| gene.name).collect())
            }
            Transport::Client => {
                let genes = self.client().await.genes().await.map_err(|error| error.kind())?;
                Ok(genes.into_iter().map(|gene| gene.name).collect())
            }
            Transport::Http1 | Transport::Http2 | Transport::Tls => {
                Ok(names(&self.get("/v1/genes", &[]).await?.json(), "name", ""))
            }
            Transport::Hub => {
                let models = names(&self.get("/api/models", &[]).await?.json(), "id", "genebank/");
                // The test gene was measured at only one size.
                Ok(models.iter().map(|model| model.strip_suffix("-d3-w24").unwrap().to_owned()).collect())
            }
            Transport::Grpc
            | Transport::GeneratedGrpc
            | Transport::Web
            | Transport::WebHttp2
            | Transport::WebText => {
                let answer = self.stub().list_genes(self.call(proto::ListGenesRequest {})).await;
                let genes = answer.map_err(|status| kind_of(&status))?.into_inner().genes;
                Ok(genes.into_iter().map(|gene| gene.name).collect())
            }
        }
    }

    async fn client(&self) -> Client {
        let client = Client::connect(&self.places.open.url()).await.unwrap().with_retries(0);
        if let Some(token) = self.token { client.with_token(token).unwrap() } else { client }
    }

    async fn write(&self, asked: Asked) -> Result<Got, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let summary = self.client().await.init_model(&asked.request()?, &path, |_| {}).await;
        if summary.is_err() {
            assert!(crate::support::entries(folder.path()).is_empty());
        }
        Ok(Got { sha256: summary?.sha256, bytes: std::fs::read(&path).unwrap() })
    }

    /// A request with the metadata that every call of this way carries.
    fn call<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        if self.transport == Transport::GeneratedGrpc {
            request.metadata_mut().insert("genebank-frames", "generated".parse().unwrap());
        }
        if let Some(token) = self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    /// The generated client over this transport.
    fn stub(&self) -> Stub {
        let (transport, address) = (self.transport, self.places.open.address);
        let url = self.places.open.url();
        if matches!(transport, Transport::Grpc | Transport::GeneratedGrpc) {
            let channel = Endpoint::new(url).unwrap().connect_lazy();
            return GeneBankClient::new(channel.map_err(lost).boxed_clone());
        }
        let service =
            service_fn(move |request: Request<tonic_web::GrpcWebCall<tonic::body::Body>>| async move {
                let stream = TcpStream::connect(address).await.map_err(lost)?;
                let mut request = request.map(Body::new);
                if transport == Transport::WebText {
                    request = as_text(request).await;
                }
                let http2 = transport == Transport::WebHttp2;
                *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
                let response = wire::send(stream, request).await.map_err(lost)?;
                let response =
                    if transport == Transport::WebText { of_text(response) } else { response.map(Body::new) };
                Ok::<_, Status>(response)
            });
        let service = GrpcWebClientLayer::new().layer(service);
        let service = service.map_response(|response| response.map(tonic::body::Body::new));
        GeneBankClient::with_origin(service.boxed_clone(), url.parse().unwrap())
    }

    /// Sends a GET over HTTP.
    async fn send(&self, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        let places = &self.places;
        let url =
            if self.transport == Transport::Tls { places.secure.url.clone() } else { places.open.url() };
        let http2 = matches!(self.transport, Transport::Http2 | Transport::Tls);
        let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let mut request =
            wire::request(version, Method::GET, &format!("{url}{path}"), headers, Body::empty());
        if let Some(token) = self.token {
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        if self.transport == Transport::Tls {
            return wire::send(places.secure.connect(&["h2"]).await.unwrap(), request).await.unwrap();
        }
        wire::send(TcpStream::connect(places.open.address).await.unwrap(), request).await.unwrap()
    }

    /// The response to a GET, or the kind of failure that it reports.
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reply, Kind> {
        let reply = Reply::read(self.send(path, headers).await).await;
        if matches!(reply.status, 200 | 206) {
            assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
            return Ok(reply);
        }
        if self.transport == Transport::Hub {
            let (status, code) = (reply.status, reply.header("x-error-code"));
            assert!(reply.header("x-error-message").is_some(), "{status}");
            let told = |kind: &Kind| (kind.codes().http, kind.codes().hub) == (status, code);
            // The Hub has no error code for a bad range.
            let range = (status == 416).then_some(Kind::Invalid);
            return Err(range.or_else(|| Kind::ALL.into_iter().find(told)).expect("the table has it"));
        }
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        let word = reply.json()["kind"].as_str().unwrap().to_owned();
        let kind = Kind::ALL.into_iter().find(|kind| kind.codes().word == word).unwrap();
        assert_eq!(reply.json()["status"], reply.status);
        assert!(reply.status == kind.codes().http || reply.status == 416, "{}", reply.status);
        Err(kind)
    }
}

/// Collects the chunks from `offset` on, and the digest at the end.
async fn collect(mut stream: Streaming<proto::InitModelResponse>, offset: u64) -> Result<Got, Status> {
    let (mut bytes, mut digest, mut size) = (Vec::new(), None, 0);
    while let Some(message) = stream.message().await? {
        match message.event.unwrap() {
            Event::Header(header) => size = header.size_bytes,
            Event::Chunk(chunk) => {
                assert_eq!(chunk.offset, offset + bytes.len() as u64);
                bytes.extend_from_slice(&chunk.data);
            }
            Event::Completed(completed) => {
                assert_eq!(completed.size_bytes, size);
                digest = Some(completed.sha256);
            }
            Event::Progress(_) => panic!("nothing is tuned"),
        }
    }
    assert_eq!(offset + bytes.len() as u64, size);
    Ok(Got { bytes, sha256: digest.expect("the digest ends the stream") })
}

/// The SHA-256 of the model from a call, which must match the announced one.
pub(crate) async fn sha256_of(channel: Channel, message: proto::InitModelRequest) -> String {
    let answer = GeneBankClient::new(channel).init_model(message).await.unwrap();
    collect(answer.into_inner(), 0).await.unwrap().checked().sha256
}

fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Status {
    Status::from_error(Box::new(error))
}

fn kind_of(status: &Status) -> Kind {
    let word = status.metadata().get("error-kind").unwrap_or_else(|| panic!("no kind: {status:?}"));
    let kind = Kind::ALL.into_iter().find(|kind| word == kind.codes().word).unwrap();
    assert_eq!(status.code() as i32, kind.codes().grpc);
    kind
}

/// Encodes a gRPC-Web call in base64.
async fn as_text(request: Request<Body>) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        parts.headers.insert(name, "application/grpc-web-text".parse().unwrap());
    }
    Request::from_parts(parts, STANDARD.encode(bytes).into())
}

/// Decodes the response to such a call from base64.
fn of_text(response: Response<Incoming>) -> Response<Body> {
    use tokio_stream::StreamExt as _;
    let (parts, body) = response.into_parts();
    let mut kept = Vec::new();
    let decoded = Body::new(body).into_data_stream().map(move |piece| {
        piece.map(|piece| {
            kept.extend_from_slice(&piece);
            let rest = kept.split_off(kept.len() / 4 * 4);
            web::decoded(&std::mem::replace(&mut kept, rest))
        })
    });
    Response::from_parts(parts, Body::from_stream(decoded))
}

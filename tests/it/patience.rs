//! Clients that take their time: every wait for a client has an end, and everything that one can hold a limit.

use std::{net::SocketAddr, time::Duration};

use genebank::{
    gene::{GeneMeta, store},
    nn::vit::{RawVitConfig, VitConfig},
    proto::{self, gene_bank_client::GeneBankClient},
    server::{Access, Config, Limits},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::support::{GENE, Server, bank_config, gene_bytes, meta, models, weights};

/// No test waits for it unless something hangs.
const LONG: Duration = Duration::from_mins(1);
const PATHS: &str = "/api/models/genebank/tiny-d3-w24/paths-info/main";
/// What an HTTP/2 client says first, with empty settings.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection from `from`, on which `text` was sent.
async fn saying(server: SocketAddr, from: &str, text: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    stream.write_all(text).await.unwrap();
    stream
}

/// Everything up to the end of the connection, which has to come.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends a connection too.
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the connection is kept");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An upload of `announced` bytes. The last one is never sent.
fn unfinished(announced: usize) -> Vec<u8> {
    let head = format!("POST {PATHS} HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n\r\n");
    [head.as_bytes(), &vec![b'a'; announced - 1]].concat()
}

/// Asks until the answer has this status.
async fn until(status: u16, server: &Server, path: &str) {
    let asked = async {
        while server.get(path).await.status != status {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, asked).await.unwrap_or_else(|_| panic!("{path} never has status {status}"));
}

async fn channel(server: &Server) -> Channel {
    tonic::transport::Endpoint::new(server.url()).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let server = Server::with(Limits { body_timeout: Duration::from_millis(200), ..Limits::default() }).await;
    let mut stream = saying(server.address, "127.0.0.1", &unfinished(100)).await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 408"));
    // One that is too long is not waited for.
    let head = format!("POST {PATHS} HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n");
    let mut stream = saying(server.address, "127.0.0.1", head.as_bytes()).await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 413"));
    // The same over HTTP/2: the head of a call, and no message.
    let uri = format!("{}/genebank.v1.GeneBank/GetGene", server.url());
    let request = hyper::Request::post(uri).header("content-type", "application/grpc");
    let body = axum::body::Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let answer = timeout(LONG, sender.send_request(request.body(body).unwrap())).await.unwrap().unwrap();
    assert_eq!(answer.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
}

#[tokio::test]
async fn all_bodies_together_have_a_budget() {
    let limits = Limits { body_bytes: 3000, body_bytes_of_one: 2000, ..Limits::default() };
    let server = Server::with(limits).await;
    let mut client = GeneBankClient::connect(server.url()).await.unwrap();
    let get = |length| proto::GetGeneRequest { gene: "x".repeat(length) };
    let mut first = saying(server.address, "127.0.0.1", &unfinished(1000)).await;
    // The upload is counted when the server has read it.
    let refused = async {
        loop {
            let status = client.get_gene(get(1200)).await.unwrap_err();
            if status.code() == Code::ResourceExhausted {
                return status;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let refused = timeout(LONG, refused).await.unwrap();
    assert!(refused.message().contains("limit of 2000"), "{refused}");
    assert!(refused.metadata().contains_key("retry-after"));
    // What has no body goes on, and the budget comes back with the end of the upload.
    assert_eq!(server.get("/v1/genes").await.status, 200);
    first.write_all(b"a").await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(client.get_gene(get(1200)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn health_answers_when_every_connection_is_taken() {
    let limits = Limits { connections: 2, spare_connections: 3, ..Limits::default() };
    let server = Server::with(limits).await;
    let mut held = Vec::new();
    // More than there are, and more than may wait beyond.
    for _ in 0..12 {
        held.push(saying(server.address, "127.0.0.1", b"GET /healthz HTTP/1.1\r\n").await);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let check = HealthCheckRequest { service: "genebank.v1.GeneBank".to_owned() };
    let answer = HealthClient::new(channel(&server).await).check(check).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    // Others are refused, and told when to come again.
    let refused = server.get("/v1/genes").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("limit of 2 concurrent connections"));
    let mut client = GeneBankClient::new(channel(&server).await);
    let refused = client.list_genes(proto::ListGenesRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(held);
    until(200, &server, "/v1/genes").await;
}

#[tokio::test]
async fn one_address_cannot_have_every_connection() {
    let server = Server::with(Limits { connections: 4, connections_of_one: 2, ..Limits::default() }).await;
    let _held =
        [saying(server.address, "127.0.0.2", b"").await, saying(server.address, "127.0.0.2", b"").await];
    let genes = b"GET /v1/genes HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut third = saying(server.address, "127.0.0.2", genes).await;
    let refused = rest(&mut third).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("limit of 2"), "{refused}");
    assert_eq!(server.get("/v1/genes").await.status, 200);
}

/// A server of a gene whose deepest models are longer than what the system buffers for a connection.
async fn wide(limits: Limits) -> Server {
    let raw = RawVitConfig { width: 96, heads: 12, ..(*meta().config.vit().unwrap()).into() };
    let meta = GeneMeta {
        config: VitConfig::try_from(raw).unwrap().into(),
        trained_widths: vec![96],
        quality: Vec::new(),
        ..meta()
    };
    let models = models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1);
    let bank = bank_config(models.path());
    Server::on(limits, models, bank).await
}

/// A request for the deepest model, by a client with a small buffer.
async fn download(server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let request = format!("GET /v1/models/{GENE}/d64-w96.safetensors HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stopped_reading_is_cut() {
    let limits = Limits { connections: 1, read_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = wide(limits).await;
    let mut stream = download(&server).await;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    assert_eq!(server.get("/v1/genes").await.status, 429);
    // The one connection is free again.
    until(200, &server, "/v1/genes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_gets_everything() {
    let limits = Limits { read_timeout: Duration::from_secs(2), ..Limits::default() };
    let server = wide(limits).await;
    let head = server.http("HEAD", &format!("/v1/models/{GENE}/d64-w96.safetensors"), "").await;
    let length: usize = head.header("content-length").unwrap().parse().unwrap();
    let mut stream = download(&server).await;
    let (start, mut read, mut piece) = (Instant::now(), 0, vec![0; 256 << 10]);
    while read < length {
        match stream.read(&mut piece).await.unwrap() {
            0 => panic!("cut after {read} of {length} bytes"),
            some => read += some,
        }
        // 6 MB/s: all of it takes several times as long as one piece may.
        sleep_until(start + Duration::from_secs_f64(read as f64 / 6e6)).await;
    }
}

#[tokio::test]
async fn an_http2_connection_without_a_call_is_closed() {
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(2));
    let limits =
        Limits { head_timeout: long, idle_timeout: short, leave_timeout: short, ..Limits::default() };
    let server = Server::with(limits).await;
    let mut client = GeneBankClient::new(channel(&server).await);
    client.list_genes(proto::ListGenesRequest {}).await.unwrap();
    // This one never answers, so it does not leave on its own either.
    let mut silent = saying(server.address, "127.0.0.1", HTTP2).await;
    rest(&mut silent).await;
    // The client's own was closed long before, so that no call crosses the notice of it. The client makes another.
    client.list_genes(proto::ListGenesRequest {}).await.unwrap();
}

#[tokio::test]
async fn connections_without_a_request_do_not_use_up_the_grace_period() {
    let models = models(&gene_bytes());
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        grace: Duration::from_mins(10),
        limits: Limits { leave_timeout: Duration::from_millis(200), ..Limits::default() },
        bank: bank_config(models.path()),
        access: Access::default(),
        tls: None,
    };
    let app = config.build().await.unwrap();
    let (address, stop) = (app.local_addr(), CancellationToken::new());
    let serving = tokio::spawn(app.serve(stop.clone()));
    let mut held = Vec::new();
    for start in [b"".as_slice(), b"PRI * HT", HTTP2, b"GET /healthz HTTP/1.1\r\nhost: x"] {
        held.push(saying(address, "127.0.0.1", start).await);
    }
    // Long enough for the server to have read all of it; if not, the test is only easier.
    sleep(Duration::from_millis(200)).await;
    stop.cancel();
    timeout(LONG, serving).await.expect("they are waited for").unwrap().unwrap();
}

#[tokio::test]
async fn open_calls_have_a_number_and_an_end() {
    let limits =
        Limits { open_calls_of_one: 1, body_timeout: Duration::from_millis(500), ..Limits::default() };
    let server = Server::with(limits).await;
    let mut client = ServerReflectionClient::new(channel(&server).await);
    let list = || ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let endless = || tokio_stream::StreamExt::chain(tokio_stream::once(list()), tokio_stream::pending());
    let mut first = client.server_reflection_info(endless()).await.unwrap().into_inner();
    assert!(first.message().await.unwrap().is_some());
    let refused = client.server_reflection_info(endless()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // It ends as if its client had ended it, and another may begin.
    assert!(timeout(LONG, first.message()).await.unwrap().unwrap().is_none());
    let again = async {
        while client.server_reflection_info(endless()).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, again).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_none_is_an_invalid_argument() {
    /// Field 1 of the requests is a string; here it is a number.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Number {
        #[prost(uint64, tag = "1")]
        one: u64,
    }
    let server = Server::start().await;
    let mut client = tonic::client::Grpc::new(channel(&server).await);
    for method in ["GetGene", "PlanModel", "InitModel", "DownloadModel"] {
        for generated in [false, true] {
            client.ready().await.unwrap();
            let path = format!("/genebank.v1.GeneBank/{method}").parse().unwrap();
            let mut request = tonic::Request::new(Number { one: 5 });
            if generated {
                request.metadata_mut().insert("genebank-frames", "generated".parse().unwrap());
            }
            let codec = tonic_prost::ProstCodec::<Number, proto::InitModelResponse>::default();
            let status = client.server_streaming(request, path, codec).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{method} {generated}: {status}");
            assert_eq!(status.metadata().get("error-kind").unwrap(), "invalid", "{method}");
        }
    }
}

//! Misbehaving clients, and a server that shuts down.

use std::time::Duration;

use genebank::{
    client::Client,
    proto::{self, gene_bank_client::GeneBankClient, init_model_response::Event},
    server::Limits,
    tensor::codec,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::support::Server;

const FILE: &str = "/v1/models/tiny/d5-w24.safetensors";

async fn still_serves(server: &Server) {
    assert_eq!(server.get(FILE).await.status, 200);
    Client::connect(&server.url()).await.unwrap().genes().await.unwrap();
}

#[tokio::test]
async fn random_bytes_leave_the_server_serving() {
    let server = Server::start().await;
    for seed in 0..40 {
        println!("seed {seed}");
        let values = genebank::tensor::Init::TruncNormal { std_e9: 1_000_000_000 }.values(seed, "noise", 500);
        let mut bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        if seed % 2 == 0 {
            bytes.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        // The server may cut the connection before it has read everything.
        let _ = timeout(Duration::from_millis(50), stream.read_to_end(&mut Vec::new())).await;
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn connections_that_say_too_little_are_closed_and_make_room() {
    let limits = Limits { connections: 3, head_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::with(limits).await;
    let mut slow = Vec::new();
    for start in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost: x"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut refused = 0;
    let served = async {
        while server.get(FILE).await.status != 200 {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), served).await.unwrap();
    // The limit is 3, so a fourth connection is served only after one of these was closed.
    assert!(refused > 0, "a fourth connection was served at once");
    let closed = |stream: &TcpStream| match stream.try_read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    assert!(slow.iter().any(closed), "all three connections are open beside the fourth");
    for mut stream in slow {
        // Both an end of stream and a reset mean that the connection is closed.
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await.unwrap();
    }
}

#[tokio::test]
async fn unknown_numbers_are_invalid_arguments() {
    let server = Server::start().await;
    let mut client = GeneBankClient::connect(server.url()).await.unwrap();
    let none = proto::InitModelRequest::default();
    for (request, code, word) in [
        (proto::InitModelRequest { dtype: 99, ..none.clone() }, Code::InvalidArgument, "invalid"),
        (proto::InitModelRequest { depth_rule: -3, ..none.clone() }, Code::InvalidArgument, "invalid"),
        (proto::InitModelRequest { depth: Some(0), ..none.clone() }, Code::InvalidArgument, "invalid"),
        (proto::InitModelRequest { gene: "x".repeat(50_000), ..none.clone() }, Code::NotFound, "not-found"),
        (
            proto::InitModelRequest { fine_tune: Some(proto::FineTune::default()), ..none },
            Code::InvalidArgument,
            "invalid",
        ),
    ] {
        let status = client.init_model(request).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert_eq!(status.metadata().get("error-kind").unwrap(), word);
        assert!(status.message().len() < 8192);
    }
    // The request is larger than the limit, so the server refuses it before reading it.
    let huge = proto::InitModelRequest { gene: "x".repeat(1 << 20), ..Default::default() };
    client.init_model(huge).await.unwrap_err();
    still_serves(&server).await;
}

#[tokio::test]
async fn chunks_are_contiguous_and_end_with_the_digest() {
    let server = Server::start().await;
    let mut client = GeneBankClient::connect(server.url()).await.unwrap();
    let request = proto::InitModelRequest { max_chunk_bytes: 1, ..Default::default() };
    let mut stream = client.init_model(request).await.unwrap().into_inner();
    let Some(Event::Header(header)) = stream.message().await.unwrap().unwrap().event else {
        panic!("no header")
    };
    assert_eq!(header.manifest.len(), 64);
    let (mut bytes, mut digest) = (Vec::new(), None);
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Chunk(chunk) => {
                assert_eq!(chunk.offset, bytes.len() as u64);
                bytes.extend_from_slice(&chunk.data);
            }
            Event::Completed(completed) => digest = Some(completed.sha256),
            Event::Header(_) | Event::Progress(_) => panic!("neither comes among chunks"),
        }
    }
    assert_eq!(bytes.len() as u64, header.size_bytes);
    assert_eq!(digest.unwrap(), genebank::digest::hex(&genebank::digest::sha256(&bytes)));
}

#[tokio::test]
async fn a_cancelled_stream_harms_nobody() {
    let server = Server::start().await;
    for _ in 0..20 {
        let mut client = GeneBankClient::connect(server.url()).await.unwrap();
        let mut stream = client.init_model(proto::InitModelRequest::default()).await.unwrap().into_inner();
        stream.message().await.unwrap();
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let server = Server::start().await;
    let channel = tonic::transport::Endpoint::new(server.url()).unwrap().connect().await.unwrap();
    for service in ["", "genebank.v1.GeneBank"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let text = format!("{:?}", answers.message().await.unwrap());
    assert!(text.contains("genebank.v1.GeneBank"), "{text}");
}

#[tokio::test]
async fn draining_turns_readiness_off_and_ends() {
    const READY: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
    let server = Server::start().await;
    let [mut idle, mut starting] = [
        TcpStream::connect(server.address).await.unwrap(),
        TcpStream::connect(server.address).await.unwrap(),
    ];
    // One connection is idle after an answer, and the other has sent half of its first request.
    starting.write_all(&READY[..READY.len() / 2]).await.unwrap();
    idle.write_all(READY).await.unwrap();
    let mut start = [0; 12];
    idle.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    server.stop.cancel();
    timeout(Duration::from_secs(10), idle.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    let refused = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), refused).await.expect("new connections are accepted while draining");

    starting.write_all(&READY[READY.len() / 2..]).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), starting.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("draining\n"), "{answer}");
    timeout(Duration::from_secs(10), server.ended()).await.expect("the server ends with its connections");
}

#[test]
fn every_rule_of_a_genes_record_is_checked() {
    use genebank::gene::{GeneMeta, Probe};
    let good = || crate::support::meta();
    good().check().unwrap();
    let classes = good().config.vit().unwrap().classes();
    let records = [
        (GeneMeta { name: "x-d1-w2".to_owned(), ..good() }, "not a gene name"),
        (GeneMeta { stages: vec![usize::MAX, 4], ..good() }, "stages hold"),
        (GeneMeta { stages: vec![0, 3], ..good() }, "no layer"),
        (GeneMeta { stages: vec![1; 65], ..good() }, "65 stages"),
        (GeneMeta { depth_range: [0, 9], ..good() }, "depth range 0..=9"),
        (GeneMeta { depth_range: [1, usize::MAX], ..good() }, "depth range"),
        (GeneMeta { trained_widths: vec![7, 24], ..good() }, "trained widths"),
        (GeneMeta { labels: vec!["a".to_owned()], ..good() }, "1 labels"),
        (GeneMeta { probe: Probe { seed: 0, batch: usize::MAX, logits: Vec::new() }, ..good() }, "probe of"),
        (
            GeneMeta { probe: Probe { seed: 0, batch: 1, logits: vec![f32::NAN; classes] }, ..good() },
            "probe of",
        ),
    ];
    for (record, reason) in records {
        let broken = record.check().unwrap_err();
        assert!(broken.contains(reason), "{reason}: {broken}");
    }
}

/// A record that breaks a rule of format 1, or has an unknown field, makes the file corrupt.
#[test]
fn every_rule_of_format_1_is_checked() {
    use genebank::{blueprint::record::METADATA_KEY, gene::Learngene, tensor::TensorFile};
    let file = TensorFile::from_bytes(crate::support::gene_bytes().into(), "x").unwrap();
    let json = file.metadata(METADATA_KEY).unwrap();
    let tensors: Vec<_> = file.tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    for (from, to, reason) in [
        ("\"format\":1", "\"format\":2", "format 2 of family \"vit\""),
        ("\"family\":\"vit\"", "\"family\":\"mamba\"", "family \"mamba\""),
        ("\"head_dim\":8", "\"head_dim\":3", "head_dim 3"),
        ("\"norm_eps\":1e-6", "\"norm_eps\":1e-5", "norm_eps"),
        ("\"pooling\":\"token\"", "\"pooling\":\"mean\"", "mean"),
        ("\"stages\":[1,1,1]", "\"stages\":[1,1]", "stages hold 2 layers"),
        ("\"accuracy\":0.5", "\"accuracy\":1.5", "not a quality figure"),
        ("\"accuracy\":0.5", "\"value\":0.5", "unknown field"),
    ] {
        assert!(json.contains(from), "{from} is not in {json}");
        let record = [(METADATA_KEY.to_owned(), json.replace(from, to))].into();
        let bytes = codec::render(&record, &tensors);
        let error = Learngene::from_file(TensorFile::from_bytes(bytes, "x").unwrap(), "x").unwrap_err();
        assert_eq!(error.kind(), genebank::error::Kind::DataLoss);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

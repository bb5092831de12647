//! gRPC-Web: the requests of a browser, and the frames of plain gRPC in the responses.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use genebank::{
    proto::{
        self, DownloadModelRequest, FineTune, GetGeneRequest, InitModelRequest, InitModelResponse,
        ListGenesRequest, PlanModelRequest, init_model_response::Event,
    },
    server::{Access, Limits},
    tensor::codec,
};
use prost::Message;

use crate::{
    support::{GENE, Server, bank_config, gene_bytes, models},
    wire::Reply,
};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// The frame of a message.
fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat()
}

/// Decodes base64 that consists of separately padded pieces.
pub(crate) fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|quad| STANDARD.decode(quad).unwrap()).collect()
}

/// The frames of a body, each with its flag.
fn frames(mut body: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let (frame, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        frames.push((*flag, frame));
        body = rest;
    }
    assert!(body.is_empty(), "the rest of a frame");
    frames
}

/// The messages of a call, and its status. The status comes from the last frame, or from the headers if there is no
/// body.
struct Told {
    messages: Vec<u8>,
    status: HeaderMap,
}

fn told(reply: &Reply, content_type: &str) -> Told {
    assert_eq!(reply.status, 200);
    assert!(reply.trailers.is_empty(), "no browser can read trailers");
    let is_text = content_type.contains("text");
    let expected = if is_text { "application/grpc-web-text+proto" } else { "application/grpc-web+proto" };
    assert_eq!(reply.header("content-type"), Some(expected));
    let body = if is_text { decoded(&reply.body) } else { reply.body.clone() };
    if body.is_empty() {
        return Told { messages: body, status: reply.headers.clone() };
    }
    let frames = frames(&body);
    let (&(flag, trailers), before) = frames.split_last().unwrap();
    assert_eq!((flag, before.iter().all(|(flag, _)| *flag == 0)), (0x80, true));
    let line = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value.trim()).unwrap())
    };
    let status = std::str::from_utf8(trailers).unwrap().lines().map(line).collect();
    Told { messages: body[..body.len() - 5 - trailers.len()].to_vec(), status }
}

async fn web(server: &Server, version: Version, content_type: &str, method: &str, frame: &[u8]) -> Told {
    let body =
        if content_type.contains("text") { STANDARD.encode(frame).into_bytes() } else { frame.to_vec() };
    let headers = [("content-type", content_type), ("accept", content_type), ("x-grpc-web", "1")];
    told(&server.call(version, Method::POST, method, &headers, body).await, content_type)
}

async fn plain(server: &Server, method: &str, frame: &[u8]) -> Reply {
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    server.call(Version::HTTP_2, Method::POST, method, &headers, frame.to_vec()).await
}

fn method(name: &str) -> String {
    format!("/genebank.v1.GeneBank/{name}")
}

fn model(width: u32) -> InitModelRequest {
    InitModelRequest { gene: GENE.to_owned(), depth: Some(40), width: Some(width), ..Default::default() }
}

/// Calls to every method of the service.
async fn calls(server: &Server) -> Vec<(String, Vec<u8>)> {
    let whole = plain(server, &method("InitModel"), &framed(&model(24))).await;
    let first = InitModelResponse::decode(frames(&whole.body)[0].1).unwrap();
    let Some(Event::Header(header)) = first.event else { panic!("a header comes first") };
    let rest = DownloadModelRequest { model: Some(model(24)), identity: header.identity, offset: 70_001 };
    let plan = PlanModelRequest { max_parameters: Some(9_000_000), ..Default::default() };
    vec![
        (method("ListGenes"), framed(&ListGenesRequest {})),
        (method("GetGene"), framed(&GetGeneRequest::default())),
        (method("PlanModel"), framed(&plan)),
        (method("InitModel"), framed(&model(24))),
        (method("DownloadModel"), framed(&rest)),
        ("/grpc.health.v1.Health/Check".to_owned(), framed(&ListGenesRequest {})),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_has_the_messages_of_plain_grpc() {
    let server = Server::start().await;
    for (method, frame) in calls(&server).await {
        let native = plain(&server, &method, &frame).await;
        assert_eq!(native.header("content-type"), Some("application/grpc"), "{method}");
        assert_eq!(native.trailers["grpc-status"], "0", "{method}");
        for version in VERSIONS {
            for content_type in [BINARY, TEXT, "application/grpc-web", "application/grpc-web-text+proto"] {
                let told = web(&server, version, content_type, &method, &frame).await;
                let what = format!("{method} {version:?} {content_type}");
                assert!(told.messages == native.body, "{what}");
                assert_eq!(told.status["grpc-status"], "0", "{what}");
            }
        }
    }
}

#[tokio::test]
async fn failures_say_what_plain_grpc_says() {
    let server = Server::start().await;
    let unknown = InitModelRequest { gene: "nobody".to_owned(), ..Default::default() };
    let deep = InitModelRequest { depth: Some(65), ..Default::default() };
    let tuned = InitModelRequest { fine_tune: Some(FineTune::default()), ..Default::default() };
    let gone = DownloadModelRequest { model: Some(model(24)), identity: "0".repeat(64), offset: 0 };
    for (name, frame) in [
        ("InitModel", framed(&unknown)),
        ("InitModel", framed(&deep)),
        ("InitModel", framed(&tuned)),
        ("InitModel", vec![0, 0, 0, 0, 2, 0xff, 0xff]),
        ("InitModel", vec![0, 0xff, 0xff, 0xff, 0xff, 0]),
        ("InitModel", vec![0; 3]),
        // This call fails after the stream has begun.
        ("DownloadModel", framed(&gone)),
        ("GetGene", framed(&GetGeneRequest { gene: "nobody".to_owned() })),
        ("PlanModel", framed(&PlanModelRequest::default())),
        ("Unheard", Vec::new()),
    ] {
        let native = plain(&server, &method(name), &frame).await;
        let native = if native.trailers.is_empty() { &native.headers } else { &native.trailers };
        for version in VERSIONS {
            for content_type in [BINARY, TEXT] {
                let told = web(&server, version, content_type, &method(name), &frame).await;
                for key in ["grpc-status", "grpc-message", "error-kind", "grpc-status-details-bin"] {
                    assert_eq!(told.status.get(key), native.get(key), "{name} {version:?} {content_type}");
                }
                assert_ne!(told.status["grpc-status"], "0", "{name}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_such_call_is_refused_and_the_server_goes_on() {
    let server = Server::start().await;
    let init = method("InitModel");
    for version in VERSIONS {
        for (verb, content_type, status) in [
            (Method::GET, BINARY, 405),
            (Method::PUT, TEXT, 405),
            (Method::POST, "application/grpc-web+json", 415),
            (Method::POST, "application/grpc-web-text; charset=utf-8", 415),
        ] {
            let headers = [("content-type", content_type)];
            let reply = server.call(version, verb, &init, &headers, Vec::new()).await;
            assert_eq!(reply.status, status, "{version:?} {content_type}");
        }
        for body in ["", "A", "!!!!", "AAAAAAA=====", "AAAAAA"] {
            let headers = [("content-type", TEXT), ("accept", TEXT)];
            let reply = server.call(version, Method::POST, &init, &headers, body.as_bytes().to_vec()).await;
            assert_ne!(told(&reply, TEXT).status["grpc-status"], "0", "{version:?} {body}");
        }
        // The message is larger than the limit.
        let huge = InitModelRequest { gene: "x".repeat(proto::MAX_REQUEST_BYTES), ..Default::default() };
        for content_type in [BINARY, TEXT] {
            let told = web(&server, version, content_type, &init, &framed(&huge)).await;
            assert_eq!(told.status["grpc-status"], "11", "{version:?} {content_type}");
        }
    }
    let told = web(&server, Version::HTTP_11, BINARY, &init, &framed(&model(24))).await;
    assert_eq!(told.status["grpc-status"], "0");
}

#[tokio::test]
async fn a_deadline_ends_a_call_in_its_last_frame() {
    let server = Server::start().await;
    for (timeout, status) in [("0n", "4"), ("soon", "3"), ("1M", "0")] {
        let headers = [("content-type", BINARY), ("accept", BINARY), ("grpc-timeout", timeout)];
        let frame = framed(&model(24));
        let path = method("InitModel");
        let reply = server.call(Version::HTTP_11, Method::POST, &path, &headers, frame).await;
        assert_eq!(told(&reply, BINARY).status["grpc-status"], status, "{timeout}");
    }
}

/// A server whose token file also names origins.
async fn shared_with(origins: &str) -> Server {
    let models = models(&gene_bytes());
    let tokens = models.path().join("tokens.toml");
    codec::write_atomic(&tokens, [format!("origins = {origins}\n").as_bytes()]).unwrap();
    let bank = bank_config(models.path());
    Server::guarded(Limits::default(), models, bank, Access::open(&tokens).unwrap()).await
}

#[tokio::test]
async fn pages_of_known_origins_may_call() {
    let page = "https://app.example.org";
    for (origins, shared) in [
        ("[]", false),
        ("[\"*\"]", true),
        ("[\"https://app.example.org\"]", true),
        ("[\"https://x.org\"]", false),
    ] {
        let server = shared_with(origins).await;
        for version in VERSIONS {
            for name in ["ListGenes", "InitModel"] {
                let asked = [
                    ("origin", page),
                    ("access-control-request-method", "POST"),
                    ("access-control-request-headers", "authorization,content-type,x-grpc-web"),
                ];
                let reply = server.call(version, Method::OPTIONS, &method(name), &asked, Vec::new()).await;
                let allowed = reply.header("access-control-allow-origin");
                assert_eq!(allowed, shared.then_some(page), "{origins} {version:?}");
                assert_eq!(reply.status == 204, shared, "{origins} {version:?}");
                assert_eq!(reply.header("access-control-allow-methods"), shared.then_some("POST"));
                if shared {
                    let sent = reply.header("access-control-allow-headers").unwrap();
                    for name in
                        ["authorization", "content-type", "x-grpc-web", "x-user-agent", "grpc-timeout"]
                    {
                        assert!(sent.split(", ").any(|sent| sent == name), "{name}");
                    }
                }
                let (frame, deep) = (framed(&ListGenesRequest {}), framed(&model(7)));
                let headers = [("content-type", TEXT), ("accept", TEXT), ("origin", page)];
                for (frame, fails) in [(frame, false), (deep, name == "InitModel")] {
                    let body = STANDARD.encode(frame);
                    let reply = server.call(version, Method::POST, &method(name), &headers, body).await;
                    assert_eq!(reply.header("access-control-allow-origin"), shared.then_some(page));
                    let status = told(&reply, TEXT).status["grpc-status"].clone();
                    assert_eq!(status != "0", fails, "{name}");
                    let read = reply.header("access-control-expose-headers").unwrap_or_default();
                    assert_eq!(read.contains("grpc-status"), shared);
                }
            }
        }
        // A caller that is not a web page gets no CORS headers.
        let reply = plain(&server, &method("ListGenes"), &framed(&ListGenesRequest {})).await;
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
}

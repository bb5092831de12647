//! Calls over HTTP/2: mutated messages, wrong prefixes, wrong content types, and calls that end in the middle.

use std::{future::poll_fn, pin::Pin};

use axum::{
    body::Body,
    http::{HeaderMap, Request},
};
use genebank::proto::{
    DownloadModelRequest, FineTune, GetGeneRequest, Head, InitModelRequest, Latency, PlanModelRequest,
    fine_tune::Length,
};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{net::TcpStream, time::timeout};

use crate::Outcome;

use super::{PATIENCE, Work, draw::Draw};

/// `UNKNOWN`, `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`: what a server says of its own failures.
const OWN_FAILURES: [&str; 4] = ["2", "13", "14", "15"];

/// Makes calls until there are none left.
pub(super) fn client(work: &Work<'_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = None;
        while let Some(number) = work.next() {
            let mut draw = work.draw(number);
            let (parts, body) = call(&mut draw, work.address).into_parts();
            let shown = format!("{} {:?}: {body:?}", parts.uri.path(), parts.headers);
            // The body of every fiftieth call breaks off.
            let cut = draw.one_in(50);
            let body = if cut { cut_off(body) } else { Body::from(body) };
            let answer = exchange(&mut connection, work.address, Request::from_parts(parts, body)).await;
            let answer = if cut { Ok("call that broke off".to_owned()) } else { answer };
            work.done(number, answer.map_err(|fault| format!("{fault}: {shown:.900}")));
        }
    });
}

/// A body that fails after its bytes.
fn cut_off(bytes: Vec<u8>) -> Body {
    Body::from_stream(tokio_stream::iter([Ok(bytes), Err(std::io::Error::other("cut off"))]))
}

fn call(draw: &mut Draw, address: &str) -> Request<Vec<u8>> {
    let mut path = match draw.below(12) {
        0 => "/grpc.health.v1.Health/Check".to_owned(),
        1 => "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(),
        2 => "/genebank.v1.GeneBank/Nothing".to_owned(),
        _ => {
            let calls = ["ListGenes", "GetGene", "PlanModel", "InitModel", "InitModel", "DownloadModel"];
            format!("/genebank.v1.GeneBank/{}", draw.pick(&calls))
        }
    };
    if draw.one_in(20) {
        path = draw.mutated_text(&path).bytes().filter(u8::is_ascii_alphanumeric).map(char::from).collect();
        path.insert(0, '/');
    }
    let mut call = Request::post(format!("http://{address}{path}"));
    let kind =
        draw.pick(&["application/grpc", "application/grpc", "application/grpc", "application/grpc+proto"]);
    let other = [
        "application/grpc+json",
        "application/json",
        "application/grpc-web",
        "application/grpc-web-text",
        "",
        ";",
    ];
    call = call.header("content-type", if draw.one_in(10) { draw.pick(&other) } else { kind });
    if !draw.one_in(10) {
        call = call.header("te", "trailers");
    }
    if draw.one_in(10) {
        call = call.header("grpc-timeout", draw.pick(&["1S", "1n", "0S", "x", "999999999S", "20m"]));
    }
    if draw.one_in(15) {
        call = call.header("grpc-encoding", draw.pick(&["gzip", "identity", "zstd", "x"]));
    }
    if draw.one_in(15) {
        call = call.header("authorization", draw.pick(&["Bearer x", "Basic x", ""]));
    }
    if draw.one_in(10) {
        call = call.header("genebank-frames", draw.pick(&["generated", "x"]));
    }
    call.body(framed(draw)).expect("every part is valid")
}

/// A message with its prefix, either of which may be wrong.
pub(super) fn framed(draw: &mut Draw) -> Vec<u8> {
    let mut message = message(draw);
    if draw.one_in(3) {
        message = draw.mutated(message);
    }
    let (mut flag, mut length) = (0, message.len() as u32);
    match draw.below(15) {
        0 => flag = draw.number() as u8,
        1 => length = draw.number() as u32,
        2 => length = length.wrapping_add(1),
        3 => length = length.saturating_sub(1),
        4 => return draw.bytes(12),
        5 => message.extend([&[0, 0, 0, 0, 0][..], &[0, 0, 0, 0, 2, 10, 0]][draw.below(2)]),
        _ => {}
    }
    [&[flag][..], &length.to_be_bytes(), &message].concat()
}

/// A message of the protocol with any values.
fn message(draw: &mut Draw) -> Vec<u8> {
    match draw.below(8) {
        0 => Vec::new(),
        1 => GetGeneRequest { gene: draw.gene() }.encode_to_vec(),
        2 => plan(draw).encode_to_vec(),
        3 => {
            let identity = if draw.one_in(2) { "0".repeat(draw.below(70)) } else { draw.text() };
            DownloadModelRequest { model: Some(model(draw)), identity, offset: draw.number() }.encode_to_vec()
        }
        _ => model(draw).encode_to_vec(),
    }
}

/// A value one time in `n`.
fn maybe<T>(draw: &mut Draw, n: usize, value: impl FnOnce(&mut Draw) -> T) -> Option<T> {
    draw.one_in(n).then(|| value(draw))
}

fn small(draw: &mut Draw) -> u32 {
    draw.number() as u32
}

/// The number of a member of a closed set.
fn one_of_four(draw: &mut Draw) -> i32 {
    [0, 1, 2, 3][draw.below(4)]
}

fn model(draw: &mut Draw) -> InitModelRequest {
    let labels = |draw: &mut Draw| Head {
        labels: (0..draw.below(6)).map(|_| draw.text()).collect(),
        seed: draw.number(),
    };
    let tune = |draw: &mut Draw| FineTune {
        dataset: draw.text(),
        length: maybe(draw, 2, |draw| Length::Steps(small(draw))),
        learning_rate_e9: draw.number(),
        seed: draw.number(),
    };
    let choice = |draw: &mut Draw| if draw.one_in(8) { small(draw).cast_signed() } else { one_of_four(draw) };
    InitModelRequest {
        gene: draw.gene(),
        depth: maybe(draw, 2, |draw| if draw.one_in(3) { small(draw) } else { 1 + draw.below(12) as u32 }),
        width: maybe(
            draw,
            2,
            |draw| if draw.one_in(3) { small(draw) } else { 8 * (1 + draw.below(3) as u32) },
        ),
        dtype: choice(draw),
        depth_rule: choice(draw),
        allow_untrained_width: draw.one_in(4),
        max_chunk_bytes: small(draw),
        fine_tune: maybe(draw, 12, tune),
        image_size: maybe(draw, 8, small),
        patch_size: maybe(draw, 8, small),
        head: maybe(draw, 6, labels),
        method: choice(draw),
        method_seed: if draw.one_in(3) { draw.number() } else { 0 },
        layout: choice(draw),
    }
}

fn plan(draw: &mut Draw) -> PlanModelRequest {
    let float = |draw: &mut Draw| f64::from_bits(draw.number());
    let latency = |draw: &mut Draw| Latency {
        depth: small(draw),
        width: small(draw),
        batch: small(draw),
        milliseconds: if draw.one_in(2) { 1.5 } else { float(draw) },
    };
    PlanModelRequest {
        gene: draw.gene(),
        max_parameters: maybe(draw, 2, Draw::number),
        max_macs: maybe(draw, 4, Draw::number),
        max_bytes: maybe(draw, 4, Draw::number),
        max_memory_bytes: maybe(draw, 4, Draw::number),
        max_milliseconds: maybe(draw, 6, float),
        latencies: (0..draw.below(4)).map(|_| latency(draw)).collect(),
        batch: small(draw),
        dtype: one_of_four(draw),
        limit: small(draw),
    }
}

/// What the server says to `call`: its status over HTTP and its status over gRPC.
async fn exchange(
    connection: &mut Option<SendRequest<Body>>,
    address: &str,
    call: Request<Body>,
) -> Result<String, String> {
    if connection.as_ref().is_none_or(SendRequest::is_closed) {
        *connection = Some(connect(address).await.map_err(|error| error.to_string())?);
    }
    let requests = connection.as_mut().ok_or("no connection")?;
    let exchange = async {
        requests.ready().await?;
        let (head, body) = requests.send_request(call).await?.into_parts();
        Ok::<_, hyper::Error>((head, trailers(body).await?))
    };
    let (head, trailers) = match timeout(PATIENCE, exchange).await {
        Err(_) => return Err("no answer in time".to_owned()),
        Ok(outcome) => outcome.map_err(|error| format!("no answer: {error:?}"))?,
    };
    let status = [&trailers, &head.headers].into_iter().find_map(|map| map.get("grpc-status")?.to_str().ok());
    let said = format!("HTTP {}, gRPC {}", head.status.as_u16(), status.unwrap_or("-"));
    // Answers in gRPC-Web have their status in the body.
    let web = head
        .headers
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"));
    let answered = status.is_some() || web || !head.status.is_success();
    let failed = head.status.is_server_error() || status.is_some_and(|status| OWN_FAILURES.contains(&status));
    if failed || !answered {
        let reason =
            [&trailers, &head.headers].into_iter().find_map(|map| map.get("grpc-message")?.to_str().ok());
        return Err(format!("{said} {}", reason.unwrap_or_default()));
    }
    Ok(said)
}

async fn connect(address: &str) -> Outcome<SendRequest<Body>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // A failure also reaches the call that waits for its answer.
    tokio::spawn(async move { connection.await.ok() });
    Ok(requests)
}

/// Reads a body to its end.
async fn trailers(mut body: Incoming) -> Result<HeaderMap, hyper::Error> {
    let mut trailers = HeaderMap::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(found) = frame?.into_trailers() {
            trailers = found;
        }
    }
    Ok(trailers)
}

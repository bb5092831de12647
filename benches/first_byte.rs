//! Time to the first byte of a depth that nobody has requested before, and resident memory after all depths.
//!
//! Starts the release program on loopback and requests each depth 1..=24 of a gene once: over HTTP with a fresh
//! connection each time, and over gRPC. Repeats this with several fresh servers and prints medians. Run with
//! `cargo bench --bench first_byte`.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

#[path = "load/server.rs"]
mod server;

use std::{
    error::Error,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use genebank::proto::{InitModelRequest, gene_bank_client::GeneBankClient, init_model_response::Event};

use server::Server;

const GENE: &str = "fashion-s";
const WIDTH: u64 = 96;
const DEPTHS: std::ops::RangeInclusive<u32> = 1..=24;
const SERVERS: usize = 5;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The release program, serving the bundled genes.
fn start() -> Outcome<Server> {
    Server::start(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models")), &[])
}

/// Time from the request to the first byte of the response, and the length of the response.
fn get(server: &Server, depth: u32) -> Outcome<(Duration, u64)> {
    let mut stream = TcpStream::connect(&server.address)?;
    stream.set_nodelay(true)?;
    let path = format!("/v1/models/{GENE}/d{depth}-w{WIDTH}.safetensors");
    let start = Instant::now();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    let elapsed = start.elapsed();
    let rest = std::io::copy(&mut stream, &mut std::io::sink())?;
    Ok((elapsed, rest + 1))
}

/// Time from the call to the first message, and to the first complete chunk of weights.
async fn init_model(
    client: &mut GeneBankClient<tonic::transport::Channel>,
    depth: u32,
) -> Outcome<(Duration, Duration)> {
    let request =
        InitModelRequest { gene: GENE.to_owned(), depth: Some(depth), ..InitModelRequest::default() };
    let start = Instant::now();
    let mut stream = client.init_model(request).await?.into_inner();
    let (mut message_time, mut chunk_time) = (None, None);
    while let Some(message) = stream.message().await? {
        message_time.get_or_insert_with(|| start.elapsed());
        if let Some(Event::Chunk(_)) = message.event {
            chunk_time.get_or_insert_with(|| start.elapsed());
        }
    }
    message_time.zip(chunk_time).ok_or_else(|| "no chunk".into())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn show(what: &str, times: &[Duration]) {
    let mut milliseconds: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let median = median(&mut milliseconds);
    let (least, most) = (milliseconds[0], milliseconds[milliseconds.len() - 1]);
    println!("{what}: median {median:.3} ms, {least:.3} to {most:.3}, {} requests", milliseconds.len());
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (mut http, mut messages, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
    let (mut growth, mut later, mut largest) = (Vec::new(), Vec::new(), 0);
    for _ in 0..SERVERS {
        let server = start()?;
        // An error warms the process up without rendering a depth of the range.
        get(&server, 1000)?;
        let before = server.resident()?;
        let mut after_first = before;
        for depth in DEPTHS {
            let (time, bytes) = get(&server, depth)?;
            http.push(time);
            largest = largest.max(bytes);
            if depth == *DEPTHS.start() {
                after_first = server.resident()?;
            }
        }
        let after = server.resident()? as f64;
        growth.push((after - before as f64) / 1e6);
        later.push((after - after_first as f64) / 1e6);
        let server = start()?;
        let url = format!("http://{}", server.address);
        runtime.block_on(async {
            let mut client = GeneBankClient::connect(url).await?;
            for depth in DEPTHS {
                let (message, chunk) = init_model(&mut client, depth).await?;
                messages.push(message);
                chunks.push(chunk);
            }
            Ok::<_, Box<dyn Error>>(())
        })?;
    }
    show("HTTP/1.1, first byte of a new depth", &http);
    show("gRPC, first message of a new depth", &messages);
    show("gRPC, first whole chunk of a new depth", &chunks);
    println!(
        "resident memory after all depths: +{:.2} MB since the start, +{:.2} MB since the first; \
         the largest model has {:.2} MB",
        median(&mut growth),
        median(&mut later),
        largest as f64 / 1e6
    );
    Ok(())
}

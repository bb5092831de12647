//! Requests over HTTP/1.1: paths, queries, headers and bodies from the real grammar, mutated.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use super::{PATIENCE, Work, draw::Draw};

/// How long an answer to a broken request is waited for.
const GLANCE: Duration = Duration::from_millis(200);

/// A request as bytes, and what may follow it.
struct Request {
    bytes: Vec<u8>,
    head: bool,
    /// Whether the bytes are a whole request, so that the connection is good for another.
    whole: bool,
}

/// Makes requests until there are none left.
pub(super) fn client(work: &Work<'_>) {
    let mut connection = None;
    while let Some(number) = work.next() {
        let request = request(&mut work.draw(number));
        let answer = exchange(&mut connection, work.address, &request);
        work.done(number, answer.map_err(|fault| format!("{fault}: {}", shown(&request.bytes))));
    }
}

fn shown(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(600)]))
}

fn request(draw: &mut Draw) -> Request {
    if draw.one_in(20) {
        return broken(draw);
    }
    let method = match draw.below(12) {
        0 => draw.pick(&["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "QUERY", "get"]),
        1 | 2 => "HEAD",
        3 => "POST",
        _ => "GET",
    };
    let (path, posts) = path(draw);
    let method = if posts && !draw.one_in(4) { "POST" } else { method };
    let mut target = path;
    if !draw.one_in(3) {
        target = format!("{target}?{}", query(draw));
    }
    if draw.one_in(8) {
        target = draw.mutated_text(&target);
    }
    // A target ends at the first space, and holds only visible characters.
    let target: String = target
        .bytes()
        .flat_map(|b| {
            if b.is_ascii_graphic() { (b as char).to_string() } else { format!("%{b:02X}") }.into_bytes()
        })
        .map(char::from)
        .collect();
    let target = if target.starts_with('/') { target } else { format!("/{target}") };
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\n");
    for _ in 0..draw.below(4) {
        head += &header(draw);
    }
    let body = if method == "POST" || draw.one_in(20) { body(draw) } else { Vec::new() };
    let mut bytes = Vec::new();
    if body.is_empty() {
        head += draw.pick(&["", "content-length: 0\r\n"]);
        bytes.extend(format!("{head}\r\n").bytes());
    } else if draw.one_in(4) {
        bytes.extend(format!("{head}transfer-encoding: chunked\r\n\r\n").bytes());
        for chunk in body.chunks(1 + draw.below(body.len())) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
    } else {
        bytes.extend(format!("{head}content-length: {}\r\n\r\n", body.len()).bytes());
        bytes.extend(body);
    }
    Request { bytes, head: method == "HEAD", whole: true }
}

/// Bytes that are no whole request of HTTP/1.1: cut off, mutated, or HTTP/2 without sense.
fn broken(draw: &mut Draw) -> Request {
    let (path, _) = path(draw);
    let body = body(draw);
    let head = format!(
        "{} {path}?{} HTTP/1.1\r\n{}{}content-length: {}\r\n\r\n",
        draw.pick(&["GET", "POST", "HEAD"]),
        query(draw),
        draw.pick(&["", "host: x\r\n", "host: x\r\nhost: y\r\n", "host: \u{e9}\r\n"]),
        header(draw),
        body.len() + draw.below(3),
    );
    let plain = [head.as_bytes(), &body].concat();
    let bytes = match draw.below(4) {
        0 => plain[..draw.below(plain.len())].to_vec(),
        1 => draw.bytes(200),
        2 => {
            let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            let frame = [&[0, 0, draw.below(64) as u8, draw.below(12) as u8][..], &draw.bytes(80)].concat();
            [&settings[..], &frame].concat()
        }
        _ => draw.mutated(plain),
    };
    Request { bytes, head: false, whole: false }
}

/// A path of the real grammar, and whether it takes a body.
fn path(draw: &mut Draw) -> (String, bool) {
    let (gene, size) = (draw.gene(), draw.size());
    let ending = draw.pick(&["", "", "", "-hf", "-bf16", "-hf-f16", "-f32", "-linear"]);
    let owner = if draw.one_in(10) { draw.text() } else { "genebank".to_owned() };
    let repository = format!("{owner}/{gene}-{size}{ending}");
    let revision = match draw.below(6) {
        0 => draw.text(),
        1 => "0".repeat(draw.below(50)),
        _ => "main".to_owned(),
    };
    let file = match draw.below(6) {
        0 => draw.text(),
        1 => "README.md".to_owned(),
        2 => "config.json".to_owned(),
        3 => "preprocessor_config.json".to_owned(),
        _ => "model.safetensors".to_owned(),
    };
    match draw.below(18) {
        0..=4 => (
            format!("/v1/models/{gene}/{size}{}", draw.pick(&[".safetensors", ".safetensors", ".bin", ""])),
            false,
        ),
        5..=7 => (format!("/{repository}/resolve/{revision}/{file}"), false),
        8 => (format!("/api/models/{repository}"), false),
        9 => (format!("/api/models/{repository}/revision/{revision}"), false),
        10 => (format!("/api/models/{repository}/tree/{revision}/{file}"), false),
        11 => (
            format!(
                "/api/models/{repository}/{}",
                draw.pick(&["refs", "commits/main", "safetensors-metadata/model.safetensors"])
            ),
            false,
        ),
        12 => (format!("/api/models/{repository}/paths-info/{revision}"), true),
        13 => ("/v1/plan".to_owned(), false),
        14 => ("/api/models".to_owned(), false),
        15 => (
            draw.pick(&["/v1/genes", "/healthz", "/readyz", "/metrics", "/api/whoami-v2", "/", "/v1"])
                .to_owned(),
            false,
        ),
        16 => {
            let call =
                draw.pick(&["ListGenes", "GetGene", "PlanModel", "InitModel", "DownloadModel", "Nothing"]);
            (format!("/genebank.v1.GeneBank/{call}"), true)
        }
        _ => (format!("/{}", draw.text()), false),
    }
}

fn query(draw: &mut Draw) -> String {
    const KEYS: [&str; 30] = [
        "dtype",
        "layout",
        "rule",
        "allow_untrained_width",
        "digest",
        "summary",
        "image_size",
        "patch_size",
        "labels",
        "head_seed",
        "method",
        "method_seed",
        "gene",
        "parameters",
        "macs",
        "bytes",
        "memory",
        "batch",
        "limit",
        "latency",
        "search",
        "author",
        "filter",
        "sort",
        "direction",
        "full",
        "cursor",
        "recursive",
        "expand",
        "blobs",
    ];
    let mut pairs = Vec::new();
    for _ in 0..draw.below(4) {
        let key = if draw.one_in(15) { draw.text() } else { draw.pick(&KEYS).to_owned() };
        let value = match draw.below(8) {
            0 => draw.text(),
            1 | 2 => draw.number().to_string(),
            3 => draw
                .pick(&[
                    "%5B%22a%22%2C%22b%22%5D",
                    "%5B%5D",
                    "[\"a\",\"a\"]",
                    "[1]",
                    "{}",
                    "[[[[[[[[",
                    "null",
                ])
                .to_owned(),
            4 => draw.pick(&["1M", "1e9", "-1", "NaN", "2GiB", "0x10", "1.5k"]).to_owned(),
            _ => draw
                .pick(&[
                    "f32",
                    "f16",
                    "bf16",
                    "timm",
                    "transformers",
                    "trained",
                    "cyclic",
                    "true",
                    "false",
                    "gene",
                    "scratch",
                    "first-layers",
                    "uniform",
                    "tiny",
                    "8",
                    "16",
                ])
                .to_owned(),
        };
        pairs.push(if draw.one_in(12) { key } else { format!("{key}={value}") });
    }
    pairs.join(draw.pick(&["&", "&", "&", ";", "&&"]))
}

/// A header line.
fn header(draw: &mut Draw) -> String {
    let (a, b) = (draw.number(), draw.number());
    let (name, value) = match draw.below(14) {
        0 => ("range", format!("bytes={a}-{b}")),
        1 => ("range", format!("bytes={}-{}", draw.below(999), draw.below(9999))),
        2 => (
            "range",
            draw.pick(&["bytes=-5", "bytes=9-", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=--1"])
                .to_owned(),
        ),
        3 => ("if-range", draw.pick(&["\"x\"", "W/\"x\"", "Tue, 15 Nov 1994 12:45:26 GMT", ""]).to_owned()),
        4 => ("if-none-match", draw.pick(&["*", "\"x\"", "W/\"x\", \"y\"", "\"", ",,,"]).to_owned()),
        5 => ("if-match", draw.pick(&["*", "\"x\"", "W/\"x\"", "\""]).to_owned()),
        6 => {
            ("if-modified-since", draw.pick(&["Tue, 15 Nov 1994 12:45:26 GMT", "yesterday", "-1"]).to_owned())
        }
        7 => (
            "accept",
            draw.pick(&["*/*", "application/json", "text/html;q=0.9", ";;", "application/grpc"]).to_owned(),
        ),
        8 => ("accept-encoding", draw.pick(&["gzip", "identity;q=0", "*;q=0", "br, gzip"]).to_owned()),
        9 => {
            ("authorization", draw.pick(&["Bearer x", "Basic eDp5", "Bearer", "bearer \t ", "x"]).to_owned())
        }
        10 => ("origin", draw.pick(&["http://x", "null", "https://x:99999"]).to_owned()),
        11 => ("grpc-timeout", draw.pick(&["1S", "0n", "99999999H", "1", "-1S"]).to_owned()),
        12 => ("x-request-id", draw.text()),
        _ => ("access-control-request-method", draw.pick(&["POST", "GET", ""]).to_owned()),
    };
    // Other characters would end the head, or no header may hold them.
    let value: String = value.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    format!("{name}: {value}\r\n")
}

fn body(draw: &mut Draw) -> Vec<u8> {
    match draw.below(6) {
        0 => draw.bytes(3000),
        1 => br#"{"paths":["model.safetensors","README.md"],"expand":true}"#.to_vec(),
        2 => draw.mutated(br#"{"paths":["model.safetensors","README.md"],"expand":true}"#.to_vec()),
        3 => b"paths=model.safetensors&paths=config.json&expand=True".to_vec(),
        4 => super::grpc::framed(draw),
        _ => vec![b'['; draw.below(40_000)],
    }
}

/// What the server says to `request`: its status.
fn exchange(
    connection: &mut Option<BufReader<TcpStream>>,
    address: &str,
    request: &Request,
) -> Result<String, String> {
    let fault = |error: std::io::Error| error.to_string();
    if !request.whole {
        let mut stream = open(address).map_err(fault)?;
        // The server may wait for more until its own limit, which other tests are for.
        stream.set_read_timeout(Some(GLANCE)).map_err(fault)?;
        // A server that has seen enough may close before it has read everything.
        let _ = stream.write_all(&request.bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        return match answer.starts_with(b"HTTP/1.1 5") {
            true => Err(shown(&answer)),
            false if answer.is_empty() && ended.is_err() => Ok("broken request, the server waits".to_owned()),
            false => Ok("broken request, refused or closed".to_owned()),
        };
    }
    // The server may close a kept connection at any time; then the request is sent again on a new one.
    if let Some(kept) = connection.take()
        && let Ok(answer) = ask(kept, connection, request)
    {
        return judged(answer);
    }
    let reader = BufReader::new(open(address).map_err(fault)?);
    judged(ask(reader, connection, request).map_err(|error| format!("no answer: {error}"))?)
}

fn judged(status: u16) -> Result<String, String> {
    if status >= 500 { Err(format!("status {status}")) } else { Ok(status.to_string()) }
}

/// Sends a request and reads the status of its answer. The connection is kept if it is good for another.
fn ask(
    mut reader: BufReader<TcpStream>,
    connection: &mut Option<BufReader<TcpStream>>,
    request: &Request,
) -> std::io::Result<u16> {
    let sent = reader.get_mut().write_all(&request.bytes);
    let (status, keep) = answer(&mut reader, request.head)?;
    *connection = (keep && sent.is_ok()).then_some(reader);
    Ok(status)
}

fn open(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads one answer: its status, and whether the connection is good for another request.
fn answer(reader: &mut BufReader<TcpStream>, head_only: bool) -> std::io::Result<(u16, bool)> {
    let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(ended)?;
        let (mut length, mut chunked, mut close) = (None, false, false);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(ended());
            }
            let lower = line.trim_end().to_ascii_lowercase();
            if lower.is_empty() {
                break;
            }
            let (name, value) = lower.split_once(':').unwrap_or((&lower, ""));
            match (name, value.trim()) {
                ("content-length", value) => length = value.parse::<u64>().ok(),
                ("transfer-encoding", _) => chunked = true,
                ("connection", value) => close = value == "close",
                _ => {}
            }
        }
        if status < 200 {
            continue;
        }
        if head_only || status == 204 || status == 304 {
            return Ok((status, !close));
        }
        if chunked {
            skip_chunks(reader)?;
        } else if let Some(length) = length {
            if std::io::copy(&mut reader.take(length), &mut std::io::sink())? < length {
                return Err(ended());
            }
        } else {
            std::io::copy(reader, &mut std::io::sink())?;
            close = true;
        }
        return Ok((status, !close));
    }
}

/// Reads a chunked body and its trailers.
fn skip_chunks(reader: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        if length == 0 {
            break;
        }
        std::io::copy(&mut reader.take(length + 2), &mut std::io::sink())?;
    }
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(())
}

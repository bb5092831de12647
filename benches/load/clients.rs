//! Clients: external programs and plain sockets.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::Outcome;

/// Bytes per second when one curl process transfers `url` `times` times over one connection.
pub(crate) fn curl(url: &str, bytes: u64, times: u64) -> Outcome<f64> {
    let mut command = Command::new("curl");
    // Every server must use HTTP/1.1, so that the comparison is fair.
    command.args(["--silent", "--show-error", "--fail", "--insecure", "--http1.1"]);
    command.args(["--write-out", "%{size_download}\\n"]);
    for _ in 0..times {
        command.args(["--output", "/dev/null", url]);
    }
    let start = Instant::now();
    let output = command.output()?;
    let elapsed = start.elapsed();
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() || text.lines().any(|line| line != bytes.to_string()) {
        return Err(format!("curl {url}: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok((bytes * times) as f64 / elapsed.as_secs_f64())
}

/// A gRPC call for h2load.
pub(crate) struct Call<'a> {
    pub(crate) url: &'a str,
    /// File with the framed request message.
    pub(crate) message: &'a Path,
    /// Largest HTTP/2 frame that the client accepts, bytes.
    pub(crate) frame: u32,
    /// Whether to call the generated service, which copies the data.
    pub(crate) generated: bool,
}

/// Bytes per second over `times` calls that stream a file of `bytes` bytes, with h2load on one connection.
pub(crate) fn h2load_grpc(call: &Call<'_>, bytes: u64, times: u64) -> Outcome<f64> {
    let mut command = Command::new("h2load");
    command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    if call.generated {
        command.args(["-H", "genebank-frames: generated"]);
    }
    command.arg(format!("--max-frame-size={}", call.frame)).arg("--data").arg(call.message);
    h2load(command, call.url, bytes, times)
}

/// Bytes per second over HTTP/1.1, with h2load on one connection.
pub(crate) fn h2load_http(url: &str, bytes: u64, times: u64) -> Outcome<f64> {
    let mut command = Command::new("h2load");
    command.arg("--h1");
    h2load(command, url, bytes, times)
}

fn h2load(mut command: Command, url: &str, bytes: u64, times: u64) -> Outcome<f64> {
    command.args(["--clients=1", "--max-concurrent-streams=1"]).arg(format!("--requests={times}"));
    let start = Instant::now();
    let output = command.arg(url).output()?;
    let elapsed = start.elapsed();
    let text = String::from_utf8(output.stdout)?;
    let data = text.lines().find_map(|line| {
        let (_, data) = line.strip_prefix("traffic:")?.rsplit_once(", ")?;
        data.split(['(', ')']).nth(1)?.parse::<u64>().ok()
    });
    let served = text.contains(&format!("{times} 2xx, 0 3xx, 0 4xx, 0 5xx"));
    // A failed gRPC call also has HTTP status 200, but little data.
    if !served || data.is_none_or(|data| data < bytes * times) {
        return Err(format!("h2load {url}: {text}").into());
    }
    Ok((bytes * times) as f64 / elapsed.as_secs_f64())
}

/// Timings of one request over a fresh HTTP/1.1 connection.
pub(crate) struct Answer {
    /// Time from the request to the first byte of the response.
    pub(crate) first: Duration,
    /// Time from the request to the last byte read.
    pub(crate) last: Duration,
    /// Announced length of the body, bytes.
    pub(crate) length: u64,
}

/// Requests `path`; reads the whole response if `all` is set, otherwise only the head.
pub(crate) fn ask(address: &str, method: &str, path: &str, all: bool) -> Outcome<Answer> {
    let mut connection = Connection::open(address)?;
    let start = Instant::now();
    connection.send(method, path, "connection: close\r\n")?;
    connection.reader.fill_buf()?;
    let first = start.elapsed();
    let length = connection.head(path)?;
    if all {
        let found = std::io::copy(&mut connection.reader, &mut std::io::sink())?;
        if found != length {
            return Err(format!("{path}: {found} bytes of {length}").into());
        }
    }
    Ok(Answer { first, last: start.elapsed(), length })
}

/// An HTTP/1.1 connection.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::with_capacity(1 << 18, stream) })
    }

    /// Reads the response to a GET into `body`.
    pub(crate) fn get(&mut self, path: &str, body: &mut Vec<u8>) -> Outcome<()> {
        self.send("GET", path, "")?;
        body.resize(usize::try_from(self.head(path)?)?, 0);
        Ok(self.reader.read_exact(body)?)
    }

    /// The server's description of the gene `name`, and the total size of all gene files in bytes.
    pub(crate) fn gene(&mut self, name: &str) -> Outcome<(serde_json::Value, u64)> {
        let mut body = Vec::new();
        self.get("/v1/genes", &mut body)?;
        let genes: Vec<serde_json::Value> = serde_json::from_slice(&body)?;
        let stored = genes.iter().filter_map(|gene| gene["size_bytes"].as_u64()).sum();
        let found = genes.into_iter().find(|gene| gene["name"] == name);
        Ok((found.ok_or_else(|| format!("no gene \"{name}\""))?, stored))
    }

    fn send(&mut self, method: &str, path: &str, headers: &str) -> Outcome<()> {
        Ok(write!(self.reader.get_mut(), "{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")?)
    }

    /// Reads the head of a response; returns the length of the body, or an error unless the status is 200.
    fn head(&mut self, path: &str) -> Outcome<u64> {
        let (mut status, mut line, mut length) = (String::new(), String::new(), 0);
        self.reader.read_line(&mut status)?;
        while self.reader.read_line(&mut line)? > 0 && line != "\r\n" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            line.clear();
        }
        if status.contains(" 200 ") {
            return Ok(length);
        }
        let mut reason = String::new();
        (&mut self.reader).take(length.min(4096)).read_to_string(&mut reason)?;
        Err(format!("{path}: {status}{reason}").into())
    }
}

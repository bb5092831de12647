//! Clients that hold what they have or ask for more than they take: bodies that never end, responses that nobody reads,
//! models of 100,000 classes, and digests of models that nobody waits for.
//!
//! The attack comes from an address of its own (Linux has all of 127.0.0.0/8 on loopback), so that limits for one
//! address apply as they do on a network. It is bounded in connections, bytes and seconds. Beside it a client requests a
//! small cached model, now and then one that was never made, and another asks for the health, also from the address of
//! the attack; each on a new connection every time.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use clap::ValueEnum;
use genebank::proto::{Head, InitModelRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    runtime::{Builder, Runtime},
};
use tokio_stream::StreamExt as _;

use crate::{Gene, Outcome, Size, server::Server};

/// Length of an upload that does not end, bytes: the longest that the server takes.
const UPLOAD_BYTES: usize = 512 << 10;
/// Uploads on one connection.
const UPLOADS: usize = 256;
/// Requests for many classes on one connection.
const MODELS: u64 = 40;
/// Classes of such a request: the most that the server takes.
const CLASSES: usize = 100_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    gene: Gene,
    /// The model that attackers request and do not read; longer than what the system buffers.
    #[command(flatten)]
    size: Size,
    /// Path of the model that a client beside them requests.
    #[arg(long)]
    small: String,
    /// What the attackers do, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["bodies", "readers", "uploads", "classes", "abandoned"])]
    attacks: Vec<Attack>,
    /// Connections of the attackers at the same time.
    #[arg(long, default_value_t = 1030)]
    connections: u64,
    /// Connections of the attackers in all: they open new ones where some are cut.
    #[arg(long, default_value_t = 20_000)]
    most_connections: u64,
    /// Data that the attackers send, MiB.
    #[arg(long, default_value_t = 2048)]
    most_mib: u64,
    /// Length of each attack.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Address that the attackers come from.
    #[arg(long, default_value = "127.0.0.2")]
    from: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attack {
    /// Requests whose body never ends.
    Bodies,
    /// Requests for a long model. The response is not read.
    Readers,
    /// gRPC messages of 512 KiB whose last byte never comes, 256 on one connection.
    Uploads,
    /// `InitModel` for 100,000 classes, 40 times on one connection. The responses are not read.
    Classes,
    /// Digests of models that were never made, without waiting for the answer.
    Abandoned,
}

impl Attack {
    /// Requests of one connection at the same time.
    const fn streams(self) -> u64 {
        match self {
            Self::Uploads => UPLOADS as u64,
            Self::Classes => MODELS,
            Self::Bodies | Self::Readers | Self::Abandoned => 1,
        }
    }
}

/// What is left to the attackers.
#[derive(Debug)]
struct Purse {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Purse {
    fn spend(what: &AtomicU64, amount: u64) -> bool {
        what.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount)).is_ok()
    }
}

/// One attacker: as soon as it is cut it comes again.
#[derive(Debug, Clone)]
struct Attacker {
    attack: Attack,
    server: SocketAddr,
    from: SocketAddr,
    gene: String,
    long: String,
    purse: Arc<Purse>,
    /// Distinguishes the models that are asked for.
    count: Arc<AtomicU64>,
}

impl Attacker {
    async fn run(self) {
        while Purse::spend(&self.purse.connections, 1) {
            // Every end, also an error, is what the server did about the attack.
            let _ = self.once().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn once(&self) -> Outcome<()> {
        let socket = TcpSocket::new_v4()?;
        if self.attack == Attack::Abandoned {
            // Closed connections that wait would use up this machine's ports.
            socket.set_zero_linger()?;
        }
        socket.bind(self.from)?;
        let mut stream = socket.connect(self.server).await?;
        match self.attack {
            Attack::Bodies => {
                let path = "/api/models/genebank/x-d1-w1/paths-info/main";
                let path = self.long.strip_prefix("/v1/models/").map_or(path.to_owned(), paths_info);
                let text = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 65536\r\n\r\npaths=");
                stream.write_all(text.as_bytes()).await?;
                stream.read_to_end(&mut Vec::new()).await?;
            }
            Attack::Readers => {
                let text = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", self.long);
                stream.write_all(text.as_bytes()).await?;
                // Only reading would tell that the server has cut it.
                tokio::time::sleep(Duration::from_secs(90)).await;
            }
            Attack::Uploads => self.uploads(stream).await?,
            Attack::Classes => self.classes(stream).await?,
            Attack::Abandoned => {
                let seed = self.count.fetch_add(1, Ordering::Relaxed);
                let path = format!("{}?method=scratch&method_seed={seed}&digest", self.long);
                stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn uploads(&self, stream: tokio::net::TcpStream) -> Outcome<()> {
        let messages = std::iter::repeat_with(|| {
            let mut start = vec![0; UPLOAD_BYTES - 1];
            start[..5].copy_from_slice(&[&[0], &(UPLOAD_BYTES as u32 - 5).to_be_bytes()[..]].concat());
            let start = tokio_stream::once(Ok::<_, std::io::Error>(Bytes::from(start)));
            Body::from_stream(start.chain(tokio_stream::pending()))
        });
        self.call(stream, messages.take(UPLOADS)).await
    }

    async fn classes(&self, stream: tokio::net::TcpStream) -> Outcome<()> {
        let messages = std::iter::repeat_with(|| {
            let seed = self.count.fetch_add(1, Ordering::Relaxed);
            let head = Head { labels: (0..CLASSES).map(short_label).collect(), seed };
            let model =
                InitModelRequest { gene: self.gene.clone(), head: Some(head), ..InitModelRequest::default() };
            let message = model.encode_to_vec();
            Body::from([&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat())
        });
        self.call(stream, messages.take(MODELS as usize)).await
    }

    /// Calls `InitModel` with each of `messages` on one connection, waits for the heads of the answers, and keeps what
    /// they give without reading it.
    async fn call(&self, stream: tokio::net::TcpStream, messages: impl Iterator<Item = Body>) -> Outcome<()> {
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let uri = format!("http://{}/genebank.v1.GeneBank/InitModel", self.server);
        let mut answers = Vec::new();
        for body in messages {
            if !Purse::spend(&self.purse.bytes, UPLOAD_BYTES as u64) {
                break;
            }
            let request = hyper::Request::post(&uri).header("content-type", "application/grpc");
            sender.ready().await?;
            answers.push(tokio::spawn(sender.send_request(request.body(body)?)));
        }
        let mut held = Vec::new();
        for answer in answers {
            // Whether it is a refusal does not matter.
            held.push(answer.await);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(held);
        Ok(())
    }
}

/// A label of three letters and digits, so that 100,000 of them fit into a message.
fn short_label(number: usize) -> String {
    const SIGNS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    [number / 3844, number / 62 % 62, number % 62].map(|at| char::from(SIGNS[at])).iter().collect()
}

/// The path of a request for paths in the repository of the model `GENE/SIZE.safetensors`.
fn paths_info(model: &str) -> String {
    let name = model.replace('/', "-").replace(".safetensors", "");
    format!("/api/models/genebank/{name}/paths-info/main")
}

/// Response times of one kind of request.
#[derive(Debug, Default)]
struct Times {
    milliseconds: Vec<f64>,
    failures: Vec<String>,
}

impl Times {
    fn add(&mut self, asked: Instant, outcome: Outcome<()>) {
        self.milliseconds.push(asked.elapsed().as_secs_f64() * 1e3);
        self.failures.extend(outcome.err().map(|error| error.to_string()));
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len() - 1));
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| at(share).copied().unwrap_or_default());
        write!(f, "p50 {p50:.1}, p99 {p99:.1}, longest {most:.1} ms, {} failed", self.failures.len())?;
        if let Some(first) = self.failures.first() {
            write!(f, " ({first})")?;
        }
        write!(f, " of {}", sorted.len())
    }
}

/// Clients that mean no harm.
struct Beside {
    runtime: Runtime,
    server: SocketAddr,
    /// Distinguishes the new models.
    count: AtomicU64,
}

impl Beside {
    /// Requests `path` on a new connection from `from`, and reads the response.
    fn get(&self, from: &str, path: &str) -> Outcome<()> {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(from.parse()?, 0))?;
            Ok::<_, Box<dyn std::error::Error>>(socket.connect(self.server).await?.into_std()?)
        };
        let mut stream: TcpStream = self.runtime.block_on(connect)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        if answer.starts_with(b"HTTP/1.1 200") {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&answer).lines().next().unwrap_or("no answer").to_owned().into())
    }

    /// Asks for the model `small`, for new ones of its size, and for the health, the latter from two addresses, for
    /// `seconds`.
    fn watch(&self, small: &str, also_from: &str, seconds: u64) -> [Times; 4] {
        let [mut model, mut new, mut health, mut theirs] = std::array::from_fn(|_| Times::default());
        let start = Instant::now();
        for round in 0.. {
            if start.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            let asked = Instant::now();
            model.add(asked, self.get("127.0.0.1", small));
            if round % 5 == 0 {
                let asked = Instant::now();
                health.add(asked, self.get("127.0.0.1", "/healthz"));
                let asked = Instant::now();
                theirs.add(asked, self.get(also_from, "/healthz"));
                let seed = self.count.fetch_add(1, Ordering::Relaxed);
                let asked = Instant::now();
                new.add(asked, self.get("127.0.0.1", &format!("{small}?method=scratch&method_seed={seed}")));
            }
            sleep(Duration::from_millis(10));
        }
        [model, new, health, theirs]
    }
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    for attack in &options.attacks {
        let server = Server::start(&options.gene.models, &[])?;
        let beside = Beside {
            runtime: Builder::new_current_thread().enable_all().build()?,
            server: server.address.parse()?,
            count: AtomicU64::new(1 << 40),
        };
        let report = |when: &str, [model, new, health, theirs]: [Times; 4]| -> Outcome<()> {
            let (now, most) = (server.resident()? as f64 / 1e6, server.memory("VmHWM:")? as f64 / 1e6);
            println!("{attack:?}, {when}: resident {now:.0} MB, at most {most:.0} MB");
            println!(
                "  small model: {model}\n  small model, new: {new}\n  health: {health}\n  health, from the attackers' address: {theirs}"
            );
            Ok(())
        };
        beside.get("127.0.0.1", &options.small)?;
        report("before", beside.watch(&options.small, &options.from, 5))?;
        let purse = Purse {
            connections: AtomicU64::new(options.most_connections),
            bytes: AtomicU64::new(options.most_mib << 20),
        };
        let attacker = Attacker {
            attack: *attack,
            server: beside.server,
            from: SocketAddr::new(options.from.parse()?, 0),
            gene: options.gene.gene.clone(),
            long: options.gene.path(&options.size),
            count: Arc::default(),
            purse: Arc::new(purse),
        };
        let attackers = options.connections.div_ceil(attack.streams());
        // The attackers share one thread, which ends with the runtime.
        let crowd = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for _ in 0..attackers {
            crowd.spawn(attacker.clone().run());
        }
        sleep(Duration::from_secs(2));
        report("under attack", beside.watch(&options.small, &options.from, options.seconds))?;
        crowd.shutdown_background();
        let left = attacker.purse.connections.load(Ordering::Relaxed);
        println!("  the attackers opened {} connections", options.most_connections - left);
        sleep(Duration::from_secs(1));
        report("after", beside.watch(&options.small, &options.from, 2))?;
    }
    Ok(())
}

//! Many slow clients: memory of the server, and throughput of a fast client beside them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle, sleep},
    time::Duration,
};

use crate::{
    Gene, Outcome, Size,
    clients::{ask, curl},
    quartiles,
    server::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    gene: Gene,
    #[command(flatten)]
    size: Size,
    /// Number of slow clients.
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Bytes per second that each slow client reads.
    #[arg(long, default_value_t = 64 << 10)]
    rate: usize,
    /// Number of pairs of measurements: a fast client alone, and beside the slow ones.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Transfers of the fast client per measurement.
    #[arg(long, default_value_t = 6)]
    times: u64,
}

/// Clients that read `rate` bytes per second until `stop` is set.
struct Slow {
    stop: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Slow {
    fn start(options: &Options, address: &str, path: &str) -> Outcome<Self> {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for _ in 0..options.clients {
            let mut stream = TcpStream::connect(address)?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
            let (stop, read, rate) = (stop.clone(), read.clone(), options.rate);
            let client = move || {
                let mut buffer = vec![0; rate / 4];
                while !stop.load(Ordering::Relaxed) {
                    match stream.read_exact(&mut buffer) {
                        Ok(()) => read.fetch_add(buffer.len() as u64, Ordering::Relaxed),
                        Err(_) => return,
                    };
                    sleep(Duration::from_millis(250));
                }
            };
            threads.push(Builder::new().stack_size(64 << 10).spawn(client)?);
        }
        Ok(Self { stop, read, threads })
    }

    /// Stops the clients; returns the number of bytes that they read.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // The count of bytes reveals a client that panicked.
            let _ = thread.join();
        }
        self.read.load(Ordering::Relaxed)
    }
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let server = Server::start(&options.gene.models, &[])?;
    let path = options.gene.path(&options.size);
    let url = format!("http://{}{path}", server.address);
    let bytes = ask(&server.address, "HEAD", &path, false)?.length;
    curl(&url, bytes, options.times)?;
    let (mut ratios, mut rates, mut growth) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.pairs {
        let alone = curl(&url, bytes, options.times)?;
        let before = server.resident()?;
        let slow = Slow::start(options, &server.address, &path)?;
        sleep(Duration::from_secs(3));
        let beside = curl(&url, bytes, options.times)?;
        sleep(Duration::from_secs(2));
        growth.push(server.resident()? as f64 / 1e6 - before as f64 / 1e6);
        let read = slow.end();
        if read < (options.clients * options.rate) as u64 {
            return Err(
                format!("{} slow clients read {read} bytes: fewer than a second's", options.clients).into()
            );
        }
        ratios.push(beside / alone);
        rates.push(alone / 1e9);
    }
    let [low, median, high] = quartiles(&mut ratios);
    let most = growth.iter().copied().fold(f64::MIN, f64::max);
    println!(
        "{} clients of {} bytes/s on {bytes} bytes: resident memory grew by at most {most:.1} MB; a fast client \
         beside them keeps {median:.2} of {:.2} GB/s (quartiles {low:.2} and {high:.2}, {} pairs)",
        options.clients,
        options.rate,
        quartiles(&mut rates)[1],
        options.pairs
    );
    Ok(())
}

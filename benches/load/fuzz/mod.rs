//! Seeded malformed requests: none gets a 5xx or stays without an answer, nothing panics, and memory stays flat.
//!
//! Each request depends only on the seed and its number, so `--from N --requests 1` repeats one.

mod draw;
mod grpc;
mod http;

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use genebank::{
    gene::Synthetic,
    nn::{VitConfig, vit::RawVitConfig},
    tensor::codec::write_atomic,
};

use crate::{Outcome, server::Server};

/// How long an answer may take before the request counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many failures are listed.
const LISTED: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Protocol: http or grpc.
    #[arg(long, default_value = "http")]
    protocol: Protocol,
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Number of the first request.
    #[arg(long, default_value_t = 0)]
    from: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Clients at the same time.
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// Most growth of resident memory after the first tenth of the requests, MiB.
    #[arg(long, default_value_t = 64)]
    growth_mib: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    Http,
    Grpc,
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    /// Number of answers by what they say.
    answers: BTreeMap<String, u64>,
    /// Number and fault of requests that were answered wrongly or not at all.
    faults: Vec<(u64, String)>,
}

impl Tally {
    fn add(&mut self, number: u64, answer: Result<String, String>) {
        match answer {
            Ok(said) => *self.answers.entry(said).or_default() += 1,
            Err(fault) => self.faults.push((number, fault)),
        }
    }
}

/// The requests that are still to be made, and the results so far.
struct Work<'a> {
    options: &'a Options,
    address: &'a str,
    next: AtomicU64,
    tally: Mutex<Tally>,
}

impl Work<'_> {
    /// The number of the next request.
    fn next(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.options.from + self.options.requests).then_some(number)
    }

    fn done(&self, number: u64, answer: Result<String, String>) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).add(number, answer);
    }

    fn draw(&self, number: u64) -> draw::Draw {
        draw::Draw::new(self.options.seed, number)
    }
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let models = tempfile::tempdir()?;
    for name in draw::GENES {
        write_atomic(&models.path().join(format!("{name}.safetensors")), [gene(name)?.as_ref()])?;
    }
    let said = tempfile::NamedTempFile::new()?;
    let server = Server::launch(models.path(), &[], Stdio::from(said.reopen()?))?;
    let work = Work {
        options,
        address: &server.address,
        next: AtomicU64::new(options.from),
        tally: Mutex::default(),
    };
    let start = Instant::now();
    let mut resident = Vec::new();
    let client = || match options.protocol {
        Protocol::Http => http::client(&work),
        Protocol::Grpc => grpc::client(&work),
    };
    std::thread::scope(|scope| -> Outcome<()> {
        let clients: Vec<_> = (0..options.clients).map(|_| scope.spawn(client)).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            let made = work.next.load(Ordering::Relaxed) - options.from;
            if resident.len() < 10 && made * 10 >= options.requests * (resident.len() as u64 + 1) {
                resident.push(server.resident()?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })?;
    let took = start.elapsed().as_secs_f64();
    // What is cached for a while is freed before the last measurement.
    std::thread::sleep(Duration::from_secs(2));
    resident.push(server.resident()?);
    let Tally { answers, mut faults } = work.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    faults.sort();
    let said = std::fs::read_to_string(said.path())?;
    faults.extend(said.lines().filter(|line| line.contains("panicked")).map(|line| (0, line.to_owned())));
    println!(
        "{:?}, seed {}: {} requests from number {} in {took:.0} s by {} clients",
        options.protocol, options.seed, options.requests, options.from, options.clients
    );
    println!("| answer | times |\n| --- | ---: |");
    for (answer, times) in &answers {
        println!("| {answer} | {times} |");
    }
    let mib: Vec<String> =
        resident.iter().map(|bytes| format!("{:.1}", *bytes as f64 / 1_048_576.0)).collect();
    println!("resident memory after every tenth and at the end, MiB: {}", mib.join(" "));
    let grown = resident[resident.len() - 1].saturating_sub(resident[0]) >> 20;
    if grown > options.growth_mib {
        faults.push((0, format!("memory grew by {grown} MiB")));
    }
    for (number, fault) in faults.iter().take(LISTED) {
        println!("request {number}: {fault}");
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("{} faults", faults.len()).into()) }
}

/// A gene whose models are a few hundred KiB at most.
fn gene(name: &str) -> Outcome<Bytes> {
    let raw = RawVitConfig {
        image_size: 8,
        patch_size: 4,
        channels: 1,
        classes: 3,
        depth: 3,
        width: 24,
        heads: 3,
        mlp_ratio: 4,
    };
    let config = VitConfig::try_from(raw)?;
    Ok(Synthetic { name: name.to_owned(), config, stages: 3, widths: vec![8, 16], seed: 1 }.render()?.1)
}

//! The server under load: throughput compared with nginx and with the generated gRPC service, time to the first byte of
//! models that nobody has requested before, memory under many different requests and under slow clients, answers to
//! malformed requests, and what is left to others beside clients that hold what they have.
//!
//! ```text
//! genebank synthesize MODELS/big.safetensors --widths 192,384,576
//! cargo bench --bench load -- wire --models MODELS --gene big --depth 12 --width 768
//! cargo bench --bench load -- first --models MODELS --gene big --width 768 --widths 192,384,576
//! cargo bench --bench load -- slow --models MODELS --gene big --depth 12 --width 768
//! cargo bench --bench load -- distinct --models models --gene fashion-any
//! cargo bench --bench load -- fuzz --requests 1000000
//! cargo bench --bench load -- fuzz --requests 100000 --protocol grpc
//! cargo bench --bench load -- hold --models MODELS --gene big --depth 12 --width 768 \
//!     --small /v1/models/big/d1-w192.safetensors
//! ```
//!
//! All but `fuzz` and `hold` need curl; `wire` also needs nginx, h2load (nghttp2) and openssl. Compared programs run in
//! turns, and only their ratio is meaningful: everything runs on loopback, and client and server share the cores.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod bare;
mod clients;
mod distinct;
mod first;
mod fuzz;
mod hold;
mod nginx;
mod server;
mod slow;
mod wire;

use std::{error::Error, path::PathBuf};

use clap::{Args, Parser, Subcommand};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Passed by cargo.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Throughput compared with other servers.
    Wire(wire::Options),
    /// Time to the first byte of models that nobody has requested before.
    First(first::Options),
    /// Memory under slow clients, and throughput of a fast client beside them.
    Slow(slow::Options),
    /// Resident memory over many different requests.
    Distinct(distinct::Options),
    /// Answers to malformed requests.
    Fuzz(fuzz::Options),
    /// Response times and memory beside clients that send no end or read nothing.
    Hold(hold::Options),
}

/// The genes to serve, and the gene to request.
#[derive(Debug, Args)]
struct Gene {
    /// Folder of gene files.
    #[arg(long)]
    models: PathBuf,
    /// Name of a gene in it.
    #[arg(long)]
    gene: String,
}

/// The size to request.
#[derive(Debug, Args)]
struct Size {
    #[arg(long)]
    depth: u32,
    #[arg(long)]
    width: u32,
}

impl Gene {
    fn path(&self, size: &Size) -> String {
        format!("/v1/models/{}/d{}-w{}.safetensors", self.gene, size.depth, size.width)
    }
}

/// Lower quartile, median and upper quartile.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    [last / 4, last / 2, last - last / 4].map(|at| values[at])
}

fn main() -> Outcome<()> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!("genebank {}, load average at the start: {}", env!("CARGO_PKG_VERSION"), load.trim());
    match Cli::parse().what {
        What::Wire(options) => wire::run(&options),
        What::First(options) => first::run(&options),
        What::Slow(options) => slow::run(&options),
        What::Distinct(options) => distinct::run(&options),
        What::Fuzz(options) => fuzz::run(&options),
        What::Hold(options) => hold::run(&options),
    }
}

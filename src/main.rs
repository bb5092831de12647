//! The program.

use std::{io::IsTerminal as _, process::ExitCode};

use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("GENEBANK_LOG").unwrap_or_else(|_| EnvFilter::new("warn,genebank=info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    genebank::cli::run(std::env::args_os())
}

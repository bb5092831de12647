//! The `genebank` program.

use std::{io::IsTerminal as _, process::ExitCode};

use genebank::cli::{self, args::Command};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match cli::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    set_environment(&arguments.command);
    let filter =
        EnvFilter::try_from_env("GENEBANK_LOG").unwrap_or_else(|_| EnvFilter::new("warn,genebank=info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    cli::run(arguments)
}

/// Starts this program again with environment variables that libraries read at their first use. A new start is needed,
/// because setting a variable in a running process is unsound in general. If `CANDLE_NUM_THREADS` is already set,
/// nothing happens.
///
/// - `CANDLE_NUM_THREADS`: candle 0.11 runs element-wise operations on one spinning pool behind one lock, so two
///   training threads would wait for each other most of the time (docs/adr/0008-candle-pool-is-off.md).
/// - `MIMALLOC_PURGE_DELAY`: mimalloc returns memory to the system late. This makes training 2.7 times as fast, but a
///   server that only serves would hold several models' worth of memory that it no longer needs.
fn set_environment(command: &Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        const THREADS: &str = "CANDLE_NUM_THREADS";
        const PURGE: &str = "MIMALLOC_PURGE_DELAY";
        if let (None, Ok(program)) = (std::env::var_os(THREADS), std::env::current_exe()) {
            let mut again = std::process::Command::new(program);
            again.args(std::env::args_os().skip(1)).env(THREADS, "1");
            let only_serves = matches!(command, Command::Serve(options) if options.bank.data.is_none());
            if only_serves && std::env::var_os(PURGE).is_none() {
                again.env(PURGE, "0");
            }
            // This returns only if it fails. Then this process continues, more slowly.
            let _ = again.exec();
        }
    }
}

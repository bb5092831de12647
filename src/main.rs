//! The program.

use std::{io::IsTerminal as _, process::ExitCode};

use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quiet_candle();
    let filter =
        EnvFilter::try_from_env("GENEBANK_LOG").unwrap_or_else(|_| EnvFilter::new("warn,genebank=info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    genebank::cli::run(std::env::args_os())
}

/// Starts this program again with candle's own thread pool turned off.
///
/// candle 0.11 runs element-wise operations on one spinning pool behind one lock, so that two training threads wait
/// for each other most of the time (docs/adr/0008-candle-pool-is-off.md). The size is read from the environment at first use, and setting
/// a variable of a running process is not sound in general.
fn quiet_candle() {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        const THREADS: &str = "CANDLE_NUM_THREADS";
        if let (None, Ok(program)) = (std::env::var_os(THREADS), std::env::current_exe()) {
            // Only returns where it failed; then this process goes on, more slowly.
            let _ = std::process::Command::new(program)
                .args(std::env::args_os().skip(1))
                .env(THREADS, "1")
                .exec();
        }
    }
}

//! The program: what was typed ([`args`]), what it means (`config`), and one file for each command.

pub mod args;
mod commands;
mod config;
mod lock;
mod map;
mod output;
mod progress;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

use crate::error::{Error, Result};

use args::{Arguments, Command};

/// Runs the program with `arguments`, its own name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Nobody is left to tell where this fails.
            let _ = usage.print();
            return ExitCode::from(usage.exit_code() as u8);
        }
    };
    match command(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, as `head` does.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            output::talk(format_args!("error: {error}"));
            ExitCode::from(error.kind().codes().exit)
        }
    }
}

fn command(command: Command) -> Result<()> {
    match command {
        Command::Serve(options) => commands::serve::run(options),
        Command::Init(options) => commands::init::run(&options),
        Command::List(options) => commands::list::run(&options),
        Command::Inspect(options) => commands::inspect::run(&options),
        Command::Plan(options) => commands::plan::run(&options),
        Command::Train(options) => commands::train::train(&options),
        Command::Learn(options) => commands::train::learn(&options),
        Command::Finetune(options) => commands::train::finetune(&options),
        Command::Eval(options) => commands::eval::run(&options),
        Command::Study(options) => commands::study::run(&options),
        Command::Synthesize(options) => commands::synthesize::run(&options),
    }
}

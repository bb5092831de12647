//! The command line: the arguments as typed ([`args`]), the settings they stand for (`config`), and one file for each
//! command.

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

/// Runs the program with `arguments`. The first one is the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(usage) => {
            // If printing fails, there is nowhere to report it.
            let _ = usage.print();
            return ExitCode::from(usage.exit_code() as u8);
        }
    };
    match command(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe because it has read enough, as `head` does.
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

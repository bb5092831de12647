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

use crate::error::{Error, Kind, Result};

use args::{Arguments, Command};

/// Reads the arguments. The first one is the name of the program.
///
/// # Errors
/// The exit code, after the help text or what is wrong has been printed.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, ExitCode> {
    Arguments::try_parse_from(arguments).map_err(|usage| {
        // If printing fails, there is nowhere to report it.
        let _ = usage.print();
        ExitCode::from(usage.exit_code() as u8)
    })
}

/// Runs the program with these arguments.
pub fn run(arguments: Arguments) -> ExitCode {
    let resumes = resumes(&arguments.command);
    match command(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe because it has read enough, as `head` does.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            output::talk(format_args!("error: {error}"));
            if resumes && error.kind() == Kind::Cancelled {
                output::talk("run the same command to go on");
            }
            ExitCode::from(error.kind().codes().exit)
        }
    }
}

/// Whether the command, after it was stopped, goes on where it was when it is run again.
const fn resumes(command: &Command) -> bool {
    match command {
        Command::Train(_) | Command::Learn(_) | Command::Study(_) => true,
        Command::Init(options) => options.server.is_some(),
        Command::Serve(_)
        | Command::List(_)
        | Command::Inspect(_)
        | Command::Plan(_)
        | Command::Finetune(_)
        | Command::Eval(_)
        | Command::Import(_)
        | Command::Synthesize(_)
        | Command::Completions(_) => false,
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
        Command::Import(options) => commands::import::run(&options),
        Command::Synthesize(options) => commands::synthesize::run(&options),
        Command::Completions(options) => commands::completions::run(&options),
    }
}

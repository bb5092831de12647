//! `genebank completions`: prints a completion script for a shell.

use clap::CommandFactory as _;

use crate::{
    cli::{args, output},
    error::Result,
};

pub(in crate::cli) fn run(options: &args::Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut args::Arguments::command(), "genebank", &mut script);
    output::bytes([script.as_slice()])
}

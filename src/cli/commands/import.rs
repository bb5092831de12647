//! `genebank import`: writes a checkpoint of another library as a model file of this program.

use crate::{
    cli::{args, output},
    error::Result,
    file,
    import::{Hints, Import, Report, import},
    tensor::codec,
};

/// Lines of each list that are shown; `--json` shows all.
const SHOWN: usize = 8;

pub(in crate::cli) fn run(options: &args::Import) -> Result<()> {
    file::check_writable(&options.output)?;
    let hints = Hints { architecture: options.arch.clone(), heads: options.heads };
    let Import { ancestor, bytes, report } = import(&options.source, &hints)?;
    codec::write_atomic(&options.output, [bytes.as_ref()])?;
    if options.json {
        return output::json(&report);
    }
    let config = &ancestor.info().config;
    output::line(format_args!("{}: {config}; {} parameters", report.architecture, report.parameters))?;
    show(&report)?;
    output::line(format_args!(
        "{}: {} bytes, sha256 {}",
        options.output.display(),
        bytes.len(),
        ancestor.digest()
    ))
}

fn show(report: &Report) -> Result<()> {
    let folded: Vec<_> =
        report.folded.iter().map(|folded| format!("{} into {}", folded.scale, folded.into)).collect();
    if report.taken > 0 {
        output::line(format_args!("taken: {} tensors under their names", report.taken))?;
    }
    for (what, lines) in [
        ("renamed", &report.renamed),
        ("folded", &folded),
        ("zero", &report.zero),
        ("ignored", &report.ignored),
        ("assumed", &report.assumed),
    ] {
        if lines.is_empty() {
            continue;
        }
        output::line(format_args!("{what}: {}", lines.len()))?;
        for line in lines.iter().take(SHOWN) {
            output::line(format_args!("  {line}"))?;
        }
        if lines.len() > SHOWN {
            output::line(format_args!("  … and {} more; --json shows all", lines.len() - SHOWN))?;
        }
    }
    Ok(())
}

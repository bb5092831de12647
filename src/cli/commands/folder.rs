//! `genebank init -o FOLDER/`: writes a model with everything that its libraries read beside the weights.

use std::{path::Path, sync::Arc};

use crate::{
    bank::{Bank, Delivery, ModelRequest, ModelSummary, RepositoryName, repository::WEIGHTS},
    cli::{args, config, output},
    client::Summary,
    error::{Error, Result},
    file,
};

/// Whether `output` means a folder: it is one, or its name ends like one.
pub(super) fn is_meant(output: &Path) -> bool {
    output.is_dir() || output.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
}

/// Writes the files of the repository that the Hub protocol names for `request`.
pub(super) async fn write(options: &args::Init, request: &ModelRequest) -> Result<Summary> {
    refuse(options, request)?;
    let bank = Arc::new(Bank::open(config::bank(options.bank.clone(), None)?)?);
    let owner = bank.owner();
    let admitted = owner.admit(&request.gene)?;
    bank.read(&admitted, &request.start).await?;
    let quote = bank.plan(&admitted, request)?;
    let size = quote.blueprint.info.config.size();
    let name = RepositoryName {
        gene: quote.gene.meta().name.clone(),
        depth: size.depth as u64,
        width: size.width as u64,
        layout: request.layout,
        dtype: request.size.dtype,
    };
    let repository = bank.repository(&admitted, name).await?;
    let folder = options.output.as_path();
    let mut summary = None;
    for (path, quote) in &repository.weights {
        let Delivery::Ready(artifact) = bank.deliver(quote).await? else {
            return Err(Error::Cancelled);
        };
        artifact.write(&place(folder, path)?)?;
        if *path == WEIGHTS {
            let (identity, size_bytes) = (artifact.identity().to_string(), artifact.size_bytes());
            let model = ModelSummary { identity, size_bytes, ..ModelSummary::of(quote) };
            let (manifest, sha256) = (artifact.manifest().to_string(), artifact.sha256().to_string());
            summary = Some(Summary { model, manifest, sha256 });
        }
    }
    // The configuration comes last, so that a folder without it is not taken for a whole one.
    for (path, text) in &repository.texts {
        file::write_atomic(&place(folder, path)?, [text.as_ref()])?;
    }
    let files = repository.weights.len() + repository.texts.len();
    output::talk(format_args!("wrote {files} files to {}", folder.display()));
    summary.ok_or_else(|| Error::invalid("repository", "it has no weights"))
}

/// The place of the file `path` of a repository in `folder`, whose folders are created.
fn place(folder: &Path, path: &str) -> Result<std::path::PathBuf> {
    let place = folder.join(path);
    let parent = place.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    Ok(place)
}

/// Refuses what a folder cannot say or the Hub's names do not.
fn refuse(options: &args::Init, request: &ModelRequest) -> Result<()> {
    let wrong = |flag: &str, reason: &str| {
        Err(Error::invalid(format!("-o {}", options.output.display()), format!("{flag} {reason}")))
    };
    if options.locked || options.lock.is_some() {
        return wrong("--lock, --locked", "record one file, not a folder");
    }
    if let Some(url) = &options.server {
        return wrong(
            "--server",
            &format!(
                "sends files; for a folder run HF_ENDPOINT={url} hf download genebank/NAME --local-dir DIR"
            ),
        );
    }
    let plain = ModelRequest {
        gene: request.gene.clone(),
        size: crate::gene::SizeRequest {
            depth: request.size.depth,
            width: request.size.width,
            dtype: request.size.dtype,
            ..crate::gene::SizeRequest::default()
        },
        layout: request.layout,
        ..ModelRequest::default()
    };
    if *request != plain {
        return wrong(
            "a folder",
            "holds a model of the gene as it is; write other methods, classes, images and tuned models to a file",
        );
    }
    let parent = options.output.parent().filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return wrong("the folder", "that it is in does not exist; create it first");
    }
    Ok(())
}

//! `genebank init`: writes a model, from a server or from genes in this process.

use std::{path::Path, sync::Arc};

use crate::{
    bank::{Bank, Delivery, ModelRequest, ModelSummary},
    cli::{
        args, config,
        lock::{self, Lock},
        output,
        progress::Transfer,
    },
    client::{Event, Expected, Summary},
    error::{Error, Result},
    file,
};

use super::folder;

/// The path that means standard output.
const STDOUT: &str = "-";

pub(in crate::cli) fn run(options: &args::Init) -> Result<()> {
    let request = config::request(options)?;
    if folder::is_meant(&options.output) {
        let summary = super::small_runtime()?.block_on(folder::write(options, &request))?;
        output::talk(sentence(&summary));
        return if options.json { output::json(&summary) } else { Ok(()) };
    }
    if options.output == Path::new(STDOUT) && (options.json || options.locked || options.lock.is_some()) {
        return Err(Error::invalid("-o -", "--json, --lock and --locked need a file"));
    }
    if options.output != Path::new(STDOUT) {
        file::check_writable(&options.output)?;
    }
    let path = options.lock.clone().unwrap_or_else(|| lock::DEFAULT.into());
    let locks = options.locked || options.lock.is_some();
    let lock = locks.then(|| Lock::open(&path)).transpose()?;
    let expected = match &lock {
        Some(lock) if options.locked => Some(lock.expected(&options.output)?.clone()),
        _ => None,
    };
    let work = async {
        match &options.server {
            Some(url) => remote(url, options, &request, expected.as_ref()).await,
            None => embedded(options, &request, expected.as_ref()).await,
        }
    };
    let summary = super::small_runtime()?.block_on(async {
        tokio::select! {
            summary = work => summary,
            _ = tokio::signal::ctrl_c() => Err(Error::Cancelled),
        }
    })?;
    if let Some(mut lock) = lock.filter(|_| !options.locked) {
        lock.put(&options.output, &summary);
        lock.write(&path)?;
    }
    output::talk(sentence(&summary));
    if options.json { output::json(&summary) } else { Ok(()) }
}

async fn remote(
    url: &str,
    options: &args::Init,
    request: &ModelRequest,
    expected: Option<&Expected>,
) -> Result<Summary> {
    let client = config::connect(url, options.transport).await?;
    let (path, mut transfer) = (options.output.as_path(), Transfer::new(!options.json));
    let report = |event| transfer.report(event);
    if let Some(expected) = expected {
        return client.init_locked(request, path, expected, report).await;
    }
    if path != Path::new(STDOUT) {
        return client.init_model(request, path, report).await;
    }
    // Nothing is written to standard output before the digest has been verified.
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let path = folder.path().join("model.safetensors");
    let summary = client.init_model(request, &path, report).await?;
    let mut file = std::fs::File::open(&path).map_err(Error::io(&path))?;
    std::io::copy(&mut file, &mut std::io::stdout().lock()).map_err(Error::io("standard output"))?;
    Ok(summary)
}

async fn embedded(
    options: &args::Init,
    request: &ModelRequest,
    expected: Option<&Expected>,
) -> Result<Summary> {
    let bank = Arc::new(Bank::open(config::bank(options.bank.clone(), None)?)?);
    let owner = bank.owner();
    let admitted = owner.admit(&request.gene)?;
    let request = bank.with_classes(&admitted, request.clone()).await?;
    let quote = bank.plan(&admitted, &request)?;
    let artifact = match bank.deliver(&quote).await? {
        Delivery::Ready(artifact) => artifact,
        Delivery::Tuning(mut job) => {
            let mut transfer = Transfer::new(false);
            while let Some(progress) = job.progress().await {
                transfer.report(Event::Progress(progress));
            }
            job.finish().await?
        }
    };
    let (identity, sha256) = (artifact.identity().to_string(), artifact.sha256().to_string());
    if let Some(expected) = expected {
        expected.check_identity(&identity)?;
        expected.check_sha256(&sha256)?;
    }
    if options.output == Path::new(STDOUT) {
        output::bytes(artifact.parts().map(AsRef::as_ref))?;
    } else {
        artifact.write(&options.output)?;
    }
    let size_bytes = artifact.size_bytes();
    let model = ModelSummary { identity, size_bytes, ..ModelSummary::of(&quote) };
    Ok(Summary { model, manifest: artifact.manifest().to_string(), sha256 })
}

fn sentence(summary: &Summary) -> String {
    let Summary { model, sha256, manifest: _ } = summary;
    let quality = match (model.expected, model.untrained_width) {
        (_, true) => "untrained width".to_owned(),
        (None, _) if model.fresh_classes > 0 => {
            format!("rows of the head fresh for {} of {} classes", model.fresh_classes, model.classes)
        }
        (None, _) => "not measured at this size".to_owned(),
        (value, _) => format!("measured {}", output::quality(model.metric, value)),
    };
    format!(
        "{} depth {} width {}: {} parameters, {} bytes, {quality}, sha256 {sha256}",
        model.gene, model.depth, model.width, model.parameters, model.size_bytes
    )
}

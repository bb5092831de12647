//! Turns the arguments into typed and checked settings.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    bank::{self, Length, ModelRequest, Tune, builtin},
    client::{Client, Transport},
    error::{Error, Result},
    file,
    gene::{
        Head, SizeRequest, Start, Target,
        labels::{MAX_LABEL_BYTES, MAX_LABELS},
    },
    server,
    tensor::device,
};

use super::{args, output};

/// Limit on the renders, and on the tuning jobs, that run at the same time.
const MAX_PERMITS: usize = 1024;

/// Size limit of a file of labels, bytes.
const MAX_LABEL_FILE_BYTES: u64 = (MAX_LABELS * (MAX_LABEL_BYTES + 2)) as u64;

/// The folder of the genes. Without one, the program uses the gene inside it, and says so.
pub(super) fn models(models: &args::Models) -> Option<PathBuf> {
    if models.models.is_some() {
        return models.models.clone();
    }
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("share/genebank/models"));
    let folder =
        [Some(PathBuf::from("models")), beside()].into_iter().flatten().find(|folder| folder.is_dir());
    if folder.is_none() {
        let gene = builtin::NAME;
        output::talk(format_args!("there is no folder ./models: using the gene {gene} inside the program"));
    }
    folder
}

/// The settings of a bank.
pub(super) fn bank(options: args::BankOptions, default_gene: Option<String>) -> Result<bank::Config> {
    for (flag, number) in [("--renders", options.renders), ("--tunings", options.tunings)] {
        if !(1..=MAX_PERMITS).contains(&number) {
            return Err(Error::invalid(flag, format!("{number} is beyond 1..={MAX_PERMITS}")));
        }
    }
    Ok(bank::Config {
        models: models(&options.models),
        default_gene,
        data: options.data,
        store: options.store,
        cache_bytes: options.cache_mib.saturating_mul(1 << 20),
        request_bytes: options.request_mib.saturating_mul(1 << 20),
        renders: options.renders,
        tunings: options.tunings,
        device: device::open(&options.device)?,
    })
}

/// Environment variable with the token for a server's private genes. There is no flag for it, because every process on
/// a machine can read the arguments of the others.
const TOKEN_ENV: &str = "GENEBANK_TOKEN";

/// Connects to the server at `url`, with the token from the environment.
pub(super) async fn connect(url: &str, transport: Transport) -> Result<Client> {
    let client = Client::connect_by(url, transport).await?;
    match std::env::var(TOKEN_ENV) {
        Ok(token) if !token.is_empty() => client.with_token(&token),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(client),
        Err(error) => Err(Error::invalid(TOKEN_ENV, error.to_string())),
    }
}

/// The settings of a server.
pub(super) fn server(options: args::Serve) -> Result<server::Config> {
    let args::Serve {
        listen,
        default_gene,
        allow_remote_tuning,
        tokens,
        tls_cert,
        tls_key,
        grace,
        bank: options,
    } = options;
    if options.data.is_some() && !listen.ip().is_loopback() && !allow_remote_tuning {
        let reason = format!(
            "callers beyond this machine reach {listen} and could start tuning jobs; add --allow-remote-tuning to accept \
             that, and --tokens to ask them for a token"
        );
        return Err(Error::invalid("--data", reason));
    }
    Ok(server::Config {
        listen,
        grace: Duration::from_secs(grace),
        limits: server::Limits::default(),
        bank: bank(options, default_gene)?,
        access: tokens.as_deref().map(server::Access::open).transpose()?.unwrap_or_default(),
        tls: tls_cert.zip(tls_key).map(|(certificate, key)| server::Tls { certificate, key }),
    })
}

/// The number of threads to compute with.
pub(super) fn threads(options: &args::RunOptions) -> Result<usize> {
    match options.threads {
        Some(0) => Err(Error::invalid("--threads", "0 threads do nothing; give at least 1")),
        Some(threads) => Ok(threads),
        None => {
            std::thread::available_parallelism().map(usize::from).map_err(Error::io("number of processors"))
        }
    }
}

/// The requested size.
pub(super) const fn size(options: &args::SizeOptions) -> SizeRequest {
    let args::SizeOptions { depth, width, dtype, rule, allow_untrained_width } = options;
    SizeRequest {
        depth: *depth,
        width: *width,
        rule: *rule,
        dtype: *dtype,
        allow_untrained_width: *allow_untrained_width,
    }
}

/// The requested images and classes. `classes` are those of the data set, if the command has one.
pub(super) fn target(options: &args::TargetOptions, classes: Option<&[String]>) -> Result<Target> {
    let args::TargetOptions { image_size, patch_size, labels: names, head_seed } = options;
    let labels = names.as_deref().map(|names| labels(names, classes)).transpose()?;
    let head = labels.map(|labels| Head { labels, seed: *head_seed });
    Ok(Target { image_size: *image_size, patch_size: *patch_size, head })
}

/// Reads labels from `a,b,c`, `@FILE` or `dataset`.
fn labels(text: &str, classes: Option<&[String]>) -> Result<Vec<String>> {
    if text == "dataset" {
        let none =
            || Error::invalid("--labels", "\"dataset\" is for commands with --dataset; give names or @FILE");
        return classes.map(<[String]>::to_vec).ok_or_else(none);
    }
    let Some(path) = text.strip_prefix('@') else {
        return Ok(text.split(',').map(ToOwned::to_owned).collect());
    };
    let names = file::text(Path::new(path), MAX_LABEL_FILE_BYTES)?;
    Ok(names.lines().map(ToOwned::to_owned).collect())
}

/// The requested model.
pub(super) fn request(options: &args::Init) -> Result<ModelRequest> {
    let length = match options.length {
        args::Length { tune_epochs: Some(epochs), .. } => Some(Length::Epochs(epochs)),
        args::Length { tune_steps: Some(steps), .. } => Some(Length::Steps(steps)),
        args::Length { tune_epochs: None, tune_steps: None } => None,
    };
    let learning_rate_e9 = options.tune_lr.map(rate_e9).transpose()?;
    let tune = options.tune_dataset.clone().zip(length).map(|(dataset, length)| Tune {
        dataset,
        length,
        learning_rate_e9,
        seed: options.seed,
    });
    let (size, target) = (size(&options.size), target(&options.target, None)?);
    let start = Start { method: options.method, seed: options.method_seed };
    let (gene, layout) = (options.gene.clone(), options.layout);
    Ok(ModelRequest { gene, size, target, start, layout, tune })
}

/// A learning rate in units of 1e-9, because keys hold no floats.
fn rate_e9(rate: f64) -> Result<u64> {
    let scaled = (rate * 1e9).round();
    if (1.0..=1e9).contains(&scaled) {
        return Ok(scaled as u64);
    }
    Err(Error::invalid("--tune-lr", format!("{rate} is beyond 1e-9..=1")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Arguments, Command};
    use clap::Parser as _;

    fn serve(text: &str) -> Result<server::Config> {
        let command = Arguments::try_parse_from(text.split(' ')).unwrap().command;
        let Command::Serve(options) = command else { panic!("{command:?}") };
        server(options)
    }

    #[test]
    fn tuning_beyond_loopback_needs_consent() {
        serve("genebank serve --listen 127.0.0.1:0 --data data").unwrap();
        serve("genebank serve --listen [::1]:0 --data data").unwrap();
        serve("genebank serve --listen 0.0.0.0:0").unwrap();
        serve("genebank serve --listen 0.0.0.0:0 --data data").unwrap_err();
        serve("genebank serve --listen 0.0.0.0:0 --data data --allow-remote-tuning").unwrap();
        serve("genebank serve --renders 0").unwrap_err();
    }

    #[test]
    fn tuning_is_a_data_set_and_one_length() {
        for text in [
            "genebank init g -o x --tune-dataset d",
            "genebank init g -o x --tune-epochs 1",
            "genebank init g -o x --tune-dataset d --tune-epochs 1 --tune-steps 1",
        ] {
            Arguments::try_parse_from(text.split(' ')).unwrap_err();
        }
        let text = "genebank init g -o x --tune-dataset d --tune-steps 9 --tune-lr 0.0005";
        let Command::Init(options) = Arguments::try_parse_from(text.split(' ')).unwrap().command else {
            panic!()
        };
        let tune = request(&options).unwrap().tune.unwrap();
        assert_eq!((tune.length, tune.learning_rate_e9), (Length::Steps(9), Some(500_000)));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 2.0] {
            rate_e9(rate).unwrap_err();
        }
    }
}

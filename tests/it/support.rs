//! A small gene, a server and raw HTTP for the tests.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use candle_core::Device;
use genebank::{
    bank::{self, Bank, ModelRequest, Quote},
    blueprint::{Metric, Preprocessing},
    digest::{hex, sha256},
    error::Error,
    gene::{GeneMeta, Probe, Quality, store},
    nn::vit::{RawVitConfig, VitConfig},
    server::{Access, Config, Limits},
    tensor::{Weights, codec},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// Name of the test gene.
pub(crate) const GENE: &str = "tiny";

/// The metadata of the test gene: three stages, width 24, heads of 8.
pub(crate) fn meta() -> GeneMeta {
    let raw = RawVitConfig {
        image_size: 8,
        patch_size: 4,
        channels: 1,
        classes: 3,
        depth: 3,
        width: 24,
        heads: 3,
        mlp_ratio: 4,
    };
    GeneMeta {
        name: GENE.to_owned(),
        config: VitConfig::try_from(raw).unwrap().into(),
        stages: vec![1, 1, 1],
        trained_widths: vec![8, 24],
        width_norms: true,
        depth_range: [1, 64],
        preprocessing: Preprocessing { mean: vec![0.5], std: vec![0.5] },
        labels: ["a", "b", "c"].map(ToOwned::to_owned).to_vec(),
        licence: "none".to_owned(),
        weights_licence: None,
        data: "none".to_owned(),
        teacher: "none".to_owned(),
        recipe: "seeded values".to_owned(),
        probe: Probe { seed: 0, batch: 1, logits: vec![0.0; 3] },
        metric: Metric::Accuracy,
        quality: vec![Quality { depth: 3, width: 24, tuning_epochs: 0, value: 0.5, items: None }],
    }
}

/// Seeded values for every tensor of the gene, including the norms' scales and biases.
pub(crate) fn weights(meta: &GeneMeta) -> Weights {
    let init = genebank::tensor::Init::TruncNormal { std_e9: 200_000_000 };
    let tensor = |spec: &genebank::nn::Spec| {
        let shape = spec.shape(&meta.config.dims());
        let values = init.values(1, &spec.name, shape.iter().product());
        let tensor = candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap();
        genebank::tensor::Weight::new(&tensor).unwrap()
    };
    meta.specs().iter().map(|spec| (spec.name.clone(), tensor(spec))).collect()
}

/// The metadata of the test gene in the shape of Fashion-MNIST.
pub(crate) fn fashion_meta() -> GeneMeta {
    let meta = meta();
    let raw =
        RawVitConfig { image_size: 28, patch_size: 7, classes: 10, ..(*meta.config.vit().unwrap()).into() };
    let fashion = genebank::data::KNOWN.iter().find(|known| known.name == "fashion-mnist").unwrap();
    GeneMeta {
        config: VitConfig::try_from(raw).unwrap().into(),
        labels: fashion.classes.iter().map(ToString::to_string).collect(),
        ..meta
    }
}

/// The program, without the settings of the environment.
pub(crate) fn program() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_genebank"));
    for name in ["GENEBANK_MODELS", "GENEBANK_SERVER", "GENEBANK_DATA", "GENEBANK_TOKEN"] {
        command.env_remove(name);
    }
    command
}

/// The folder of the sample of Fashion-MNIST.
pub(crate) fn sample_data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// The bytes of the test gene's file.
pub(crate) fn gene_bytes() -> Vec<u8> {
    let meta = meta();
    store::render(meta.clone(), &weights(&meta), 7).unwrap().1.to_vec()
}

/// A folder with the test gene, or with `bytes` under its name.
pub(crate) fn models(bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    codec::write_atomic(&folder.path().join(format!("{GENE}.safetensors")), [bytes]).unwrap();
    folder
}

/// The token that opens the test gene if it is private.
pub(crate) const TOKEN: &str = "hf_secret";

/// Access rules in which the test gene is private.
pub(crate) fn private() -> Access {
    let folder = tempfile::tempdir().unwrap();
    let digest = hex(&sha256(TOKEN.as_bytes()));
    let text = format!("private = [\"{GENE}\"]\n[[token]]\nname = \"ci\"\nsha256 = \"{digest}\"\n");
    let path = folder.path().join("tokens.toml");
    codec::write_atomic(&path, [text.as_bytes()]).unwrap();
    Access::open(&path).unwrap()
}

/// The settings of a bank with the genes in `models`.
pub(crate) fn bank_config(models: &Path) -> bank::Config {
    bank::Config {
        models: Some(models.to_owned()),
        default_gene: None,
        data: None,
        store: models.join("store"),
        cache_bytes: 64 << 20,
        request_bytes: 64 << 20,
        renders: 4,
        tunings: 1,
        device: Device::Cpu,
    }
}

/// The bank's quote for `request`, with the rights of the owner.
pub(crate) fn plan(bank: &Bank, request: &ModelRequest) -> Result<Quote, Error> {
    bank.plan(&bank.owner().admit(&request.gene)?, request)
}

/// The first CUDA device, if there is one.
pub(crate) fn gpu() -> Option<Device> {
    let opened = genebank::tensor::device::open("cuda:0");
    // This bypasses the captured output of the test, so that a skipped test is visible.
    opened
        .inspect_err(|error| {
            let mut seen = std::io::stderr();
            writeln!(seen, "SKIPPED: no CUDA device is tested here: {error}").unwrap();
        })
        .ok()
}

/// A server in this process. Dropping it stops it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    models: TempDir,
    task: tokio::task::JoinHandle<Result<(), Error>>,
    _stop: tokio_util::sync::DropGuard,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Limits { head_timeout: Duration::from_secs(1), ..Limits::default() }).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::of(limits, 4).await
    }

    /// Starts a server that allows this many renders at the same time.
    pub(crate) async fn of(limits: Limits, renders: usize) -> Self {
        let models = models(&gene_bytes());
        let bank = bank::Config { renders, ..bank_config(models.path()) };
        Self::on(limits, models, bank).await
    }

    /// Starts a server with a new bank.
    pub(crate) async fn on(limits: Limits, models: TempDir, bank: bank::Config) -> Self {
        Self::guarded(limits, models, bank, Access::default()).await
    }

    /// Starts a server with a new bank and these access rules.
    pub(crate) async fn guarded(limits: Limits, models: TempDir, bank: bank::Config, access: Access) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = Config { listen, grace: Duration::from_secs(2), limits, bank, access, tls: None };
        let app = config.build().await.unwrap();
        let (address, stop) = (app.local_addr(), CancellationToken::new());
        let task = tokio::spawn(app.serve(stop.clone()));
        Self { address, _stop: stop.clone().drop_guard(), stop, models, task }
    }

    /// Waits until the server has ended, which it does after `stop`.
    pub(crate) async fn ended(self) {
        self.task.await.unwrap().unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.models.path().to_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.http("GET", path, "").await
    }

    /// Makes one request on a new connection. `headers` are complete lines.
    pub(crate) async fn http(&self, method: &str, path: &str, headers: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Answer::read(&bytes)
    }
}

/// An HTTP response with its raw body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head ends");
        let head = std::str::from_utf8(&bytes[..end]).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Names of the entries of a folder.
pub(crate) fn entries(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    std::fs::read_dir(folder).unwrap().map(name).collect()
}

//! The command line as typed. `config` turns it into settings.
//!
//! This file changes when the command line does, and for no other reason. It is long because each flag carries its help
//! text, and flags are easiest to keep alike side by side.

#![expect(clippy::doc_markdown, reason = "doc comments here are help texts")]

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    bank::{budget::DEFAULT_CHOICES, quantity},
    client::Transport,
    export::Layout,
    gene::{DepthRule, Method},
    tensor::Dtype,
};

/// Initialised transformers of any depth and width from compact learngenes.
#[derive(Debug, Parser)]
#[command(name = "genebank", version = crate::version::VERSION, about, max_term_width = 110)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve genes over gRPC and HTTP on one port
    Serve(Serve),
    /// Write an initialised model of a depth and width
    Init(Init),
    /// List genes with their sizes and measured quality
    List(List),
    /// Show what a gene or model file holds
    Inspect(Inspect),
    /// Choose the best depth and width within a budget
    Plan(Plan),
    /// Train a model from a recipe: an ancestor, or a control from scratch
    Train(Train),
    /// Learn a gene from an ancestor, with a recipe
    Learn(Learn),
    /// Tune a model file or a gene's model on a data set
    Finetune(Finetune),
    /// Measure the accuracy of a model file or a gene's model
    Eval(Eval),
    /// Measure a gene's models over depths and tuning epochs, and compare them with controls from scratch
    Study(Study),
    /// Write a checkpoint of timm or transformers as a model file of this program
    Import(Import),
    /// Write a gene of seeded values in any shape, to benchmark a server. It has learned nothing
    Synthesize(Synthesize),
    /// Print a script that completes the commands and flags of this program in a shell
    Completions(Completions),
}

/// Folder of the genes.
#[derive(Debug, Clone, Args)]
pub struct Models {
    /// Folder of gene files. Default: `models` in the current folder, or the folder that came with the program, or, if
    /// neither exists, the gene fashion-any inside the program. Headers are checked at the start, and a broken one stops it; weights
    /// are checked when a gene is first asked for. Files of other libraries are skipped
    #[arg(long, value_name = "DIR", env = "GENEBANK_MODELS")]
    pub models: Option<PathBuf>,
}

/// Tuning data, caches and limits.
#[derive(Debug, Clone, Args)]
pub struct BankOptions {
    /// Folder of the genes.
    #[command(flatten)]
    pub models: Models,
    /// Folder of data sets for tuning. Without it, tuning requests are refused
    #[arg(long, value_name = "DIR", env = "GENEBANK_DATA")]
    pub data: Option<PathBuf>,
    /// Folder for tuned models. They are kept, so that the same request gets the same bytes
    #[arg(long, value_name = "DIR", default_value = ".cache/genebank")]
    pub store: PathBuf,
    /// Memory for narrower widths and other element types, in addition to the genes. With less memory, they are
    /// recomputed more often
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub cache_mib: u64,
    /// Memory for models that are being made, or are read although they are no longer in the cache. Without it a gRPC
    /// call gets RESOURCE_EXHAUSTED, an HTTP download waits, and a larger model is refused
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub request_mib: u64,
    /// How many models are rendered at the same time. A further gRPC call gets RESOURCE_EXHAUSTED, and a further HTTP
    /// download waits
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub renders: usize,
    /// How many tuning jobs run at the same time. A further one gets RESOURCE_EXHAUSTED
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tunings: usize,
    /// Device for tuning: cpu, or cuda:N in a build with CUDA. Genes are then kept on that device too. Models that are
    /// not tuned are served from main memory in either case
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
}

/// `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Address to listen on. Port 0 picks a free port and prints it. Beyond loopback, everyone who can reach the port
    /// can get every gene that --tokens does not make private
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "GENEBANK_LISTEN")]
    pub listen: SocketAddr,
    /// Gene for requests that name none. Default: the first by name
    #[arg(long, value_name = "NAME")]
    pub default_gene: Option<String>,
    /// Allow --data with an address beyond loopback. Everyone who can reach the port can then start tuning jobs, or
    /// every holder of a token if --tokens lists one
    #[arg(long)]
    pub allow_remote_tuning: bool,
    /// TOML file with private genes and the tokens that open them: `private = ["GENE"]`, and `[[token]]` tables with
    /// `name` and `sha256`, the SHA-256 of the token in hex. If it lists a token, tuning needs one. Without this file,
    /// every gene is open to all, and tokens are ignored
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// PEM file with the server's certificate and the intermediate certificates. The port then speaks TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// How long open downloads may continue after SIGTERM or Ctrl-C before they are cut off
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u64,
    /// Genes, caches and limits.
    #[command(flatten)]
    pub bank: BankOptions,
}

/// Size and form of a model.
#[derive(Debug, Clone, Args)]
pub struct SizeOptions {
    /// Transformer blocks. Default: the depth at which the gene was trained
    #[arg(long)]
    pub depth: Option<u64>,
    /// Embedding dimension, one of the gene's trained widths. Default: the largest
    #[arg(long)]
    pub width: Option<u64>,
    /// Element type: f32, f16 or bf16. The 16-bit types are casts and halve the file
    #[arg(long, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// How layers are distributed over stages: `trained` gives the trained network at the trained depth, `cyclic` is
    /// the published rule
    #[arg(long, default_value_t = DepthRule::Trained)]
    pub rule: DepthRule,
    /// Accept a width that was not trained. The model has the right shape, but no measured quality
    #[arg(long)]
    pub allow_untrained_width: bool,
}

/// Images and classes of a model.
#[derive(Debug, Clone, Args)]
pub struct TargetOptions {
    /// Height and width of an image, pixels; a multiple of the patch size. Position embeddings are resized as in timm.
    /// Default: the gene's
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<u64>,
    /// Height and width of a patch, pixels. Patch kernels are resized as in timm. Default: the gene's
    #[arg(long, value_name = "PIXELS")]
    pub patch_size: Option<u64>,
    /// Classes in order: names separated by commas, or @FILE with one name per line, or `dataset` for the classes of
    /// the data set. The head keeps the rows of names that the gene knows, and the other rows are fresh. Default: those
    /// of the data set if the command has one, otherwise the gene's
    #[arg(long, value_name = "NAMES")]
    pub labels: Option<String>,
    /// Seed for fresh rows of the head
    #[arg(long, value_name = "SEED", default_value_t = 0, requires = "labels")]
    pub head_seed: u64,
}

/// `init`.
#[derive(Debug, Clone, Args)]
pub struct Init {
    /// Name of the gene; `genebank list` shows them
    pub gene: String,
    /// Size and form.
    #[command(flatten)]
    pub size: SizeOptions,
    /// Images and classes.
    #[command(flatten)]
    pub target: TargetOptions,
    /// Where the initial values come from: `gene`, or a baseline. `scratch` draws seeded values. `first-layers` and
    /// `uniform` take the first or evenly spaced elements of every axis of the gene's ancestor, and `importance` takes its
    /// most important channels, heads and hidden units
    #[arg(long = "init", value_name = "METHOD", default_value_t = Method::Gene)]
    pub method: Method,
    /// Seed for the values of `--init scratch`
    #[arg(long = "init-seed", value_name = "SEED", default_value_t = 0)]
    pub method_seed: u64,
    /// Names and layout of the tensors: as `timm` or as `transformers` reads them
    #[arg(long, value_name = "LAYOUT", default_value_t = Layout::Timm)]
    pub layout: Layout,
    /// File to write, completely or not at all. `-` is standard output. A folder, or a name that ends in `/`, gets the
    /// weights with everything that the model's libraries read beside them
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Server to ask, for example http://127.0.0.1:8080. Without it, this process uses the genes of --models
    #[arg(long, value_name = "URL", env = "GENEBANK_SERVER")]
    pub server: Option<String>,
    /// How bytes come from a server: `grpc`; `http`, for proxies that speak only HTTP/1.1; or `auto`, which uses gRPC,
    /// and for files larger than 64 MiB HTTP ranges over 4 connections
    #[arg(long, value_name = "TRANSPORT", default_value_t = Transport::Auto)]
    pub transport: Transport,
    /// Tune the model on this data set before writing it. Needs --tune-epochs or --tune-steps
    #[arg(long, value_name = "NAME", requires = "length")]
    pub tune_dataset: Option<String>,
    /// How long to tune.
    #[command(flatten)]
    pub length: Length,
    /// Peak learning rate of tuning. Default: the recipe's
    #[arg(long, value_name = "RATE", requires = "tune_dataset")]
    pub tune_lr: Option<f64>,
    /// Seed for data order and augmentation while tuning
    #[arg(long, default_value_t = 0, requires = "tune_dataset")]
    pub seed: u64,
    /// Record the identity and digests of the output in this file [default with --locked or without a value:
    /// genebank.lock]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "genebank.lock")]
    pub lock: Option<PathBuf>,
    /// Write exactly the bytes that the lock file records for this output, or fail. The lock file is not changed
    #[arg(long)]
    pub locked: bool,
    /// Print a summary of the written model as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Genes, caches and limits.
    #[command(flatten)]
    pub bank: BankOptions,
}

/// How long to tune.
#[derive(Debug, Clone, Args)]
#[group(id = "length", multiple = false)]
pub struct Length {
    /// Passes over the training part
    #[arg(long, value_name = "N", requires = "tune_dataset")]
    pub tune_epochs: Option<u32>,
    /// Optimiser steps
    #[arg(long, value_name = "N", requires = "tune_dataset")]
    pub tune_steps: Option<u32>,
}

/// `list`.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Server to ask. Without it, the genes of --models are used
    #[arg(long, value_name = "URL", env = "GENEBANK_SERVER")]
    pub server: Option<String>,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Folder of the genes.
    #[command(flatten)]
    pub models: Models,
}

/// `inspect`.
#[derive(Debug, Clone, Args)]
pub struct Inspect {
    /// What to show.
    #[command(flatten)]
    pub subject: Subject,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// Data, threads and device of a run.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Folder of data sets
    #[arg(long, value_name = "DIR", env = "GENEBANK_DATA")]
    pub data: Option<PathBuf>,
    /// Number of threads; training uses at most 4. Default: as many as the machine has. The result does not depend on
    /// it
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Device to compute on: cpu, or cuda:N in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
}

/// `train`.
#[derive(Debug, Clone, Args)]
pub struct Train {
    /// Recipe, a TOML file
    pub recipe: PathBuf,
    /// File to write when the run has ended: a model, or a gene. A gene's file must have the gene's name
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Checkpoint of the run, written after every epoch. A run that finds it continues from there. Default: OUTPUT with
    /// the extension .ckpt
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Data and threads.
    #[command(flatten)]
    pub run: RunOptions,
}

/// `learn`.
#[derive(Debug, Clone, Args)]
pub struct Learn {
    /// Model file of the ancestor. Default: the recipe's
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// Recipe, output and state.
    #[command(flatten)]
    pub train: Train,
}

/// A model file, or a gene and a size.
#[derive(Debug, Clone, Args)]
pub struct Subject {
    /// A model file, a gene file, the name of a gene, or a folder that timm or transformers wrote
    #[arg(value_name = "FILE_OR_GENE")]
    pub source: String,
    /// Size of a gene's model.
    #[command(flatten)]
    pub size: SizeOptions,
    /// Images and classes of a gene's model.
    #[command(flatten)]
    pub target: TargetOptions,
    /// Folder of the genes.
    #[command(flatten)]
    pub models: Models,
}

/// `finetune`.
#[derive(Debug, Clone, Args)]
#[group(id = "finetune_length", required = true, multiple = false, args = ["epochs", "steps"])]
pub struct Finetune {
    /// What to tune.
    #[command(flatten)]
    pub subject: Subject,
    /// Name of the data set. Default: the one that the gene or file records
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Passes over the training part
    #[arg(long, value_name = "N")]
    pub epochs: Option<u32>,
    /// Optimiser steps
    #[arg(long, value_name = "N")]
    pub steps: Option<u32>,
    /// Peak learning rate. Default: the recipe's
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Seed for data order and augmentation
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Model file to write when the run has ended
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Data and threads.
    #[command(flatten)]
    pub run: RunOptions,
}

/// `eval`.
#[derive(Debug, Clone, Args)]
pub struct Eval {
    /// What to measure.
    #[command(flatten)]
    pub subject: Subject,
    /// Name of the data set. Default: the one that the gene or file records
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Part of the data set: test, held-out, train or train-full. Use held-out to make choices, and test for final
    /// results
    #[arg(long, value_name = "PART", default_value = "test")]
    pub split: String,
    /// Also write the logits of every image to this safetensors file, as `logits` [images, classes]
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Data and threads.
    #[command(flatten)]
    pub run: RunOptions,
}

/// `study`.
#[derive(Debug, Clone, Args)]
pub struct Study {
    /// Plan of the study, a TOML file
    pub plan: PathBuf,
    /// Folder for the table, the plot and the finished cells. A study that finds finished cells does not repeat them
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Folder for trained models and checkpoints
    #[arg(long, value_name = "DIR", default_value = ".cache/genebank/study")]
    pub cache: PathBuf,
    /// List the cells, and whether each is finished, without running any. Where a learning rate has to be picked, the
    /// cells of every rate are listed
    #[arg(long)]
    pub list: bool,
    /// Write the measured accuracies into the gene file. This changes its digest, but not its tensors
    #[arg(long)]
    pub store_quality: bool,
    /// Folder of the genes.
    #[command(flatten)]
    pub models: Models,
    /// Data and threads.
    #[command(flatten)]
    pub run: RunOptions,
}

/// `plan`.
#[derive(Debug, Clone, Args)]
#[group(
    id = "budget",
    required = true,
    multiple = true,
    args = ["parameters", "macs", "bytes", "memory", "latency"]
)]
pub struct Plan {
    /// Name of the gene. Default: the first by name, or the server's default
    pub gene: Option<String>,
    /// Maximum number of parameters. The suffixes k, M and G mean thousands, millions and billions
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    pub parameters: Option<u64>,
    /// Maximum number of multiply-accumulates in one forward pass of one image
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    pub macs: Option<u64>,
    /// Maximum file size. The suffixes KiB, MiB and GiB are powers of 1024
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub bytes: Option<u64>,
    /// Maximum memory for one forward pass of one batch in f32: the weights and the largest set of activations
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub memory: Option<u64>,
    /// Maximum latency of one forward pass of one batch, milliseconds, from --latency-table
    #[arg(long, value_name = "MS", requires = "latency_table", value_parser = quantity::milliseconds)]
    pub latency: Option<f64>,
    /// Latencies measured on the machine that will run the model: a TOML file of `[[row]]` tables with depth, width,
    /// milliseconds and, if it is not 1, batch; or a .json file with a list "row". Between two rows of one width,
    /// latency is taken as linear in depth. Sizes outside the measured depths of their width are left out
    #[arg(long, value_name = "FILE", requires = "latency")]
    pub latency_table: Option<PathBuf>,
    /// Number of images in the batch for --memory and --latency
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: u32,
    /// Element type of the file: f32, f16 or bf16
    #[arg(long, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Maximum number of sizes to show
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CHOICES)]
    pub limit: usize,
    /// Also draw an SVG file that shows the gene's sizes with their accuracies, the budget and the best size
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Print the sizes as JSON
    #[arg(long)]
    pub json: bool,
    /// Server to ask, for example http://127.0.0.1:8080. Without it, the genes of --models are used
    #[arg(long, value_name = "URL", env = "GENEBANK_SERVER")]
    pub server: Option<String>,
    /// Folder of the genes.
    #[command(flatten)]
    pub models: Models,
}

/// `import`.
#[derive(Debug, Clone, Args)]
pub struct Import {
    /// A folder with config.json and safetensors files, as `save_pretrained`, timm's `save_for_hf` or `hf download` leaves
    /// it, or one safetensors file
    #[arg(value_name = "FOLDER_OR_FILE")]
    pub source: PathBuf,
    /// Model file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What a file without config.json is: timm's name of the architecture, for example vit_tiny_patch16_224, or vit or
    /// dinov2 for tensors with the names of transformers
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Attention heads, where no file says how many there are
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
    /// Print everything that was done as JSON
    #[arg(long)]
    pub json: bool,
}

/// `synthesize`.
#[derive(Debug, Clone, Args)]
pub struct Synthesize {
    /// Gene file to write, NAME.safetensors
    pub output: PathBuf,
    /// Height and width of an image, pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 224)]
    pub image_size: usize,
    /// Height and width of a patch, pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 16)]
    pub patch_size: usize,
    /// Colour channels
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub channels: usize,
    /// Classes of the head
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub classes: usize,
    /// Transformer blocks of the auxiliary model. Up to four times as many are served. The defaults are the shape of
    /// DeiT-B
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub depth: usize,
    /// Embedding dimension
    #[arg(long, value_name = "N", default_value_t = 768)]
    pub width: usize,
    /// Attention heads
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub heads: usize,
    /// Number of stages. The blocks are spread evenly over them
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub stages: usize,
    /// Narrower widths to serve too, separated by commas
    #[arg(long, value_name = "WIDTHS", value_delimiter = ',')]
    pub widths: Vec<usize>,
    /// Seed for the values
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
}

/// `completions`.
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell. For bash, for example: `source <(genebank completions bash)`
    pub shell: Shell,
}

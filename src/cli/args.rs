//! What was typed. What it means is in [`super::config`].

#![expect(clippy::doc_markdown, reason = "doc comments here are help texts")]

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{gene::DepthRule, tensor::Dtype};

/// Initialised transformers of any depth and width from compact learngenes.
#[derive(Debug, Parser)]
#[command(name = "genebank", version, about, max_term_width = 110)]
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
}

/// Where genes are.
#[derive(Debug, Clone, Args)]
pub struct Models {
    /// Folder of gene files. Without it: `models` in the current folder, else the one that came with the program.
    /// Every file is checked when it is loaded; one that is broken fails the start
    #[arg(long, value_name = "DIR", env = "GENEBANK_MODELS")]
    pub models: Option<PathBuf>,
}

/// Tuning data, caches and limits.
#[derive(Debug, Clone, Args)]
pub struct BankOptions {
    /// Where genes are.
    #[command(flatten)]
    pub models: Models,
    /// Folder of data sets for tuning. Without it, requests to tune are refused
    #[arg(long, value_name = "DIR", env = "GENEBANK_DATA")]
    pub data: Option<PathBuf>,
    /// Folder of tuned models. They are kept, so that the same request gets the same bytes
    #[arg(long, value_name = "DIR", default_value = ".cache/genebank")]
    pub store: PathBuf,
    /// Memory for narrower widths and other element types, beside the genes. Less means that they are made again
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub cache_mib: u64,
    /// Models rendered at the same time; one more is answered with RESOURCE_EXHAUSTED or 429
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub renders: usize,
    /// Tuning jobs at the same time; one more is answered with RESOURCE_EXHAUSTED
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tunings: usize,
}

/// `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Address to listen on. Port 0 picks a free one, which is printed. Beyond loopback, everyone who reaches the
    /// port gets every gene
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "GENEBANK_LISTEN")]
    pub listen: SocketAddr,
    /// Gene of requests that name none. Without it: the first in name order
    #[arg(long, value_name = "NAME")]
    pub default_gene: Option<String>,
    /// Allow --data with an address beyond loopback: everyone who reaches the port can then start tuning jobs
    #[arg(long)]
    pub allow_remote_tuning: bool,
    /// How long open downloads may go on after SIGTERM or ctrl-c; then they are cut
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u64,
    /// Genes, caches and limits.
    #[command(flatten)]
    pub bank: BankOptions,
}

/// Size and form of a model.
#[derive(Debug, Clone, Args)]
pub struct SizeOptions {
    /// Transformer blocks. Without it: as many as the gene was trained with
    #[arg(long)]
    pub depth: Option<u64>,
    /// Embedding dimension, one of the gene's trained widths. Without it: the greatest
    #[arg(long)]
    pub width: Option<u64>,
    /// Element type: f32, f16 or bf16. The 16-bit types are casts and halve the file
    #[arg(long, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// How layers are dealt to stages: `trained` gives the trained network at the trained depth, `cyclic` is the
    /// published rule
    #[arg(long, default_value_t = DepthRule::Trained)]
    pub rule: DepthRule,
    /// Accept a width that was not trained: the model has the right shape, and no measured quality
    #[arg(long)]
    pub allow_untrained_width: bool,
}

/// `init`.
#[derive(Debug, Clone, Args)]
pub struct Init {
    /// Name of the gene; `genebank list` shows them
    pub gene: String,
    /// Size and form.
    #[command(flatten)]
    pub size: SizeOptions,
    /// File to write, whole or not at all; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Server to ask, for example http://127.0.0.1:8080. Without it: the genes of --models, in this process
    #[arg(long, value_name = "URL", env = "GENEBANK_SERVER")]
    pub server: Option<String>,
    /// Tune the model on this data set before it is written; needs a length
    #[arg(long, value_name = "NAME", requires = "length")]
    pub tune_dataset: Option<String>,
    /// How long to tune.
    #[command(flatten)]
    pub length: Length,
    /// Peak learning rate of tuning. Without it: the recipe's
    #[arg(long, value_name = "RATE", requires = "tune_dataset")]
    pub tune_lr: Option<f64>,
    /// Seed of order and augmentation while tuning
    #[arg(long, default_value_t = 0, requires = "tune_dataset")]
    pub seed: u64,
    /// Print what was written as JSON on standard output
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
    /// Server to ask. Without it: the genes of --models
    #[arg(long, value_name = "URL", env = "GENEBANK_SERVER")]
    pub server: Option<String>,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Where genes are.
    #[command(flatten)]
    pub models: Models,
}

/// `inspect`.
#[derive(Debug, Clone, Args)]
pub struct Inspect {
    /// A gene file, a model file, or the name of a gene
    #[arg(value_name = "FILE_OR_GENE")]
    pub subject: String,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Size and form.
    #[command(flatten)]
    pub size: SizeOptions,
    /// Where genes are.
    #[command(flatten)]
    pub models: Models,
}

//! Images per second and memory of this program's trainer and of its forward pass, on the CPU.
//!
//! Prints one line of JSON; `benches/compare_pytorch.py` compares it with PyTorch, run by run. To run it alone:
//! `cargo bench --bench train_step -- --shape a192 --mode train`. Three modes do something else:
//!
//! - `curve`: prints every loss of a run; `--dump DIR` writes all that another program needs for the same run.
//! - `flat`: prints resident memory after each tenth of the steps, 10,000 by default; meant for `--shape tiny`.
//! - `end-to-end`: measures speed on Fashion-MNIST, read from its files, with random crop and flip.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use candle_core::{Device, Tensor};
use clap::{Parser, ValueEnum};
use genebank::{
    data::{self, Augment, Batch, Batches as _, Dataset, ImageShape, Loader},
    nn::Vit,
    tensor::{Params, codec, rng},
    train::{
        Control, Decay, Event, Length, Model, Optim, Recipe, Trainer, classify::Classification,
        recipe::ModelShape,
    },
};
use serde_json::json;

/// The program uses the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEED: u64 = 1;
/// Batches in a generated data set: enough to keep the end of an epoch from dominating the measurement.
const BATCHES: usize = 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Debug, Parser)]
struct Options {
    /// Shape of images and model. Letter: 28x28x1 with patches of 7 (a), 32x32x3 with patches of 4 (b). Number: width.
    #[arg(long, value_enum, default_value = "a192")]
    shape: Shape,
    /// What to measure.
    #[arg(long, value_enum, default_value = "train")]
    mode: Mode,
    /// Measured steps; by default 12, for curve 200, for flat 10,000.
    #[arg(long)]
    steps: Option<u32>,
    /// Steps before the measured ones.
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Threads for computation.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Folder of data sets: use Fashion-MNIST instead of generated images.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder where mode curve writes its initial values, data and batches.
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Shape {
    A192,
    B192,
    A384,
    B384,
    Tiny,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Train,
    Forward,
    Curve,
    Flat,
    EndToEnd,
}

impl Shape {
    fn model(self) -> ModelShape {
        let (patch_size, depth, width, heads) = match self {
            Self::A192 => (7, 12, 192, 3),
            Self::B192 => (4, 12, 192, 3),
            Self::A384 => (7, 12, 384, 6),
            Self::B384 => (4, 12, 384, 6),
            Self::Tiny => (7, 2, 16, 2),
        };
        ModelShape { patch_size, depth, width, heads, mlp_ratio: 4 }
    }

    const fn batch(self) -> usize {
        match self {
            Self::A192 | Self::B192 | Self::A384 => 128,
            Self::B384 => 64,
            Self::Tiny => 8,
        }
    }

    const fn images(self) -> (ImageShape, usize) {
        match self {
            Self::A192 | Self::A384 | Self::Tiny => (ImageShape { channels: 1, size: 28 }, 10),
            Self::B192 | Self::B384 => (ImageShape { channels: 3, size: 32 }, 100),
        }
    }

    /// Each image is noise added to a pattern of its class, so that there is something to learn.
    fn dataset(self) -> Outcome<Dataset> {
        let (shape, classes) = self.images();
        let mut random = rng::stream(SEED, "bench");
        let patterns: Vec<u8> = (0..classes * shape.values()).map(|_| random.below(64) as u8).collect();
        let labels: Vec<u16> =
            (0..BATCHES * self.batch()).map(|_| random.below(classes as u64) as u16).collect();
        let pattern = |label: u16| &patterns[usize::from(label) * shape.values()..][..shape.values()];
        let images = labels.iter().flat_map(|label| pattern(*label)).map(|p| p + random.below(192) as u8);
        let images: Vec<u8> = images.collect();
        let names = (0..classes).map(|class| class.to_string()).collect();
        Ok(Dataset::new("random", shape, images, labels, names)?)
    }
}

/// A field of /proc/self/status, bytes; 0 if it is absent.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.and_then(|line| line.trim_start_matches(':').trim().strip_suffix(" kB"));
    kilobytes.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn resident() -> u64 {
    memory("VmRSS")
}

struct Bench {
    options: Options,
    steps: u32,
    recipe: Recipe,
    loader: Arc<Loader>,
    model: Model,
    /// Resident memory after reading the data and before making the model.
    resident_before: u64,
}

impl Bench {
    fn new(options: Options) -> Outcome<Self> {
        let Options { shape, mode, warmup, .. } = options;
        let steps = options.steps.unwrap_or(match mode {
            Mode::Train | Mode::Forward | Mode::EndToEnd => 12,
            Mode::Curve => 200,
            Mode::Flat => 10_000,
        });
        let total = match mode {
            Mode::Curve | Mode::Flat => steps,
            Mode::Train | Mode::Forward | Mode::EndToEnd => steps + warmup,
        };
        let dataset = match (&options.data, mode) {
            (Some(root), _) => data::open("fashion-mnist", root)?.train,
            (None, Mode::EndToEnd) => return Err("--mode end-to-end needs --data DIR".into()),
            (None, _) => Arc::new(shape.dataset()?),
        };
        if (dataset.shape(), dataset.class_names().len()) != shape.images() {
            return Err("--data DIR has images of 28x28x1 in 10 classes; this shape has others".into());
        }
        let resident_before = resident();
        let flips = mode == Mode::EndToEnd;
        let augment = Augment { crop_padding: if flips { 2 } else { 0 }, flip: flips, erase: None };
        let curve = mode == Mode::Curve;
        let optim = Optim {
            length: Length::Steps(total),
            batch: shape.batch(),
            learning_rate: 1e-3,
            min_learning_rate: if curve { 1e-5 } else { 1e-3 },
            warmup_steps: if curve { 20 } else { 0 },
            weight_decay: 0.05,
            betas: [0.9, 0.999],
            clip: 1.0,
            label_smoothing: 0.1,
            drop_path: 0.0,
            recompute: false,
            bf16: false,
        };
        let model = Some(shape.model());
        let data = dataset.name().to_owned();
        let recipe = Recipe { data, seed: SEED, model, start: None, optim, augment, texts: None, gene: None };
        let model = Model::fresh(&recipe, &dataset)?;
        // Mode curve may write its data to a file, so it keeps only what it needs.
        let mut items = dataset.indices();
        if curve {
            items.truncate(BATCHES * shape.batch());
        }
        let preprocessing = &model.info.preprocessing;
        let loader = Arc::new(Loader::new(dataset, items, shape.batch(), SEED, augment, preprocessing)?);
        Ok(Self { options, steps, recipe, loader, model, resident_before })
    }

    /// Trains; after each step, calls `watch` with the number of steps made and the loss of the last one.
    /// Takes the weights out of the model, so anyone who needs them must read them before.
    fn train(&mut self, watch: &mut dyn FnMut(u64, f64)) -> Outcome<()> {
        let initial = std::mem::take(&mut self.model.weights);
        let config = *self.model.info.config.vit().expect("a vision transformer");
        let optim = &self.recipe.optim;
        let trainer = Trainer {
            objective: &Classification::new(config, optim, SEED),
            loader: self.loader.clone(),
            decay: &Decay::of(config.schema().specs()),
            optim,
            threads: self.options.threads,
            checkpoint: None,
        };
        let mut on_event = |event: Event, _: &Params| {
            if let Event::Step { step, loss, .. } = event {
                watch(step, loss);
            }
            Ok(())
        };
        let mut control = Control { cancel: &AtomicBool::new(false), on_event: &mut on_event };
        trainer.run(initial, &mut control)?;
        Ok(())
    }

    /// Runs forward passes only. Every batch is cut into one part for each thread.
    fn forward(&self, watch: &mut dyn FnMut(u64, f64)) -> Outcome<()> {
        let (vit, plan) = (self.model.vit()?, self.loader.epoch(0));
        let total = u64::from(self.steps + self.options.warmup);
        let batches: Vec<Batch> = (0..self.loader.batches_per_epoch().min(BATCHES))
            .map(|b| self.loader.batch(&plan, b))
            .collect::<Result<_, _>>()?;
        for step in 1..=total {
            forward(&vit, &batches[step as usize % batches.len()], self.options.threads)?;
            watch(step, 0.0);
        }
        Ok(())
    }

    /// Images per second, measured from the end of the last warm-up step.
    fn speed(&mut self) -> Outcome<serde_json::Value> {
        let mut times = Vec::new();
        let (warmup, mode) = (u64::from(self.options.warmup), self.options.mode);
        let start = Instant::now();
        if warmup == 0 {
            times.push(start);
        }
        let mut watch = |step: u64, _| {
            if step >= warmup {
                times.push(Instant::now());
            }
        };
        if mode == Mode::Forward {
            self.forward(&mut watch)?;
        } else {
            self.train(&mut watch)?;
        }
        let batch = self.recipe.optim.batch as f64;
        let seconds = |pair: &[Instant]| (pair[1] - pair[0]).as_secs_f64();
        let mut steps: Vec<f64> = times.windows(2).map(seconds).collect();
        let mean = batch * steps.len() as f64 / steps.iter().sum::<f64>();
        steps.sort_by(f64::total_cmp);
        Ok(json!({ "images_per_s": batch / median(&steps), "mean_images_per_s": mean }))
    }

    fn curve(&mut self) -> Outcome<serde_json::Value> {
        if let Some(folder) = &self.options.dump {
            self.dump(folder)?;
        }
        let mut losses = Vec::new();
        self.train(&mut |_, loss| losses.push(loss))?;
        Ok(json!({ "losses": losses }))
    }

    /// Writes initial values, pixels, labels and the items of every step.
    fn dump(&self, folder: &Path) -> Outcome<()> {
        std::fs::create_dir_all(folder)?;
        self.model.write(&folder.join("model.safetensors"))?;
        let dataset = self.loader.dataset();
        let (shape, items) = (dataset.shape(), self.loader.items());
        let images: Vec<&[u8]> = (0..items).map(|item| dataset.image(item)).collect();
        codec::write_atomic(&folder.join("images.u8"), images)?;
        let labels: Vec<usize> = (0..items).map(|item| dataset.label(item)).collect();
        let optim = &self.recipe.optim;
        let per_epoch = self.loader.batches_per_epoch() as u64;
        let epochs = u64::from(self.steps).div_ceil(per_epoch);
        let mut order = Vec::new();
        for plan in (0..epochs).map(|epoch| self.loader.epoch(epoch)) {
            order.extend(plan.order().chunks_exact(optim.batch).map(<[u32]>::to_vec));
        }
        order.truncate(self.steps as usize);
        let record = json!({
            "config": self.model.info.config.vit().expect("a vision transformer"),
            "mean": self.model.info.preprocessing.mean,
            "std": self.model.info.preprocessing.std,
            "images": [items, shape.channels, shape.size, shape.size],
            "labels": labels,
            "steps": self.steps,
            "order": order,
            "learning_rate": optim.learning_rate,
            "min_learning_rate": optim.min_learning_rate,
            "warmup_steps": optim.warmup_steps,
            "weight_decay": optim.weight_decay,
            "betas": optim.betas,
            "clip": optim.clip,
            "label_smoothing": optim.label_smoothing,
        });
        codec::write_atomic(&folder.join("run.json"), [record.to_string().as_bytes()])?;
        Ok(())
    }

    /// Resident memory after every tenth of the steps, and the ratio of the last figure to the first.
    fn flat(&mut self) -> Outcome<serde_json::Value> {
        let tenth = u64::from(self.steps / 10).max(1);
        let mut found = Vec::new();
        self.train(&mut |step, _| {
            if step.is_multiple_of(tenth) {
                found.push(json!({ "step": step, "rss_bytes": resident() }));
            }
        })?;
        let at = |i: usize| found[i]["rss_bytes"].as_f64().unwrap_or(f64::NAN);
        let ratio = at(found.len() - 1) / at(0);
        Ok(json!({ "rss": found, "last_by_first": ratio }))
    }
}

fn median(sorted: &[f64]) -> f64 {
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

fn forward(vit: &Vit, batch: &Batch, threads: usize) -> Outcome<()> {
    let config = vit.config();
    let (values, side) = (config.image_values(), config.image_size());
    let logits = |images: &[f32]| -> candle_core::Result<f32> {
        let shape = (images.len() / values, config.channels(), side, side);
        let input = Tensor::from_slice(images, shape, &Device::Cpu)?;
        vit.forward(&input)?.flatten_all()?.get(0)?.to_scalar::<f32>()
    };
    let logits = &logits;
    let part = batch.len().div_ceil(threads.max(1)) * values;
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            batch.pixels()?.values.chunks(part).map(|images| scope.spawn(move || logits(images))).collect();
        for part in parts {
            let first = part.join().map_err(|_| "a thread panicked")??;
            if !first.is_finite() {
                return Err("a logit is not finite".into());
            }
        }
        Ok(())
    })
}

fn main() -> Outcome<()> {
    set_environment();
    let mut bench = Bench::new(Options::parse())?;
    let (shape, mode) = (bench.options.shape, bench.options.mode);
    let result = match mode {
        Mode::Train | Mode::Forward | Mode::EndToEnd => bench.speed()?,
        Mode::Curve => bench.curve()?,
        Mode::Flat => bench.flat()?,
    };
    let name = |value: clap::builder::PossibleValue| value.get_name().to_owned();
    let mut line = json!({
        "shape": shape.to_possible_value().map(name),
        "mode": mode.to_possible_value().map(name),
        "batch": bench.recipe.optim.batch,
        "steps": bench.steps,
        "threads": bench.options.threads,
        "rss_before_bytes": bench.resident_before,
        "peak_rss_bytes": memory("VmHWM"),
    });
    if let (Some(line), serde_json::Value::Object(result)) = (line.as_object_mut(), result) {
        line.extend(result);
    }
    println!("{line}");
    Ok(())
}

/// Sets the environment that the program sets for itself before it trains; see src/main.rs.
fn set_environment() {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        const THREADS: &str = "CANDLE_NUM_THREADS";
        if let (None, Ok(program)) = (std::env::var_os(THREADS), std::env::current_exe()) {
            let mut again = std::process::Command::new(program);
            again.args(std::env::args_os().skip(1)).env(THREADS, "1");
            // Returns only if it failed. Then this process continues, more slowly.
            let _ = again.exec();
        }
    }
}

//! Time of a warm expansion of a gene in device memory, compared with a plain copy of the same number of bytes there.
//!
//! Run with `cargo bench --features cuda --bench expand -- --device cuda:0`; without arguments the same code runs on
//! the CPU. The gene has the shape of DeiT-B in four stages, and the default model has depth 12.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::{error::Error, time::Instant};

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use genebank::{
    gene::{SizeRequest, Synthetic},
    nn::{VitConfig, vit::RawVitConfig},
    tensor::{Dtype, device},
};

#[derive(Debug, Parser)]
struct Options {
    /// Device: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    #[arg(long, default_value_t = 12)]
    depth: usize,
    #[arg(long, default_value_t = 768)]
    width: usize,
    /// Element type: f32, f16 or bf16.
    #[arg(long, default_value_t = Dtype::F32)]
    dtype: Dtype,
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Median milliseconds of `work`, after two warm-up runs.
fn median(
    runs: usize,
    device: &Device,
    mut work: impl FnMut() -> genebank::error::Result<()>,
) -> Result<f64, Box<dyn Error>> {
    let mut times = Vec::new();
    for run in 0..runs + 2 {
        device.synchronize()?;
        let start = Instant::now();
        work()?;
        device.synchronize()?;
        if run >= 2 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let device = device::open(&options.device)?;
    let config = VitConfig::try_from(RawVitConfig {
        image_size: 224,
        patch_size: 16,
        channels: 3,
        classes: 1000,
        depth: 12,
        width: 768,
        heads: 12,
        mlp_ratio: 4,
    })?;
    let widths = if options.width == 768 { Vec::new() } else { vec![options.width] };
    let gene = Synthetic { name: "deit-b".to_owned(), config, stages: 4, widths, seed: 0 };
    let (gene, _) = gene.render()?;
    let resident = gene.resident(&device)?;
    let (depth, width) = (Some(options.depth as u64), Some(options.width as u64));
    let blueprint =
        gene.blueprint(&SizeRequest { depth, width, dtype: options.dtype, ..SizeRequest::default() })?;
    let values: usize = blueprint.entries.iter().map(|entry| entry.shape.iter().product::<usize>()).sum();
    let size = values * options.dtype.size_bytes();
    let made = median(options.runs, &device, || resident.materialize(&blueprint).map(drop))?;
    let plain = Tensor::zeros(size / 4, DType::F32, &device)?;
    let copied = median(options.runs, &device, || {
        plain
            .force_contiguous()
            .map(drop)
            .map_err(|source| genebank::error::Error::Tensor { context: "copy".to_owned(), source })
    })?;
    let out = resident.materialize(&blueprint)?;
    let fetched = median(options.runs.min(5), &device, || out.to_bytes(options.dtype).map(drop))?;
    let rate = |milliseconds: f64| size as f64 / milliseconds / 1e6;
    println!(
        "{:?}, depth {}, width {}, {}: {:.1} MB, {} tensors",
        device.location(),
        options.depth,
        options.width,
        options.dtype,
        size as f64 / 1e6,
        blueprint.entries.len()
    );
    println!(
        "expansion: {made:.3} ms, {:.1} GB/s; plain copy of as many bytes: {copied:.3} ms, {:.1} GB/s; ratio {:.2}",
        rate(made),
        rate(copied),
        made / copied
    );
    println!("to host memory: {fetched:.2} ms, {:.2} GB/s", rate(fetched));
    Ok(())
}

//! Kills the program with SIGKILL while it trains or downloads. After resuming, the bytes are those of an undisturbed
//! run.

use std::{
    hash::{BuildHasher as _, RandomState},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use genebank::{bank, server::Limits};

use crate::{
    relay::Relay,
    support::{Server, bank_config, entries, program, sample_data},
};

const RECIPE: &str = r#"
data = "fashion-mnist"
seed = 4

[model]
patch_size = 7
depth = 2
width = 16
heads = 2
mlp_ratio = 4

[optim]
length = { epochs = 8 }
batch = 50
learning_rate = 3e-3
warmup_steps = 5
weight_decay = 0.05
clip = 1.0
label_smoothing = 0.1
drop_path = 0.1

[augment]
crop_padding = 2
flip = true
erase = { probability_per_mille = 250, min_area_per_mille = 20, max_area_per_mille = 330 }
"#;

fn train(folder: &Path, output: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_genebank"))
        .arg("train")
        .arg(folder.join("recipe.toml"))
        .arg("-o")
        .arg(folder.join(output))
        .arg("--data")
        .arg(sample_data())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    genebank::tensor::codec::write_atomic(&path("recipe.toml"), [RECIPE.as_bytes()]).unwrap();
    assert!(train(folder.path(), "whole.safetensors").wait().unwrap().success());

    for kill in 0..3 {
        let mut child = train(folder.path(), "killed.safetensors");
        let before = std::fs::read(path("killed.ckpt")).ok();
        let start = Instant::now();
        // When a new state appears, the run is in an epoch that the kill will lose.
        while std::fs::read(path("killed.ckpt")).ok() == before {
            assert!(start.elapsed() < Duration::from_mins(2), "no state was written");
            assert!(child.try_wait().unwrap().is_none(), "the run ended before kill {kill}");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!path("killed.safetensors").exists());
    }
    assert!(train(folder.path(), "killed.safetensors").wait().unwrap().success());
    let read = |name: &str| std::fs::read(path(name)).unwrap();
    assert!(read("whole.safetensors") == read("killed.safetensors"));
    assert!(!path("killed.ckpt").exists());
}

/// The number of received bytes in a partial file, according to the record at its end, or 0 if there is no record yet.
fn recorded(path: &Path, size: u64) -> u64 {
    let bytes = std::fs::read(path).unwrap_or_default();
    let record = bytes.get(size as usize + 16..).unwrap_or_default();
    record.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number)).sum()
}

/// Upper limit on the bytes requested again after a kill: for each of 4 connections the MiB that was not recorded, and
/// the bytes in transit between relay and program.
const LOST_BYTES: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_download_goes_on_to_the_same_bytes() {
    const SIZE: [&str; 10] =
        ["--image-size", "32", "--width", "512", "--heads", "8", "--depth", "6", "--stages", "3"];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let gene = path("models/large.safetensors");
    std::fs::create_dir(path("models")).unwrap();
    assert!(program().arg("synthesize").arg(&gene).args(SIZE).status().unwrap().success());
    let models = tempfile::tempdir_in(folder.path()).unwrap();
    let config = bank::Config { models: Some(path("models")), ..bank_config(models.path()) };
    let server = Server::on(Limits::default(), models, config).await;
    let relay = Relay::start(server.address, false).await;
    let whole = server.get("/v1/models/large/d6-w512.safetensors").await;
    let size = whole.body.len() as u64;
    assert!(size > 64 << 20, "{size}");

    let out = path("out/m");
    std::fs::create_dir(path("out")).unwrap();
    let url = relay.url();
    let start = |transport: &str| {
        let mut command = program();
        command.args(["init", "large", "--server", &url, "--transport", transport, "-o"]).arg(&out);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let hidden = || entries(&path("out")).into_iter().find(|name| name.starts_with(".m."));
    let random = RandomState::new();
    for kill in 0..4u64 {
        // With `auto`, the first bytes come over gRPC and are dropped.
        let transport = if kill % 2 == 0 { "http" } else { "auto" };
        let (bytes, before) = ((1 << 20) + random.hash_one(kill) % (13 << 20), relay.passed());
        let had = if kill == 0 { 0 } else { recorded(&path("out").join(hidden().unwrap()), size) };
        relay.pass_only(bytes);
        let mut child = start(transport);
        let begun = Instant::now();
        while relay.passed() < before + bytes
            || transport == "http"
                && hidden().map_or(0, |name| recorded(&path("out").join(name), size)) + LOST_BYTES
                    < had + bytes
        {
            assert!(begun.elapsed() < Duration::from_mins(2), "{bytes} bytes did not come");
            assert!(child.try_wait().unwrap().is_none(), "the download ended before kill {kill} at {bytes}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!out.exists(), "kill {kill} at {bytes}");
        assert_eq!(entries(&path("out")).len(), 1);
    }
    let had = recorded(&path("out").join(hidden().unwrap()), size);
    assert!(had > 0);
    relay.pass_only(u64::MAX);
    let before = relay.passed();
    let mut last = start("http");
    while last.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(last.wait().unwrap().success());
    assert!(std::fs::read(&out).unwrap() == whole.body);
    assert_eq!(entries(&path("out")), ["m"]);
    let passed = relay.passed() - before;
    assert!(passed < size - had + (1 << 20), "{passed} bytes for {} that were missing", size - had);
}

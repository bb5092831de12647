//! kill -9 while training, then resume: the same bytes as the undisturbed run.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::sample_data;

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
        // A new state was written: the run is in an epoch that will be lost.
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

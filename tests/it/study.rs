//! A study of seconds: it finishes every cell once, writes table and plot, and stores quality in the gene.

use std::{path::Path, process::Command};

use genebank::{
    gene::{Learngene, store},
    tensor::codec::write_atomic,
};

use crate::support::{GENE, fashion_meta, models, sample_data, weights};

const PLAN: &str = r#"
gene = "tiny"
ancestor = "work/ancestor.safetensors"
scratch_recipe = "scratch.toml"
scratch_warmup_steps = 2
depths = [2, 3]

[gene_arm]
depths = [2, 3]
epochs = [1]
learning_rates = [1e-3, 3e-3]
pick_depth = 2

[scratch_arm]
depths = [2]
epochs = [1, 2]
learning_rates = [3e-3]
pick_depth = 2
"#;

const SCRATCH: &str = r#"
data = "fashion-mnist"

[model]
patch_size = 7
depth = 2
width = 24
heads = 3
mlp_ratio = 4

[optim]
length = { epochs = 1 }
batch = 100
learning_rate = 3e-3
"#;

fn genebank(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_genebank"))
        .current_dir(folder)
        .args(arguments)
        .env("GENEBANK_DATA", sample_data())
        .env_remove("GENEBANK_MODELS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn a_study_goes_on_where_it_stopped_and_fills_the_gene() {
    let meta = fashion_meta();
    let models = models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1);
    let folder = models.path();
    write_atomic(&folder.join("plan.toml"), [PLAN.as_bytes()]).unwrap();
    write_atomic(&folder.join("scratch.toml"), [SCRATCH.as_bytes()]).unwrap();
    genebank(folder, &["train", "scratch.toml", "-o", "work/ancestor.safetensors"]);
    let study = ["study", "plan.toml", "-o", "out", "--models", ".", "--store-quality"];
    let first = genebank(folder, &study);
    assert!(first.contains("epoch 1: loss"), "{first}");
    let table = std::fs::read_to_string(folder.join("out/table.csv")).unwrap();
    // 2 as served, 2 tuned, 1 depth at 2 lengths from scratch.
    assert_eq!(table.lines().count(), 1 + 2 + 2 + 2, "{table}");
    assert!(std::fs::read_to_string(folder.join("out/plot.svg")).unwrap().contains("</svg>"));

    let again = genebank(folder, &study);
    assert!(!again.contains(": loss"), "a finished cell was run again: {again}");
    assert_eq!(table, std::fs::read_to_string(folder.join("out/table.csv")).unwrap());

    let gene = Learngene::open(&folder.join(format!("{GENE}.safetensors"))).unwrap();
    assert_eq!(gene.meta().quality.len(), 4);
    assert!(gene.quality(3, 24, 1).is_some());
}

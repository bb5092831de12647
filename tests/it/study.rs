//! A study that takes seconds. It finishes every cell once, writes the table and the plot, and stores the accuracies in
//! the gene.

use std::{
    path::Path,
    process::{Command, Output},
};

use genebank::{
    gene::{Learngene, store},
    tensor::{Dtype, codec::write_atomic},
    train::Model,
};

use crate::support::{GENE, fashion_meta, models, sample_data, weights};

const PLAN: &str = r#"
data = "fashion-mnist"
gene = "tiny"
ancestor = "work/ancestor.safetensors"

[[arms]]
name = "gene"
depths = [2, 3]
widths = [8, 24]
epochs = [0]

[[arms]]
name = "gene, tuned"
depths = [2]
epochs = [1]
learning_rates = [1e-8, 3e-3, 1e-9]
pick = [2, 24]

[[arms]]
name = "scratch"
method = "scratch"
sizes = [[2, 8]]
epochs = [1, 2]
recipe = "scratch.toml"
learning_rates = [3e-3]
seeds = [0, 1]

[[arms]]
name = "taught alone"
method = "scratch"
taught_by = "ancestor"
sizes = [[2, 8]]
epochs = [3]
recipe = "scratch.toml"
learning_rates = [3e-3]

[[arms]]
name = "taught by both"
method = "scratch"
taught_by = "both"
sizes = [[2, 8]]
epochs = [3]
recipe = "scratch.toml"
learning_rates = [3e-3]

[[arms]]
name = "first layers"
method = "first-layers"
sizes = [[2, 8], [2, 24]]
epochs = [0]

[[arms]]
name = "uniform"
method = "uniform"
sizes = [[2, 8], [1, 16]]
epochs = [0, 1]
learning_rates = [1e-3]
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

/// A plan with classes that the gene does not have, from a folder of images.
const OTHER: &str = r#"
data = "fashion-folder"
gene = "tiny"
ancestor = "work/ancestor.safetensors"

[[arms]]
name = "gene"
sizes = [[2, 8]]
epochs = [0, 2]
learning_rates = [1e-3]

[[arms]]
name = "scratch"
method = "scratch"
sizes = [[2, 8]]
epochs = [2]
recipe = "small.toml"
learning_rates = [1e-3]
"#;

fn output(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_genebank"))
        .current_dir(folder)
        .args(arguments)
        .env("GENEBANK_DATA", sample_data())
        .env_remove("GENEBANK_MODELS")
        .output()
        .unwrap()
}

fn genebank(folder: &Path, arguments: &[&str]) -> String {
    let output = output(folder, arguments);
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
    std::fs::create_dir(folder.join("work")).unwrap();
    genebank(folder, &["train", "scratch.toml", "-o", "work/ancestor.safetensors"]);
    let study = ["study", "plan.toml", "-o", "out", "--models", ".", "--store-quality"];
    let first = genebank(folder, &study);
    assert!(first.contains("epoch 1: loss"), "{first}");
    let table = std::fs::read_to_string(folder.join("out/table.csv")).unwrap();
    // One term for each arm, in order: its sizes times its lengths times its seeds.
    assert_eq!(table.lines().count(), 1 + 4 + 1 + 2 * 2 + 1 + 1 + 2 + 2 * 2, "{table}");
    // The model is random before it is tuned, and at the two other rates it stays so.
    let picked = table.lines().find(|line| line.starts_with("\"gene, tuned\"")).unwrap();
    assert!(picked.contains(",3e-3,"), "{picked}");
    // Two arms from one start: one learns only from the ancestor, the other also from labels.
    let taught = ["-taught-", "-both-"].map(|way| {
        let cache = std::fs::read_dir(folder.join(".cache/genebank/study")).unwrap();
        let mut files = cache.map(|entry| entry.unwrap().path());
        let file =
            files.find(|path| path.to_str().is_some_and(|p| p.contains(way) && p.ends_with(".safetensors")));
        Model::open(&file.unwrap()).unwrap().weights.to_bytes(Dtype::F32).unwrap()
    });
    assert!(taught[0].iter().zip(&taught[1]).any(|((_, a), (_, b))| a.bytes != b.bytes));
    // Here the first layers at full width are the ancestor itself.
    let cell = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let ancestor = genebank(folder, &["eval", "work/ancestor.safetensors", "--json"]);
    let accuracy = ancestor.lines().find(|line| line.contains("accuracy")).unwrap();
    let accuracy: f64 = accuracy.rsplit(':').next().unwrap().trim().trim_end_matches(',').parse().unwrap();
    let whole = cell("\"first layers\",first-layers,2,24");
    assert!(whole.contains(&format!(",{accuracy:.4},")), "{whole} {accuracy}");
    let markdown = std::fs::read_to_string(folder.join("out/table.md")).unwrap();
    assert!(markdown.contains(" to "), "two seeds have a spread: {markdown}");
    assert!(std::fs::read_to_string(folder.join("out/plot.svg")).unwrap().contains("</svg>"));

    let again = genebank(folder, &study);
    assert!(!again.contains(": loss"), "a finished cell was run again: {again}");
    assert_eq!(table, std::fs::read_to_string(folder.join("out/table.csv")).unwrap());

    // Each cell names the training and the commit that finished it. A cell of another training is finished anew.
    let cells = std::fs::read_to_string(folder.join("out/cells.json")).unwrap();
    assert!(cells.contains(&format!("\"commit\": \"{}\"", genebank::version::COMMIT)), "{cells}");
    let training = format!("\"training\": {}", genebank::train::finetune::RECIPE_VERSION);
    write_atomic(&folder.join("out/cells.json"), [cells.replace(&training, "\"training\": 0").as_bytes()])
        .unwrap();
    std::fs::remove_dir_all(folder.join(".cache")).unwrap();
    assert!(genebank(folder, &study).contains("epoch 1: loss"));
    assert_eq!(cells.matches(&training).count(), cells.matches("\"held_out\"").count());

    let listed = genebank(folder, &["study", "plan.toml", "-o", "out", "--models", ".", "--list"]);
    assert!(listed.contains("tiny-d2-w8-e0-") && !listed.contains("uniform-d2-w8-e0 open"), "{listed}");

    let gene = Learngene::open(&folder.join(format!("{GENE}.safetensors"))).unwrap();
    assert_eq!(gene.meta().quality.len(), 4 + 1);
    assert!(gene.quality(3, 8, 0).is_some() && gene.quality(2, 24, 1).is_some());
}

#[test]
fn a_study_on_other_classes_measures_what_has_their_head() {
    let meta = fashion_meta();
    let models = models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1);
    let folder = models.path();
    let small = SCRATCH.replace("batch = 100", "batch = 6");
    for (name, text) in [("scratch.toml", SCRATCH), ("small.toml", &small)] {
        write_atomic(&folder.join(name), [text.as_bytes()]).unwrap();
    }
    std::fs::create_dir(folder.join("work")).unwrap();
    genebank(folder, &["train", "scratch.toml", "-o", "work/ancestor.safetensors"]);
    let run = |plan: &str| {
        write_atomic(&folder.join("plan.toml"), [plan.as_bytes()]).unwrap();
        output(folder, &["study", "plan.toml", "-o", "out", "--models", "."])
    };
    let measured = run(OTHER);
    assert!(measured.status.success(), "{measured:?}");
    assert_eq!(std::fs::read_to_string(folder.join("out/table.csv")).unwrap().lines().count(), 1 + 3);
    let markdown = std::fs::read_to_string(folder.join("out/table.md")).unwrap();
    assert!(!markdown.contains("Ancestor"), "it has other classes: {markdown}");

    let refused = [
        ("method = \"scratch\"", "method = \"first-layers\"", "classes"),
        ("method = \"scratch\"", "method = \"scratch\"\ntaught_by = \"ancestor\"", "classes"),
        ("method = \"scratch\"", "method = \"scratch\"\ntaught_by = \"both\"", "classes"),
    ];
    for (from, to, word) in refused {
        let output = run(&OTHER.replace(from, to));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(word), "{to}: {said}");
    }
}

//! Pins what must not change when the code is rearranged: the bytes of the bundled genes in every layout and element
//! type, the names of requests, the keys of a study's cells, and the name of a tuned model.

use std::{path::Path, process::Command};

use genebank::{
    bank::{self, Length, ModelRequest, Tune},
    client::Client,
    digest::{hex, sha256},
    gene::{Learngene, store},
    server::Limits,
    tensor::codec,
};

use crate::support::{Server, bank_config, entries, sample_data};

const GENES: [&str; 2] = ["fashion-any", "fashion-s"];
const ENDINGS: [&str; 6] = ["", "-hf", "-f16", "-hf-f16", "-bf16", "-hf-bf16"];
const FILES: [&str; 4] = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"];

/// Twenty requests to `/v1`. Their entity tags are made from their identities.
const REQUESTS: [&str; 20] = [
    "fashion-any/d16-w96",
    "fashion-any/d1-w24",
    "fashion-any/d3-w24?dtype=bf16",
    "fashion-any/d5-w48?dtype=f16",
    "fashion-any/d7-w72?rule=cyclic",
    "fashion-any/d6-w48?image_size=56",
    "fashion-any/d6-w48?patch_size=7",
    "fashion-any/d6-w48?image_size=56&patch_size=7&dtype=bf16",
    "fashion-any/d6-w48?labels=%5B%22Bag%22%2C%22Coat%22%5D",
    "fashion-any/d6-w48?labels=%5B%22Bag%22%2C%22Lamp%22%5D&head_seed=3",
    "fashion-any/d6-w48?method=scratch&method_seed=7",
    "fashion-any/d6-w48?method=first-layers",
    "fashion-any/d6-w72?method=uniform",
    "fashion-any/d24-w24?image_size=32&patch_size=8",
    "fashion-any/d6-w48?layout=transformers",
    "fashion-any/d6-w48?layout=transformers&dtype=f16",
    "fashion-any/d6-w48?method=uniform&layout=transformers",
    "fashion-s/d4-w96",
    "fashion-s/d24-w96?dtype=bf16",
    "fashion-s/d9-w48?allow_untrained_width=true&rule=cyclic",
];

const STUDY: &str = r#"
data = "fashion-mnist"
gene = "fashion-any"
ancestor = "ANCESTOR"

[[arms]]
name = "gene"
sizes = [[6, 48]]
epochs = [0]

[[arms]]
name = "taught"
method = "scratch"
taught_by = "both"
sizes = [[6, 48]]
epochs = [2]
learning_rates = [1e-3]
seeds = [5]
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn digest(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// A copy of the bundled genes, in a folder where a server may write its store.
fn bundled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("ancestors")).unwrap();
    let files = ["fashion-any", "fashion-s", "ancestors/fashion-any"];
    for name in files.map(|name| format!("{name}.safetensors")) {
        std::fs::copy(root().join("models").join(&name), folder.path().join(&name)).unwrap();
    }
    folder
}

/// A server for the genes in `folder`, with the sample of the training data.
async fn serve(folder: tempfile::TempDir) -> Server {
    let bank = bank::Config { data: Some(sample_data()), ..bank_config(folder.path()) };
    Server::on(Limits::default(), folder, bank).await
}

/// One line for each pinned item: a description, and the digest or name.
async fn pins() -> String {
    let server = serve(bundled()).await;
    let mut lines = Vec::new();
    for gene in GENES {
        for size in ["d2-w24", "d7-w96"] {
            // `fashion-s` was trained at one width.
            let size = if gene == "fashion-s" { size.replace("w24", "w96") } else { size.to_owned() };
            for ending in ENDINGS {
                for file in FILES {
                    let path = format!("/genebank/{gene}-{size}{ending}/resolve/main/{file}");
                    let answer = server.get(&path).await;
                    assert_eq!(answer.status, 200, "{path}");
                    lines.push(format!("{path} {}", digest(&answer.body)));
                }
            }
        }
    }
    for request in REQUESTS {
        let (name, query) = request.split_once('?').unwrap_or((request, ""));
        let path = format!("/v1/models/{name}.safetensors?{query}");
        let answer = server.http("HEAD", &path, "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.head);
        lines.push(format!("{path} {}", answer.header("etag").unwrap()));
    }
    lines.extend(study_keys());
    lines.push(tuned(&server).await);
    lines.join("\n") + "\n"
}

/// The keys of a study's cells.
fn study_keys() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    let ancestor = root().join("models/ancestors/fashion-any.safetensors");
    let text = STUDY.replace("ANCESTOR", ancestor.to_str().unwrap());
    codec::write_atomic(&plan, [text.as_bytes()]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_genebank"))
        .current_dir(folder.path())
        .args(["study", "plan.toml", "-o", "out", "--list", "--models"])
        .arg(root().join("models"))
        .env("GENEBANK_DATA", sample_data())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| format!("study {line}")).collect()
}

/// The name under which a tuned model is stored.
async fn tuned(server: &Server) -> String {
    let length = Length::Steps(1);
    let tune = Tune { dataset: "fashion-mnist".to_owned(), length, learning_rate_e9: Some(500_000), seed: 9 };
    let request = ModelRequest { gene: "fashion-s".to_owned(), tune: Some(tune), ..ModelRequest::default() };
    let out = tempfile::tempdir().unwrap();
    let client = Client::connect(&server.url()).await.unwrap();
    client.init_model(&request, &out.path().join("tuned"), |_| ()).await.unwrap();
    let names = entries(&server.models().join("store"));
    assert_eq!(names.len(), 1, "{names:?}");
    format!("tuned {}", names[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_bytes_stay() {
    let expected = std::fs::read_to_string(root().join("tests/golden/pins.txt")).unwrap();
    for (found, expected) in pins().await.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(pins().await, expected);
}

#[test]
fn a_gene_file_is_written_back_as_it_is() {
    for gene in GENES {
        let path = root().join("models").join(format!("{gene}.safetensors"));
        let read = Learngene::open(&path).unwrap();
        assert!(store::with_meta(&read, read.meta()) == std::fs::read(&path).unwrap(), "{gene}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the golden file: cargo test --test it golden_pins -- --ignored"]
async fn golden_pins() {
    codec::write_atomic(&root().join("tests/golden/pins.txt"), [pins().await.as_bytes()]).unwrap();
}

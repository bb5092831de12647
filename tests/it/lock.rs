//! `init --lock` records what was written, and `init --locked` writes those bytes or fails.

use std::{path::Path, process::Output};

use genebank::{
    gene::store,
    tensor::{Weights, codec},
};

use crate::support::{GENE, Server, entries, gene_bytes, meta, models, program, weights};

fn init(folder: &Path, more: &[&str]) -> Output {
    program().current_dir(folder).args(["init", GENE, "-o", "m.safetensors"]).args(more).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The test gene with another bias in the head.
fn other_gene() -> Vec<u8> {
    let meta = meta();
    let stored = weights(&meta);
    let changed = stored.iter().map(|(name, weight)| {
        let tensor = weight.tensor().unwrap();
        let tensor = if name == "head.bias" { (tensor + 0.25).unwrap() } else { tensor };
        (name.to_owned(), genebank::tensor::Weight::new(&tensor).unwrap())
    });
    let changed: Weights = changed.collect();
    store::render(meta, &changed, 7).unwrap().1.to_vec()
}

fn works(source: &[&str], replace: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let with = |more: &[&str]| init(path, &[source, more].concat());
    let read = |name: &str| std::fs::read(path.join(name)).unwrap();

    let missing = with(&["--locked"]);
    assert_eq!(code(&missing), 3, "{missing:?}");
    for words in ["locked output \"m.safetensors\"", "with --lock in place of --locked"] {
        assert!(said(&missing).contains(words), "{missing:?}");
    }

    assert_eq!(code(&with(&["--depth", "4", "--lock"])), 0);
    let (model, lock) = (read("m.safetensors"), read("genebank.lock"));
    std::fs::remove_file(path.join("m.safetensors")).unwrap();
    let locked = with(&["--depth", "4", "--locked"]);
    assert_eq!(code(&locked), 0, "{locked:?}");
    assert!(read("m.safetensors") == model && read("genebank.lock") == lock);

    // A different request for the same output.
    let other = with(&["--depth", "5", "--locked"]);
    assert_eq!(code(&other), 2);
    assert!(said(&other).contains("is not the locked"), "{other:?}");

    replace();
    let replaced = with(&["--depth", "4", "--locked"]);
    assert_eq!(code(&replaced), 2, "{replaced:?}");
    assert!(read("m.safetensors") == model && read("genebank.lock") == lock);
    let mut left = entries(path);
    left.sort();
    assert_eq!(left, ["genebank.lock", "m.safetensors"]);

    // A new lock in another lock file.
    assert_eq!(code(&with(&["--depth", "4", "--lock=other.lock"])), 0);
    assert_eq!(code(&with(&["--depth", "4", "--locked", "--lock=other.lock"])), 0);
    assert!(read("m.safetensors") != model);

    for broken in ["version = 2", "version = 1\nmore = 1", "version = 1\n[[model]]\noutput = \"m\"", "\u{0}"]
    {
        codec::write_atomic(&path.join("genebank.lock"), [broken.as_bytes()]).unwrap();
        let refused = with(&["--locked"]);
        assert_eq!(code(&refused), 2, "{broken}: {refused:?}");
        assert!(said(&refused).contains("genebank.lock"), "{refused:?}");
    }
}

#[test]
fn a_lock_holds_in_this_process() {
    let models = models(&gene_bytes());
    let folder = models.path().to_str().unwrap().to_owned();
    let gene = models.path().join(format!("{GENE}.safetensors"));
    works(&["--models", &folder], || codec::write_atomic(&gene, [other_gene().as_slice()]).unwrap());
}

#[test]
fn a_lock_holds_over_a_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let folder = tempfile::tempdir().unwrap();
    let url = server.url();
    let with = |more: &[&str]| init(folder.path(), &[&["--server", &url], more].concat());
    assert_eq!(code(&with(&["--depth", "4", "--lock"])), 0);
    assert_eq!(code(&with(&["--depth", "4", "--locked"])), 0);
    let model = std::fs::read(folder.path().join("m.safetensors")).unwrap();
    assert_eq!(code(&with(&["--depth", "5", "--locked"])), 2);
    // The identity matches, but the bytes do not.
    let lock = folder.path().join("genebank.lock");
    let text = std::fs::read_to_string(&lock).unwrap();
    let at = text.find("sha256 = \"").unwrap() + "sha256 = \"".len();
    let digit = if text[at..].starts_with('0') { "1" } else { "0" };
    codec::write_atomic(&lock, [&text.as_bytes()[..at], digit.as_bytes(), &text.as_bytes()[at + 1..]])
        .unwrap();
    let refused = with(&["--depth", "4", "--locked"]);
    assert_eq!(code(&refused), 2, "{refused:?}");
    assert!(said(&refused).contains("gave other bytes"), "{refused:?}");
    assert!(std::fs::read(folder.path().join("m.safetensors")).unwrap() == model);
    let mut left = entries(folder.path());
    left.sort();
    assert_eq!(left, ["genebank.lock", "m.safetensors"]);
}

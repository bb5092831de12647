//! A folder of genes: headers are read at the start, weights when a gene is first asked for.

use std::{path::Path, sync::Arc};

use genebank::{
    bank::{Bank, ModelRequest, Registry},
    error::Kind,
    gene::{GeneMeta, Learngene, store},
    server::Limits,
    tensor::{TensorFile, codec},
};
use tempfile::TempDir;

use crate::support::{self, GENE, Server, bank_config, gene_bytes, models};

/// Writes the test gene under another name.
fn write(folder: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let gene = Learngene::from_file(TensorFile::from_bytes(gene_bytes().into(), "x").unwrap(), "x").unwrap();
    let meta = GeneMeta { name: name.to_owned(), ..gene.meta().clone() };
    let mut bytes = store::with_meta(&gene, &meta).to_vec();
    change(&mut bytes);
    codec::write_atomic(&folder.join(format!("{name}.safetensors")), [bytes.as_slice()]).unwrap();
}

/// Other values, which are finite too, so that only the probe can tell.
fn change_weights(bytes: &mut [u8]) {
    let at = bytes.len() - 2000;
    for value in bytes[at..].chunks_exact_mut(4) {
        value.copy_from_slice(&1f32.to_le_bytes());
    }
}

/// The test gene beside `broken`, some of whose weights are wrong.
fn one_broken() -> TempDir {
    let folder = models(&gene_bytes());
    write(folder.path(), "broken", |bytes| change_weights(bytes));
    folder
}

#[test]
fn many_genes_open_without_their_weights() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..300 {
        // Reading them would tell that every one is broken.
        write(folder.path(), &format!("gene-{n}"), |bytes| change_weights(bytes));
    }
    let registry = Registry::open(Some(folder.path()), None).unwrap();
    assert_eq!((registry.iter().len(), registry.default_name()), (300, "gene-0"));
    let bytes = std::fs::read(folder.path().join("gene-7.safetensors")).unwrap();
    let digest = genebank::digest::hex(&genebank::digest::sha256(&bytes));
    assert_eq!(registry.summary("gene-7").unwrap().digest, digest);
    let error = registry.get("gene-7").unwrap_err();
    assert!(error.to_string().contains("probe logits differ"), "{error}");
}

#[tokio::test]
async fn a_broken_gene_is_refused_when_it_is_first_asked_for() {
    let folder = one_broken();
    let path = folder.path().join("broken.safetensors");
    let bank = Arc::new(Bank::open(bank_config(folder.path())).unwrap());
    let listed = bank.genes(bank.owner()).await.unwrap();
    assert_eq!(listed.iter().map(|gene| gene.name.as_str()).collect::<Vec<_>>(), ["broken", GENE]);
    let request = |gene: &str| ModelRequest { gene: gene.to_owned(), ..ModelRequest::default() };
    for _ in 0..2 {
        let error = support::plan(&bank, &request("broken")).unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss);
        assert!(error.to_string().contains("probe logits differ"), "{error}");
        // The second time from memory.
        std::fs::remove_file(&path).unwrap_or_default();
    }
    support::plan(&bank, &request(GENE)).unwrap();
}

#[tokio::test]
async fn a_server_with_a_broken_gene_serves_the_others() {
    let folder = one_broken();
    let bank = bank_config(folder.path());
    let server = Server::on(Limits::default(), folder, bank).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.get("/v1/genes").await.json().as_array().unwrap().len(), 2);
    let refused = server.get("/v1/models/broken/d3-w24.safetensors").await;
    assert_eq!((refused.status, refused.json()["kind"].as_str()), (500, Some("data-loss")));
    assert_eq!(server.get("/v1/models/tiny/d3-w24.safetensors").await.status, 200);
}

#[test]
fn a_gene_that_changed_after_the_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a", |_| ());
    write(folder.path(), "b", |_| ());
    let registry = Registry::open(Some(folder.path()), None).unwrap();
    let known = registry.get("a").unwrap();
    for name in ["a", "b"] {
        let path = folder.path().join(format!("{name}.safetensors"));
        let old = std::fs::File::options().write(true).open(path).unwrap();
        old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    // What was read before does not change.
    assert!(Arc::ptr_eq(&known, &registry.get("a").unwrap()));
    assert!(registry.summary("b").unwrap_err().to_string().contains("has changed"));
    assert!(registry.get("b").unwrap_err().to_string().contains("has changed"));
}

#[test]
fn a_damaged_header_ends_the_start() {
    for (at, reason) in [(7, "header of"), (20, "broken.safetensors")] {
        let folder = models(&gene_bytes());
        write(folder.path(), "broken", |bytes| bytes[at] = 0xff);
        let error = Registry::open(Some(folder.path()), None).unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss);
        assert!(error.to_string().contains(reason), "{error}");
    }
    let folder = models(&gene_bytes());
    write(folder.path(), "broken", |bytes| bytes.truncate(bytes.len() - 1));
    let error = Registry::open(Some(folder.path()), None).unwrap_err();
    assert!(error.to_string().contains("the file is cut or damaged"), "{error}");
}

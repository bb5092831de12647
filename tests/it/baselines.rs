//! Baselines, which take their initial values from elsewhere than the gene, over every interface.

use std::sync::Arc;

use candle_core::{Device, IndexOp as _};
use genebank::{
    bank::{Bank, Delivery, ModelRequest},
    blueprint::{Ancestor, Blueprint, Inheritance, expand},
    error::Kind,
    gene::{Head, Method, SizeRequest, Start, Target},
    tensor::{Dtype, TensorFile, Weights, codec},
};

use crate::support::{self, GENE, bank_config, gene_bytes, meta, models};

/// A model of the test gene's classes: depth 4, width 24, seeded.
fn ancestor() -> Vec<u8> {
    let info =
        genebank::gene::Learngene::from_file(TensorFile::from_bytes(gene_bytes().into(), "t").unwrap(), "t")
            .unwrap()
            .blueprint(&SizeRequest { depth: Some(4), ..SizeRequest::default() })
            .unwrap()
            .info;
    let blueprint = Blueprint::fresh(info, 9);
    let weights = expand(&blueprint, &Weights::default(), &Device::Cpu).unwrap();
    codec::render(&blueprint.info.metadata(), &weights.to_bytes(Dtype::F32).unwrap()).to_vec()
}

fn bank(with_ancestor: bool) -> (Arc<Bank>, tempfile::TempDir) {
    let folder = models(&gene_bytes());
    if with_ancestor {
        let path = folder.path().join(format!("ancestors/{GENE}.safetensors"));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        codec::write_atomic(&path, [ancestor().as_slice()]).unwrap();
    }
    (Arc::new(Bank::open(bank_config(folder.path())).unwrap()), folder)
}

fn request(method: Method, depth: u64, width: u64, seed: u64) -> ModelRequest {
    let size = SizeRequest { depth: Some(depth), width: Some(width), ..SizeRequest::default() };
    ModelRequest { size, start: Start { method, seed }, ..ModelRequest::default() }
}

async fn file(bank: &Arc<Bank>, request: &ModelRequest) -> TensorFile {
    let Delivery::Ready(artifact) = bank.deliver(&support::plan(bank, request).unwrap()).await.unwrap()
    else {
        panic!()
    };
    let bytes: Vec<u8> = artifact.parts().flat_map(|part| part.to_vec()).collect();
    TensorFile::from_bytes(bytes.into(), "model").unwrap()
}

#[tokio::test]
async fn selections_are_the_ancestors_elements() {
    let (bank, _folder) = bank(true);
    let stored = TensorFile::from_bytes(ancestor().into(), "ancestor").unwrap();
    let stored = Weights::from_file(&stored, &Device::Cpu).unwrap();
    let matrix = |weights: &Weights, name: &str| weights.tensor(name).unwrap();
    for (method, columns) in [
        (Method::FirstLayers, (0..8).collect::<Vec<u32>>()),
        (Method::Uniform, (0..8).map(|i| 3 * i).collect()),
    ] {
        let weights =
            Weights::from_file(&file(&bank, &request(method, 2, 8, 0)).await, &Device::Cpu).unwrap();
        let columns = candle_core::Tensor::new(columns, &Device::Cpu).unwrap();
        let take = |name: &str, axis| matrix(&stored, name).index_select(&columns, axis).unwrap();
        let proj = take("blocks.1.attn.proj.weight", 0).index_select(&columns, 1).unwrap();
        let same = |name: &str, expected: &candle_core::Tensor| {
            let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&matrix(&weights, name)), values(expected), "{method} {name}");
        };
        same("blocks.1.attn.proj.weight", &proj);
        same("head.weight", &take("head.weight", 1));
        same("head.bias", &matrix(&stored, "head.bias"));
        same("pos_embed", &take("pos_embed", 2));
        // Keys stay keys: the second third of the rows is selected from the second third.
        let keys = matrix(&stored, "blocks.0.attn.qkv.weight").i(24..48).unwrap();
        let keys = keys.index_select(&columns, 0).unwrap().index_select(&columns, 1).unwrap();
        let found = matrix(&weights, "blocks.0.attn.qkv.weight").i(8..16).unwrap();
        assert_eq!(found.to_vec2::<f32>().unwrap(), keys.to_vec2::<f32>().unwrap());
        assert!(weights.get("blocks.2.norm1.weight").is_err());
    }
    let whole = file(&bank, &request(Method::Uniform, 4, 24, 0)).await;
    let whole = Weights::from_file(&whole, &Device::Cpu).unwrap();
    for (name, weight) in stored.iter() {
        let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&weight.tensor().unwrap()), values(&matrix(&whole, name)), "{name}");
    }
}

#[tokio::test]
async fn scratch_is_its_seed_and_inherits_nothing() {
    let (bank, _folder) = bank(false);
    let one = request(Method::Scratch, 5, 24, 1);
    let plan = support::plan(&bank, &one).unwrap();
    let tensors = plan.blueprint.entries.len() as u32;
    assert_eq!(plan.inheritance(), Inheritance { fresh: tensors, ..Inheritance::default() });
    assert_eq!(plan.expected, None);
    let bytes = |request: ModelRequest| {
        let bank = bank.clone();
        async move { file(&bank, &request).await.bytes().to_vec() }
    };
    assert_eq!(bytes(one.clone()).await, bytes(one).await);
    assert_ne!(
        bytes(request(Method::Scratch, 5, 24, 1)).await,
        bytes(request(Method::Scratch, 5, 24, 2)).await
    );
    let other = support::plan(&bank, &request(Method::Scratch, 5, 24, 2)).unwrap().blueprint.identity;
    assert_ne!(plan.blueprint.identity, other);
}

/// Labels in another order keep their rows, and a new one is fresh, for every method.
#[tokio::test]
async fn other_labels_and_images_are_given() {
    let (bank, _folder) = bank(true);
    let labelled = |method, labels: &[&str]| {
        let labels = labels.iter().map(ToString::to_string).collect();
        let target = Target { head: Some(Head { labels, seed: 3 }), ..Target::default() };
        ModelRequest { target, ..request(method, 2, 8, 0) }
    };
    let rows = |file: &TensorFile| {
        let weights = Weights::from_file(file, &Device::Cpu).unwrap();
        weights.tensor("head.weight").unwrap().to_vec2::<f32>().unwrap()
    };
    for method in [Method::FirstLayers, Method::Uniform] {
        let own = rows(&file(&bank, &request(method, 2, 8, 0)).await);
        let other = rows(&file(&bank, &labelled(method, &["c", "a"])).await);
        assert_eq!(other, [own[2].clone(), own[0].clone()], "{method}");
        let new = support::plan(&bank, &labelled(method, &["c", "new"])).unwrap();
        let fresh = rows(&file(&bank, &labelled(method, &["c", "new"])).await);
        let all = method == Method::Uniform;
        assert_eq!(new.blueprint.fresh_classes(), if all { 2 } else { 1 });
        assert_eq!(fresh[0] == own[2], !all, "{method}");
        assert_eq!(fresh[1], rows(&file(&bank, &labelled(Method::Gene, &["new"])).await)[0], "{method}");
    }
    let scratch = file(&bank, &labelled(Method::Scratch, &["x", "y"])).await;
    assert_eq!(scratch.tensor("head.bias").unwrap().shape, [2]);

    let larger = |method| {
        let target = Target { image_size: Some(12), ..Target::default() };
        support::plan(&bank, &ModelRequest { target, ..request(method, 2, 8, 0) })
    };
    for method in [Method::Scratch, Method::FirstLayers] {
        assert_eq!(larger(method).unwrap().blueprint.info.config.vit().unwrap().image_size(), 12);
    }
    assert_eq!(larger(Method::Uniform).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn what_a_method_cannot_give_is_refused() {
    let (bare, _folder) = bank(false);
    let kind = |bank: &Bank, request: &ModelRequest| support::plan(bank, request).unwrap_err().kind();
    assert_eq!(kind(&bare, &request(Method::Uniform, 2, 8, 0)), Kind::NotFound);
    let (bank, folder) = bank(true);
    for (depth, width, seed) in [(5, 24, 0), (0, 24, 0), (2, 32, 0), (2, 0, 0), (2, 9, 0), (2, 8, 1)] {
        let error = kind(&bank, &request(Method::Uniform, depth, width, seed));
        assert!(error == Kind::Invalid, "{depth} {width} {seed}: {error:?}");
    }
    assert_eq!(kind(&bank, &request(Method::Gene, 2, 8, 1)), Kind::Invalid);
    // An ancestor with other classes does not belong to the gene.
    let path = folder.path().join(format!("ancestors/{GENE}.safetensors"));
    let file = TensorFile::from_bytes(ancestor().into(), "ancestor").unwrap();
    let mut info = Ancestor::from_file(file.clone(), "ancestor").unwrap().info().clone();
    info.labels = meta().labels.iter().map(|label| format!("{label}!")).collect();
    let tensors: Vec<_> = file.tensors().map(|(name, t)| (name.to_owned(), t.clone())).collect();
    codec::write_atomic(&path, [codec::render(&info.metadata(), &tensors).as_ref()]).unwrap();
    assert_eq!(Bank::open(bank_config(folder.path())).unwrap_err().kind(), Kind::DataLoss);
}

#[test]
fn an_ancestor_that_is_not_finite_is_refused() {
    let mut bytes = ancestor();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = Ancestor::from_file(TensorFile::from_bytes(bytes.into(), "a").unwrap(), "a").unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
}

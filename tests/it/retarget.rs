//! Models for classes and images that differ from the gene's.

use std::{collections::BTreeSet, path::Path};

use candle_core::Device;
use genebank::{
    bank::{Bank, Delivery, Length, ModelRequest, Quote, Tune},
    blueprint::{Artifact, Inheritance, Resize, Slices, assemble::assemble, expand},
    client::Client,
    digest::{hex, sha256},
    error::{Error, Kind},
    gene::{Head, Learngene, SizeRequest, Target, store},
    server::Limits,
    tensor::{Dtype, Params, TensorFile, Weight, Weights},
};
use proptest::prelude::*;
use strum::VariantArray as _;

use crate::support::{self, GENE, Server, bank_config};

fn gene() -> Learngene {
    let file = TensorFile::from_bytes(support::gene_bytes().into(), "test").unwrap();
    Learngene::from_file(file, "test").unwrap()
}

fn names<T: AsRef<str>>(labels: &[T]) -> Vec<String> {
    labels.iter().map(|label| label.as_ref().to_owned()).collect()
}

fn labelled<T: AsRef<str>>(labels: &[T], seed: u64) -> Target {
    Target { head: Some(Head { labels: names(labels), seed }), ..Target::default() }
}

fn imaged(image_size: u64, patch_size: u64) -> Target {
    Target { image_size: Some(image_size), patch_size: Some(patch_size), head: None }
}

/// The served file for a size and a target.
fn served(gene: &Learngene, size: &SizeRequest, target: &Target) -> Vec<u8> {
    let blueprint = gene.blueprint_for(size, target).unwrap();
    let artifact = assemble(&blueprint, &Slices::new(gene.file().clone(), 24)).unwrap();
    artifact.parts().flat_map(|part| part.to_vec()).collect()
}

/// The tensors of a file, upcast.
fn weights(bytes: Vec<u8>) -> Weights {
    Weights::from_file(&TensorFile::from_bytes(bytes.into(), "served").unwrap(), &Device::Cpu).unwrap()
}

fn values(weights: &Weights, name: &str) -> Vec<f32> {
    weights.tensor(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn rows(weights: &Weights, name: &str) -> Vec<Vec<f32>> {
    let tensor = weights.tensor(name).unwrap();
    let columns = tensor.elem_count() / tensor.dim(0).unwrap();
    tensor.reshape(((), columns)).unwrap().to_vec2().unwrap()
}

/// Labels in any order. The gene knows some of them.
fn labels() -> impl Strategy<Value = Vec<String>> {
    let all = ["a", "b", "c", "d", "\u{e9},\"&\n", "C", " a"];
    (1..=all.len()).prop_flat_map(move |n| {
        Just(all.to_vec()).prop_shuffle().prop_map(move |mut all| {
            all.truncate(n);
            names(&all)
        })
    })
}

fn target() -> impl Strategy<Value = Target> {
    let head = (labels(), any::<u64>()).prop_map(|(labels, seed)| Head { labels, seed });
    (prop::option::of(head), prop::option::of((1u64..6, 1u64..9))).prop_map(|(head, images)| Target {
        image_size: images.map(|(grid, patch)| grid * patch),
        patch_size: images.map(|(_, patch)| patch),
        head,
    })
}

fn size() -> impl Strategy<Value = SizeRequest> {
    let dtype = prop::sample::select(Dtype::VARIANTS.to_vec());
    (1u64..6, 1u64..=3, dtype).prop_map(|(depth, heads, dtype)| SizeRequest {
        depth: Some(depth),
        width: Some(8 * heads),
        dtype,
        allow_untrained_width: true,
        ..SizeRequest::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn executors_agree(size in size(), target in target()) {
        let gene = gene();
        let blueprint = gene.blueprint_for(&size, &target).unwrap();
        let bytes = served(&gene, &size, &target);
        let stored = Weights::from_file(gene.file(), &Device::Cpu).unwrap();
        let expanded = expand(&blueprint, &stored, &Device::Cpu).unwrap().to_bytes(size.dtype).unwrap();
        let file = TensorFile::from_bytes(bytes.into(), "served").unwrap();
        for (name, tensor) in expanded {
            let other = file.tensor(&name).unwrap();
            prop_assert_eq!((&tensor.shape, &tensor.bytes), (&other.shape, &other.bytes), "{}", name);
        }
        // The file holds the network that it announces, and the network can be built.
        let model = genebank::nn::Vit::new(*blueprint.info.config.vit().unwrap(), &weights(served(&gene, &size, &target)));
        prop_assert_eq!(model.unwrap().config().classes(), blueprint.info.labels.len());
    }

    #[test]
    fn a_narrower_target_is_a_part_of_the_wider((grid, patch) in (1u64..6, 1u64..9), seed in any::<u64>()) {
        let gene = gene();
        let target = Target { head: labelled(&["b", "x"], seed).head, ..imaged(grid * patch, patch) };
        let [narrow, wide] = [8, 24].map(|width| {
            weights(served(&gene, &SizeRequest { width: Some(width), ..SizeRequest::default() }, &target))
        });
        let [kernels, wide_kernels] = [&narrow, &wide].map(|all| rows(all, "patch_embed.proj.weight"));
        prop_assert_eq!(&kernels[..], &wide_kernels[..8]);
        for name in ["pos_embed", "head.weight"] {
            let prefix: Vec<f32> = values(&wide, name).chunks(24).flat_map(|row| row[..8].to_vec()).collect();
            prop_assert_eq!(values(&narrow, name), prefix, "{}", name);
        }
    }

    #[test]
    fn rows_follow_their_labels(one in labels(), other in labels(), seed in any::<u64>(), size in size()) {
        let gene = gene();
        let head = |labels: &[String]| weights(served(&gene, &size, &labelled(labels, seed)));
        let (a, b) = (head(&one), head(&other));
        let own = weights(served(&gene, &size, &Target::default()));
        for name in ["head.weight", "head.bias"] {
            let (a, b, own) = (rows(&a, name), rows(&b, name), rows(&own, name));
            for (i, label) in one.iter().enumerate() {
                if let Some(j) = other.iter().position(|other| other == label) {
                    prop_assert_eq!(&a[i], &b[j], "{}", label);
                }
                if let Some(known) = gene.meta().labels.iter().position(|own| own == label) {
                    prop_assert_eq!(&a[i], &own[known]);
                } else {
                    prop_assert_eq!(a[i].iter().all(|v| *v == 0.0), name == "head.bias");
                }
            }
        }
    }
}

#[test]
fn resized_tensors_are_timms() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/resize.safetensors");
    let golden = Weights::from_file(&TensorFile::open(&path).unwrap(), &Device::Cpu).unwrap();
    let mut count = 0;
    for case in golden.iter().filter_map(|(name, _)| name.strip_suffix("/stored")) {
        let parts: Vec<&str> = case.split('/').collect();
        let (from, to) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
        let resize = match parts[0] {
            "positions" => Resize::Positions { from, to },
            _ => Resize::Kernels { from, to },
        };
        let found = resize.values(&values(&golden, &format!("{case}/stored")), 3);
        let expected = values(&golden, &format!("{case}/resized"));
        assert_eq!(found.len(), expected.len(), "{case}");
        // The tolerance allows for timm, which computes everything in f32.
        let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
        let difference = found.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(difference <= 1e-5 * largest, "{case}: {difference} of {largest}");
        count += 1;
    }
    assert_eq!(count, 15);
}

#[test]
fn only_what_depends_on_images_is_resized() {
    let gene = gene();
    let own = weights(served(&gene, &SizeRequest::default(), &Target::default()));
    for (target, resized) in [
        (imaged(16, 4), &["pos_embed"][..]),
        (imaged(16, 8), &["patch_embed.proj.weight"]),
        (imaged(8, 2), &["patch_embed.proj.weight", "pos_embed"]),
        (Target { image_size: Some(12), ..Target::default() }, &["pos_embed"]),
        (Target { patch_size: Some(8), ..Target::default() }, &["patch_embed.proj.weight", "pos_embed"]),
    ] {
        let other = weights(served(&gene, &SizeRequest::default(), &target));
        let differ = own.iter().filter(|(name, _)| values(&own, name) != values(&other, name));
        assert_eq!(differ.map(|(name, _)| name).collect::<Vec<_>>(), resized, "{target:?}");
        // The position embedding of the class token is kept.
        assert_eq!(values(&own, "pos_embed")[..24], values(&other, "pos_embed")[..24]);
    }
}

#[test]
fn resized_tensors_are_made_once_and_weighed() {
    let gene = gene();
    let blueprint = |depth| {
        gene.blueprint_for(&SizeRequest { depth: Some(depth), ..SizeRequest::default() }, &imaged(24, 6))
            .unwrap()
    };
    let slices = Slices::new(gene.file().clone(), 24).with_resized(&blueprint(1));
    let [a, b] = [1, 5].map(|depth| assemble(&blueprint(depth), &slices).unwrap());
    let made = (24 * 36 + 17 * 24) * 4;
    assert_eq!(slices.most_owned_bytes(24, Dtype::F32), made);
    // The file's own bytes are the resized tensors, a header and some lists. The cache of models counts all of them.
    assert!((made..made + 8192).contains(&a.own_bytes()), "{}", a.own_bytes());
    let parts =
        |artifact: &Artifact| -> BTreeSet<_> { artifact.parts().skip(1).map(|p| p.as_ptr()).collect() };
    assert!(parts(&a).is_subset(&parts(&b)));
}

#[test]
fn what_is_asked_for_in_vain_changes_no_byte() {
    let gene = gene();
    let plain = gene.blueprint(&SizeRequest::default()).unwrap();
    let own = Target { head: labelled(&gene.meta().labels, 9).head, ..imaged(8, 4) };
    assert_eq!(gene.blueprint_for(&SizeRequest::default(), &own).unwrap().identity, plain.identity);
    assert!(
        served(&gene, &SizeRequest::default(), &own)
            == served(&gene, &SizeRequest::default(), &Target::default())
    );
    // The seed is part of the name only if it draws something.
    let identity = |labels: &[&str], seed| {
        gene.blueprint_for(&SizeRequest::default(), &labelled(labels, seed)).unwrap().identity
    };
    assert_eq!(identity(&["b", "a"], 1), identity(&["b", "a"], 2));
    assert_ne!(identity(&["b", "x"], 1), identity(&["b", "x"], 2));
    assert_ne!(identity(&["b", "a"], 1), identity(&["a", "b"], 1));
    assert_ne!(identity(&["ab", "c"], 1), identity(&["a", "bc"], 1));
    assert_ne!(identity(&["a", "b"], 1), plain.identity);
    let images = |target| gene.blueprint_for(&SizeRequest::default(), &target).unwrap().identity;
    assert_eq!(images(imaged(16, 4)), images(Target { image_size: Some(16), ..Target::default() }));
    assert_ne!(images(imaged(16, 4)), images(imaged(16, 8)));
    assert_ne!(images(imaged(16, 4)), plain.identity);
}

#[test]
fn a_request_without_a_target_keeps_its_name() {
    // The canonical form of a request before targets existed.
    let gene = gene();
    let form = genebank::blueprint::Identity::form("genebank.model")
        .text(gene.digest())
        .integer(3)
        .integer(24)
        .text("trained")
        .text("f32")
        .text("timm");
    assert_eq!(gene.blueprint(&SizeRequest::default()).unwrap().identity, form.into());
}

#[test]
fn fresh_rows_are_reported() {
    let gene = std::sync::Arc::new(gene());
    let plan = |labels: &[&str]| {
        let request = ModelRequest { target: labelled(labels, 0), ..ModelRequest::default() };
        Quote::new(&gene, None, &request, None).unwrap()
    };
    let copied = Inheritance { copied: 6 + 3 * 12, ..Inheritance::default() };
    for (labels, head, fresh) in [
        (&["c", "b", "a"][..], Inheritance { sliced: 2, ..copied }, 0),
        (&["a"], Inheritance { sliced: 2, ..copied }, 0),
        (&["a", "x", "y"], Inheritance { mixed: 2, ..copied }, 2),
        (&["x", "y"], Inheritance { fresh: 2, ..copied }, 2),
        (&["a", "b", "c"], Inheritance { copied: copied.copied + 2, ..copied }, 0),
    ] {
        let plan = plan(labels);
        let summary = genebank::bank::ModelSummary::of(&plan);
        assert_eq!((summary.inheritance, summary.fresh_classes), (head, fresh), "{labels:?}");
        assert_eq!(summary.classes as usize, labels.len());
        assert_eq!(plan.expected.is_some(), labels == ["a", "b", "c"], "{labels:?}");
        assert_eq!(plan.blueprint.info.labels, labels);
    }
    let request = ModelRequest { target: imaged(16, 2), ..ModelRequest::default() };
    let plan = Quote::new(&gene, None, &request, None).unwrap();
    assert_eq!(plan.inheritance(), Inheritance { resized: 2, ..copied });
    assert_eq!(plan.expected, None);
    let summary = genebank::bank::ModelSummary::of(&plan);
    assert_eq!((summary.image_size, summary.patch_size), (16, 2));
}

#[test]
fn impossible_targets_are_refused() {
    let gene = gene();
    let refused = |target: &Target| gene.blueprint_for(&SizeRequest::default(), target).unwrap_err();
    let many: Vec<String> = (0..=100_000).map(|n: u32| n.to_string()).collect();
    for (target, reason) in [
        (labelled::<&str>(&[], 0), "labels 0 is beyond a head (1..=100000)"),
        (labelled(&many, 0), "labels 100001 is beyond a head (1..=100000)"),
        (labelled(&["x", "y", "x"], 0), "labels: label 2 is \"x\" again"),
        (labelled(&["x", ""], 0), "labels: label 1 has 0 bytes, beyond 1..=256"),
        (labelled(&["\u{e9}".repeat(129)], 0), "labels: label 0 has 258 bytes, beyond 1..=256"),
    ] {
        let error = refused(&target);
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Invalid, reason));
    }
    for (target, reason) in [
        (imaged(0, 4), "image_size 0 is beyond a vision transformer (1..=1024)"),
        (imaged(8, 0), "patch_size 0 is beyond a vision transformer (1..=256)"),
        (imaged(1_000_000_000, 4), "image_size 1000000000 is beyond a vision transformer (1..=1024)"),
        (imaged(u64::MAX, u64::MAX), "is beyond a vision transformer (1..=1024)"),
        (imaged(1024, 512), "patch_size 512 is beyond a vision transformer (1..=256)"),
        (imaged(1024, 8), "patches 16384 is beyond a vision transformer (1..=4096)"),
        (
            Target { image_size: Some(30), ..Target::default() },
            "image_size: 30 is not a multiple of patch_size 4",
        ),
        (
            Target { patch_size: Some(3), ..Target::default() },
            "image_size: 8 is not a multiple of patch_size 3",
        ),
    ] {
        let error = refused(&target);
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(reason), "{error}");
    }
    let most = labelled(&many[..100_000], 0);
    assert_eq!(
        gene.blueprint_for(&SizeRequest::default(), &most).unwrap().info.config.vit().unwrap().classes(),
        100_000
    );
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one small graph of candle's own")]
fn parameters_in_training_are_not_cut_off() {
    let gene = gene();
    let stored = Weights::from_file(gene.file(), &Device::Cpu).unwrap();
    let (flat, variables) = (Params::new(&stored).unwrap(), Params::variables(&stored).unwrap());
    let trained = |params: &Params| params.weights(&params.tape(false, std::sync::Arc::default()).unwrap());
    let head = gene.blueprint_for(&SizeRequest::default(), &labelled(&["b", "x"], 0)).unwrap();
    let error = expand(&head, &trained(&flat).unwrap(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("head.weight"), "{error}");
    for params in [&flat, &variables] {
        let images = gene.blueprint_for(&SizeRequest::default(), &imaged(16, 4)).unwrap();
        let error = expand(&images, &trained(params).unwrap(), &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("pos_embed"), "{error}");
    }
    // In candle's own graph, gradients flow through kept rows.
    let vars = variables.vars().unwrap();
    let plain = vars.iter().map(|(name, var)| (name.clone(), Weight::new(var.as_tensor()).unwrap()));
    let expanded = expand(&head, &plain.clone().collect(), &Device::Cpu).unwrap();
    let gradients = expanded.tensor("head.weight").unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = gradients.get(&vars["head.weight"]).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(gradient, [[0.0; 24], [1.0; 24], [0.0; 24]]);
    // Resizing has no backward pass in candle's graph either.
    let images = gene.blueprint_for(&SizeRequest::default(), &imaged(16, 4)).unwrap();
    let error = expand(&images, &plain.collect(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("resizing has no gradient"), "{error}");
}

/// Gets the file over gRPC.
async fn grpc(server: &Server, request: &ModelRequest) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let summary = Client::connect(&server.url()).await?.init_model(request, &path, |_| {}).await?;
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(summary.sha256, hex(&sha256(&bytes)));
    Ok(bytes)
}

/// Gets the file with the program.
fn cli(models: &Path, more: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_genebank"))
        .args(["init", GENE, "-o", "-", "--models", models.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_a_model_gives_the_same_bytes() {
    let server = Server::start().await;
    let bank = std::sync::Arc::new(Bank::open(bank_config(&server.models())).unwrap());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("labels.txt");
    let text = "b\r\n\u{e9}, \"x\"\na\n";
    genebank::tensor::codec::write_atomic(&file, [text.as_bytes()]).unwrap();
    let at_file = format!("@{}", file.display());
    for (labels, query, typed) in [
        (&["c", "x"][..], "labels=[%22c%22,%22x%22]&head_seed=5", "c,x"),
        (
            &["b", "\u{e9}, \"x\"", "a"],
            "labels=[%22b%22,%22%C3%A9,%20%5C%22x%5C%22%22,%22a%22]&head_seed=5",
            &at_file,
        ),
    ] {
        let size = SizeRequest { depth: Some(4), width: Some(24), ..SizeRequest::default() };
        let request = ModelRequest { size, target: labelled(labels, 5), ..ModelRequest::default() };
        let plan = support::plan(&bank, &request).unwrap();
        let Delivery::Ready(artifact) = bank.deliver(&plan).await.unwrap() else { panic!("nothing to tune") };
        let expected: Vec<u8> = artifact.parts().flatten().copied().collect();
        assert_eq!(plan.size_bytes(), expected.len() as u64);
        assert!(grpc(&server, &request).await.unwrap() == expected);
        let answer = server.get(&format!("/v1/models/tiny/d4-w24.safetensors?{query}")).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        assert!(answer.body == expected);
        let models = server.models();
        let arguments = ["--depth", "4", "--labels", typed, "--head-seed", "5"].map(ToOwned::to_owned);
        let run = move || cli(&models, &arguments.each_ref().map(String::as_str));
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert!(output.stdout == expected, "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("fresh for 1 of"), "{output:?}");
    }
    let size = SizeRequest { depth: Some(4), width: Some(8), dtype: Dtype::Bf16, ..SizeRequest::default() };
    let request = ModelRequest { size, target: imaged(15, 5), ..ModelRequest::default() };
    let expected = grpc(&server, &request).await.unwrap();
    let query = "dtype=bf16&image_size=15&patch_size=5";
    assert!(server.get(&format!("/v1/models/tiny/d4-w8.safetensors?{query}")).await.body == expected);
    let models = server.models();
    let arguments =
        ["--depth", "4", "--width", "8", "--dtype", "bf16", "--image-size", "15", "--patch-size", "5"];
    let output = tokio::task::spawn_blocking(move || cli(&models, &arguments)).await.unwrap();
    assert!(output.stdout == expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_refuses_the_same() {
    let server = Server::start().await;
    for labels in [&[][..], &["a", "a"], &["a", ""]] {
        let request = ModelRequest { target: labelled(labels, 0), ..ModelRequest::default() };
        assert_eq!(grpc(&server, &request).await.unwrap_err().kind(), Kind::Invalid, "{labels:?}");
    }
    for query in [
        "labels=[]",
        "labels=[%22a%22,%22a%22]",
        "labels=a,b",
        "labels=[1]",
        "labels=",
        "head_seed=1",
        "image_size=0",
        "image_size=x",
        "patch_size=3",
    ] {
        let answer = server.get(&format!("/v1/models/tiny/d4-w24.safetensors?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
    }
    for more in [
        &["--labels", "a,a"][..],
        &["--labels", ""],
        &["--labels", "a,"],
        &["--labels", "dataset"],
        &["--head-seed", "1"],
        &["--image-size", "0"],
        &["--image-size", "1000000000"],
        &["--patch-size", "3"],
    ] {
        let output = cli(&server.models(), more);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{more:?}");
    }
    // The request is larger than a server accepts, so the client refuses to send it.
    let long: Vec<String> = (0..3000).map(|n| format!("{n:0200}")).collect();
    let request = ModelRequest { target: labelled(&long, 0), ..ModelRequest::default() };
    assert_eq!(grpc(&server, &request).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gene_is_tuned_for_the_classes_of_other_data() {
    // A gene with smaller images and other classes than Fashion-MNIST. Two classes are the same, at other places.
    let fashion = support::fashion_meta();
    let labels = names(&["x", &fashion.labels[9], "y", &fashion.labels[0]]);
    let raw = genebank::nn::vit::RawVitConfig {
        classes: 4,
        image_size: 14,
        ..(*fashion.config.vit().unwrap()).into()
    };
    let config = genebank::nn::VitConfig::try_from(raw).unwrap();
    let meta = genebank::gene::GeneMeta { config: config.into(), labels, ..fashion.clone() };
    let models = support::models(&store::render(meta.clone(), &support::weights(&meta), 7).unwrap().1);
    let bank = genebank::bank::Config { data: Some(support::sample_data()), ..bank_config(models.path()) };
    let folder = models.path().to_owned();
    let server = Server::on(Limits::default(), models, bank).await;
    let tune = Tune {
        dataset: "fashion-mnist".to_owned(),
        length: Length::Steps(3),
        learning_rate_e9: None,
        seed: 0,
    };
    let request = |target| {
        let target = Target { image_size: Some(28), ..target };
        ModelRequest { tune: Some(tune.clone()), target, ..ModelRequest::default() }
    };
    let default = grpc(&server, &request(Target::default())).await.unwrap();
    let mut wrong = fashion.labels.clone();
    wrong.swap(3, 4);
    let error = grpc(&server, &request(labelled(&wrong, 0))).await.unwrap_err();
    assert!(error.to_string().contains("is class 3 of \"fashion-mnist\", and 4 of the model"), "{error}");
    let bytes = grpc(&server, &request(labelled(&fashion.labels, 0))).await.unwrap();
    assert!(bytes == default, "the classes of the data are the default");
    let file = TensorFile::from_bytes(bytes.into(), "tuned").unwrap();
    let info = genebank::blueprint::ModelInfo::from_file(&file, "tuned").unwrap();
    assert_eq!(info.labels, fashion.labels);
    assert_eq!(file.tensor("head.weight").unwrap().shape, [10, 24]);
    // The program takes the names from the data.
    let output = move || {
        let (data, out) = (support::sample_data(), tempfile::tempdir().unwrap());
        let (model, data) = (out.path().join("m.safetensors"), data.to_str().unwrap().to_owned());
        let run = |more: &[&str]| {
            let program = std::process::Command::new(env!("CARGO_BIN_EXE_genebank"))
                .args(["finetune", GENE, "--steps", "2", "--threads", "1"])
                .args(["--data", &data, "--dataset", "fashion-mnist"])
                .args(["-o", model.to_str().unwrap(), "--models", folder.to_str().unwrap()])
                .args(more)
                .output();
            program.unwrap()
        };
        assert_eq!(run(&[]).status.code(), Some(2));
        let output = run(&["--labels", "dataset", "--image-size", "28"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let file = TensorFile::open(&model).unwrap();
        genebank::blueprint::ModelInfo::from_file(&file, "tuned").unwrap().labels
    };
    assert_eq!(tokio::task::spawn_blocking(output).await.unwrap(), fashion.labels);
}

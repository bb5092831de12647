//! Genes of text encoders: learned from a golden BERT, expanded to every size, and served as sentence-transformers reads
//! them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use candle_core::{Device, Tensor};
use genebank::{
    blueprint::{Ancestor, Blueprint, Resident, Slices, assemble::assemble, expand},
    data::text::{Corpus, Tokenizer, pad},
    error::Error,
    gene::{Head, Learngene, SizeRequest, Target, meta::stage_of},
    import::{Hints, import},
    nn::Bert,
    tensor::{Dtype, TensorFile, Weights, codec},
    train::{
        Event, Length, Optim, Recipe,
        embed::texts,
        recipe::{GeneRecipe, Nested, Texts},
        run::{RunEvent, TextRun},
    },
};
use tempfile::TempDir;

use crate::support::{self, Server};

const GENE: &str = "words";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/imports/bert-mean")
}

fn ancestor() -> Ancestor {
    import(&golden(), &Hints::default()).unwrap().ancestor
}

/// 300 sentences of words that the golden tokenizer knows.
fn corpus(teacher: &Ancestor) -> Arc<Corpus> {
    let folder = tempfile::tempdir().unwrap();
    let words = ["a", "cat", "sat", "on", "the", "mat", "dog", "ran", "it", "is"];
    let sentence = |i: usize| {
        let words: Vec<_> = (0..2 + i % 7).map(|j| words[(i * (j + 3) + j * j) % words.len()]).collect();
        format!("{}\n", words.join(" "))
    };
    let text: String = (0..300).map(sentence).collect();
    codec::write_atomic(&folder.path().join("s.txt"), [text.as_bytes()]).unwrap();
    let tokenizer = Tokenizer::stored(teacher.tokenizer().unwrap(), "teacher").unwrap();
    Arc::new(Corpus::open(folder.path(), "sentences", "CC0-1.0", None, &tokenizer, 2).unwrap())
}

fn recipe(steps: u32) -> Recipe {
    Recipe {
        data: "sentences".to_owned(),
        seed: 3,
        model: None,
        start: None,
        optim: Optim {
            length: Length::Steps(steps),
            batch: 16,
            learning_rate: 3e-3,
            min_learning_rate: 0.0,
            warmup_steps: 2,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            clip: 1.0,
            label_smoothing: 0.0,
            drop_path: 0.0,
            recompute: false,
            bf16: false,
        },
        augment: genebank::data::Augment::default(),
        texts: Some(Texts {
            max_tokens: 16,
            per_epoch: Some(64),
            licence: "CC0-1.0".to_owned(),
            column: None,
        }),
        gene: None,
    }
}

fn gene_recipe(dtype: Dtype) -> GeneRecipe {
    GeneRecipe {
        name: GENE.to_owned(),
        licence: Some("Apache-2.0".to_owned()),
        stages: vec![1, 1],
        depth_range: [1, 6],
        teacher: PathBuf::new(),
        alpha: 0.1,
        temperature: 0.5,
        from_teacher: false,
        importance: true,
        anchors: 32,
        dtype,
        nested: Some(Nested {
            widths: vec![4, 8, 12],
            // With all widths, and at least as many layers as stages, each step reaches every parameter.
            depths: [2, 4],
            draws: 3,
            ancestor_share: 1.0,
            full_weight: 1.0,
            smallest_weight: 1.0,
            full_every: 2,
            full_only_steps: 0,
            toward_small: 1.0,
            width_norms: true,
        }),
    }
}

/// A run over `corpus`; `threads` and files are those of one process.
fn learn(
    steps: u32,
    corpus: &Arc<Corpus>,
    threads: usize,
    files: Option<&Path>,
    stop_after: Option<u64>,
) -> Result<(Learngene, Vec<RunEvent>), Error> {
    let (recipe, teacher) = (recipe(steps), ancestor());
    let paths = files.map(|folder| [folder.join("c.ckpt"), folder.join("v.vectors")]);
    let run = TextRun {
        recipe: &recipe,
        corpus,
        threads,
        device: Device::Cpu,
        checkpoint: paths.as_ref().map(|[checkpoint, _]| checkpoint.as_path()),
        vectors: paths.as_ref().map(|[_, vectors]| vectors.as_path()),
        start: None,
    };
    let (mut events, cancel) = (Vec::new(), AtomicBool::new(false));
    let gene = run.learn(&gene_recipe(Dtype::F32), &teacher, &cancel, &mut |event| {
        if let (RunEvent::Trainer(Event::Step { step, .. }), Some(last)) = (event, stop_after) {
            cancel.store(step >= last, std::sync::atomic::Ordering::Relaxed);
        }
        events.push(event);
    });
    gene.map(|(gene, _)| (gene, events))
}

fn bits(gene: &Learngene) -> Vec<(String, Vec<u8>)> {
    gene.file().tensors().map(|(name, tensor)| (name.to_owned(), tensor.bytes.to_vec())).collect()
}

/// The vectors of a few sentences.
fn vectors(model: &Bert, tokenizer: &Tokenizer) -> Vec<f32> {
    let ids = tokenizer.encode(&["A cat sat on the mat", "dogs ran", "it is"]).unwrap();
    let input = texts(pad(&ids, tokenizer.pad_id()), &Device::Cpu).unwrap();
    model.forward(&input).and_then(|vectors| vectors.flatten_all()?.to_vec1()).unwrap()
}

fn of_gene(gene: &Learngene, depth: u64, width: u64) -> Bert {
    let size = SizeRequest { depth: Some(depth), width: Some(width), ..SizeRequest::default() };
    let (info, weights) = gene.expand(&size, &Device::Cpu).unwrap();
    Bert::new(*info.config.bert().unwrap(), &weights).unwrap()
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < tolerance, "{found} is not {expected}");
    }
}

/// Before learning, the gene of the trained size answers as its teacher does, component by component, and a narrower one
/// with part of the vector.
#[test]
fn a_gene_begins_as_its_teacher() {
    let teacher = ancestor();
    // A learning rate of almost nothing.
    let mut recipe = recipe(1);
    recipe.optim.learning_rate = 1e-30;
    recipe.optim.weight_decay = 0.0;
    let corpus = corpus(&teacher);
    let run = TextRun {
        recipe: &recipe,
        corpus: &corpus,
        threads: 2,
        device: Device::Cpu,
        checkpoint: None,
        vectors: None,
        start: None,
    };
    let tokenizer = Tokenizer::stored(teacher.tokenizer().unwrap(), "teacher").unwrap();
    let own = Bert::new(*teacher.info().config.bert().unwrap(), &teacher.weights(&Device::Cpu).unwrap());
    let expected = vectors(&own.unwrap(), &tokenizer);
    for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::F16, 2e-3)] {
        let (gene, bytes) =
            run.learn(&gene_recipe(dtype), &teacher, &AtomicBool::new(false), &mut |_| ()).unwrap();
        assert_near(&vectors(&of_gene(&gene, 2, 12), &tokenizer), &expected, tolerance);
        // The file has the tokenizer, and is a gene when it is read again.
        let file = TensorFile::from_bytes(bytes, GENE).unwrap();
        assert!(file.tensors().all(|(_, tensor)| tensor.dtype == dtype));
        let again = Learngene::from_file(file, GENE).unwrap();
        assert_eq!(again.tokenizer(), teacher.tokenizer());
        let narrow = vectors(&of_gene(&again, 2, 8), &tokenizer);
        assert_eq!(narrow.len(), expected.len(), "every width has vectors of the teacher's dimension");
        // Without training, the components of the channels that are left out are 0.
        // The one step moved them by the learning rate.
        let zeros = |values: &[f32]| values.iter().filter(|value| value.abs() < 1e-20).count();
        assert_eq!((zeros(&expected), zeros(&narrow)), (0, 3 * 4));
    }
}

#[test]
fn learning_brings_every_width_nearer_to_the_teacher() {
    let corpus = corpus(&ancestor());
    let (gene, events) = learn(60, &corpus, 2, None, None).unwrap();
    let cosines = |wanted: usize| -> Vec<f64> {
        let of = |event: &RunEvent| {
            if let RunEvent::Vectors { width, cosine, .. } = event { Some((*width, *cosine)) } else { None }
        };
        let of = |event: &RunEvent| of(event).filter(|(width, _)| *width == wanted).map(|(_, cosine)| cosine);
        events.iter().filter_map(of).collect()
    };
    for width in [4, 8, 12] {
        let cosines = cosines(width);
        assert_eq!(cosines.len(), 15, "one after each epoch of four batches");
        assert!(width == 12 || cosines[14] > cosines[0] + 0.01, "width {width}: {cosines:?}");
    }
    assert!(cosines(12)[14] > 0.95);
    assert!(gene.meta().data.starts_with("sentences ") && gene.meta().licence == "CC0-1.0");
    assert_eq!(gene.meta().weights_licence(), "Apache-2.0");
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_gene() {
    let corpus = corpus(&ancestor());
    let (whole, _) = learn(12, &corpus, 1, None, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stopped = learn(12, &corpus, 2, Some(folder.path()), Some(6)).unwrap_err();
    assert!(matches!(stopped, Error::Cancelled));
    assert!(folder.path().join("v.vectors").exists(), "the teacher's vectors are kept");
    let (resumed, events) = learn(12, &corpus, 2, Some(folder.path()), None).unwrap();
    // An epoch has four steps.
    assert_eq!(events[0], RunEvent::Trainer(Event::Resumed { step: 4 }));
    assert_eq!(bits(&resumed), bits(&whole), "neither threads nor a stop change the gene");
}

#[test]
fn a_gene_goes_on_from_another_of_the_same_shape() {
    let (mut recipe, teacher) = (recipe(1), ancestor());
    recipe.optim.learning_rate = 1e-30;
    recipe.optim.weight_decay = 0.0;
    let corpus = corpus(&teacher);
    let (start, _) = learn(12, &corpus, 2, None, None).unwrap();
    let run = TextRun {
        recipe: &recipe,
        corpus: &corpus,
        threads: 2,
        device: Device::Cpu,
        checkpoint: None,
        vectors: None,
        start: Some(&start),
    };
    let good = gene_recipe(Dtype::F32);
    let (next, _) = run.learn(&good, &teacher, &AtomicBool::new(false), &mut |_| ()).unwrap();
    let tokenizer = Tokenizer::stored(teacher.tokenizer().unwrap(), "teacher").unwrap();
    for width in [4, 12] {
        let [found, expected] = [&next, &start].map(|gene| vectors(&of_gene(gene, 2, width), &tokenizer));
        assert_near(&found, &expected, 1e-6);
    }
    let other = GeneRecipe { stages: vec![2], ..good };
    let error = run.learn(&other, &teacher, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("gene \"words\" has another shape"), "{error}");
}

#[test]
fn recipes_that_cannot_be_learned_are_refused() {
    let (recipe, teacher) = (recipe(1), ancestor());
    let corpus = corpus(&teacher);
    let run = TextRun {
        recipe: &recipe,
        corpus: &corpus,
        threads: 1,
        device: Device::Cpu,
        checkpoint: None,
        vectors: None,
        start: None,
    };
    let good = gene_recipe(Dtype::F32);
    let nested = good.nested.clone().unwrap();
    for (reason, gene) in [
        ("gene.nested", GeneRecipe { nested: None, ..good.clone() }),
        ("gene.importance", GeneRecipe { importance: false, ..good.clone() }),
        ("depth range", GeneRecipe { depth_range: [3, 6], ..good.clone() }),
        ("trained widths", GeneRecipe { nested: Some(Nested { widths: vec![4, 8], ..nested }), ..good }),
    ] {
        let error = run.learn(&gene, &teacher, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn all_executors_agree_on_every_size() {
    let (gene, _) = learn(2, &corpus(&ancestor()), 2, None, None).unwrap();
    let stored = Weights::from_file(gene.file(), &Device::Cpu).unwrap();
    let resident = Resident::new(gene.file(), &Device::Cpu, stage_of).unwrap();
    let slices = Slices::new(gene.file().clone(), gene.meta().config.width());
    let values = |weights: &Weights, dtype| weights.to_bytes(dtype).unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for (depth, width) in (1..=6).flat_map(|depth| [4, 8, 12].map(|width| (depth, width))) {
            let (depth, width) = (Some(depth), Some(width));
            let blueprint: Blueprint =
                gene.blueprint(&SizeRequest { depth, width, dtype, ..SizeRequest::default() }).unwrap();
            let file: Vec<u8> =
                assemble(&blueprint, &slices).unwrap().parts().flat_map(|p| p.to_vec()).collect();
            let file = TensorFile::from_bytes(file.into(), "model").unwrap();
            let assembled = Ancestor::from_file(file.clone(), "model").unwrap();
            assert_eq!(assembled.info().config.width() as u64, width.unwrap());
            let expanded = values(&expand(&blueprint, &stored, &Device::Cpu).unwrap(), dtype);
            let materialized = values(&resident.materialize(&blueprint).unwrap(), dtype);
            for ((name, one), (_, two)) in expanded.iter().zip(&materialized) {
                let served = file.tensor(name).unwrap();
                assert!(served.bytes == one.bytes && one.bytes == two.bytes, "{name} of {depth:?} {width:?}");
            }
        }
    }
}

#[test]
fn a_text_encoder_has_neither_images_nor_classes() {
    let (gene, _) = learn(1, &corpus(&ancestor()), 2, None, None).unwrap();
    for (target, what) in [
        (Target { image_size: Some(8), ..Target::default() }, "image_size"),
        (Target { patch_size: Some(8), ..Target::default() }, "patch_size"),
        (
            Target { head: Some(Head { labels: vec!["a".to_owned()], seed: 0 }), ..Target::default() },
            "labels",
        ),
    ] {
        let error = gene.blueprint_for(&SizeRequest::default(), &target).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("neither images nor classes"), "{error}");
    }
}

/// A folder with the gene of text encoders.
fn models() -> (Learngene, TempDir) {
    let teacher = ancestor();
    let corpus = corpus(&teacher);
    let recipe = recipe(2);
    let run = TextRun {
        recipe: &recipe,
        corpus: &corpus,
        threads: 2,
        device: Device::Cpu,
        checkpoint: None,
        vectors: None,
        start: None,
    };
    let cancel = AtomicBool::new(false);
    let (gene, bytes) = run.learn(&gene_recipe(Dtype::F16), &teacher, &cancel, &mut |_| ()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    codec::write_atomic(&folder.path().join(format!("{GENE}.safetensors")), [bytes.as_ref()]).unwrap();
    (gene, folder)
}

/// The files of a repository, written to a folder and imported again, are the model of the gene.
#[tokio::test]
async fn a_repository_is_a_folder_of_sentence_transformers() {
    let (gene, folder) = models();
    let bank = support::bank_config(folder.path());
    let server = Server::on(genebank::server::Limits::default(), folder, bank).await;
    let tokenizer = Tokenizer::stored(gene.tokenizer().unwrap(), GENE).unwrap();
    for (depth, width, name) in [(3, 8, "words-d3-w8"), (2, 12, "words"), (1, 4, "words-d1-w4-bf16")] {
        let about = server.get(&format!("/api/models/genebank/{name}")).await.json();
        assert_eq!(
            (about["pipeline_tag"].as_str(), about["library_name"].as_str()),
            (Some("sentence-similarity"), Some("sentence-transformers"))
        );
        let paths: Vec<_> = about["siblings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["rfilename"].as_str().unwrap())
            .collect();
        let there = tempfile::tempdir().unwrap();
        for path in &paths {
            let answer = server.get(&format!("/genebank/{name}/resolve/main/{path}")).await;
            assert_eq!(answer.status, 200, "{path}");
            std::fs::create_dir_all(there.path().join(path).parent().unwrap()).unwrap();
            codec::write_atomic(&there.path().join(path), [answer.body.as_slice()]).unwrap();
        }
        for wanted in [
            "modules.json",
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "tokenizer.json",
        ] {
            assert!(paths.contains(&wanted), "{wanted} of {paths:?}");
        }
        let imported = import(there.path(), &Hints::default()).unwrap();
        assert_eq!(imported.report.ignored, [] as [String; 0]);
        let model = imported.ancestor;
        let network = Bert::new(*model.info().config.bert().unwrap(), &model.weights(&Device::Cpu).unwrap());
        let own = Tokenizer::stored(model.tokenizer().unwrap(), "folder").unwrap();
        let tolerance = if name.ends_with("bf16") { 0.05 } else { 1e-6 };
        let expected = vectors(&of_gene(&gene, depth, width), &tokenizer);
        assert_near(&vectors(&network.unwrap(), &own), &expected, tolerance);
        let card = std::fs::read_to_string(there.path().join("README.md")).unwrap();
        for text in ["SentenceTransformer(\"genebank/words", "sentence-similarity", "license: \"apache-2.0\""]
        {
            assert!(card.contains(text), "\"{text}\" is not in {card}");
        }
    }
}

#[tokio::test]
async fn folders_of_a_repository_are_listed() {
    let (_, folder) = models();
    let bank = support::bank_config(folder.path());
    let server = Server::on(genebank::server::Limits::default(), folder, bank).await;
    let tree = |rest: &str| format!("/api/models/genebank/words-d3-w8/tree/main{rest}");
    let paths = |answer: &support::Answer| -> Vec<String> {
        let entries = answer.json();
        entries.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    let root = server.get(&tree("")).await;
    assert!(
        paths(&root).contains(&"2_Dense".to_owned()) && !paths(&root).iter().any(|path| path.contains('/'))
    );
    let all = server.get(&tree("?recursive=true")).await;
    assert!(paths(&all).contains(&"2_Dense/model.safetensors".to_owned()));
    let dense = server.get(&tree("/2_Dense")).await;
    assert_eq!(paths(&dense), ["2_Dense/config.json", "2_Dense/model.safetensors"]);
    assert_eq!(server.get(&tree("/3_Dense")).await.status, 404);
    let header =
        server.get("/api/models/genebank/words-d3-w8/safetensors-metadata/2_Dense/model.safetensors").await;
    let told = header.json();
    assert_eq!(
        told["headers"]["2_Dense/model.safetensors"]["linear.weight"]["shape"],
        serde_json::json!([12, 8])
    );
}

/// A file of the projection alone is no model of this program, and says so.
#[test]
fn the_probe_of_a_gene_sees_a_changed_projection() {
    let (gene, _) = learn(1, &corpus(&ancestor()), 2, None, None).unwrap();
    let mut tensors: Vec<_> =
        gene.file().tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    let (_, projection) = tensors.iter_mut().find(|(name, _)| name == "dense.linear.weight").unwrap();
    let values = Tensor::zeros(projection.shape.as_slice(), candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut bytes = Vec::new();
    Dtype::F32.write(values.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter(), &mut bytes);
    projection.bytes = bytes.into();
    let record = gene.file().metadata("genebank").unwrap().to_owned();
    let file = codec::render(&[("genebank".to_owned(), record)].into(), &tensors);
    let error = Learngene::from_file(TensorFile::from_bytes(file, "x").unwrap(), "x").unwrap_err();
    assert!(error.to_string().contains("probe logits differ"), "{error}");
}

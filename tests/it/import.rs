//! Checkpoints of timm and transformers: what they compute here is what they compute there, and what cannot be expressed
//! is refused by name.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use candle_core::{Device, Tensor};
use genebank::{
    blueprint::Ancestor,
    export::Layout,
    import::{Hints, Import, import},
    nn::Vit,
    tensor::{Dtype, TensorBytes, TensorFile, codec},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What parity is asked for, relative to the largest output.
const TOLERANCE: f32 = 1e-4;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/imports").join(name)
}

/// The largest difference between the outputs of `model` and those of the library, relative to the largest output.
fn difference(model: &Ancestor, name: &str) -> f32 {
    let file = TensorFile::open(&golden(&format!("{name}.safetensors"))).unwrap();
    let read = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        Tensor::from_vec(tensor.dtype.read(&tensor.bytes), tensor.shape.as_slice(), &Device::Cpu).unwrap()
    };
    let network =
        Vit::new(*model.info().config.vit().unwrap(), &model.weights(&Device::Cpu).unwrap()).unwrap();
    let (found, expected) = (network.forward(&read("images")).unwrap(), read("outputs"));
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let most = |tensor: Tensor| {
        tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    };
    most((found - &expected).unwrap()) / most(expected)
}

#[test]
fn imported_models_compute_what_their_library_does() {
    let all =
        ["timm", "timm-headless-scaled", "vit", "vit-model", "dinov2", "vit-f16-shards", "vit-bf16-shards"];
    for name in all {
        let Import { ancestor, bytes, report } = import(&golden(name), &Hints::default()).unwrap();
        let difference = difference(&ancestor, name);
        assert!(difference < TOLERANCE, "{name}: {difference}");
        // The file is a model of this program like any other.
        let file = TensorFile::from_bytes(bytes, name).unwrap();
        assert_eq!(Ancestor::from_file(file, name).unwrap().digest(), ancestor.digest());
        assert_eq!(
            report.folded.len(),
            if name.contains("scaled") || name == "dinov2" { 8 } else { 0 },
            "{name}"
        );
        let ignored = report.ignored.join(" ");
        assert_eq!(ignored.contains("mask_token"), name == "dinov2", "{ignored}");
        assert_eq!(ignored.contains("pooler"), name == "vit-model", "{ignored}");
    }
}

#[test]
fn what_a_folder_says_is_kept() {
    let Import { ancestor, report, .. } = import(&golden("vit"), &Hints::default()).unwrap();
    let info = ancestor.info();
    assert_eq!(info.labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert_eq!(info.preprocessing.mean, [0.5, 0.5, 0.5]);
    assert_eq!((info.config.norm_eps(), info.config.heads(), info.licence.as_str()), (1e-12, 3, "unknown"));
    assert!(report.assumed.iter().any(|line| line.contains("licence")), "{report:?}");
    assert!(report.renamed.iter().any(|line| line.ends_with("query.weight -> blocks.0.attn.qkv.weight")));
    let Import { ancestor, report, .. } = import(&golden("timm"), &Hints::default()).unwrap();
    assert_eq!((ancestor.info().licence.as_str(), report.renamed.len()), ("apache-2.0", 0));
    assert!(ancestor.info().training[0].starts_with("imported from timm vit_tiny_patch16_224, sha256 "));
}

#[test]
fn timm_is_not_told_of_norms_that_it_does_not_have() {
    let blueprint = |name| import(&golden(name), &Hints::default()).unwrap().ancestor.blueprint().clone();
    assert!(Layout::Timm.of(blueprint("timm")).is_ok());
    let reason = Layout::Timm.of(blueprint("vit")).unwrap_err().to_string();
    assert!(reason.contains("this model 1e-12") && reason.contains("transformers"), "{reason}");
    assert!(Layout::Transformers.of(blueprint("vit")).is_ok());
}

#[test]
fn a_file_alone_needs_what_it_does_not_say() {
    let file = golden("vit/model.safetensors");
    let bare = import(&file, &Hints::default()).unwrap_err().to_string();
    assert!(bare.contains("--arch vit or --arch dinov2"), "{bare}");
    let arch = Hints { architecture: Some("vit".to_owned()), heads: None };
    let headless = import(&file, &arch).unwrap_err().to_string();
    assert!(headless.contains("give --heads"), "{headless}");
    let told = import(&file, &Hints { heads: Some(3), ..arch }).unwrap();
    assert!(difference(&told.ancestor, "vit") < TOLERANCE);
}

/// A copy of the golden folder `name` after `change` of its configuration and tensors.
fn changed(name: &str, change: impl FnOnce(&mut Value, &mut Vec<(String, TensorBytes)>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config =
        serde_json::from_slice(&std::fs::read(golden(name).join("config.json")).unwrap()).unwrap();
    let file = TensorFile::open(&golden(name).join("model.safetensors")).unwrap();
    let mut tensors = file.tensors().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    change(&mut config, &mut tensors);
    let bytes = codec::render(&std::collections::BTreeMap::new(), &tensors);
    codec::write_atomic(&folder.path().join("model.safetensors"), [bytes.as_ref()]).unwrap();
    codec::write_atomic(&folder.path().join("config.json"), [config.to_string().as_bytes()]).unwrap();
    folder
}

fn zeros(shape: &[usize]) -> TensorBytes {
    let bytes = vec![0; 4 * shape.iter().product::<usize>()];
    TensorBytes { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.into() }
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() {
    type Tensors = Vec<(String, TensorBytes)>;
    let add = |name: &'static str, shape: &'static [usize]| {
        move |_: &mut Value, tensors: &mut Tensors| tensors.push((name.to_owned(), zeros(shape)))
    };
    let set =
        |key: &'static str, value: Value| move |config: &mut Value, _: &mut Tensors| config[key] = value;
    let drop = |name: &'static str| {
        move |_: &mut Value, tensors: &mut Tensors| tensors.retain(|(known, _)| known != name)
    };
    for (folder, reason) in [
        (changed("timm", add("fc_norm.weight", &[12])), "mean pooling (fc_norm)"),
        (changed("timm", add("dist_token", &[1, 1, 12])), "distilled token"),
        (changed("timm", add("reg_token", &[1, 4, 12])), "register tokens"),
        (changed("timm", add("norm_pre.weight", &[12])), "norm before the blocks"),
        (changed("timm", add("blocks.0.attn.q_norm.weight", &[4])), "norms of queries and keys"),
        (changed("timm", add("adapter.weight", &[4])), "\"adapter.weight\": it is no part of a vision"),
        (changed("timm", set("global_pool", json!("avg"))), "config.json: global_pool: \"avg\""),
        (changed("timm", drop("blocks.1.mlp.fc2.weight")), "\"blocks.1.mlp.fc2.weight\" is missing"),
        (changed("vit", set("hidden_act", json!("quick_gelu"))), "config.json: hidden_act: \"quick_gelu\""),
        (changed("vit", set("model_type", json!("swin"))), "\"swin\" is not a kind that is imported"),
        (changed("vit", set("num_attention_heads", json!(5))), "width 12 has no 5 equal heads"),
        (changed("vit", set("layer_norm_eps", json!(-1.0))), "layer_norm_eps: -1.0 is beyond"),
        (changed("dinov2", set("use_swiglu_ffn", json!(true))), "gated MLP"),
        (changed("vit", |_, tensors| tensors[0].1 = zeros(&[7])), "shape"),
    ] {
        let out = tempfile::tempdir().unwrap();
        let output = run(&["import", folder.path().to_str().unwrap()], &out.path().join("m.safetensors"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{reason}: {output:?}");
        assert!(said.contains(reason), "\"{said}\" does not say \"{reason}\"");
        assert!(crate::support::entries(out.path()).is_empty(), "{reason}");
    }
}

#[test]
fn folders_that_are_broken_are_refused() {
    type Files = &'static [(&'static str, &'static [u8])];
    let cases: [(Files, &str); 7] = [
        (&[], "holds no .safetensors file"),
        (&[("pytorch_model.bin", b"x")], "only safetensors are read. Convert it: python"),
        (&[("model.onnx", b"x")], "only safetensors are read. Convert it: python"),
        (&[("model.safetensors", b"x")], "too few for a safetensors header"),
        (&[("a.safetensors", b"x"), ("b.safetensors", b"x")], "2 files of tensors and neither"),
        (
            &[("model.safetensors.index.json", b"{\"weight_map\":{\"a\":\"../x.safetensors\"}}")],
            "names 1 shards",
        ),
        (&[("config.json", b"{"), ("model.safetensors", b"x")], "EOF while parsing"),
    ];
    for (files, reason) in cases {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            codec::write_atomic(&folder.path().join(name), [*bytes]).unwrap();
        }
        let error = import(folder.path(), &Hints::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "\"{error}\" does not say \"{reason}\"");
    }
}

fn run(arguments: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_genebank")).args(arguments).arg("-o").arg(out).output().unwrap()
}

#[test]
fn commands_take_a_folder_as_it_is() {
    let inspect =
        Command::new(env!("CARGO_BIN_EXE_genebank")).arg("inspect").arg(golden("vit")).output().unwrap();
    assert!(inspect.status.success(), "{inspect:?}");
    let (out, err) = (String::from_utf8(inspect.stdout).unwrap(), String::from_utf8(inspect.stderr).unwrap());
    assert!(out.contains("blocks.0.attn.qkv.weight"), "{out}");
    assert!(err.contains("is a transformers vit of "), "{err}");
    // A foreign file in the folder of genes is named and skipped.
    let models = crate::support::models(&crate::support::gene_bytes());
    std::fs::copy(golden("vit/model.safetensors"), models.path().join("foreign.safetensors")).unwrap();
    let list = Command::new(env!("CARGO_BIN_EXE_genebank"))
        .args(["list", "--models", models.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert!(list.status.success(), "{list:?}");
    let err = String::from_utf8(list.stderr).unwrap();
    assert!(err.contains("foreign.safetensors is skipped"), "{err}");
}

/// The tensor `name` of the golden file of `of`, in f32.
fn golden_tensor(of: &str, name: &str) -> Tensor {
    let file = TensorFile::open_any(&golden(&format!("{of}.safetensors"))).unwrap();
    let tensor = file.tensor(name).unwrap();
    Tensor::from_vec(tensor.dtype.read(&tensor.bytes), tensor.shape.as_slice(), &Device::Cpu).unwrap()
}

/// The sentences of a golden checkpoint and the ids that transformers gives them.
fn golden_texts(of: &str) -> Vec<(String, Vec<u32>)> {
    let text = std::fs::read_to_string(golden(&format!("{of}.txt"))).unwrap();
    let line = |line: &str| {
        let (sentence, ids) = line.rsplit_once('\t').unwrap();
        (sentence.to_owned(), ids.split(' ').map(|id| id.parse().unwrap()).collect())
    };
    text.lines().map(line).collect()
}

/// BERT with a mean that is normalised (f32), with the first token's state (f16, two shards, a head of words), and bare
/// (bf16): tokens, states and vectors are those of transformers.
#[test]
fn imported_encoders_compute_what_transformers_does() {
    use genebank::{data::text::Tokenizer, data::text::pad, nn::Bert, nn::Gates, train::embed::texts};
    for (name, pooling, normalized) in
        [("bert-mean", "mean", true), ("bert-cls", "cls", false), ("bert-model", "mean", false)]
    {
        let Import { ancestor, bytes, report } = import(&golden(name), &Hints::default()).unwrap();
        let file = TensorFile::from_bytes(bytes, name).unwrap();
        assert_eq!(Ancestor::from_file(file, name).unwrap().digest(), ancestor.digest());
        let config = *ancestor.info().config.bert().unwrap();
        assert_eq!(
            (config.raw().pooling.to_string().as_str(), config.raw().normalize),
            (pooling, normalized)
        );
        let tokenizer = Tokenizer::stored(ancestor.tokenizer().unwrap(), name).unwrap();
        let (sentences, ids): (Vec<_>, Vec<_>) = golden_texts(name).into_iter().unzip();
        assert_eq!(tokenizer.encode(&sentences).unwrap(), ids, "{name}");
        let network = Bert::new(config, &ancestor.weights(&Device::Cpu).unwrap()).unwrap();
        let texts = texts(pad(&ids, tokenizer.pad_id()), &Device::Cpu).unwrap();
        let states = network.states(&texts, &vec![Gates::default(); config.raw().depth]).unwrap();
        // What stands in the place of padding means nothing.
        let seen = |states: &Tensor| states.broadcast_mul(&texts.mask.unsqueeze(2).unwrap()).unwrap();
        let distance = |found: Tensor, expected: Tensor| {
            let largest = |t: &Tensor| {
                t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
            };
            largest(&(found - &expected).unwrap()) / largest(&expected)
        };
        let states = distance(seen(&states), seen(&golden_tensor(name, "hidden")));
        let vectors = distance(network.forward(&texts).unwrap(), golden_tensor(name, "vectors"));
        assert!(states < TOLERANCE && vectors < TOLERANCE, "{name}: {states}, {vectors}");
        let ignored = report.ignored.join(" ");
        assert_eq!(ignored.contains("pooler."), name == "bert-mean", "{ignored}");
        assert_eq!(ignored.contains("cls.predictions"), name == "bert-cls", "{ignored}");
    }
}

/// A change of the settings and tensors of a checkpoint.
type Change<'a> = &'a dyn Fn(&mut Value, &mut Vec<(String, TensorBytes)>);
/// What the refusal names, the change, and files beside it.
type Case<'a> = (&'a str, Change<'a>, Vec<(&'a str, Value)>);

/// A golden encoder without one of its files, with another one, or changed in its settings and tensors.
#[test]
fn encoders_that_cannot_be_expressed_are_refused_by_name() {
    let modules = |kinds: &[&str]| {
        let module = |(index, kind): (usize, &&str)| {
            let path = if *kind == "Transformer" { String::new() } else { format!("{index}_{kind}") };
            json!({ "idx": index, "name": "x", "path": path, "type": format!("sentence_transformers.models.{kind}") })
        };
        json!(kinds.iter().enumerate().map(module).collect::<Vec<_>>())
    };
    let none: Change<'_> = &|_, _| {};
    let pooling = json!({ "pooling_mode_max_tokens": true });
    let cases: [Case<'_>; 16] = [
        ("hidden_act", &|config, _| config["hidden_act"] = json!("relu"), vec![]),
        (
            "position_embedding_type",
            &|config, _| config["position_embedding_type"] = json!("relative_key"),
            vec![],
        ),
        ("is_decoder", &|config, _| config["is_decoder"] = json!(true), vec![]),
        ("heads", &|config, _| config["num_attention_heads"] = json!(5), vec![]),
        ("layer_norm_eps", &|config, _| config["layer_norm_eps"] = json!(0.5), vec![]),
        (
            "classifier.weight",
            &|_, tensors| tensors.push(("classifier.weight".to_owned(), zeros(&[2, 12]))),
            vec![],
        ),
        (
            "key.bias",
            &|_, tensors| tensors.retain(|(name, _)| !name.ends_with("0.attention.self.key.bias")),
            vec![],
        ),
        (
            "output.LayerNorm.weight",
            &|_, tensors| {
                let norm = tensors.iter_mut().find(|(name, _)| name.ends_with("1.output.LayerNorm.weight"));
                norm.unwrap().1 = zeros(&[11]);
            },
            vec![],
        ),
        (
            "pooling [\"max\"]",
            none,
            vec![("modules.json", modules(&["Transformer", "Pooling"])), ("1_Pooling/config.json", pooling)],
        ),
        (
            "Pooling comes after Normalize",
            none,
            vec![("modules.json", modules(&["Transformer", "Normalize", "Pooling"]))],
        ),
        ("LayerNorm", none, vec![("modules.json", modules(&["Transformer", "LayerNorm"]))]),
        ("does not begin with", none, vec![("modules.json", modules(&["Transformer"]))]),
        ("does not begin with", none, vec![("modules.json", json!([]))]),
        (
            "Normalize comes after Normalize",
            none,
            vec![
                ("modules.json", modules(&["Transformer", "Pooling", "Normalize", "Normalize"])),
                ("1_Pooling/config.json", json!({ "pooling_mode_mean_tokens": true })),
            ],
        ),
        (
            "default_prompt_name: \"query\"",
            none,
            vec![("config_sentence_transformers.json", json!({ "default_prompt_name": "query" }))],
        ),
        (
            "tokenize_chinese_chars: false",
            &|_, _| {},
            vec![
                ("tokenizer_config.json", json!({ "tokenize_chinese_chars": false })),
                ("vocab.txt", json!("x")),
            ],
        ),
    ];
    for (reason, change, files) in cases {
        let folder = changed("bert-mean", change);
        for (name, json) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            codec::write_atomic(&path, [json.to_string().as_bytes()]).unwrap();
        }
        let error = import(folder.path(), &Hints::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    // A tokenizer that knows more words than the model.
    let folder = changed("bert-mean", |_, _| {});
    let words: Vec<_> = (0..41).map(|word| format!("w{word}\n")).collect();
    let vocab = format!("[PAD]\n[UNK]\n[CLS]\n[SEP]\n{}", words.concat());
    codec::write_atomic(&folder.path().join("vocab.txt"), [vocab.as_bytes()]).unwrap();
    let error = import(folder.path(), &Hints::default()).unwrap_err().to_string();
    assert!(error.contains("gives ids up to 44, the model has 40 words"), "{error}");
}

/// The most important channels, heads and hidden units first: at the full size this is the same function, and a smaller
/// model has its elements.
#[test]
fn an_order_of_importance_changes_no_answer() {
    use genebank::{
        blueprint::expand,
        gene::{Method, Probe, SizeRequest, Target, baselines::select},
        nn::Network,
        tensor::Weights,
    };
    for name in ["timm", "vit", "bert-mean", "bert-cls"] {
        let ancestor = import(&golden(name), &Hints::default()).unwrap().ancestor;
        let stored = Weights::from_file(ancestor.file(), &Device::Cpu).unwrap();
        let answer = |size: &SizeRequest, method: Method| {
            let blueprint = select(&ancestor, method, size, &Target::default()).unwrap();
            let weights = expand(&blueprint, &stored, &Device::Cpu).unwrap();
            let config = blueprint.info.config;
            let input = Probe::input(3, 4, &config).unwrap();
            let rows = Network::new(config, &weights).unwrap().forward(&input).unwrap();
            let mut rows: Vec<Vec<f32>> = rows.to_vec2().unwrap();
            // The components of an encoder's vector come in the order of importance too.
            if name.starts_with("bert") {
                for row in &mut rows {
                    row.sort_by(f32::total_cmp);
                }
            }
            (rows.concat(), weights)
        };
        let full = SizeRequest::default();
        let (expected, _) = answer(&full, Method::FirstLayers);
        let (found, ordered) = answer(&full, Method::Importance);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{name}: {found} is not {expected}");
        }
        let bits = |weights: &Weights| weights.to_bytes(Dtype::F32).unwrap();
        let (own, ordered) = (bits(&ancestor.weights(&Device::Cpu).unwrap()), bits(&ordered));
        assert!(own.iter().zip(&ordered).any(|(a, b)| a.1.bytes != b.1.bytes), "{name} is in order already");
        // Two of three heads: a prefix of the ordered tensors.
        let small = SizeRequest { width: Some(8), depth: Some(1), ..full };
        let (_, small) = answer(&small, Method::Importance);
        let norm = if name.starts_with("bert") { "embeddings.LayerNorm.weight" } else { "norm.weight" };
        let ordered = ordered.iter().find(|(name, _)| name == norm).unwrap().1.bytes.clone();
        let small = bits(&small).into_iter().find(|(name, _)| name == norm).unwrap().1.bytes;
        assert_eq!(small, ordered[..small.len()], "{name}");
    }
}

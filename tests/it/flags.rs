//! Every command and every flag of the program runs at least once, from a gene of seeded values to a study.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use clap::CommandFactory as _;
use genebank::{
    cli::args::Arguments,
    digest::{hex, sha256},
    gene::store,
    tensor::codec::write_atomic,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::support::{TOKEN, fashion_meta, program, sample_data, weights};

const ANCESTOR: &str = r#"
data = "fashion-mnist"

[model]
patch_size = 7
depth = 2
width = 24
heads = 3
mlp_ratio = 2

[optim]
length = { steps = 2 }
batch = 50
learning_rate = 1e-3
"#;

const GENE: &str = r#"
[gene]
name = "learned"
stages = [1, 1]
depth_range = [1, 4]
teacher = "another.safetensors"
alpha = 0.5
temperature = 1.0
"#;

const STUDY: &str = r#"
data = "fashion-mnist"
gene = "tiny"
ancestor = "ancestor.safetensors"

[[arms]]
name = "gene"
sizes = [[2, 8]]
epochs = [0]
"#;

const LATENCIES: &str = r"
row = [{ depth = 1, width = 24, milliseconds = 1.0, batch = 2 }, { depth = 4, width = 24, milliseconds = 4.0, batch = 2 }]
";

/// The commands in the order in which they run. Each may use the files of those before it.
const INVOCATIONS: &[&str] = &[
    "synthesize models/seeded.safetensors --image-size 28 --patch-size 7 --channels 1 --classes 10 --depth 4 \
     --width 24 --heads 3 --stages 2 --widths 8,16 --seed 3",
    "list --models models --json",
    "inspect tiny --models models --depth 2 --width 8 --dtype f16 --rule cyclic --image-size 14 --patch-size 7 \
     --labels a,b --head-seed 4 --json",
    "inspect tiny --models models --width 16 --allow-untrained-width",
    "plan tiny --models models --parameters 1M --macs 1G --bytes 4MiB --memory 64MiB --latency 3.5 \
     --latency-table latencies.toml --batch 2 --dtype bf16 --limit 3 --plot map.svg --json",
    "init tiny --models models --depth 2 --width 8 --dtype f16 --rule cyclic --layout transformers -o wide.safetensors \
     --lock=own.lock --json",
    "init tiny --models models --width 16 --allow-untrained-width --image-size 14 --patch-size 7 --labels a,b \
     --head-seed 4 -o other.safetensors",
    "init tiny --models models --init scratch --init-seed 7 -o scratch.safetensors --lock",
    "init tiny --models models --init scratch --init-seed 7 -o scratch.safetensors --locked",
    "init tiny --models models --data DATA --store store --cache-mib 8 --request-mib 64 --renders 2 --tunings 2 --device cpu \
     --tune-dataset fashion-mnist --tune-steps 1 --tune-lr 0.001 --seed 5 -o tuned.safetensors",
    "init tiny --models models --data DATA --tune-dataset fashion-mnist --tune-epochs 1 -o epoch.safetensors",
    "train ancestor.toml -o ancestor.safetensors --checkpoint run.ckpt --data DATA --threads 1 --device cpu",
    "learn gene.toml -o learned.safetensors --teacher ancestor.safetensors --checkpoint gene.ckpt --data DATA \
     --threads 2 --device cpu",
    "finetune tiny --models models --depth 2 --width 8 --dtype f32 --rule trained --dataset fashion-mnist --steps 1 \
     --lr 0.001 --seed 1 -o fine.safetensors --data DATA --threads 1 --device cpu",
    "finetune tiny --models models --depth 1 --width 16 --allow-untrained-width --image-size 28 --patch-size 14 \
     --labels dataset --head-seed 1 --dataset fashion-mnist --epochs 1 -o finer.safetensors --data DATA",
    "eval fine.safetensors --dataset fashion-mnist --split held-out --logits logits.safetensors --json --data DATA \
     --threads 1 --device cpu",
    "eval tiny --models models --depth 1 --width 16 --allow-untrained-width --dtype f16 --rule cyclic \
     --image-size 28 --patch-size 14 --labels dataset --head-seed 1 --dataset fashion-mnist --data DATA",
    "study study.toml -o out --cache cells --models models --data DATA --threads 1 --device cpu --store-quality",
    "study study.toml -o out --cache cells --models models --data DATA --list",
    "completions bash",
    "import vit.safetensors -o imported.safetensors --arch vit --heads 3 --json",
];

/// Runs against a server, and the invocations of its clients.
const SERVE: &str = "serve --listen 127.0.0.1:0 --default-gene tiny --allow-remote-tuning --tokens tokens.toml --grace 1 \
     --models models --data DATA --store store --cache-mib 8 --request-mib 64 --renders 2 --tunings 2 --device cpu";
const TLS: &str = "serve --listen 127.0.0.1:0 --models models --tls-cert cert.pem --tls-key key.pem";
const CLIENTS: &[&str] = &[
    "list --server URL",
    "plan tiny --parameters 1M --server URL",
    "init tiny --server URL --transport http -o far.safetensors",
];

fn words(invocation: &str) -> Vec<String> {
    let data = sample_data();
    invocation.split_whitespace().map(|word| word.replace("DATA", data.to_str().unwrap())).collect()
}

fn command(folder: &Path, invocation: &str) -> Command {
    let mut command = program();
    command.current_dir(folder).args(words(invocation)).env("GENEBANK_TOKEN", TOKEN);
    command
}

fn run(folder: &Path, invocation: &str) {
    let output = command(folder, invocation).output().unwrap();
    assert!(output.status.success(), "{invocation}: {output:?}");
}

/// Starts a server, and gives its URL.
fn serve(folder: &Path, invocation: &str) -> (Child, String) {
    let mut command = command(folder, invocation);
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let Some(url) = line.trim_end().strip_prefix("listening on ") else {
        let mut said = String::new();
        server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        panic!("{invocation}: {line:?} {said}");
    };
    let url = url.to_owned();
    (server, url)
}

fn stop(mut server: Child) {
    let kill = format!("kill {}", server.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn every_command_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let meta = fashion_meta();
    let gene = store::render(meta.clone(), &weights(&meta), 7).unwrap().1;
    let digest = hex(&sha256(TOKEN.as_bytes()));
    let tokens = format!("private = [\"tiny\"]\n[[token]]\nname = \"ci\"\nsha256 = \"{digest}\"\n");
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::create_dir(folder.join("models")).unwrap();
    for (name, content) in [
        ("models/tiny.safetensors", gene.as_ref()),
        ("ancestor.toml", ANCESTOR.as_bytes()),
        ("gene.toml", [ANCESTOR, GENE].concat().as_bytes()),
        ("study.toml", STUDY.as_bytes()),
        ("latencies.toml", LATENCIES.as_bytes()),
        ("tokens.toml", tokens.as_bytes()),
        ("cert.pem", cert.pem().as_bytes()),
        ("vit.safetensors", include_bytes!("../golden/imports/vit/model.safetensors")),
        ("key.pem", signing_key.serialize_pem().as_bytes()),
    ] {
        write_atomic(&folder.join(name), [content]).unwrap();
    }
    for invocation in INVOCATIONS {
        run(folder, invocation);
    }
    for name in ["wide", "scratch", "tuned", "learned", "fine", "logits"] {
        assert!(folder.join(format!("{name}.safetensors")).is_file(), "{name}");
    }
    let (server, url) = serve(folder, SERVE);
    for invocation in CLIENTS {
        run(folder, &invocation.replace("URL", &url));
    }
    stop(server);
    let (server, url) = serve(folder, TLS);
    assert!(url.starts_with("https://"), "{url}");
    stop(server);
}

/// A new flag needs an invocation above.
#[test]
fn every_flag_is_in_an_invocation() {
    let program = Arguments::command();
    let mut missing = BTreeSet::new();
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        let own = || {
            let all = INVOCATIONS.iter().chain(CLIENTS).chain([&SERVE, &TLS]);
            all.filter(|text| text.split(' ').next() == Some(command.get_name()))
        };
        assert!(own().next().is_some(), "`{}` is in no invocation", command.get_name());
        let given: BTreeSet<_> = own().flat_map(|text| text.split_whitespace()).collect();
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            let long = format!("--{flag}");
            let short = flag == "output" && given.contains("-o");
            let valued =
                given.iter().any(|word| word.strip_prefix(&long).is_some_and(|rest| rest.starts_with('=')));
            if flag != "help" && !given.contains(long.as_str()) && !short && !valued {
                missing.insert(format!("{} {long}", command.get_name()));
            }
        }
    }
    assert!(missing.is_empty(), "in no invocation: {missing:?}");
}

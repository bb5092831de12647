//! What the program writes and says: which outputs it replaces, what a kill leaves, and what to do after an error.

#![cfg(unix)]

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use genebank::tensor::codec::write_atomic;

use crate::support::{GENE, Server, entries, gene_bytes, models, program, sample_data};

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs the program, which must end without a reader or a writer at the other end of a FIFO.
fn ends(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_mins(1) {
            child.kill().unwrap();
            panic!("{command:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

const RECIPE: &str = "data = \"fashion-mnist\"\n[model]\npatch_size = 14\ndepth = 1\nwidth = 8\nheads = 1\nmlp_ratio = 1\n\
                      [optim]\nlength = { epochs = 50 }\nbatch = 50\nlearning_rate = 1e-3\n";

#[test]
fn only_a_regular_file_is_replaced_and_no_folder_is_made() {
    let (models, folder) = (models(&gene_bytes()), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    fifo(&path("fifo"));
    symlink(path("elsewhere"), path("link")).unwrap();
    write_atomic(&path("recipe.toml"), [RECIPE.as_bytes()]).unwrap();
    let before = entries(folder.path());
    for (out, words) in [
        ("fifo", "fifo: is a FIFO; only a regular file is replaced"),
        ("link", "link: is a link; only a regular file is replaced"),
        ("new/m", "new/m: there is no folder"),
    ] {
        for command in [
            &["init", GENE, "--models", "MODELS", "-o", "OUT"][..],
            &["train", "RECIPE", "--data", "DATA", "-o", "OUT"],
            &["finetune", GENE, "--models", "MODELS", "--data", "DATA", "--steps", "1", "-o", "OUT"],
        ] {
            let mut program = program();
            for word in command {
                match *word {
                    "MODELS" => program.arg(models.path()),
                    "DATA" => program.arg(sample_data()),
                    "RECIPE" => program.arg(path("recipe.toml")),
                    "OUT" => program.arg(path(out)),
                    word => program.arg(word),
                };
            }
            let output = ends(&mut program);
            assert_eq!(output.status.code(), Some(2), "{command:?} {output:?}");
            assert!(said(&output).contains(words), "{command:?} {output:?}");
        }
    }
    assert_eq!(entries(folder.path()), before);
    assert!(std::fs::symlink_metadata(path("link")).unwrap().is_symlink());
}

#[test]
fn inputs_that_are_no_regular_files_are_refused_at_once() {
    let (models, folder) = (models(&gene_bytes()), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    fifo(&path("fifo"));
    let fifo = path("fifo");
    let out = path("out");
    let data = sample_data();
    let models = models.path();
    let labels = format!("@{}", fifo.display());
    let mut commands: Vec<Command> = Vec::new();
    for arguments in [
        &[
            "train".as_ref(),
            fifo.as_os_str(),
            "--data".as_ref(),
            data.as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
        ][..],
        &[
            "study".as_ref(),
            fifo.as_os_str(),
            "--data".as_ref(),
            data.as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
        ],
        &[
            "plan".as_ref(),
            "--models".as_ref(),
            models.as_os_str(),
            "--latency".as_ref(),
            "1".as_ref(),
            "--latency-table".as_ref(),
            fifo.as_os_str(),
        ],
        &[
            "init".as_ref(),
            GENE.as_ref(),
            "--models".as_ref(),
            models.as_os_str(),
            "--labels".as_ref(),
            labels.as_ref(),
            "-o".as_ref(),
            out.as_os_str(),
        ],
    ] {
        let mut command = program();
        command.args(arguments);
        commands.push(command);
    }
    for command in &mut commands {
        let output = ends(command);
        assert!(said(&output).contains("fifo: is a FIFO; only regular files are read"), "{output:?}");
    }
    assert!(!out.exists());
}

/// A write beyond the limit of the shell's `ulimit -f` ends the process with SIGXFSZ.
#[test]
fn a_file_beyond_the_size_limit_leaves_nothing() {
    let (models, folder) = (models(&gene_bytes()), tempfile::tempdir().unwrap());
    let script = format!("ulimit -f 8; exec \"$0\" init {GENE} --models \"$1\" --depth 60 -o \"$2\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_genebank")]).arg(models.path());
    let output = shell.arg(folder.path().join("m.safetensors")).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(entries(folder.path()), Vec::<String>::new());
}

#[test]
fn a_store_that_cannot_be_written_is_told_before_tuning() {
    let meta = crate::support::fashion_meta();
    let gene = genebank::gene::store::render(meta.clone(), &crate::support::weights(&meta), 7).unwrap().1;
    let (models, folder) = (models(&gene), tempfile::tempdir().unwrap());
    let mut init = program();
    init.args([
        "init",
        GENE,
        "--tune-dataset",
        "fashion-mnist",
        "--tune-steps",
        "100000",
        "--store",
        "/dev/null/x",
    ]);
    init.arg("--models").arg(models.path()).arg("--data").arg(sample_data());
    let output = ends(init.arg("-o").arg(folder.path().join("m.safetensors")));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("/dev/null/x") && !said(&output).contains("tuning: step"), "{output:?}");
}

#[test]
fn a_stopped_run_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_atomic(&path("recipe.toml"), [RECIPE.as_bytes()]).unwrap();
    let mut train = program();
    train.arg("train").arg(path("recipe.toml")).arg("--data").arg(sample_data());
    let child = train.arg("-o").arg(path("m.safetensors")).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !path("m.ckpt").exists() {
        assert!(start.elapsed() < Duration::from_mins(2), "no state was written");
        std::thread::sleep(Duration::from_millis(2));
    }
    let interrupt = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).ends_with("error: cancelled\nrun the same command to go on\n"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_address_is_taken_as_given_or_refused() {
    let server = Server::start().await;
    let url = server.url();
    let work = move || {
        let folder = tempfile::tempdir().unwrap();
        let host = url.strip_prefix("http://").unwrap();
        for (address, words) in [
            (format!("{url}/prefix"), format!("has the path /prefix, but a server is at its root: {url}")),
            (host.to_owned(), "does not begin with http:// or https://".to_owned()),
            (format!("ftp://{host}"), "does not begin with http:// or https://".to_owned()),
            (format!("https://{host}"), "the server seems to speak plain HTTP: try http://".to_owned()),
        ] {
            for transport in ["grpc", "http"] {
                let mut init = program();
                init.args(["init", GENE, "--server", &address, "--transport", transport, "-o"]);
                let output = ends(init.arg(folder.path().join("m")));
                assert!(!output.status.success(), "{address}");
                assert!(said(&output).contains(&words), "{address} {transport}: {}", said(&output));
            }
        }
        assert!(entries(folder.path()).is_empty());
        let mut list = program();
        assert!(list.args(["list", "--server", &format!("{url}/")]).output().unwrap().status.success());
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[test]
fn shells_complete_commands_and_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let output = program().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("finetune") && script.contains("tune-dataset"), "{shell}");
    }
}

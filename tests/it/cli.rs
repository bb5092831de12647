//! The program: exit codes, and no partly written files.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use genebank::{
    digest::{hex, sha256},
    tensor::TensorFile,
};

use crate::support::{GENE, Server, entries, gene_bytes, meta, models, program, weights};

fn genebank(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn init(models: &Path, out: &Path, more: &[&str]) -> Output {
    std::fs::create_dir_all(out).unwrap();
    let (models, out) = (models.to_str().unwrap(), out.join("m.safetensors"));
    let all = ["init", "--models", models, "-o", out.to_str().unwrap()];
    genebank(&[&all, more].concat())
}

#[test]
fn init_writes_a_whole_file() {
    let (models, out) = (models(&gene_bytes()), tempfile::tempdir().unwrap());
    let output = init(models.path(), out.path(), &[GENE, "--depth", "6", "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let path = out.path().join("m.safetensors");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["sha256"], hex(&sha256(&std::fs::read(&path).unwrap())));
    assert_eq!(summary["depth"], 6);
    TensorFile::open(&path).unwrap().tensor("blocks.5.attn.qkv.weight").unwrap();
    assert_eq!(entries(out.path()), ["m.safetensors"]);

    let piped =
        genebank(&["init", GENE, "--depth", "6", "-o", "-", "--models", models.path().to_str().unwrap()]);
    assert!(piped.stdout == std::fs::read(&path).unwrap());

    let inspected = genebank(&["inspect", path.to_str().unwrap(), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(report["info"]["origin"]["gene"], GENE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_gives_the_same_file() {
    let server = Server::start().await;
    let (url, models) = (server.url(), server.models());
    let run = move || {
        let out = tempfile::tempdir().unwrap();
        let (near, far) = (out.path().join("near"), out.path().join("far"));
        assert_eq!(code(&init(&models, &near, &[GENE, "--dtype", "bf16"])), 0);
        assert_eq!(code(&init(&models, &far, &[GENE, "--dtype", "bf16", "--server", &url])), 0);
        let read = |folder: &Path| std::fs::read(folder.join("m.safetensors")).unwrap();
        assert!(read(&near) == read(&far));
        assert_eq!(code(&init(&models, &out.path().join("no"), &["nobody", "--server", &url])), 3);
        assert!(entries(&out.path().join("no")).is_empty());
        let list = genebank(&["list", "--server", &url]);
        assert!(String::from_utf8(list.stdout).unwrap().contains("d3-w24"));
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transport_and_layout_are_chosen_and_nothing_but_lines_is_said() {
    let server = Server::start().await;
    let (url, models) = (server.url(), server.models());
    let run = move || {
        let out = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for transport in ["auto", "grpc", "http"] {
            let folder = out.path().join(transport);
            let more = [GENE, "--layout", "transformers", "--server", &url, "--transport", transport];
            let output = init(&models, &folder, &more);
            assert_eq!(code(&output), 0, "{output:?}");
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.lines().count() == 1 && !said.contains(['\u{1b}', '\r']), "{said:?}");
            files.push(std::fs::read(folder.join("m.safetensors")).unwrap());
        }
        let near = out.path().join("near");
        assert_eq!(code(&init(&models, &near, &[GENE, "--layout", "transformers"])), 0);
        files.push(std::fs::read(near.join("m.safetensors")).unwrap());
        assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
        let file = TensorFile::open(&near.join("m.safetensors")).unwrap();
        file.tensor("vit.encoder.layer.2.attention.attention.query.weight").unwrap();
        for wrong in [["--transport", "ftp"], ["--layout", "keras"]] {
            assert_eq!(code(&init(&models, &near, &[&[GENE], &wrong[..]].concat())), 2);
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

#[test]
fn the_program_works_in_an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| program().current_dir(&folder).args(arguments).output().unwrap();
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    for arguments in [
        &["init", "fashion-any", "--depth", "2", "-o", "m.safetensors"][..],
        &["list"],
        &["plan", "--parameters", "1M"],
        &["inspect", "fashion-any"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 0, "{arguments:?} {output:?}");
        assert!(said(&output).contains("the gene fashion-any inside the program"), "{output:?}");
    }
    TensorFile::open(&folder.path().join("m.safetensors")).unwrap().tensor("blocks.1.norm1.bias").unwrap();
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let with =
        run(&["init", "fashion-any", "--depth", "2", "-o", "n", "--models", bundled.to_str().unwrap()]);
    assert!(!said(&with).contains("inside the program"), "{with:?}");
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("m.safetensors") == read("n"));

    let mut server = program()
        .current_dir(&folder)
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listed = run(&["list", "--server", line.trim().strip_prefix("listening on ").unwrap()]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("fashion-any"));

    // A folder of genes is never passed over.
    std::fs::create_dir(folder.path().join("models")).unwrap();
    assert_eq!(code(&run(&["list"])), 3);
    assert_eq!(code(&run(&["init", "fashion-s", "-o", "x", "--models", "none"])), 1);
}

#[test]
fn exit_codes_follow_the_table() {
    let (models, out) = (models(&gene_bytes()), tempfile::tempdir().unwrap());
    for (more, exit) in [
        (&["nobody"][..], 3),
        (&[GENE, "--depth", "0"], 2),
        (&[GENE, "--depth", "1000000000"], 2),
        (&[GENE, "--width", "16"], 2),
        (&[GENE, "--dtype", "f64"], 2),
        (&[GENE, "--dept", "3"], 2),
        (&[GENE, "--tune-dataset", "x", "--tune-epochs", "1"], 2),
        (&[GENE, "--server", "http://127.0.0.1:1"], 1),
    ] {
        let output = init(models.path(), out.path(), more);
        assert_eq!(code(&output), exit, "{more:?} {output:?}");
        assert!(output.stdout.is_empty(), "{more:?}");
        assert!(!output.stderr.is_empty(), "{more:?}");
    }
    assert!(entries(out.path()).is_empty());
    assert_eq!(code(&genebank(&["--help"])), 0);
    assert_eq!(code(&genebank(&[])), 2);
    assert_eq!(code(&genebank(&["inspect", "nobody", "--models", models.path().to_str().unwrap()])), 3);
    assert_eq!(code(&genebank(&["serve", "--listen", "0.0.0.0:0", "--data", "x"])), 2);
}

#[test]
fn a_broken_gene_writes_nothing() {
    let good = gene_bytes();
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let broken = [
        ("the file is cut or damaged", changed(|bytes| bytes.truncate(bytes.len() - 100))),
        ("too few", Vec::new()),
        (
            "header of 1152921504606846976 bytes",
            changed(|bytes| bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes())),
        ),
        (
            "offset",
            changed(|bytes| {
                // The first tensor no longer begins at the start of the data.
                let first = b"\"data_offsets\":[0,";
                let at = bytes.windows(first.len()).position(|window| window == first).unwrap();
                bytes[at + first.len() - 2] = b'4';
            }),
        ),
        (
            "not finite at element 7",
            changed(|bytes| {
                let at = bytes.len() - 4;
                bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
            }),
        ),
        (
            "probe logits differ",
            changed(|bytes| {
                let at = bytes.len() - 2000;
                for value in bytes[at..].chunks_exact_mut(4) {
                    value.copy_from_slice(&1f32.to_le_bytes());
                }
            }),
        ),
        (
            "probe logits differ by nan",
            changed(|bytes| {
                // The weights are finite, but the network overflows.
                let at = bytes.len() - 2000;
                for (i, value) in bytes[at..].chunks_exact_mut(4).enumerate() {
                    let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
                    value.copy_from_slice(&(sign * 3e38f32).to_le_bytes());
                }
            }),
        ),
    ];
    for (n, (reason, bytes)) in broken.into_iter().enumerate() {
        let (models, out) = (models(&bytes), tempfile::tempdir().unwrap());
        let output = init(models.path(), out.path(), &[GENE]);
        assert_eq!(code(&output), 1, "{reason} {output:?}");
        assert!(entries(out.path()).is_empty(), "{reason}");
        let said = String::from_utf8(output.stderr).unwrap().to_lowercase();
        assert!(said.contains("tiny.safetensors") && said.contains(reason), "{reason}: {said}");
        // A server does not start on the first four either, whose headers tell.
        if n >= 4 {
            continue;
        }
        let served =
            genebank(&["serve", "--listen", "127.0.0.1:0", "--models", models.path().to_str().unwrap()]);
        assert_eq!((code(&served), served.stdout.len()), (1, 0), "{reason}");
    }
}

#[test]
fn a_gene_under_another_name_is_refused() {
    let other = genebank::gene::GeneMeta { name: "other".to_owned(), ..meta() };
    let bytes = genebank::gene::store::render(other.clone(), &weights(&other), 1).unwrap().1;
    assert_eq!(code(&genebank(&["list", "--models", models(&bytes).path().to_str().unwrap()])), 1);
}

#[test]
fn serve_says_where_it_listens_and_ends_on_sigterm() {
    let models = models(&gene_bytes());
    let mut server = Command::new(env!("CARGO_BIN_EXE_genebank"))
        .args(["serve", "--listen", "127.0.0.1:0", "--models", models.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("listening on ").unwrap();
    assert_eq!(code(&genebank(&["list", "--server", url])), 0);
    let address = url.strip_prefix("http://").unwrap();
    assert_eq!(
        code(&genebank(&["serve", "--listen", address, "--models", models.path().to_str().unwrap()])),
        1
    );
    let kill = format!("kill {}", server.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let models = models(&gene_bytes());
    let mut list = Command::new(env!("CARGO_BIN_EXE_genebank"))
        .args(["inspect", GENE, "--json", "--models", models.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(list.stdout.take());
    assert_eq!(list.wait().unwrap().code(), Some(0));
}

//! Shell scripts. The checks of the repository say what they lack. The script of `examples/ci` pulls, tunes and measures, and fails below its threshold.

use std::{
    path::Path,
    process::{Command, Output},
};

use genebank::{gene::store, server::Limits, tensor::codec};

use crate::support::{GENE, Server, bank_config, fashion_meta, models, program, sample_data, weights};

fn script(folder: &Path, server: &str, more: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci/pull_and_tune.sh");
    let mut command = Command::new("sh");
    command.arg(script).current_dir(folder);
    for name in [
        "GENEBANK_MODELS",
        "GENEBANK_TOKEN",
        "DEPTH",
        "WIDTH",
        "LABELS",
        "DATASET",
        "EPOCHS",
        "MODEL",
        "LOCK",
        "TUNED",
    ] {
        command.env_remove(name);
    }
    command.env("GENEBANK", env!("CARGO_BIN_EXE_genebank")).env("GENEBANK_SERVER", server);
    command.env("GENEBANK_DATA", sample_data()).env("GENE", GENE).envs(more.iter().copied());
    command.output().unwrap()
}

#[test]
fn the_script_passes_a_threshold_and_fails_one_that_cannot_be_met() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let meta = fashion_meta();
    let models = models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1);
    let bank = bank_config(models.path());
    let server = runtime.block_on(Server::on(Limits::default(), models, bank));
    let (url, folder) = (server.url(), tempfile::tempdir().unwrap());
    let run = |more: &[(&str, &str)]| script(folder.path(), &url, more);
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();

    // Without an entry in a lock file, nothing is pulled.
    let unlocked = run(&[("THRESHOLD", "0")]);
    assert_eq!(unlocked.status.code(), Some(3), "{unlocked:?}");
    let lock = ["init", GENE, "--depth", "3", "--server", &url, "-o", "model.safetensors", "--lock"];
    assert!(program().current_dir(folder.path()).args(lock).status().unwrap().success());
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();

    // With ten classes, any model is right for some images.
    let low = run(&[("THRESHOLD", "0.02"), ("DEPTH", "3")]);
    assert!(low.status.success(), "{low:?}");
    let text = String::from_utf8(low.stdout.clone()).unwrap();
    assert!(text.contains("\"images\": 500") && text.contains("is at least 0.02"), "{text}");
    for file in ["model.safetensors", "tuned.safetensors"] {
        genebank::tensor::TensorFile::open(&folder.path().join(file)).unwrap();
    }

    let impossible = run(&[("THRESHOLD", "1.01"), ("DEPTH", "3")]);
    assert_eq!(impossible.status.code(), Some(1), "{impossible:?}");
    assert!(said(&impossible).contains("is below 1.01"), "{impossible:?}");

    // The classes of the sample of folders, of which the gene knows none.
    let labels = "bag,sneaker,trouser";
    let lock = [&lock[..], &["--labels", labels]].concat();
    assert!(program().current_dir(folder.path()).args(lock).status().unwrap().success());
    let other = [("THRESHOLD", "0"), ("DEPTH", "3"), ("LABELS", labels), ("DATASET", "fashion-folder")];
    let labelled = run(&other);
    assert!(labelled.status.success(), "{labelled:?}");
    assert!(said(&run(&other[..2])).contains("is not the locked"));

    // First a model that differs from the locked one, then a threshold that is not a number.
    let other = run(&[("THRESHOLD", "0"), ("DEPTH", "2")]);
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    assert!(said(&other).contains("is not the locked"), "{other:?}");
    let wrong = run(&[("THRESHOLD", "high")]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(said(&wrong).contains("no number"), "{wrong:?}");
}

#[test]
fn the_checks_say_at_their_start_what_is_missing() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let stub = |name: &str, body: &str| {
        codec::write_atomic(&path(name), [format!("#!/bin/sh\n{body}\n").as_bytes()]).unwrap();
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    symlink("/usr/bin/dirname", path("dirname")).unwrap();
    stub("sudo", "exec \"$@\"");
    stub("env", "shift; exec \"$@\"");
    let run = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run");
        let mut command = Command::new("/bin/bash");
        command.arg(script).env_clear().env("PATH", folder.path()).env("CARGO_HOME", folder.path());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (installed, missing) = run();
    assert!(installed.is_empty() && missing.contains("a C compiler") && missing.contains("a Rust toolchain"));
    // Each system has its own way to a C compiler.
    for (tool, arguments) in
        [("dnf", "install -y gcc"), ("apt-get", "install -y --no-install-recommends gcc")]
    {
        stub(tool, &format!("echo {tool} \"$@\""));
        let (installed, missing) = run();
        assert!(installed.contains(&format!("{tool} {arguments}")) && missing.contains("a C compiler"));
    }
    stub("cc", "");
    stub("c++", "");
    stub("cargo", "[ \"$1\" != clippy ]");
    let (installed, missing) = run();
    assert!(installed.is_empty() && missing.lines().count() == 1 && missing.contains("clippy"), "{missing}");
}

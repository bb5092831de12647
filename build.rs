//! Compiles the protocol with protox, so that no system `protoc` is needed, and finds the commit that is built.

use std::{io::Write as _, process::Command};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "proto/genebank/v1/genebank.proto";
    // tonic-prost-build emits no rerun-if-changed of its own for compile_fds.
    println!("cargo::rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("genebank_descriptor.bin");
    std::fs::File::create(out)?.write_all(&descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo::rerun-if-env-changed=GENEBANK_COMMIT");
    println!("cargo::rustc-env=GENEBANK_COMMIT={}", commit());
    Ok(())
}

/// The commit: `GENEBANK_COMMIT` if it is set, as where the sources come without git. Otherwise git says it, with
/// `-dirty` if files differ from it. A debug build does not ask, because it would be built anew after every commit.
fn commit() -> String {
    if let Ok(given) = std::env::var("GENEBANK_COMMIT") {
        return given;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let here = std::env::var("CARGO_MANIFEST_DIR").ok().and_then(|path| std::fs::canonicalize(path).ok());
    // A copy of the sources inside another repository is not a commit of that repository.
    let ours =
        git(&["rev-parse", "--show-toplevel"]).and_then(|path| std::fs::canonicalize(path).ok()) == here;
    if !ours || std::env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return "unknown".to_owned();
    }
    for path in ["logs/HEAD", "index"].iter().filter_map(|name| git(&["rev-parse", "--git-path", name])) {
        println!("cargo::rerun-if-changed={path}");
    }
    git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .unwrap_or_else(|| "unknown".to_owned())
}

//! Compiles the protocol with protox, so that no system `protoc` is needed.

use std::io::Write as _;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "proto/genebank/v1/genebank.proto";
    // tonic-prost-build emits no rerun-if-changed of its own for compile_fds.
    println!("cargo::rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("genebank_descriptor.bin");
    std::fs::File::create(out)?.write_all(&descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

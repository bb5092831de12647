//! Imports point down only: the arrows of one package, which a workspace would have enforced.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Layers, highest first; modules of one layer do not import one another. `proto` and `error` are apart: see
/// [`violations`].
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["server", "client"],
    &["wire"],
    &["bank"],
    &["study"],
    &["train"],
    &["gene", "elastic", "transfer", "export", "data"],
    &["blueprint"],
    &["nn"],
    &["tensor"],
    &["error"],
];

/// What only the layers down to `bank` may name.
const SERVICE_CRATES: &[&str] = &[
    "tokio",
    "tokio_stream",
    "tokio_util",
    "tonic",
    "tonic_web",
    "tokio_rustls",
    "tower",
    "axum",
    "hyper",
    "hyper_util",
];
/// What only `cli` may name.
const PROGRAM_CRATES: &[&str] = &["clap", "indicatif"];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every first name after `crate::` in `text`, groups `crate::{a, b::c}` included.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        // `mycrate::x` is another crate.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The first names of `a, b::{c, d}, e}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(head(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

fn head(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// Code without comments, so that prose may name anything.
fn code(text: &str) -> String {
    let kept = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    kept.collect::<Vec<_>>().join("\n")
}

/// What is wrong with the imports of a file of `module`.
fn violations(module: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let Some(own) = layer(module) else { return vec![format!("module {module} has no layer")] };
    let speaks_proto = ["server", "client", "wire"].contains(&module);
    let mut wrong = Vec::new();
    for import in imports(&code) {
        let allowed = match layer(&import) {
            Some(layer) => import == module || layer > own,
            None if import == "proto" => speaks_proto,
            // Names of the crate root that are no modules, for example in a macro.
            None => import.starts_with(char::is_uppercase),
        };
        if !allowed {
            wrong.push(format!("{module} imports {import}"));
        }
    }
    let names = |name: &str| {
        code.match_indices(&format!("{name}::"))
            .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c)))
    };
    let bank = layer("bank").expect("bank is a layer");
    let refused = SERVICE_CRATES.iter().filter(|_| own > bank);
    let refused = refused.chain(PROGRAM_CRATES.iter().filter(|_| module != "cli"));
    wrong.extend(refused.filter(|name| names(name)).map(|name| format!("{module} names {name}")));
    wrong
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for path in &files {
        let relative = path.strip_prefix(&root).unwrap();
        let module = Path::new(relative.iter().next().unwrap()).file_stem().unwrap().to_str().unwrap();
        if ["lib", "main", "proto"].contains(&module) {
            continue;
        }
        let found = violations(module, &fs::read_to_string(path).unwrap());
        wrong.extend(found.into_iter().map(|violation| format!("{}: {violation}", relative.display())));
    }
    assert!(files.len() > 20, "only {} files were read", files.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_planted_violation_is_found() {
    for (module, text, found) in [
        ("tensor", "use crate::nn::Vit;", "tensor imports nn"),
        ("gene", "use crate::{\n    blueprint::{Piece, entry},\n    data::Dataset,\n};", "gene imports data"),
        ("blueprint", "fn f() { crate::gene::g() }", "blueprint imports gene"),
        ("server", "use crate::client::Client;", "server imports client"),
        ("bank", "use crate::proto::Gene;", "bank imports proto"),
        ("bank", "use crate::wire::gene;", "bank imports wire"),
        ("wire", "use crate::server::status;", "wire imports server"),
        ("train", "use tokio::sync::mpsc;", "train names tokio"),
        ("server", "use clap::Parser;", "server names clap"),
        ("helpers", "", "module helpers has no layer"),
    ] {
        assert_eq!(violations(module, text), [found], "{text}");
    }
    for (module, text) in [
        ("tensor", "// crate::nn is above\nuse crate::error::{Error, Result};"),
        ("bank", "use tokio::sync::Semaphore;\nuse crate::{blueprint::{Artifact, Slices}, gene};"),
        ("client", "use crate::{bank::Progress, proto::{self, Gene}, wire};"),
        ("wire", "use crate::{bank::Progress, proto};"),
        ("cli", "use clap::Parser;\nuse crate::{client, server};"),
        ("gene", "use crate::gene::meta; fn f() { mycrate::server::g() }"),
    ] {
        assert!(violations(module, text).is_empty(), "{text}");
    }
}

//! Checks the structure of the crate, which a workspace of several packages would enforce. Imports point only
//! downwards, and no files import one another in a cycle. Only a few places tell families apart, and only the schema
//! spells the names of parameters.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "layering/files.rs"]
mod files;
#[path = "layering/names.rs"]
mod names;
#[path = "layering/tokens.rs"]
mod tokens;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use files::Files;
use names::{families, parameters, spelled};

/// The layers, highest first. Modules of the same layer must not import one another. `proto` and `error` have rules in
/// [`violations`].
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["server", "client"],
    &["wire"],
    &["bank"],
    &["study"],
    &["train"],
    &["import"],
    &["gene", "elastic", "transfer", "export", "data"],
    &["blueprint"],
    &["nn"],
    &["tensor"],
    &["digest", "file"],
    &["version", "error"],
];

/// Crates that only `bank` and the layers above it may name.
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
/// Crates that only `cli` may name.
const PROGRAM_CRATES: &[&str] = &["clap", "indicatif"];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every first name after `crate::` in `text`, including those in groups such as `crate::{a, b::c}`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        // `mycrate::x` belongs to another crate.
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

/// The code of `text` without comments, because comments may name anything.
fn code(text: &str) -> String {
    let kept = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    kept.collect::<Vec<_>>().join("\n")
}

/// The violations in the imports of a file of `module`.
fn violations(module: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let Some(own) = layer(module) else { return vec![format!("module {module} has no layer")] };
    let speaks_proto = ["server", "client", "wire"].contains(&module);
    let mut wrong = Vec::new();
    for import in imports(&code) {
        let allowed = match layer(&import) {
            Some(layer) => import == module || layer > own,
            None if import == "proto" => speaks_proto,
            // A name in the crate root that is not a module, for example in a macro.
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

/// The path below `src` and the text of every source file.
fn sources() -> Vec<(String, String)> {
    fn gather(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    gather(&root, &mut files);
    assert!(files.len() > 20, "only {} files were read", files.len());
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&root).unwrap().to_str().unwrap();
        (relative.to_owned(), fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// Whether the file at `path` below `src` is compiled only for tests.
fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// The server acts for its callers, so it must use the caller's rights and never the owner's.
#[test]
fn the_server_takes_no_right_of_the_owner() {
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("server/")) {
        assert!(!code(text).contains(".owner()"), "{path} calls Bank::owner");
    }
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = path.split(['/', '.']).next().unwrap();
        if ["lib", "main", "proto"].contains(&module) {
            continue;
        }
        let found = violations(module, &text);
        wrong.extend(found.into_iter().map(|violation| format!("{path}: {violation}")));
    }
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

/// The import cycles among these files.
fn circles(sources: &[(&str, &str)]) -> Vec<String> {
    let counted = sources.iter().filter(|(path, _)| *path != "main.rs" && !is_test(path));
    Files::read(counted.copied()).circles()
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let sources = sources();
    let sources: Vec<_> = sources.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let circles = circles(&sources);
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn a_planted_circle_is_found() {
    let shown = |a: &str, b: &str| vec![format!("a circle of 2 files\n  {a}\n  {b}")];
    // One import by `use`, and one by a path in the code.
    let plain = [("a.rs", "use crate::b::{B as Bee, C};"), ("b.rs", "fn f() { crate::a::A::new() }")];
    assert_eq!(circles(&plain), shown("a.rs -> b.rs: B, C", "b.rs -> a.rs: A"));
    // Imports through names that a parent re-exports, and through the name of a module.
    let passed = [
        ("m/mod.rs", "mod a; mod b; pub use a::A; use b::B;\npub use self::b::B as Bee;"),
        ("m/a.rs", "use super::{Bee, b as other};\nstruct A; fn f() { other::g::<Bee>() }"),
        ("m/b.rs", "use crate::m; fn g() { m::A; }"),
    ];
    assert_eq!(circles(&passed), shown("m/a.rs -> m/b.rs: B, g", "m/b.rs -> m/a.rs: A"));
    // A cycle between a parent and its child.
    let parent =
        [("m.rs", "mod a; const N: u8 = 1; fn f() { a::f() }"), ("m/a.rs", "use super::*; fn f() {}")];
    assert_eq!(circles(&parent), shown("m.rs -> m/a.rs: f", "m/a.rs -> m.rs: *"));
    // A cycle of three files. One import is in a nested group.
    let three = [
        ("a.rs", "use crate::b;\nfn f() { b::B }"),
        ("b.rs", "use crate::{x, c::{self, d::D}};"),
        ("c/mod.rs", "mod d;"),
        ("c/d.rs", "use super::super::a::f; struct D;"),
        ("x.rs", ""),
    ];
    assert_eq!(circles(&three).len(), 1);
    assert!(circles(&three)[0].starts_with("a circle of 3 files"), "{:?}", circles(&three));
}

#[test]
fn what_only_looks_like_a_circle_is_none() {
    for sources in [
        // Tests, comments, string literals and module declarations do not count.
        [("a.rs", "mod b; use crate::c::C;"), ("c.rs", "#[cfg(test)]\nmod tests { use crate::a::A; }")],
        [
            ("a.rs", "use crate::c::C;"),
            ("c.rs", "// crate::a::A\nconst S: &str = \"crate::a::A \\\" crate::a\";"),
        ],
        [
            ("a.rs", "use crate::c::C;"),
            ("c.rs", "/* crate::a::A */ const Q: char = '\"'; fn f<'a>() { r#\"crate::a::A\"# }"),
        ],
        [("a.rs", "use crate::c::C;"), ("c/tests.rs", "use crate::a::A;")],
        // A re-export is not an import, and children may import what the parent defines.
        [("m/mod.rs", "mod c; pub use c::{C, D as E}; pub struct P;"), ("m/c.rs", "use super::P;")],
        // A crate with the same name as a module.
        [("a.rs", "use crate::c::C;"), ("c.rs", "use ::a::A; fn f(a: A) { a.f() }")],
    ] {
        assert!(circles(&sources).is_empty(), "{sources:?}: {:?}", circles(&sources));
    }
}

/// Whether the file at `path` may tell families apart: in the network, and where a family's form is written or read.
fn tells_families(path: &str) -> bool {
    let places = ["nn/", "export/"].iter().any(|place| path.starts_with(place));
    places || ["blueprint/record.rs", "gene/record.rs", "gene/probe.rs"].contains(&path)
}

#[test]
fn families_are_told_apart_in_few_places() {
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !tells_families(path) && !is_test(path)) {
        wrong.extend(families(text).iter().map(|family| format!("{path} names {family}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_planted_family_is_found() {
    for (text, found) in [
        ("match config { Config::Vit(vit) => vit.depth(), _ => 0 }", "Config::Vit"),
        ("if let crate::nn::Network::Bert { .. } = network {}", "Network::Bert"),
        ("let is = matches!(model.family, Family::Llama);", "Family::Llama"),
        ("use crate::nn::Network::{self, Vit};", "every Network"),
    ] {
        assert_eq!(families(text), [found], "{text}");
    }
    for text in [
        "fn f(config: &Config) -> Network { Network::new(config, Config::LIMIT) }",
        "// Config::Vit\nlet text = \"Config::Vit\"; VitConfig::try_from(raw)",
        "#[cfg(test)]\nmod tests { fn f() { Config::Vit(config()) } }",
    ] {
        assert!(families(text).is_empty(), "{text}");
    }
}

#[test]
fn names_of_parameters_stand_in_the_schema() {
    let sources = sources();
    let is_schema = |path: &str| path.starts_with("nn/") && path.ends_with("schema.rs");
    let schemas = sources.iter().filter(|(path, _)| is_schema(path));
    let parameters: Vec<String> = schemas.flat_map(|(_, text)| parameters(text)).collect();
    assert!(parameters.iter().any(|name| name == "cls_token"), "{parameters:?}");
    // `tensor` is below the networks, so it cannot know their names.
    let apart = |path: &str| ["tensor/", "export/"].iter().any(|place| path.starts_with(place));
    let counted = |path: &str| !is_schema(path) && !apart(path) && !is_test(path);
    let mut wrong = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| counted(path)) {
        wrong.extend(spelled(text, &parameters).iter().map(|name| format!("{path} spells {name:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_planted_name_of_a_parameter_is_found() {
    let schema = "pub const CLASS_TOKEN: &str = \"cls_token\";\n/// Prefix.\npub const BLOCKS: &str = \"blocks\";\n\
                  pub const QKV: &str = \"attn.qkv\"; const HEAD: &str = \"head\"; const LIMIT: usize = 1;";
    let parameters = parameters(schema);
    assert_eq!(parameters, ["cls_token", "blocks", "attn.qkv", "head"]);
    for name in
        ["cls_token", "blocks", "blocks.{index}.", "head.weight", "{prefix}.attn.qkv.bias", "no cls_token"]
    {
        assert_eq!(spelled(&format!("f(\"{name}\")"), &parameters), [name]);
    }
    for text in [
        "// cls_token",
        "#[cfg(test)]\nmod tests { const NAME: &str = \"cls_token\"; }",
        "\"the heads of all blocks, and a new head\"",
        "\"head_dim\"",
        "\"weight\"",
    ] {
        assert!(spelled(text, &parameters).is_empty(), "{text}");
    }
}

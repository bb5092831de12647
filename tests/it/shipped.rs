//! What the repository ships can be read: every recipe, every plan, every gene.

use std::path::{Path, PathBuf};

use genebank::{
    blueprint::Ancestor,
    gene::Learngene,
    study::Plan,
    tensor::TensorFile,
    train::{Model, Recipe},
};

/// The files under `folder` with this extension.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} under {folder}");
    found
}

#[test]
fn every_recipe_and_every_plan_is_read() {
    for path in ["recipes", "examples"].into_iter().flat_map(|folder| files(folder, "toml")) {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("[[arms]]") {
            let plan = Plan::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for recipe in plan.arms.iter().filter_map(|arm| arm.recipe.as_ref()) {
                Recipe::open(recipe).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        } else {
            Recipe::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}

#[test]
fn every_gene_and_every_ancestor_is_whole() {
    for path in files("models", "safetensors") {
        let origin = path.display().to_string();
        if path.parent().unwrap().ends_with("ancestors") {
            Ancestor::from_file(TensorFile::open(&path).unwrap(), &origin).unwrap();
        } else {
            Learngene::open(&path).unwrap();
            assert!(path.with_extension("md").is_file(), "{origin} has no card");
        }
    }
    for path in files("recipes", "safetensors") {
        Model::open(&path).unwrap();
    }
}

//! Data in common file formats, from the files to a trained model.

use std::process::{Command, Output};

use genebank::tensor::codec;
use serde_json::Value;

use crate::support::sample_data;

const RECIPE: &str = "
[model]
patch_size = 7
depth = 1
width = 16
heads = 2
mlp_ratio = 2

[optim]
length = { steps = 1 }
batch = 4
learning_rate = 1e-3

[augment]
crop_padding = 2
flip = true
";

fn genebank(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_genebank"))
        .args(arguments)
        .args(["--data", sample_data().to_str().unwrap(), "--threads", "1"])
        .output()
        .unwrap()
}

#[test]
fn a_folder_and_parquet_files_are_trained_on_and_measured() {
    for (name, classes, licence, images) in
        [("fashion-folder", 3, "MIT", 9), ("fashion-parquet", 10, "unknown", 12)]
    {
        let folder = tempfile::tempdir().unwrap();
        let [recipe, model] = ["recipe.toml", "model.safetensors"].map(|file| folder.path().join(file));
        let [recipe, model] = [&recipe, &model].map(|path| path.to_str().unwrap());
        codec::write_atomic(recipe.as_ref(), [format!("data = \"{name}\"\n{RECIPE}").as_bytes()]).unwrap();
        let trained = genebank(&["train", recipe, "-o", model]);
        assert!(trained.status.success(), "{trained:?}");

        let measured = genebank(&["eval", model, "--dataset", name, "--json"]);
        assert!(measured.status.success(), "{measured:?}");
        let report: Value = serde_json::from_slice(&measured.stdout).unwrap();
        assert_eq!(report["images"], images, "{report}");

        let inspected =
            Command::new(env!("CARGO_BIN_EXE_genebank")).args(["inspect", model, "--json"]).output();
        let report: Value = serde_json::from_slice(&inspected.unwrap().stdout).unwrap();
        assert_eq!(report["info"]["labels"].as_array().unwrap().len(), classes, "{report}");
        assert_eq!(report["info"]["licence"], licence);
        assert!(report["info"]["data"].as_str().unwrap().starts_with(name));
    }
}

#[test]
fn a_name_that_leaves_the_folder_is_not_found() {
    for name in ["../data/fashion-folder", "mnist"] {
        let output = genebank(&["eval", "fashion-s", "--dataset", name]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("fashion-folder, fashion-parquet"), "{said}");
    }
}

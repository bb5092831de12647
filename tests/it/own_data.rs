//! Images and classes of a user's own, with a gene that knows neither.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
    process::Output,
};

use genebank::{bank, gene::store, server::Limits, tensor::codec::write_atomic};
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

use crate::support::{GENE, Server, bank_config, fashion_meta, models, program, sample_data, weights};

/// A grey gene of 28x28 pixels and ten classes.
fn gene() -> tempfile::TempDir {
    let meta = fashion_meta();
    models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1)
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.into().write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

fn coloured(side: u32, seed: u32) -> Vec<u8> {
    png(RgbImage::from_fn(side, side, |x, y| {
        Rgb([(x * 7 + seed) as u8, (y * 5) as u8, (x * y + seed) as u8])
    }))
}

fn grey(side: u32, seed: u32) -> Vec<u8> {
    png(GrayImage::from_fn(side, side, |x, y| Luma([(x * 7 + y * 5 + seed) as u8])))
}

/// A data set of `classes` with 12 training and 3 test images each.
fn data(root: &Path, name: &str, classes: &[&str], image: impl Fn(u32) -> Vec<u8>) {
    for (part, count) in [("train", 12), ("test", 3)] {
        for (number, class) in (0..).zip(classes) {
            let folder = root.join(name).join(part).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for item in 0..count {
                write_atomic(&folder.join(format!("{item}.png")), [image(item * 40 + number).as_slice()])
                    .unwrap();
            }
        }
    }
}

fn genebank(root: &Path, arguments: &str, out: &Path) -> Output {
    let mut command = program();
    for word in arguments.split(' ') {
        command.arg(if word == "OUT" { out.as_os_str() } else { word.as_ref() });
    }
    command.arg("--data").arg(root).output().unwrap()
}

#[track_caller]
fn said(output: &Output, code: i32, words: &[&str]) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    for words in words {
        assert!(text.contains(words), "\"{text}\" does not say \"{words}\"");
    }
}

fn path(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

#[test]
fn a_grey_gene_is_tuned_on_coloured_images_of_other_classes() {
    let (gene, folder) = (gene(), tempfile::tempdir().unwrap());
    let root = folder.path();
    data(root, "fruit", &["Bag", "apple", "pear"], |seed| coloured(28, seed));
    let models = gene.path().display();
    let out = path(&folder, "fruit.safetensors");
    let tuned =
        genebank(root, &format!("finetune {GENE} --models {models} --dataset fruit --steps 2 -o OUT"), &out);
    said(
        &tuned,
        0,
        &["\"fruit\" are coloured; they are made grey", "2 of the 3 classes", "held-out images (", " of 2)"],
    );
    let eval = genebank(root, "eval OUT", &out);
    said(&eval, 0, &["of 9 images of fruit test"]);
    // The process that initialises a model can tune it too.
    let own = path(&folder, "own.safetensors");
    let init = format!("init {GENE} --models {models} --tune-dataset fruit --tune-steps 1 -o OUT");
    let store = format!(" --store {}", path(&folder, "store").display());
    said(&genebank(root, &(init + &store), &own), 0, &["rows of the head fresh for 2 of 3 classes"]);
    said(&genebank(root, "eval OUT", &own), 0, &["of 9 images of fruit test"]);
    // A gene without recorded data.
    let unknown = genebank(root, &format!("eval {GENE} --models {models} --depth 1"), &out);
    said(&unknown, 2, &["--dataset: the file records no data set"]);
}

#[test]
fn a_coloured_model_takes_grey_images() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    data(root, "colours", &["a", "b"], |seed| coloured(8, seed));
    data(root, "greys", &["a", "b"], |seed| grey(8, seed));
    let recipe = "data = \"colours\"\n[model]\npatch_size = 4\ndepth = 1\nwidth = 8\nheads = 1\nmlp_ratio = 2\n\
                  [optim]\nlength = { steps = 1 }\nbatch = 4\nlearning_rate = 1e-3\n";
    let toml = path(&folder, "recipe.toml");
    write_atomic(&toml, [recipe.as_bytes()]).unwrap();
    let out = path(&folder, "model.safetensors");
    said(&genebank(root, &format!("train {} -o OUT", toml.display()), &out), 0, &[]);
    said(&genebank(root, "eval OUT", &out), 0, &["of 6 images of colours test"]);
    let greys = genebank(root, "eval OUT --dataset greys", &out);
    said(&greys, 0, &["\"greys\" are grey; they are made coloured", "of 6 images of greys test"]);
    assert!(!String::from_utf8(greys.stderr).unwrap().contains("is not read"));
    // A second folder of test images is named.
    std::fs::create_dir(root.join("greys/val")).unwrap();
    said(&genebank(root, "eval OUT --dataset greys", &out), 0, &["greys/val is not read", "greys/test"]);
}

#[test]
fn errors_about_shapes_say_what_to_change() {
    let (gene, folder) = (gene(), tempfile::tempdir().unwrap());
    let root = folder.path();
    data(root, "large", &["a", "b"], |seed| grey(35, seed));
    data(root, "odd", &["a", "b"], |seed| grey(30, seed));
    data(root, "small", &["a", "b"], |seed| grey(28, seed));
    let models = gene.path().display();
    let out = path(&folder, "m.safetensors");
    let finetune = |name: &str, more: &str| {
        let words = format!("finetune {GENE} --models {models} --dataset {name} --steps 1 -o OUT{more}");
        genebank(root, &words, &out)
    };
    said(
        &finetune("large", ""),
        2,
        &["35x35 pixels, the model takes 28x28", "`size = 28`", "--image-size 35"],
    );
    let odd = finetune("odd", "");
    said(&odd, 2, &["`size = 28`"]);
    assert!(!String::from_utf8(odd.stderr).unwrap().contains("--image-size"));
    said(&finetune("large", " --image-size 35"), 0, &[]);
    let classes = genebank(root, "eval OUT --dataset fruit", &out);
    said(&classes, 3, &["data set \"fruit\" is not known"]);
    data(root, "three", &["a", "b", "c"], |seed| grey(35, seed));
    said(
        &genebank(root, "eval OUT --dataset three", &out),
        2,
        &["3 classes, the model 2", "--labels dataset"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_gives_the_classes_of_its_data() {
    let models = gene();
    let config = bank::Config { data: Some(sample_data()), ..bank_config(models.path()) };
    let server = Server::on(Limits::default(), models, config).await;
    let url = server.url();
    let work = move || {
        let folder = tempfile::tempdir().unwrap();
        let out = path(&folder, "m.safetensors");
        let mut init = program();
        init.args([
            "init",
            GENE,
            "--server",
            &url,
            "--tune-dataset",
            "fashion-folder",
            "--tune-steps",
            "1",
            "-o",
        ]);
        said(&init.arg(&out).output().unwrap(), 0, &["rows of the head fresh for 3 of 3 classes"]);
        said(&genebank(&sample_data(), "eval OUT", &out), 0, &["of 9 images of fashion-folder test"]);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

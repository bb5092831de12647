//! Genes that serve every depth and several widths.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use candle_core::Device;
use genebank::{
    data::{self, Augment, Batches as _, DatasetPair, Loader, Split},
    error::Error,
    gene::{Learngene, SizeRequest},
    nn::Input,
    tensor::Weights,
    train::{
        Event, Length, Model, Optim, Recipe, Shard,
        measure::SPLIT_SEED,
        recipe::{GeneRecipe, ModelShape, Nested},
        run::{Run, RunEvent},
        shard::images,
        teacher::Teacher,
    },
};

fn data() -> DatasetPair {
    data::open("fashion-mnist", &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")).unwrap()
}

fn recipe(steps: u32) -> Recipe {
    Recipe {
        data: "fashion-mnist".to_owned(),
        seed: 3,
        model: Some(ModelShape { patch_size: 7, depth: 4, width: 16, heads: 4, mlp_ratio: 2 }),
        start: None,
        optim: Optim {
            length: Length::Steps(steps),
            batch: 40,
            learning_rate: 3e-3,
            min_learning_rate: 0.0,
            warmup_steps: 5,
            weight_decay: 0.05,
            betas: [0.9, 0.999],
            clip: 1.0,
            label_smoothing: 0.0,
            drop_path: 0.0,
            recompute: false,
            bf16: false,
        },
        augment: Augment { crop_padding: 0, flip: true, erase: None },
        texts: None,
        gene: None,
    }
}

fn gene_recipe() -> GeneRecipe {
    GeneRecipe {
        name: "nested".to_owned(),
        licence: None,
        stages: vec![1, 2, 1],
        depth_range: [1, 8],
        teacher: "teacher".into(),
        alpha: 1.0,
        temperature: 1.0,
        from_teacher: false,
        importance: false,
        anchors: 0,
        dtype: genebank::tensor::Dtype::F32,
        nested: Some(Nested {
            widths: vec![4, 8, 16],
            depths: [2, 6],
            draws: 2,
            ancestor_share: 0.5,
            full_weight: 2.0,
            smallest_weight: 1.0,
            full_every: 1,
            full_only_steps: 0,
            toward_small: 1.0,
            width_norms: true,
        }),
    }
}

fn learn(recipe: &Recipe, teacher: &Model, threads: usize) -> (Learngene, Vec<f64>) {
    let data = data();
    let run =
        Run { recipe, data: &data, threads, device: Device::Cpu, checkpoint: None, watch_held_out: false };
    let mut losses = Vec::new();
    let mut watch = |report: RunEvent| {
        if let RunEvent::Trainer(Event::Step { loss, .. }) = report {
            losses.push(loss);
        }
    };
    let gene = recipe.gene.as_ref().unwrap();
    let (gene, _) = run.learn(gene, teacher, &AtomicBool::new(false), &mut watch).unwrap();
    (gene, losses)
}

#[test]
fn one_gene_learns_every_width_it_sells() {
    let mut recipe = recipe(60);
    let teacher = Model::fresh(&recipe, &data().train).unwrap();
    recipe.gene = Some(gene_recipe());
    let (gene, losses) = learn(&recipe, &teacher, 2);
    assert_eq!(gene.meta().trained_widths, [4, 8, 16]);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[50..]) < 0.5 * mean(&losses[..5]), "{losses:?}");
    for (depth, width) in [(2, 4), (6, 8), (4, 16), (8, 8)] {
        let size = SizeRequest { depth: Some(depth), width: Some(width), ..SizeRequest::default() };
        let (info, weights) = gene.expand(&size, &Device::Cpu).unwrap();
        let model = Model { info, weights };
        assert_eq!(model.vit().unwrap().config().width() as u64, width);
        // A narrower width has its own norms, and they were trained.
        let norm = |weights: &Weights, name: &str| weights.tensor(name).unwrap().to_vec1::<f32>().unwrap();
        let stored = Weights::from_file(gene.file(), &Device::Cpu).unwrap();
        let own = if width == 16 { "norm.weight".to_owned() } else { format!("norm.weight@w{width}") };
        assert_eq!(norm(&model.weights, "norm.weight"), norm(&stored, &own));
        assert!(norm(&stored, &own).iter().any(|v| *v != 1.0));
    }
    // One thread gives the same gene, because random draws depend only on the step.
    assert_eq!(learn(&recipe, &teacher, 1).0.digest(), gene.digest());
}

#[test]
fn a_width_that_is_sold_twice_is_refused_before_training() {
    let mut recipe = recipe(60);
    let teacher = Model::fresh(&recipe, &data().train).unwrap();
    let mut gene = gene_recipe();
    gene.nested.as_mut().unwrap().widths = vec![8, 8, 16];
    recipe.gene = Some(gene.clone());
    let data = data();
    let run = Run {
        recipe: &recipe,
        data: &data,
        threads: 1,
        device: Device::Cpu,
        checkpoint: None,
        watch_held_out: false,
    };
    let mut steps = 0;
    let error = run.learn(&gene, &teacher, &AtomicBool::new(false), &mut |_| steps += 1).unwrap_err();
    assert!(error.to_string().contains("hold one twice") && steps == 0, "{error}");
}

#[test]
fn a_table_of_answers_holds_what_the_teacher_says() {
    let (data, recipe) = (data(), recipe(1));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let (dataset, indices) = data.select(Split::Train, SPLIT_SEED);
    let loader = |augment| {
        let preprocessing = &model.info.preprocessing;
        Loader::new(dataset.clone(), indices.clone(), 40, 1, augment, preprocessing).unwrap()
    };
    let flips = loader(recipe.augment);
    let go_on = AtomicBool::new(false);
    let made =
        |loader: &Loader, images, cancel| Teacher::new(model.vit().unwrap(), loader, images, 2, cancel);
    let teacher = |loader: &Loader, images| made(loader, images, &go_on).unwrap();
    // Storing the logits of two views of every image pays off from the third pass on.
    let passes = |n: usize| (n * flips.items()) as u64;
    assert!(matches!(teacher(&flips, passes(2)), Teacher::Network(_)));
    let crops = loader(Augment { crop_padding: 2, ..recipe.augment });
    assert!(matches!(teacher(&crops, passes(9)), Teacher::Network(_)));
    let table = teacher(&flips, passes(3));
    assert!(matches!(table, Teacher::Logits(_)));
    let cancelled = made(&flips, passes(3), &AtomicBool::new(true)).unwrap_err();
    assert!(matches!(cancelled, Error::Cancelled));
    let batch = Arc::new(flips).prefetch(1, 2, 1).unwrap().next().unwrap();
    assert!(batch.views.contains(&0) && batch.views.contains(&1), "some are mirrored");
    let shard = Shard {
        input: Input::Images(images(&batch, 0..batch.len(), &Device::Cpu).unwrap()),
        labels: batch.labels.clone(),
        items: batch.items.clone(),
        views: batch.views.clone(),
        step: 0,
        first: 0,
    };
    let logits =
        |teacher: &Teacher| teacher.logits(&shard).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (logits(&table), logits(&Teacher::Network(Box::new(model.vit().unwrap()))));
    let largest = expected.iter().fold(0f32, |m, l| m.max(l.abs()));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5 * largest));
}

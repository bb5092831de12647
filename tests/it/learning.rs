//! Training: no dead parameter, resume, independence of threads, and learning on real images.

use std::{path::Path, sync::atomic::AtomicBool};

use candle_core::{Device, Tensor};
use genebank::{
    data::{Augment, Batch, Dataset, DatasetPair, Split},
    error::Error,
    gene::Size,
    nn::{Vit, VitConfig, config::RawVitConfig},
    tensor::{Params, Weights},
    train::{
        Event, Length, Objective, Optim, Recipe, Shard, Trainer,
        classify::Classification,
        learn_gene::StageSharing,
        optim::AdamW,
        recipe::{GeneRecipe, ModelShape},
        run::{Model, Report, Run, measure},
    },
};

fn data() -> DatasetPair {
    Dataset::open("fashion-mnist", &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")).unwrap()
}

fn recipe(steps: u32) -> Recipe {
    Recipe {
        data: "fashion-mnist".to_owned(),
        seed: 5,
        model: Some(ModelShape { patch_size: 7, depth: 3, width: 16, heads: 2, mlp_ratio: 4 }),
        start: None,
        optim: Optim {
            length: Length::Steps(steps),
            batch: 50,
            learning_rate: 3e-3,
            min_learning_rate: 0.0,
            warmup_steps: 5,
            weight_decay: 0.05,
            betas: [0.9, 0.999],
            clip: 1.0,
            label_smoothing: 0.1,
            drop_path: 0.1,
            recompute: false,
        },
        augment: Augment { crop_padding: 2, flip: true, erase: None },
        gene: None,
    }
}

fn gene_recipe() -> GeneRecipe {
    GeneRecipe {
        name: "small".to_owned(),
        stages: vec![1, 2, 1],
        depth_range: [1, 12],
        teacher: "teacher".into(),
        alpha: 1.0,
        temperature: 1.0,
        from_teacher: false,
    }
}

fn bits(weights: &Weights) -> Vec<(String, Vec<u32>)> {
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights
        .iter()
        .map(|(name, t)| (name.to_owned(), values(t).iter().map(|v| v.to_bits()).collect()))
        .collect()
}

fn first_batch(
    data: &DatasetPair,
    recipe: &Recipe,
    model: &Model,
) -> (std::sync::Arc<genebank::data::Loader>, Batch) {
    let (dataset, indices) = data.select(Split::Train, 0);
    let loader = genebank::data::Loader::new(
        dataset,
        indices,
        recipe.optim.batch,
        recipe.seed,
        recipe.augment,
        &model.info.preprocessing,
    )
    .unwrap();
    let batch = loader.batch(&loader.epoch(0), 0).unwrap();
    (std::sync::Arc::new(loader), batch)
}

/// Asserts that every parameter has a finite gradient that is not zero, and that every one moves in one step.
fn assert_alive(
    objective: &dyn Objective,
    initial: &Weights,
    model: &Model,
    data: &DatasetPair,
    recipe: &Recipe,
) {
    let (loader, batch) = first_batch(data, recipe, model);
    let config = model.info.config;
    let trainer =
        Trainer { objective, loader: &loader, config, optim: &recipe.optim, threads: 2, checkpoint: None };
    let params = Params::new(initial).unwrap();
    let before = bits(&params.snapshot().unwrap());
    let (_, gradients) = trainer.gradients(&params, &batch, 0).unwrap();
    for (name, gradient) in &gradients {
        assert!(gradient.iter().all(|g| g.is_finite()), "{name} has a gradient that is not finite");
        assert!(gradient.iter().any(|g| *g != 0.0), "{name} is dead");
    }
    AdamW::default().step(&params, &gradients, &recipe.optim, 1e-3, 0).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(&bits(&params.snapshot().unwrap())) {
        assert_ne!(before, after, "{name} did not move");
    }
}

#[test]
fn no_parameter_of_a_model_is_dead() {
    let (data, recipe) = (data(), recipe(1));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let objective = Classification::new(model.info.config, &recipe.optim, 0);
    assert_alive(&objective, &model.weights, &model, &data, &recipe);
}

#[test]
fn no_parameter_of_a_gene_is_dead() {
    let (data, recipe) = (data(), recipe(1));
    let teacher = Model::fresh(&recipe, &data.train).unwrap();
    let mut gene = recipe.clone();
    gene.model = Some(ModelShape { depth: 4, ..recipe.model.unwrap() });
    gene.seed = 6;
    let run = Run {
        recipe: &gene,
        data: &data,
        threads: 2,
        device: Device::Cpu,
        checkpoint: None,
        watch_held_out: false,
    };
    let (learned, _) = run.learn(&gene_recipe(), &teacher, &AtomicBool::new(false), &mut |_| ()).unwrap();
    let initial = Weights::from_file(learned.file(), &Device::Cpu).unwrap();
    for alpha in [1.0, 0.5] {
        let auxiliary = learned.blueprint(&Size::default()).unwrap();
        let recipe_of_gene = GeneRecipe { alpha, ..gene_recipe() };
        let objective = StageSharing::new(auxiliary, teacher.vit().unwrap(), &recipe_of_gene, &gene.optim, 0);
        assert_alive(&objective, &initial, &teacher, &data, &gene);
    }
}

#[test]
fn the_teacher_gets_no_gradient_even_where_it_could() {
    let (data, recipe) = (data(), recipe(1));
    let teacher = Model::fresh(&recipe, &data.train).unwrap();
    let ancestor = Params::new(&teacher.weights).unwrap();
    let run = Run {
        recipe: &recipe,
        data: &data,
        threads: 2,
        device: Device::Cpu,
        checkpoint: None,
        watch_held_out: false,
    };
    let gene = GeneRecipe { stages: vec![1, 1, 1], ..gene_recipe() };
    let (learned, _) = run.learn(&gene, &teacher, &AtomicBool::new(false), &mut |_| ()).unwrap();
    let student = Params::new(&Weights::from_file(learned.file(), &Device::Cpu).unwrap()).unwrap();
    let vit = Vit::new(teacher.info.config, &ancestor.weights()).unwrap();
    let auxiliary = learned.blueprint(&Size::default()).unwrap();
    let objective = StageSharing::new(auxiliary, vit, &gene, &recipe.optim, 0);
    let (_, batch) = first_batch(&data, &recipe, &teacher);
    let images = genebank::train::trainer::images(&batch, 0, 4, &teacher.info.config, &Device::Cpu).unwrap();
    let shard = Shard { images, labels: batch.labels[..4].to_vec(), step: 0, first: 0 };
    let loss = objective.loss(&student.weights(), &shard).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a few blocks fit the stack of a test")]
    let store = loss.backward().unwrap();
    assert!(student.iter().all(|(_, var)| store.get(var.as_tensor()).is_some()));
    for (name, var) in ancestor.iter() {
        assert!(store.get(var.as_tensor()).is_none(), "the teacher's {name} has a gradient");
    }
}

/// Gradients of the whole loss against central differences of it, in the direction of the gradient of each tensor.
#[test]
fn gradients_are_finite_differences() {
    let (data, mut recipe) = (data(), recipe(1));
    recipe.optim.drop_path = 0.0;
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let objective = Classification::new(model.info.config, &recipe.optim, 0);
    let (loader, batch) = first_batch(&data, &recipe, &model);
    let config = model.info.config;
    let trainer = Trainer {
        objective: &objective,
        loader: &loader,
        config,
        optim: &recipe.optim,
        threads: 2,
        checkpoint: None,
    };
    let params = Params::new(&model.weights).unwrap();
    let (_, gradients) = trainer.gradients(&params, &batch, 0).unwrap();
    for (name, gradient) in &gradients {
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let start = params.values(name).unwrap();
        // The class token starts small, so the loss bends soon in its direction.
        let step = 2e-3;
        let loss_at = |h: f64| {
            let moved =
                start.iter().zip(gradient).map(|(v, g)| (f64::from(*v) + h * f64::from(*g) / norm) as f32);
            params.set(name, moved.collect(), &Device::Cpu).unwrap();
            trainer.gradients(&params, &batch, 0).unwrap().0
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        params.set(name, start.clone(), &Device::Cpu).unwrap();
        // The loss is summed in f32: about 1e-7 / step of noise on the slope.
        assert!((slope - norm).abs() < 0.02 * norm + 5e-4, "{name}: slope {slope}, norm {norm}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (data, recipe) = (data(), recipe(6));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let train = |threads| {
        let run = Run {
            recipe: &recipe,
            data: &data,
            threads,
            device: Device::Cpu,
            checkpoint: None,
            watch_held_out: false,
        };
        bits(&run.classify(&model, &AtomicBool::new(false), &mut |_| ()).unwrap().weights)
    };
    let one = train(1);
    assert_eq!(one, train(2));
    assert_eq!(one, train(4));
}

#[test]
fn a_resumed_run_is_the_undisturbed_run() {
    let (data, recipe) = (data(), recipe(45));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.ckpt");
    let run = |checkpoint| Run {
        recipe: &recipe,
        data: &data,
        threads: 2,
        device: Device::Cpu,
        checkpoint,
        watch_held_out: false,
    };
    let whole = run(None).classify(&model, &AtomicBool::new(false), &mut |_| ()).unwrap();
    // 19 batches make an epoch; the run is cancelled in the second and has the state of the first.
    let cancel = AtomicBool::new(false);
    let mut stop = |report: Report| {
        if matches!(report, Report::Trainer(Event::Step { step: 30, .. })) {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let cancelled = run(Some(&path)).classify(&model, &cancel, &mut stop).unwrap_err();
    assert!(matches!(cancelled, Error::Cancelled));
    let mut resumed_at = None;
    let mut watch = |report: Report| {
        if let Report::Trainer(Event::Resumed { step }) = report {
            resumed_at = Some(step);
        }
    };
    let resumed = run(Some(&path)).classify(&model, &AtomicBool::new(false), &mut watch).unwrap();
    assert_eq!(resumed_at, Some(19));
    assert_eq!(bits(&whole.weights), bits(&resumed.weights));

    let other = Recipe { seed: 6, ..recipe.clone() };
    let run = Run {
        recipe: &other,
        data: &data,
        threads: 2,
        device: Device::Cpu,
        checkpoint: Some(&path),
        watch_held_out: false,
    };
    let refused = run.classify(&model, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("another recipe"), "{refused}");
}

#[test]
fn a_descendant_starts_ahead_of_a_fresh_model() {
    let data = data();
    let cancel = AtomicBool::new(false);
    let recipe = recipe(150);
    let run = Run {
        recipe: &recipe,
        data: &data,
        threads: 2,
        device: Device::Cpu,
        checkpoint: None,
        watch_held_out: false,
    };
    let teacher = run.classify(&Model::fresh(&recipe, &data.train).unwrap(), &cancel, &mut |_| ()).unwrap();
    let mut gene = recipe.clone();
    gene.model = Some(ModelShape { depth: 4, ..recipe.model.unwrap() });
    let run = Run {
        recipe: &gene,
        data: &data,
        threads: 2,
        device: Device::Cpu,
        checkpoint: None,
        watch_held_out: false,
    };
    let (learned, _) = run.learn(&gene_recipe(), &teacher, &cancel, &mut |_| ()).unwrap();
    let accuracy = |model: &Model| measure(model, &data, Split::Test, 2).unwrap().share();
    let teacher_accuracy = accuracy(&teacher);
    assert!(teacher_accuracy > 0.5, "teacher {teacher_accuracy}");
    let (info, weights) = learned.expand(&Size::default(), &Device::Cpu).unwrap();
    let served = accuracy(&Model { info, weights });
    assert!(served > teacher_accuracy - 0.15, "gene {served}, teacher {teacher_accuracy}");
    let fresh = accuracy(&Model::fresh(&gene, &data.train).unwrap());
    assert!(served > fresh + 0.2, "gene {served}, fresh {fresh}");
}

#[test]
fn a_teacher_or_model_that_does_not_fit_is_refused() {
    let (data, recipe) = (data(), recipe(1));
    let cancel = AtomicBool::new(false);
    let run = Run {
        recipe: &recipe,
        data: &data,
        threads: 1,
        device: Device::Cpu,
        checkpoint: None,
        watch_held_out: false,
    };
    let good = Model::fresh(&recipe, &data.train).unwrap();

    let mut shallow = good.clone();
    shallow.info.config = good.info.config.resized(2, 16).unwrap();
    let refused = run.classify(&shallow, &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("blocks.2"), "{refused}");

    let raw: RawVitConfig = good.info.config.into();
    let mut other = good.clone();
    other.info.config = VitConfig::try_from(RawVitConfig { classes: 7, ..raw }).unwrap();
    let refused = run.classify(&other, &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("[28, 1, 7]"), "{refused}");
    let gene = GeneRecipe { stages: vec![1, 1, 1], ..gene_recipe() };
    let refused = run.learn(&gene, &other, &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("teacher has 7 classes"), "{refused}");

    let wrong = GeneRecipe { stages: vec![1, 1], ..gene_recipe() };
    let refused = run.learn(&wrong, &good, &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("stages hold 2 layers"), "{refused}");
}

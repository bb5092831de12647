//! Training: every parameter learns, runs resume, results do not depend on threads, and models learn on real images.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use candle_core::{DType, Device, Tensor};
use genebank::{
    blueprint::Blueprint,
    data::{self, Augment, Batch, Content, DatasetPair, Loader, Pixels, Split},
    error::Error,
    gene::SizeRequest,
    nn::{Input, Vit, VitConfig, vit::RawVitConfig},
    tensor::{
        Params, Weight, Weights,
        ops::{self, Affine},
    },
    train::{
        Decay, Engine, Event, Length, Model, Objective, Optim, Recipe, Shard,
        classify::Classification,
        learn_gene::StageSharing,
        measure::measure,
        recipe::{GeneRecipe, ModelShape},
        run::{Run, RunEvent},
        teacher::Teacher,
    },
};

use crate::support;

fn data() -> DatasetPair {
    data::open("fashion-mnist", &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")).unwrap()
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
            bf16: false,
        },
        augment: Augment { crop_padding: 2, flip: true, erase: None },
        texts: None,
        gene: None,
    }
}

fn gene_recipe() -> GeneRecipe {
    GeneRecipe {
        name: "small".to_owned(),
        licence: None,
        stages: vec![1, 2, 1],
        depth_range: [1, 12],
        teacher: "teacher".into(),
        alpha: 1.0,
        temperature: 1.0,
        from_teacher: false,
        importance: false,
        anchors: 0,
        dtype: genebank::tensor::Dtype::F32,
        nested: None,
    }
}

fn bits(weights: &Weights) -> Vec<(String, Vec<u32>)> {
    let values = |w: &Weight| w.tensor().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights
        .iter()
        .map(|(name, w)| (name.to_owned(), values(w).iter().map(|v| v.to_bits()).collect()))
        .collect()
}

fn decay(model: &Model) -> Decay {
    Decay::of(model.info.config.schema().specs())
}

fn first_batch(data: &DatasetPair, recipe: &Recipe, model: &Model) -> Batch {
    let (dataset, indices) = data.select(Split::Train, 0);
    let (batch, preprocessing) = (recipe.optim.batch, &model.info.preprocessing);
    let loader = Loader::new(dataset, indices, batch, recipe.seed, recipe.augment, preprocessing).unwrap();
    loader.batch(&loader.epoch(0), 0).unwrap()
}

/// Asserts that every parameter has a finite, non-zero gradient, and that every parameter moves in one step.
fn assert_alive(
    objective: &dyn Objective,
    initial: &Weights,
    model: &Model,
    data: &DatasetPair,
    recipe: &Recipe,
) {
    let batch = first_batch(data, recipe, model);
    let mut engine = Engine::new(initial, &decay(model), &recipe.optim, 2).unwrap();
    let before = bits(&engine.params.snapshot().unwrap());
    engine.gradients(objective, &batch, 0).unwrap();
    let norm = engine.reduce().unwrap();
    let gradients = engine.gradient().unwrap();
    for (name, _, span) in engine.params.iter() {
        let gradient = &gradients[span];
        assert!(gradient.iter().all(|g| g.is_finite()), "{name} has a gradient that is not finite");
        assert!(gradient.iter().any(|g| *g != 0.0), "{name} is dead");
    }
    engine.update(&recipe.optim, norm, 1e-3, 0).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(&bits(&engine.params.snapshot().unwrap())) {
        assert_ne!(before, after, "{name} did not move");
    }
}

#[test]
fn no_parameter_of_a_model_is_dead() {
    let (data, recipe) = (data(), recipe(1));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let objective = Classification::new(*model.info.config.vit().unwrap(), &recipe.optim, 0);
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
        let auxiliary = learned.blueprint(&SizeRequest::default()).unwrap();
        let recipe_of_gene = GeneRecipe { alpha, ..gene_recipe() };
        let ancestor = Teacher::Network(Box::new(teacher.vit().unwrap()));
        let objective = StageSharing::new(auxiliary, ancestor, &recipe_of_gene, &gene.optim, 0);
        assert_alive(&objective, &initial, &teacher, &data, &gene);
    }
}

/// A loss that depends only on the head.
struct Bias;

impl Objective for Bias {
    fn loss(&self, weights: &Weights, shard: &Shard) -> Result<Tensor, Error> {
        let weight = |name: &str| weights.get(name).cloned();
        let head = Affine { weight: weight("head.weight")?, bias: weight("head.bias")? };
        let input = shard.images()?.flatten_from(1).and_then(|x| x.narrow(1, 0, 16));
        let logits = input.and_then(|x| ops::linear(&x, &head)).and_then(|y| y.sqr()?.mean_all());
        logits.map_err(|e| Error::invalid("test", e.to_string()))
    }
}

#[test]
fn a_parameter_that_the_loss_does_not_read_is_an_error() {
    let (data, recipe) = (data(), recipe(1));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let batch = first_batch(&data, &recipe, &model);
    let mut engine = Engine::new(&model.weights, &decay(&model), &recipe.optim, 2).unwrap();
    let error = engine.gradients(&Bias, &batch, 0).unwrap_err().to_string();
    assert!(error.contains("gradient of blocks.0.attn.proj.bias"), "{error}");
    // With fewer images than shards, some shards are empty, but every parameter still has a gradient.
    let objective = Classification::new(*model.info.config.vit().unwrap(), &recipe.optim, 0);
    let pixels = batch.pixels().unwrap();
    let values = pixels.values[..2 * pixels.values.len() / batch.len()].to_vec();
    let two = Batch {
        content: Content::Images(Pixels { values, shape: pixels.shape }),
        labels: batch.labels[..2].to_vec(),
        items: batch.items[..2].to_vec(),
        views: vec![0; 2],
    };
    assert!(engine.gradients(&objective, &two, 0).is_ok());
    assert!(engine.reduce().unwrap() > 0.0);
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
    let tape = |params: &Params| params.tape(false, Arc::default()).unwrap();
    let (ancestors, students) = (tape(&ancestor), tape(&student));
    let vit = Vit::new(*teacher.info.config.vit().unwrap(), &ancestor.weights(&ancestors).unwrap()).unwrap();
    let auxiliary = learned.blueprint(&SizeRequest::default()).unwrap();
    let objective = StageSharing::new(auxiliary, Teacher::Network(Box::new(vit)), &gene, &recipe.optim, 0);
    let batch = first_batch(&data, &recipe, &teacher);
    let images = genebank::train::shard::images(&batch, 0..4, &Device::Cpu).unwrap();
    let labels = batch.labels[..4].to_vec();
    let input = Input::Images(images);
    let shard = Shard { input, labels, items: vec![0; 4], views: vec![0; 4], step: 0, first: 0 };
    let loss = objective.loss(&student.weights(&students).unwrap(), &shard).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a few blocks fit the stack of a test")]
    loss.backward().unwrap();
    assert!(students.gradients().iter().any(|g| *g != 0.0));
    assert!(ancestors.gradients().iter().all(|g| *g == 0.0), "the teacher has a gradient");
}

/// Compares the gradient of the whole loss with central differences, along the gradient of each tensor.
#[test]
fn gradients_are_finite_differences() {
    let (data, mut recipe) = (data(), recipe(1));
    recipe.optim.drop_path = 0.0;
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let objective = Classification::new(*model.info.config.vit().unwrap(), &recipe.optim, 0);
    let batch = first_batch(&data, &recipe, &model);
    let mut engine = Engine::new(&model.weights, &decay(&model), &recipe.optim, 2).unwrap();
    engine.gradients(&objective, &batch, 0).unwrap();
    engine.reduce().unwrap();
    let (gradients, start) = (engine.gradient().unwrap(), engine.params.values().unwrap());
    let spans: Vec<_> = engine.params.iter().map(|(name, _, span)| (name.to_owned(), span)).collect();
    for (name, span) in spans {
        let gradient = &gradients[span.clone()];
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        // The class token starts small, so the loss soon curves in its direction.
        let step = 2e-3;
        let mut loss_at = |h: f64| {
            let mut moved = start.clone();
            for (v, g) in moved[span.clone()].iter_mut().zip(gradient) {
                *v = (f64::from(*v) + h * f64::from(*g) / norm) as f32;
            }
            engine.params.set(&moved).unwrap();
            engine.gradients(&objective, &batch, 0).unwrap()
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        // The loss is summed in f32, so the slope has noise of about 1e-7 / step.
        assert!((slope - norm).abs() < 0.02 * norm + 5e-4, "{name}: slope {slope}, norm {norm}");
    }
}

/// Asserts that candle's graph over variables, which a device runs, takes the same steps as the fused operations over a
/// tape.
fn assert_steps_agree(device: &Device, tolerance: f64) {
    let (data, recipe) = (data(), recipe(1));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let (config, batch) = (*model.info.config.vit().unwrap(), first_batch(&data, &recipe, &model));
    let objective = Classification::new(config, &recipe.optim, 0);
    let mut host = Engine::new(&model.weights, &decay(&model), &recipe.optim, 2).unwrap();
    let start = host.params.values().unwrap();
    let variables = Params::variables(&model.weights.to_device(device).unwrap()).unwrap();
    let mut other = Engine::of(variables, &decay(&model), &recipe.optim, 1).unwrap();
    for step in 0..5 {
        let losses = [&mut host, &mut other].map(|engine| {
            let loss = engine.gradients(&objective, &batch, step).unwrap();
            let norm = engine.reduce().unwrap();
            engine.update(&recipe.optim, norm, 1e-3, step).unwrap();
            loss
        });
        assert!((losses[0] - losses[1]).abs() < tolerance * losses[0], "step {step}: {losses:?}");
    }
    let (state, found) = (host.state().unwrap(), other.state().unwrap());
    // The values barely move in five steps, so the movement is compared, not the values. Where a gradient is almost 0,
    // a step is mostly rounding.
    let moved = |values: &[f32]| values.iter().zip(&start).map(|(a, b)| a - b).collect::<Vec<_>>();
    for (what, times, expected, found) in [
        ("movement", 200.0, moved(&state.values), moved(&found.values)),
        ("first moments", 10.0, state.first.clone(), found.first.clone()),
        ("second moments", 10.0, state.second.clone(), found.second.clone()),
    ] {
        let distance: f64 = expected.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let norm: f64 = expected.iter().map(|a| f64::from(*a).powi(2)).sum();
        assert!((distance / norm).sqrt() < times * tolerance, "{what}: {:e}", (distance / norm).sqrt());
    }
    other.restore(&state).unwrap();
    assert_eq!(other.state().unwrap(), state);
}

#[test]
fn candles_graph_takes_the_same_steps() {
    assert_steps_agree(&Device::Cpu, 1e-5);
}

#[test]
fn a_gpu_takes_the_same_steps() {
    if let Some(device) = support::gpu() {
        assert_steps_agree(&device, 1e-4);
    }
}

/// In half precision, every objective computes with casts, and the variables stay f32.
#[test]
fn objectives_in_half_precision_are_near() {
    let (data, recipe) = (data(), recipe(1));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let (config, batch) = (*model.info.config.vit().unwrap(), first_batch(&data, &recipe, &model));
    let mut optim = recipe.optim.clone();
    optim.drop_path = 0.0;
    let losses = |objective: &dyn Objective| {
        let params = Params::variables(&model.weights).unwrap();
        let mut engine = Engine::of(params, &decay(&model), &optim, 1).unwrap();
        let loss = engine.gradients(objective, &batch, 0).unwrap();
        (loss, engine.reduce().unwrap())
    };
    let teacher = Model::fresh(&Recipe { seed: 8, ..recipe.clone() }, &data.train).unwrap();
    let sharing = |dtype| StageSharing {
        dtype,
        ..StageSharing::new(
            Blueprint::whole(model.info.clone()),
            Teacher::Network(Box::new(teacher.vit().unwrap())),
            &GeneRecipe { alpha: 0.5, ..gene_recipe() },
            &optim,
            0,
        )
    };
    let labels = |dtype| Classification { dtype, ..Classification::new(config, &optim, 0) };
    for (single, half) in [
        (losses(&labels(DType::F32)), losses(&labels(DType::F16))),
        (losses(&sharing(DType::F32)), losses(&sharing(DType::F16))),
    ] {
        assert!((single.0 - half.0).abs() < 2e-3 * single.0, "losses {single:?} {half:?}");
        assert!((single.1 - half.1).abs() < 2e-2 * single.1, "norms {single:?} {half:?}");
        assert!(single != half, "nothing was computed in half precision");
    }
}

#[test]
fn half_precision_is_refused_on_the_cpu() {
    let (data, mut recipe) = (data(), recipe(1));
    recipe.optim.bf16 = true;
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let error = Engine::new(&model.weights, &decay(&model), &recipe.optim, 1).unwrap_err();
    assert!(error.to_string().contains("GPU"), "{error}");
}

#[test]
fn recomputing_changes_no_bit() {
    let (data, mut recipe) = (data(), recipe(4));
    let model = Model::fresh(&recipe, &data.train).unwrap();
    let train = |recipe: &Recipe| {
        let run = Run {
            recipe,
            data: &data,
            threads: 2,
            device: Device::Cpu,
            checkpoint: None,
            watch_held_out: false,
        };
        bits(&run.classify(model.clone(), &AtomicBool::new(false), &mut |_| ()).unwrap().weights)
    };
    let kept = train(&recipe);
    recipe.optim.recompute = true;
    assert!(train(&recipe) == kept);
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
        bits(&run.classify(model.clone(), &AtomicBool::new(false), &mut |_| ()).unwrap().weights)
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
    let whole = run(None).classify(model.clone(), &AtomicBool::new(false), &mut |_| ()).unwrap();
    // An epoch has 19 batches. The run is cancelled in the second epoch, so its state is from the end of the first.
    let cancel = AtomicBool::new(false);
    let mut stop = |report: RunEvent| {
        if matches!(report, RunEvent::Trainer(Event::Step { step: 30, .. })) {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let cancelled = run(Some(&path)).classify(model.clone(), &cancel, &mut stop).unwrap_err();
    assert!(matches!(cancelled, Error::Cancelled));
    let mut resumed_at = None;
    let mut watch = |report: RunEvent| {
        if let RunEvent::Trainer(Event::Resumed { step }) = report {
            resumed_at = Some(step);
        }
    };
    let resumed = run(Some(&path)).classify(model.clone(), &AtomicBool::new(false), &mut watch).unwrap();
    assert_eq!(resumed_at, Some(19));
    assert_eq!(bits(&whole.weights), bits(&resumed.weights));
    // The process may be killed after the last step and before the file is written. Then no step is left to make.
    let again = run(Some(&path)).classify(model.clone(), &AtomicBool::new(false), &mut |_| ()).unwrap();
    assert_eq!(bits(&whole.weights), bits(&again.weights));

    let other = Recipe { seed: 6, ..recipe.clone() };
    let run = Run {
        recipe: &other,
        data: &data,
        threads: 2,
        device: Device::Cpu,
        checkpoint: Some(&path),
        watch_held_out: false,
    };
    let refused = run.classify(model.clone(), &AtomicBool::new(false), &mut |_| ()).unwrap_err();
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
    let teacher = run.classify(Model::fresh(&recipe, &data.train).unwrap(), &cancel, &mut |_| ()).unwrap();
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
    let (info, weights) = learned.expand(&SizeRequest::default(), &Device::Cpu).unwrap();
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
    let refused = run.classify(shallow.clone(), &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("blocks.2"), "{refused}");

    let raw: RawVitConfig = (*good.info.config.vit().unwrap()).into();
    let mut other = good.clone();
    other.info.config = VitConfig::try_from(RawVitConfig { classes: 7, ..raw }).unwrap().into();
    let refused = run.classify(other.clone(), &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("10 classes, the model 7"), "{refused}");
    let gene = GeneRecipe { stages: vec![1, 1, 1], ..gene_recipe() };
    let refused = run.learn(&gene, &other, &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("teacher has 7 classes"), "{refused}");

    let wrong = GeneRecipe { stages: vec![1, 1], ..gene_recipe() };
    let refused = run.learn(&wrong, &good, &cancel, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("stages hold 2 layers"), "{refused}");
}

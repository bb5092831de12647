//! Tuning on the server: it reports progress, runs one job for each identity, cancels a job with its last caller, and
//! stores the result.

use std::{sync::Arc, time::Duration};

use genebank::{
    bank::{self, Bank, Delivery, Length, ModelRequest, Tune},
    blueprint::{ModelInfo, TrainingData},
    client::{Client, Event},
    error::{Error, Kind},
    gene::{GeneMeta, Method, Start, store},
    proto::{InitModelRequest, fine_tune, gene_bank_client::GeneBankClient, init_model_response},
    server::Limits,
    tensor::TensorFile,
};
use tempfile::TempDir;

use crate::support::{self, GENE, Server, bank_config, entries, fashion_meta, models, sample_data, weights};

fn fashion() -> TempDir {
    let meta = fashion_meta();
    models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1)
}

fn config(models: &TempDir) -> bank::Config {
    bank::Config { data: Some(sample_data()), ..bank_config(models.path()) }
}

fn tuned(length: Length, seed: u64) -> ModelRequest {
    let tune = Tune { dataset: "fashion-mnist".to_owned(), length, learning_rate_e9: None, seed };
    ModelRequest { gene: GENE.to_owned(), tune: Some(tune), ..ModelRequest::default() }
}

async fn start(bank: &Arc<Bank>, request: &ModelRequest) -> Result<Delivery, Error> {
    bank.deliver(&support::plan(bank, request)?).await
}

/// A length that no test waits for.
const ENDLESS: Length = Length::Steps(100_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tuned_model_comes_with_progress_and_is_stored_by_identity() {
    let models = fashion();
    let (bank, store) = (config(&models), models.path().join("store"));
    let server = Server::on(Limits::default(), models, bank).await;
    let client = Client::connect(&server.url()).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut summaries = Vec::new();
    for name in ["first", "second"] {
        let (path, mut steps) = (out.path().join(name), Vec::new());
        let watch = |event: Event| match event {
            Event::Progress(progress) => steps.push((progress.step, progress.total_steps)),
            Event::Header(_) | Event::Received { .. } | Event::Resumed { .. } | Event::Retry { .. } => (),
        };
        summaries.push(client.init_model(&tuned(Length::Steps(7), 3), &path, watch).await.unwrap());
        if name == "first" {
            assert_eq!(steps.last(), Some(&(7, 7)));
            assert_eq!(entries(&store).len(), 1);
        } else {
            assert!(steps.is_empty(), "the stored result was not used");
        }
    }
    assert_eq!(summaries[0].sha256, summaries[1].sha256);
    let read = |name: &str| std::fs::read(out.path().join(name)).unwrap();
    assert!(read("first") == read("second"));
    // The tuned model differs from the untuned one.
    let plain = ModelRequest { tune: None, ..tuned(Length::Steps(7), 3) };
    client.init_model(&plain, &out.path().join("plain"), |_| ()).await.unwrap();
    let tensor = |name: &str| {
        let file = TensorFile::open(&out.path().join(name)).unwrap();
        file.tensor("blocks.0.mlp.fc1.weight").unwrap().bytes.clone()
    };
    assert_ne!(tensor("first"), tensor("plain"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tuned_model_names_the_data_of_its_start_and_of_its_tuning() {
    let meta = GeneMeta { data: "clothes 12ab".into(), licence: "CC-BY-4.0".into(), ..fashion_meta() };
    let models = models(&store::render(meta.clone(), &weights(&meta), 7).unwrap().1);
    let bank = Arc::new(Bank::open(config(&models)).unwrap());
    let clothes = TrainingData { data: meta.data, licence: meta.licence };
    for (method, earlier) in [(Method::Gene, vec![clothes]), (Method::Scratch, vec![])] {
        let start_of = Start { method, seed: 0 };
        let request = ModelRequest { start: start_of, ..tuned(Length::Steps(1), 3) };
        let Delivery::Tuning(mut job) = start(&bank, &request).await.unwrap() else { panic!() };
        let out = tempfile::NamedTempFile::new().unwrap();
        job.finish().await.unwrap().write(out.path()).unwrap();
        let info = ModelInfo::from_file(&TensorFile::open(out.path()).unwrap(), "tuned").unwrap();
        assert!(info.data.starts_with("fashion-mnist "), "{}", info.data);
        assert_eq!((info.licence.as_str(), info.earlier), ("MIT", earlier), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_caller_to_leave_cancels_the_job() {
    let models = fashion();
    let bank = Arc::new(Bank::open(config(&models)).unwrap());
    let Delivery::Tuning(mut first) = start(&bank, &tuned(ENDLESS, 1)).await.unwrap() else { panic!() };
    first.progress().await.unwrap();
    // The limit is one job, but the same request can still join it.
    assert_eq!(start(&bank, &tuned(ENDLESS, 2)).await.unwrap_err().kind(), Kind::Overloaded);
    let Delivery::Tuning(mut second) = start(&bank, &tuned(ENDLESS, 1)).await.unwrap() else { panic!() };
    assert_eq!(first.identity(), second.identity());
    drop(first);
    second.progress().await.unwrap();
    drop(second);
    wait_until_free(&bank).await;
    assert!(entries(&models.path().join("store")).is_empty(), "a cancelled job left a result");
}

/// Waits until another job can start.
async fn wait_until_free(bank: &Arc<Bank>) {
    let free = async {
        while start(bank, &tuned(ENDLESS, 9)).await.is_err_and(|error| error.kind() == Kind::Overloaded) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), free).await.expect("the job goes on without a caller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_a_call_cancels_its_tuning() {
    let models = fashion();
    let bank = config(&models);
    let server = Server::on(Limits::default(), models, bank).await;
    let mut client = GeneBankClient::connect(server.url()).await.unwrap();
    let request = |seed| InitModelRequest {
        fine_tune: Some(genebank::proto::FineTune {
            dataset: "fashion-mnist".to_owned(),
            length: Some(fine_tune::Length::Steps(100_000)),
            learning_rate_e9: 0,
            seed,
        }),
        ..InitModelRequest::default()
    };
    let mut stream = client.init_model(request(1)).await.unwrap().into_inner();
    while let Some(message) = stream.message().await.unwrap() {
        if matches!(message.event, Some(init_model_response::Event::Progress(_))) {
            break;
        }
    }
    let refused = client.init_model(request(2)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    drop(stream);
    let again = async {
        while client.init_model(request(2)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), again).await.expect("the job goes on without its call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_tuning_is_refused_before_any_work() {
    let models = fashion();
    let bank = Arc::new(Bank::open(config(&models)).unwrap());
    for (length, message) in [
        (Length::Steps(0), "fine_tune.steps 0 is beyond this server (1..=100000)"),
        (Length::Steps(100_001), "fine_tune.steps 100001 is beyond this server (1..=100000)"),
        (Length::Epochs(101), "fine_tune.epochs 101 is beyond this server (1..=100)"),
    ] {
        let error = start(&bank, &tuned(length, 0)).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Invalid, message));
    }
    let mut unknown = tuned(Length::Steps(1), 0);
    unknown.tune.as_mut().unwrap().dataset = "../secret".to_owned();
    assert_eq!(start(&bank, &unknown).await.unwrap_err().kind(), Kind::NotFound);
    let without = Arc::new(Bank::open(bank_config(models.path())).unwrap());
    assert_eq!(start(&without, &tuned(Length::Steps(1), 0)).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_set_of_another_shape_is_refused() {
    let models = models(&crate::support::gene_bytes());
    let bank = Arc::new(Bank::open(config(&models)).unwrap());
    let Delivery::Tuning(mut job) = start(&bank, &tuned(Length::Steps(1), 0)).await.unwrap() else {
        panic!()
    };
    let error = job.finish().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("28x28 pixels, the model takes 8x8"), "{error}");
}

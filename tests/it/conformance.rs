//! The same request has the same answer in this process, over gRPC and over HTTP.

use std::{sync::Arc, time::Duration};

use genebank::{
    bank::{Bank, Delivery, ModelRequest},
    client::Client,
    error::{Error, Kind},
    gene::Size,
    server::Limits,
    tensor::{hex, sha256},
};

use crate::support::{GENE, Server, bank_config};

/// A way to a model.
#[derive(Debug, Clone, Copy)]
enum Target {
    Embedded,
    Grpc,
    Http,
}

const ALL: [Target; 3] = [Target::Embedded, Target::Grpc, Target::Http];

/// A request as text, so that it can be wrong in every way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    gene: &'static str,
    depth: u64,
    width: u64,
    dtype: &'static str,
    untrained: bool,
    layout: &'static str,
}

const GOOD: Asked = Asked { gene: GENE, depth: 5, width: 24, dtype: "f32", untrained: false, layout: "timm" };

impl Asked {
    fn request(self) -> Result<ModelRequest, Error> {
        let size = Size {
            depth: Some(self.depth),
            width: Some(self.width),
            dtype: self.dtype.parse()?,
            allow_untrained_width: self.untrained,
            ..Size::default()
        };
        let (gene, layout) = (self.gene.to_owned(), self.layout.parse()?);
        Ok(ModelRequest { gene, size, layout, ..ModelRequest::default() })
    }
}

/// The file and its announced SHA-256, or the kind of failure.
async fn ask(server: &Server, target: Target, asked: Asked) -> Result<(Vec<u8>, String), Kind> {
    match target {
        Target::Embedded => embedded(server, asked).await.map_err(|e| e.kind()),
        Target::Grpc => grpc(server, asked).await.map_err(|e| e.kind()),
        Target::Http => http(server, asked).await,
    }
}

async fn embedded(server: &Server, asked: Asked) -> Result<(Vec<u8>, String), Error> {
    let bank = Arc::new(Bank::open(bank_config(&server.models()))?);
    let plan = bank.plan(&asked.request()?)?;
    let Delivery::Ready(artifact) = bank.deliver(&plan).await? else { panic!("nothing to tune") };
    assert_eq!(plan.size_bytes(), artifact.size_bytes());
    Ok((artifact.parts().flatten().copied().collect(), hex(artifact.sha256())))
}

async fn grpc(server: &Server, asked: Asked) -> Result<(Vec<u8>, String), Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let client = Client::connect(&server.url()).await?.with_retries(0);
    let summary = client.init_model(&asked.request()?, &path, |_| {}).await;
    if summary.is_err() {
        assert!(crate::support::entries(folder.path()).is_empty());
    }
    Ok((std::fs::read(&path).unwrap_or_default(), summary?.sha256))
}

async fn http(server: &Server, asked: Asked) -> Result<(Vec<u8>, String), Kind> {
    let Asked { gene, depth, width, dtype, untrained, layout } = asked;
    let path = format!(
        "/v1/models/{gene}/d{depth}-w{width}.safetensors?dtype={dtype}&allow_untrained_width={untrained}&layout={layout}"
    );
    let answer = server.get(&path).await;
    if answer.status == 200 {
        let digest = server.get(&format!("{path}&digest")).await.json();
        return Ok((answer.body, digest["sha256"].as_str().unwrap().to_owned()));
    }
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let word = answer.json()["kind"].as_str().unwrap().to_owned();
    let kind = Kind::ALL.into_iter().find(|kind| kind.codes().word == word).unwrap();
    assert_eq!(answer.status, kind.codes().http);
    assert_eq!(answer.json()["status"], answer.status);
    Err(kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_gives_the_same_bytes() {
    let server = Server::start().await;
    for asked in [
        GOOD,
        Asked { depth: 1, ..GOOD },
        Asked { depth: 64, dtype: "bf16", ..GOOD },
        Asked { width: 8, ..GOOD },
        Asked { width: 16, dtype: "f16", untrained: true, ..GOOD },
        Asked { layout: "transformers", ..GOOD },
        Asked { layout: "transformers", width: 8, dtype: "bf16", ..GOOD },
    ] {
        let (bytes, digest) = ask(&server, Target::Embedded, asked).await.unwrap();
        assert_eq!(hex(&sha256(&bytes)), digest);
        for target in ALL {
            let answer = ask(&server, target, asked).await.unwrap();
            assert!(answer == (bytes.clone(), digest.clone()), "{target:?} {asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layout_is_the_file_of_its_repository() {
    let server = Server::start().await;
    for (ending, layout) in [("", "timm"), ("-hf", "transformers")] {
        let asked = Asked { layout, ..GOOD };
        let path = format!("/genebank/{GENE}-d5-w24{ending}/resolve/main/model.safetensors");
        let repository = server.get(&path).await;
        assert_eq!(repository.status, 200, "{layout}");
        for target in ALL {
            let (bytes, _) = ask(&server, target, asked).await.unwrap();
            assert!(bytes == repository.body, "{target:?} {layout}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_refuses_with_the_same_kind() {
    let server = Server::start().await;
    for (asked, kind) in [
        (Asked { depth: 0, ..GOOD }, Kind::Invalid),
        (Asked { depth: 65, ..GOOD }, Kind::Invalid),
        (Asked { depth: 1_000_000_000, ..GOOD }, Kind::Invalid),
        (Asked { depth: u64::MAX, ..GOOD }, Kind::Invalid),
        (Asked { width: 0, ..GOOD }, Kind::Invalid),
        (Asked { width: 16, ..GOOD }, Kind::Invalid),
        (Asked { width: 12, untrained: true, ..GOOD }, Kind::Invalid),
        (Asked { width: 1_000_000_000, untrained: true, ..GOOD }, Kind::Invalid),
        (Asked { dtype: "f64", ..GOOD }, Kind::Invalid),
        (Asked { layout: "keras", ..GOOD }, Kind::Invalid),
        (Asked { gene: "nobody", ..GOOD }, Kind::NotFound),
    ] {
        for target in ALL {
            assert_eq!(ask(&server, target, asked).await.unwrap_err(), kind, "{target:?} {asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_first_requests_are_one_render() {
    let server = Arc::new(Server::of(Limits::default(), 1).await);
    let client = Client::connect(&server.url()).await.unwrap();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..200 {
        let (server, client, folder) = (server.clone(), client.clone(), folder.clone());
        calls.spawn(async move {
            if i % 2 == 0 {
                return hex(&sha256(&server.get("/v1/models/tiny/d9-w24.safetensors").await.body));
            }
            let path = folder.path().join(format!("{i}"));
            let asked = Asked { depth: 9, ..GOOD };
            client.init_model(&asked.request().unwrap(), &path, |_| {}).await.unwrap().sha256
        });
    }
    let digests: std::collections::BTreeSet<_> = calls.join_all().await.into_iter().collect();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

#[tokio::test]
async fn genes_are_the_same_over_both_protocols() {
    let server = Server::start().await;
    let genes = Client::connect(&server.url()).await.unwrap().genes().await.unwrap();
    assert_eq!(server.get("/v1/genes").await.json(), serde_json::to_value(&genes).unwrap());
    let gene = &genes[0];
    assert_eq!((gene.name.as_str(), gene.default, gene.accuracy()), (GENE, true, Some(0.5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_downloads_than_permits_are_all_answered() {
    let server = Arc::new(Server::of(Limits::default(), 1).await);
    let mut downloads = tokio::task::JoinSet::new();
    for depth in 1..=60 {
        let server = server.clone();
        let path = format!("/v1/models/tiny/d{depth}-w24.safetensors?dtype=bf16");
        downloads.spawn(async move { server.get(&path).await.status });
    }
    let all = async { downloads.join_all().await };
    let statuses = tokio::time::timeout(Duration::from_mins(1), all).await.expect("waiters wake one another");
    assert_eq!(statuses, [200; 60]);
}

#[tokio::test]
async fn overload_is_refused_before_any_byte_and_an_accepted_get_waits() {
    let server = Server::of(Limits::default(), 0).await;
    assert_eq!(ask(&server, Target::Grpc, GOOD).await.unwrap_err(), Kind::Overloaded);
    let path = "/v1/models/tiny/d5-w24.safetensors";
    // What needs no render is answered all the same.
    assert_eq!(server.http("HEAD", path, "").await.status, 200);
    // A GET whose HEAD was answered waits; here, for ever.
    assert!(tokio::time::timeout(Duration::from_millis(300), server.get(path)).await.is_err());
}

//! The client checks everything that a server sends.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use genebank::{
    bank::ModelRequest,
    client::{Client, Summary},
    digest::{hex, sha256},
    error::{Error, Kind},
    proto::{
        self, Chunk, Completed, ModelHeader,
        gene_bank_server::{GeneBank, GeneBankServer},
        init_model_response::Event,
    },
    tensor::{Dtype, TensorBytes, codec},
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::support::entries;

type Script = Vec<Result<proto::InitModelResponse, Status>>;

/// A server that follows a script, with a separate script for downloads from an offset.
#[derive(Default)]
struct Scripted {
    whole: Script,
    rest: Script,
    /// The requested offsets.
    offsets: Arc<Mutex<Vec<u64>>>,
}

#[tonic::async_trait]
impl GeneBank for Scripted {
    type InitModelStream = tokio_stream::Iter<std::vec::IntoIter<Result<proto::InitModelResponse, Status>>>;

    async fn list_genes(
        &self,
        _: Request<proto::ListGenesRequest>,
    ) -> Result<Response<proto::ListGenesResponse>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn get_gene(&self, _: Request<proto::GetGeneRequest>) -> Result<Response<proto::Gene>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn plan_model(
        &self,
        _: Request<proto::PlanModelRequest>,
    ) -> Result<Response<proto::PlanModelResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn init_model(
        &self,
        _: Request<proto::InitModelRequest>,
    ) -> Result<Response<Self::InitModelStream>, Status> {
        Ok(Response::new(tokio_stream::iter(self.whole.clone())))
    }

    type DownloadModelStream = Self::InitModelStream;

    async fn download_model(
        &self,
        request: Request<proto::DownloadModelRequest>,
    ) -> Result<Response<Self::DownloadModelStream>, Status> {
        let proto::DownloadModelRequest { model, identity, offset } = request.into_inner();
        assert_eq!((model.is_some(), identity), (true, identity_of_all()));
        self.offsets.lock().unwrap().push(offset);
        Ok(Response::new(tokio_stream::iter(self.rest.clone())))
    }
}

fn identity_of_all() -> String {
    "0a".repeat(32)
}

async fn receive(script: Script, path: &Path) -> Result<Summary, Error> {
    receive_from(Scripted { whole: script, ..Default::default() }, path).await
}

async fn receive_from(server: Scripted, path: &Path) -> Result<Summary, Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(GeneBankServer::new(server));
    let task = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let client = Client::connect(&url).await?.with_retries(1);
    assert_eq!(client.genes().await.unwrap_err().kind(), Kind::Internal);
    let result = client.init_model(&ModelRequest::default(), path, |_| {}).await;
    task.abort();
    result
}

fn header(size_bytes: u64) -> Event {
    Event::Header(ModelHeader { size_bytes, identity: identity_of_all(), ..Default::default() })
}

fn chunk(offset: u64, data: &'static [u8]) -> Event {
    Event::Chunk(Chunk { offset, data: data.into() })
}

fn completed(data: &[u8], size_bytes: u64) -> Event {
    Event::Completed(Completed { sha256: hex(&sha256(data)), size_bytes })
}

fn script(events: Vec<Event>) -> Script {
    events.into_iter().map(|event| Ok(proto::InitModelResponse { event: Some(event) })).collect()
}

#[tokio::test]
async fn a_stream_that_keeps_its_word_becomes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    // The second header is for the tuned file.
    let events = vec![header(9), header(4), chunk(0, b"ab"), chunk(2, b"cd"), completed(b"abcd", 4)];
    let mut script = script(events);
    // An event from a later version.
    script.insert(2, Ok(proto::InitModelResponse { event: None }));
    let summary = receive(script, &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"abcd");
    assert_eq!(summary.sha256, hex(&sha256(b"abcd")));
}

#[tokio::test]
async fn a_stream_that_breaks_its_word_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    codec::write_atomic(&path, [b"old".as_slice()]).unwrap();
    let full = || vec![header(4), chunk(0, b"ab"), chunk(2, b"cd")];
    let with = |event| {
        let mut events = full();
        events.push(event);
        events
    };
    for (what, events) in [
        ("wrong digest", with(completed(b"abce", 4))),
        ("no digest", full()),
        ("another size", with(completed(b"abcd", 5))),
        ("more than announced", vec![header(3), chunk(0, b"ab"), chunk(2, b"cd"), completed(b"abcd", 4)]),
        ("less than announced", vec![header(5), chunk(0, b"abcd"), completed(b"abcd", 4)]),
        ("a gap", vec![header(4), chunk(0, b"a"), chunk(2, b"cd"), completed(b"acd", 3)]),
        ("a repetition", vec![header(4), chunk(0, b"ab"), chunk(0, b"ab"), completed(b"abab", 4)]),
        ("an end of numbers", vec![header(4), chunk(u64::MAX, b"ab"), completed(b"ab", 2)]),
        ("no header", vec![chunk(0, b"ab"), completed(b"ab", 2)]),
        ("a header in between", vec![header(4), chunk(0, b"ab"), header(4), chunk(2, b"cd")]),
        ("beyond the limit", vec![header(codec::MAX_FILE_BYTES + 1)]),
        ("nothing", vec![]),
    ] {
        let error = receive(script(events), &path).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss, "{what}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old", "{what}");
        assert_eq!(entries(folder.path()), ["m"], "{what}");
    }
    let mut refused = script(full());
    refused.push(Err(Status::invalid_argument("no")));
    assert_eq!(receive(refused, &path).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(entries(folder.path()), ["m"]);
}

/// A safetensors file of two tensors, and its manifest.
fn safetensors() -> (Vec<u8>, String) {
    let tensor = |value: u8| TensorBytes { dtype: Dtype::F32, shape: vec![2], bytes: vec![value; 8].into() };
    let tensors = [("a".to_owned(), tensor(1)), ("b".to_owned(), tensor(2))];
    let file = codec::render(&BTreeMap::new(), &tensors).to_vec();
    let digests = tensors.map(|(_, tensor)| sha256(&tensor.bytes)).concat();
    let manifest = hex(&sha256(&[&file[..file.len() - 16], &digests].concat()));
    (file, manifest)
}

fn announced(file: &[u8], manifest: &str, sha256: &str) -> Script {
    let of_model = ModelHeader {
        size_bytes: file.len() as u64,
        identity: identity_of_all(),
        manifest: manifest.to_owned(),
        ..Default::default()
    };
    let half = file.len() / 2;
    let part = |offset: usize, data: &[u8]| {
        Event::Chunk(Chunk { offset: offset as u64, data: data.to_vec().into() })
    };
    let end = Completed { sha256: sha256.to_owned(), size_bytes: file.len() as u64 };
    script(vec![
        Event::Header(of_model),
        part(0, &file[..half]),
        part(half, &file[half..]),
        Event::Completed(end),
    ])
}

#[tokio::test]
async fn everything_that_is_announced_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let ((file, manifest), other) = (safetensors(), "0".repeat(64));
    let digest = hex(&sha256(&file));
    for (manifest, digest) in [(manifest.as_str(), digest.as_str()), (&manifest, ""), ("", &digest)] {
        let summary = receive(announced(&file, manifest, digest), &path).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == file && summary.manifest == manifest);
        std::fs::remove_file(&path).unwrap();
    }
    let long = [&(codec::MAX_HEADER_BYTES + 1).to_le_bytes()[..], &file[8..]].concat();
    let gap = [&file[..8], &vec![b' '; file.len() - 8]].concat();
    for (file, manifest, digest, reason) in [
        (&file, other.as_str(), digest.as_str(), "the tensors have manifest"),
        (&file, &manifest, &other, "the file has SHA-256"),
        (&file, &other, "", "the tensors have manifest"),
        (&file, "", "", "neither"),
        (&long, &manifest, &hex(&sha256(&long)), "header of 16777217 bytes is beyond the limit"),
        (&gap, &manifest, &hex(&sha256(&gap)), "the header of the file"),
    ] {
        let error = receive(announced(file, manifest, digest), &path).await.unwrap_err();
        assert_eq!((error.kind(), entries(folder.path()).len()), (Kind::DataLoss, 0), "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[tokio::test]
async fn a_header_of_a_killed_run_that_is_none_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let part = folder.path().join(format!(".m.{}.part", &identity_of_all()[..16]));
    let (file, manifest) = safetensors();
    let whole = announced(&file, &manifest, &hex(&sha256(&file)));
    let mut rest = whole.clone();
    // The rest of the file from its ninth byte on.
    rest[1] = Ok(proto::InitModelResponse {
        event: Some(Event::Chunk(Chunk { offset: 8, data: file[8..].to_vec().into() })),
    });
    drop(rest.remove(2));
    codec::write_atomic(&part, [&[255; 8][..]]).unwrap();
    receive_from(Scripted { whole, rest, ..Default::default() }, &path).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == file);
    assert_eq!(entries(folder.path()), ["m"]);
}

#[tokio::test]
async fn a_lost_connection_is_gone_on_with_at_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let mut whole = script(vec![header(4), chunk(0, b"ab")]);
    whole.push(Err(Status::unavailable("lost")));
    let rest = script(vec![header(4), chunk(2, b"cd"), completed(b"abcd", 4)]);
    let offsets = Arc::<Mutex<Vec<u64>>>::default();
    let server = Scripted { whole: whole.clone(), rest, offsets: offsets.clone() };
    receive_from(server, &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"abcd");
    assert_eq!(
        (entries(folder.path()), offsets.lock().unwrap().as_slice()),
        (vec!["m".to_owned()], &[2][..])
    );

    // The rest must belong to the same model.
    let other =
        Event::Header(ModelHeader { size_bytes: 5, identity: identity_of_all(), ..Default::default() });
    let rest = script(vec![other, chunk(2, b"cde"), completed(b"abcde", 5)]);
    let error = receive_from(Scripted { whole, rest, ..Default::default() }, &path).await.unwrap_err();
    assert_eq!((error.kind(), entries(folder.path())), (Kind::DataLoss, vec!["m".to_owned()]), "{error}");
}

#[tokio::test]
async fn bytes_of_a_killed_run_are_not_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let part = folder.path().join(format!(".m.{}.part", &identity_of_all()[..16]));
    let whole = script(vec![header(4), chunk(0, b"abcd"), completed(b"abcd", 4)]);
    for (left, rest, asked) in [
        ("a", vec![header(4), chunk(1, b"bcd"), completed(b"abcd", 4)], &[1][..]),
        ("abcd", vec![header(4), completed(b"abcd", 4)], &[4]),
        // The bytes on disk do not belong to this file, so the client requests all of it.
        ("xy", vec![header(4), chunk(2, b"cd"), completed(b"abcd", 4)], &[2]),
        ("", vec![], &[]),
    ] {
        codec::write_atomic(&part, [left.as_bytes()]).unwrap();
        let offsets = Arc::<Mutex<Vec<u64>>>::default();
        let server = Scripted { whole: whole.clone(), rest: script(rest), offsets: offsets.clone() };
        receive_from(server, &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abcd", "{left}");
        assert_eq!(offsets.lock().unwrap().as_slice(), asked, "{left}");
        assert_eq!(entries(folder.path()), ["m"], "{left}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn what_arrived_before_the_last_try_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let name = format!(".m.{}.part", &identity_of_all()[..16]);
    for lost in [Status::unavailable("lost"), Status::resource_exhausted("later")] {
        let mut whole = script(vec![header(4), chunk(0, b"ab")]);
        whole.push(Err(lost.clone()));
        let offsets = Arc::<Mutex<Vec<u64>>>::default();
        let server = Scripted { whole, rest: vec![Err(lost)], offsets: offsets.clone() };
        receive_from(server, &path).await.unwrap_err();
        // The received bytes earned the first try, and `retries` allows one more.
        assert_eq!(offsets.lock().unwrap().as_slice(), [2, 2]);
        assert_eq!(entries(folder.path()), [name.as_str()]);
        assert_eq!(std::fs::read(folder.path().join(&name)).unwrap(), b"ab");
        std::fs::remove_file(folder.path().join(&name)).unwrap();
    }
}

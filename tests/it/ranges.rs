//! Large files over several HTTP connections: every part is checked, and bytes that arrived are not requested again.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use genebank::{
    bank::{Length, ModelRequest, ModelSummary, Tune},
    client::{Client, Event, Ranges, Summary, Transport},
    digest::{hex, sha256},
    error::{Error, Kind},
    export::Layout,
    gene::SizeRequest,
    server::{Access, Limits},
    tensor::{Dtype, TensorBytes, codec},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    relay::Relay,
    support::{GENE, Server, bank_config, entries, gene_bytes, models},
};

/// Makes files of any length arrive in parts of 16 KiB.
const SMALL: Ranges = Ranges { above_bytes: 0, part_bytes: 16 << 10, connections: 4 };
const TAG: &str = "\"one\"";

/// A file of 200 KB with random values, and its manifest.
fn file() -> (Vec<u8>, String) {
    let values = genebank::tensor::Init::TruncNormal { std_e9: 1_000_000_000 };
    let tensor = |seed, count: usize| {
        let mut bytes = Vec::new();
        Dtype::F32.write(values.values(seed, "x", count).into_iter(), &mut bytes);
        TensorBytes { dtype: Dtype::F32, shape: vec![count], bytes: bytes.into() }
    };
    let tensors = [("a".to_owned(), tensor(1, 30_000)), ("b".to_owned(), tensor(2, 20_000))];
    let file = codec::render(&BTreeMap::new(), &tensors).to_vec();
    let manifest = manifest(&file, &tensors.map(|(_, tensor)| tensor.bytes.len()));
    (file, manifest)
}

fn manifest(file: &[u8], lengths: &[usize]) -> String {
    let header = file.len() - lengths.iter().sum::<usize>();
    let (mut list, mut rest) = (file[..header].to_vec(), &file[header..]);
    for length in lengths {
        let (own, after) = rest.split_at(*length);
        list.extend(sha256(own));
        rest = after;
    }
    hex(&sha256(&list))
}

/// A scripted server's response to a range request.
#[derive(Debug, Clone)]
struct Part {
    status: u16,
    tag: &'static str,
    content_range: String,
    more: &'static str,
    /// The Content-Length header. Without it, the body ends with the connection.
    length: Option<usize>,
    body: Vec<u8>,
    close: bool,
}

type Change = dyn Fn(&Range<usize>, usize, &mut Part) + Send + Sync;

/// A server with one file, which may send wrong responses.
struct Scripted {
    file: Vec<u8>,
    digests: serde_json::Value,
    tag: &'static str,
    /// Changes the response to a range. The number says how often a range with this start was requested before.
    change: Box<Change>,
    asked: Mutex<Vec<Range<usize>>>,
}

fn identity() -> String {
    "0b".repeat(32)
}

impl Scripted {
    fn new(change: impl Fn(&Range<usize>, usize, &mut Part) + Send + Sync + 'static) -> Self {
        let (file, manifest) = file();
        let digests =
            serde_json::json!({"identity": identity(), "manifest": manifest, "sha256": hex(&sha256(&file))});
        Self { file, digests, tag: TAG, change: Box::new(change), asked: Mutex::default() }
    }

    fn honest() -> Self {
        Self::new(|_, _, _| {})
    }

    fn with_digest(mut self, name: &str, value: &str) -> Self {
        self.digests[name] = value.into();
        self
    }

    fn summary(&self) -> ModelSummary {
        ModelSummary {
            gene: GENE.to_owned(),
            depth: 3,
            width: 24,
            identity: identity(),
            size_bytes: self.file.len() as u64,
            parameters: 50_000,
            image_size: 8,
            patch_size: 4,
            classes: 3,
            ..ModelSummary::default()
        }
    }

    /// Total length of the requested ranges, bytes.
    fn asked_bytes(&self) -> usize {
        self.asked.lock().unwrap().iter().map(ExactSizeIterator::len).sum()
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let server = self.clone();
            // A client that leaves ends only its own connection.
            tokio::spawn(async move { server.connection(stream).await });
        }
    }

    async fn connection(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut head, mut line) = (Vec::new(), String::new());
            while stream.read_line(&mut line).await? > 2 {
                head.push(std::mem::take(&mut line).trim().to_ascii_lowercase());
            }
            let Some(request) = head.first() else { return Ok(()) };
            let header =
                |name: &str| head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let json = |value: String| {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{value}", value.len()).into_bytes()
            };
            let (answer, close) = if request.contains("/v1/genes") {
                let gene = r#"[{"name": "tiny", "default": true, "trained_depth": 3, "trained_width": 24}]"#;
                (json(gene.to_owned()), false)
            } else if request.contains("&summary") {
                (json(serde_json::to_string(&self.summary()).unwrap()), false)
            } else if request.contains("&digest") {
                (json(self.digests.to_string()), false)
            } else if request.starts_with("head") {
                let (tag, length) = (self.tag, self.file.len());
                (
                    format!("HTTP/1.1 200 OK\r\netag: {tag}\r\ncontent-length: {length}\r\n\r\n")
                        .into_bytes(),
                    false,
                )
            } else {
                assert_eq!(header("if-range"), Some(TAG), "{head:?}");
                let (start, end) =
                    header("range").unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                self.part(start.parse().unwrap()..end.parse::<usize>().unwrap() + 1)
            };
            stream.write_all(&answer).await?;
            if close {
                return stream.shutdown().await;
            }
        }
    }

    fn part(&self, range: Range<usize>) -> (Vec<u8>, bool) {
        let again = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(range.clone());
            asked.iter().filter(|before| before.start == range.start).count() - 1
        };
        let mut part = Part {
            status: 206,
            tag: TAG,
            content_range: format!("bytes {}-{}/{}", range.start, range.end - 1, self.file.len()),
            more: "",
            length: Some(range.len()),
            body: self.file[range.clone()].to_vec(),
            close: false,
        };
        (self.change)(&range, again, &mut part);
        let Part { status, tag, content_range, more, length, body, close } = part;
        let length = length.map_or_else(String::new, |length| format!("content-length: {length}\r\n"));
        let head = format!(
            "HTTP/1.1 {status} X\r\netag: {tag}\r\ncontent-range: {content_range}\r\n{more}{length}\r\n"
        );
        ([head.into_bytes(), body].concat(), close)
    }
}

async fn receive(server: &Arc<Scripted>, path: &Path, retries: u32) -> Result<(Summary, u64), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(server.clone().serve(listener));
    let client = Client::connect_by(&url, Transport::Http).await?.with_retries(retries).with_ranges(SMALL);
    let mut resumed = 0;
    let watch = |event| {
        if let Event::Resumed { bytes, .. } = event {
            resumed = bytes;
        }
    };
    let result = client.init_model(&ModelRequest::default(), path, watch).await;
    task.abort();
    result.map(|summary| (summary, resumed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_add_up_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let server = Arc::new(Scripted::honest());
    let (summary, resumed) = receive(&server, &path, 0).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == server.file);
    assert_eq!((summary.sha256.as_str(), resumed), (hex(&sha256(&server.file)).as_str(), 0));
    assert_eq!(server.digests["manifest"], summary.manifest);
    assert_eq!(entries(path.parent().unwrap()), ["m"]);
    // Each byte is requested once, in parts.
    let mut asked = server.asked.lock().unwrap().clone();
    asked.sort_by_key(|range| range.start);
    assert!(
        asked.windows(2).all(|pair| pair[0].end == pair[1].start)
            && asked.iter().all(|range| range.len() <= 16 << 10)
    );
    assert_eq!((asked.len(), asked[0].start, asked.last().unwrap().end), (13, 0, server.file.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_the_part_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    codec::write_atomic(&path, [b"old".as_slice()]).unwrap();
    let of_one = |change: fn(&mut Part)| {
        // The change is in the middle of the file, for whichever connection requests it.
        Scripted::new(move |range: &Range<usize>, _, part: &mut Part| {
            if range.contains(&100_000) {
                change(part);
            }
        })
    };
    let (_, right) = file();
    let digit = if right.starts_with('0') { "1" } else { "0" };
    let wrong = format!("{digit}{}", &right[1..]);
    let mut mislabelled = Scripted::honest();
    mislabelled.tag = "W/\"one\"";
    for (server, reason) in [
        (of_one(|part| part.body[7] ^= 1), "manifest"),
        (of_one(|part| part.tag = "\"two\""), "instead of"),
        (of_one(|part| part.tag = "W/\"one\""), "instead of"),
        (of_one(|part| part.status = 200), "the file was replaced"),
        (of_one(|part| part.content_range = "bytes 0-16383/200112".to_owned()), "for bytes"),
        (of_one(|part| part.content_range = part.content_range.replace("/200", "/201")), "for bytes"),
        (of_one(|part| part.content_range = String::new()), "for bytes"),
        (of_one(|part| part.length = Some(part.body.len() - 1)), "bytes for bytes"),
        (
            of_one(|part| {
                part.body.push(0);
                part.length = Some(part.body.len());
            }),
            "bytes for bytes",
        ),
        (
            of_one(|part| {
                part.body.push(0);
                (part.length, part.close) = (None, true);
            }),
            "more than the bytes",
        ),
        (of_one(|part| part.more = "content-encoding: gzip\r\n"), "content encoding"),
        (mislabelled, "strong entity tag"),
        (Scripted::honest().with_digest("manifest", &wrong), "manifest"),
        (Scripted::honest().with_digest("sha256", &wrong), "SHA-256"),
        (Scripted::honest().with_digest("identity", &wrong), "the digests of model"),
        (Scripted::honest().with_digest("sha256", "").with_digest("manifest", ""), "neither"),
    ] {
        let error = receive(&Arc::new(server), &path, 0).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss, "{reason}: {error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old", "{reason}");
        assert_eq!(entries(folder.path()), ["m"], "{reason}");
    }
    // One of the two digests is enough.
    for name in ["manifest", "sha256"] {
        let server = Arc::new(Scripted::honest().with_digest(name, ""));
        receive(&server, &path, 0).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == server.file);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_beyond_its_limits_ends_the_download() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let gap = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let long = 200_000u64.to_le_bytes();
    for (bytes, reason) in [
        (&u64::MAX.to_le_bytes()[..], "header of 18446744073709551615 bytes is beyond the limit of 200"),
        (&long, "the header of the file"),
        (&[&(gap.len() as u64).to_le_bytes()[..], gap.as_bytes()].concat(), "the header of the file"),
        (&[&4u64.to_le_bytes()[..], b"{\"a\""].concat(), "the header of the file"),
    ] {
        let mut server = Scripted::honest();
        server.file.splice(..bytes.len(), bytes.iter().copied());
        // The file matches its digest, but is not a valid model.
        let digest = hex(&sha256(&server.file));
        let server = Arc::new(server.with_digest("sha256", &digest));
        let error = receive(&server, &path, 0).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert_eq!((error.kind(), entries(folder.path()).len()), (Kind::DataLoss, 0), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_or_refused_for_now_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let server = Arc::new(Scripted::new(|range, again, part| match (range.start / (16 << 10) % 4, again) {
        (0, 0) => {
            part.body.truncate(part.body.len() / 2);
            part.close = true;
        }
        (1, 0..2) => {
            (part.status, part.more) = (503, "retry-after: 0\r\n");
            (part.body, part.length) = (Vec::new(), Some(0));
        }
        _ => {}
    }));
    receive(&server, &path, 3).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == server.file);
    assert!(server.asked.lock().unwrap().len() > 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrived_of_parts_is_not_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let part = folder.path().join(format!(".m.{}.part", &identity()[..16]));
    // The first part breaks off after 1000 bytes. Once its rest is requested, no part sends anything more.
    let over = AtomicBool::new(false);
    let cut = Arc::new(Scripted::new(move |range, _, part| {
        over.fetch_or(range.start == 1000, Ordering::SeqCst);
        let length = if range.start == 0 { 1000 } else { 0 };
        if length > 0 || over.load(Ordering::SeqCst) {
            part.body.truncate(length);
            part.close = true;
        }
    }));
    let error = receive(&cut, &path, 0).await.unwrap_err();
    assert_eq!((error.kind(), path.exists()), (Kind::Internal, false), "{error}");
    let left = std::fs::read(&part).unwrap();

    let server = Arc::new(Scripted::honest());
    let (_, resumed) = receive(&server, &path, 0).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == server.file);
    assert!(resumed >= 1000, "{resumed}");
    assert_eq!(server.asked_bytes() as u64 + resumed, server.file.len() as u64);
    assert_eq!(entries(folder.path()), ["m"]);

    // The bytes on disk belong to another file. Once the missing bytes have arrived, the client requests all bytes.
    for damage in [0, 600] {
        std::fs::remove_file(&path).unwrap();
        let mut other = left.clone();
        other[damage] ^= 1;
        codec::write_atomic(&part, [other.as_slice()]).unwrap();
        let server = Arc::new(Scripted::honest());
        receive(&server, &path, 0).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == server.file);
        assert!(server.asked_bytes() >= server.file.len(), "{damage}");
        assert_eq!(entries(folder.path()), ["m"]);
    }
}

async fn by(url: &str, transport: Transport) -> Client {
    Client::connect_by(url, transport).await.unwrap().with_retries(0).with_ranges(SMALL)
}

fn requests() -> Vec<ModelRequest> {
    let named = ModelRequest { gene: GENE.to_owned(), ..ModelRequest::default() };
    let sized = |depth, width, dtype| SizeRequest {
        depth: Some(depth),
        width: Some(width),
        dtype,
        ..SizeRequest::default()
    };
    let wide = SizeRequest { allow_untrained_width: true, ..sized(2, 16, Dtype::F32) };
    let labels = ["c", "ü & \"d\""].map(ToOwned::to_owned).to_vec();
    let target = genebank::gene::Target {
        image_size: Some(16),
        patch_size: Some(2),
        head: Some(genebank::gene::Head { labels, seed: 3 }),
    };
    let start = genebank::gene::Start { method: genebank::gene::Method::Scratch, seed: 9 };
    vec![
        ModelRequest::default(),
        named.clone(),
        ModelRequest { size: sized(40, 24, Dtype::Bf16), ..named.clone() },
        ModelRequest { size: wide, ..named.clone() },
        ModelRequest { layout: Layout::Transformers, size: sized(6, 8, Dtype::F16), ..named.clone() },
        ModelRequest { target, ..named.clone() },
        ModelRequest { start, ..named },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_gives_the_same_file() {
    let server = Server::start().await;
    let relay = Relay::start(server.address, true).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    for request in requests() {
        let mut files = Vec::new();
        for (url, transport) in [
            (server.url(), Transport::Grpc),
            (server.url(), Transport::Auto),
            (server.url(), Transport::Http),
            (relay.url(), Transport::Http),
        ] {
            let client = by(&url, transport).await;
            let summary = client.init_model(&request, &path, |_| {}).await.unwrap();
            files.push((std::fs::read(&path).unwrap(), summary));
        }
        assert!(files.windows(2).all(|pair| pair[0] == pair[1]), "{request:?}");
        assert_eq!((files[0].1.sha256.clone(), entries(folder.path()).len()), (hex(&sha256(&files[0].0)), 1));
    }
    // Large files switch from gRPC to HTTP, others do not.
    let proxy_of_both = Relay::start(server.address, false).await;
    let client = Client::connect(&proxy_of_both.url()).await.unwrap();
    client.init_model(&requests()[0], &path, |_| {}).await.unwrap();
    assert_eq!(proxy_of_both.plain(), 0);
    client.with_ranges(SMALL).init_model(&requests()[0], &path, |_| {}).await.unwrap();
    assert!(proxy_of_both.plain() > 1);

    // The old relay does not pass HTTP/2.
    let old = Client::connect_by(&relay.url(), Transport::Grpc).await;
    let refused = match old {
        Ok(client) => client.with_retries(0).init_model(&requests()[0], &path, |_| {}).await.map(drop),
        Err(error) => Err(error),
    };
    refused.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_refuses_as_grpc_does() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let http = by(&server.url(), Transport::Http).await;
    let none = ModelRequest::default();
    let deep = SizeRequest { depth: Some(65), ..SizeRequest::default() };
    let tune = Tune { dataset: "x".to_owned(), length: Length::Steps(1), learning_rate_e9: None, seed: 0 };
    for (request, kind) in [
        (ModelRequest { gene: "nobody".to_owned(), ..none.clone() }, Kind::NotFound),
        (ModelRequest { size: deep, ..none.clone() }, Kind::Invalid),
        (ModelRequest { tune: Some(tune), ..none }, Kind::Invalid),
    ] {
        let error = http.init_model(&request, &path, |_| {}).await.unwrap_err();
        assert_eq!((error.kind(), entries(folder.path()).len()), (kind, 0), "{error}");
    }
    for url in ["http://127.0.0.1:1", "ftp://127.0.0.1:1", "127.0.0.1:1", "http://"] {
        Client::connect_by(url, Transport::Http).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_a_private_gene_over_ranges() {
    let models = models(&gene_bytes());
    let bank = bank_config(models.path());
    let tokens = models.path().join("tokens.toml");
    let text = format!(
        "private = [\"{GENE}\"]\n[[token]]\nname = \"a\"\nsha256 = \"{}\"\n",
        hex(&sha256(b"secret"))
    );
    codec::write_atomic(&tokens, [text.as_bytes()]).unwrap();
    let access = Access::open(&tokens).unwrap();
    let server = Server::guarded(Limits::default(), models, bank, access).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let request = &requests()[2];
    for transport in [Transport::Http, Transport::Auto] {
        let client = by(&server.url(), transport).await;
        let refused = client.clone().init_model(request, &path, |_| {}).await.unwrap_err();
        assert_eq!((refused.kind(), path.exists()), (Kind::NoToken, false));
        client.with_token("secret").unwrap().init_model(request, &path, |_| {}).await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

//! The Hub protocol, request by request.

use genebank::{
    digest::{hex, sha256},
    server::Limits,
    tensor::{TensorFile, codec},
};
use serde_json::{Value, json};
use sha1::Digest as _;

use crate::support::{Answer, Server, bank_config, gene_bytes, models, private};

const REPOSITORY: &str = "genebank/tiny-d5-w24";
const FILES: [&str; 4] = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"];

fn resolve(repository: &str, revision: &str, path: &str) -> String {
    format!("/{repository}/resolve/{revision}/{path}")
}

fn api(repository: &str, rest: &str) -> String {
    format!("/api/models/{repository}{rest}")
}

async fn commit(server: &Server, repository: &str) -> String {
    server.get(&api(repository, "")).await.json()["sha"].as_str().unwrap().to_owned()
}

/// git's name for a file.
fn blob_id(bytes: &[u8]) -> String {
    let hash = sha1::Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes);
    hex(&hash.finalize())
}

fn refused(answer: &Answer, status: u16, code: Option<&str>, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.head);
    assert_eq!(answer.header("x-error-code"), code.map(str::to_lowercase).as_deref(), "{}", answer.head);
    // `Answer` holds headers in lower case.
    let message = answer.header("x-error-message").unwrap();
    assert!(message.contains(&words.to_lowercase()), "{words}: {message}");
    assert!(answer.body.is_empty() || answer.json()["error"].as_str().unwrap().contains(words));
}

#[tokio::test]
async fn a_file_has_the_same_headers_whole_in_part_and_without_a_body() {
    let server = Server::start().await;
    let commit = commit(&server, REPOSITORY).await;
    assert!(commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()));
    for path in FILES {
        let address = resolve(REPOSITORY, "main", path);
        let head = server.http("HEAD", &address, "").await;
        let whole = server.get(&address).await;
        let part = server.http("GET", &address, "range: bytes=0-0\r\n").await;
        assert_eq!((head.status, whole.status, part.status), (200, 200, 206), "{path}");
        let size = whole.body.len();
        assert_eq!(head.header("content-length"), Some(size.to_string().as_str()));
        assert_eq!(whole.header("content-length"), head.header("content-length"));
        assert_eq!(part.header("content-range"), Some(format!("bytes 0-0/{size}").as_str()));
        assert_eq!((head.body.len(), part.body.as_slice()), (0, &whole.body[..1]));
        for answer in [&head, &whole, &part] {
            assert_eq!(answer.header("x-repo-commit"), Some(commit.as_str()));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("cache-control"), Some("no-cache"));
            assert_eq!(answer.header("etag"), head.header("etag"));
            let name = format!("inline; filename=\"{}\"", path.to_lowercase());
            assert_eq!(answer.header("content-disposition"), Some(name.as_str()));
            for absent in ["location", "x-xet-hash", "link", "content-encoding", "transfer-encoding"] {
                assert_eq!(answer.header(absent), None, "{path}");
            }
        }
        let etag = head.header("etag").unwrap().trim_matches('"').to_owned();
        if path == "model.safetensors" {
            // The tag must be known before the weights are made, so it is not their digest.
            assert!(etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit()), "{etag}");
        } else {
            assert_eq!(etag, blob_id(&whole.body), "{path}");
        }
    }
    let pinned = server.http("HEAD", &resolve(REPOSITORY, &commit, "config.json"), "").await;
    assert_eq!(pinned.header("cache-control"), Some("public, max-age=31536000, immutable"));
}

#[tokio::test]
async fn ranges_and_conditions_are_those_of_every_file() {
    let server = Server::start().await;
    for path in ["config.json", "model.safetensors"] {
        let address = resolve(REPOSITORY, "main", path);
        let whole = server.get(&address).await;
        let (size, etag) = (whole.body.len(), whole.header("etag").unwrap());
        for (range, part) in [
            ("bytes=3-9".to_owned(), 3..10),
            ("bytes=3-".to_owned(), 3..size),
            ("bytes=-7".to_owned(), size - 7..size),
            ("bytes=0-99999999999".to_owned(), 0..size),
        ] {
            let answer = server.http("GET", &address, &format!("range: {range}\r\n")).await;
            assert_eq!(answer.status, 206, "{range}");
            assert!(answer.body == whole.body[part], "{range}");
        }
        let past = server.http("GET", &address, &format!("range: bytes={size}-\r\n")).await;
        refused(&past, 416, None, "no byte of it");
        assert_eq!(past.header("content-range"), Some(format!("bytes */{size}").as_str()));
        assert!(past.header("x-repo-commit").is_some());
        for method in ["GET", "HEAD"] {
            let known = server.http(method, &address, &format!("if-none-match: {etag}\r\n")).await;
            assert_eq!((known.status, known.body.len()), (304, 0));
            assert_eq!(known.header("etag"), Some(etag));
            assert!(known.header("x-repo-commit").is_some());
            let other = server.http(method, &address, "if-none-match: \"x\"\r\n").await;
            assert_eq!(other.status, 200);
        }
    }
}

#[tokio::test]
async fn a_model_is_told_at_each_of_its_revisions() {
    let server = Server::start().await;
    let commit = commit(&server, REPOSITORY).await;
    let digest = server.get("/v1/genes").await.json()[0]["digest"].as_str().unwrap().to_owned();
    for revision in ["main", &digest[..12], &commit] {
        let model = server.get(&api(REPOSITORY, &format!("/revision/{revision}"))).await.json();
        assert_eq!((&model["sha"], &model["id"]), (&json!(commit), &json!(REPOSITORY)), "{revision}");
        let paths: Vec<_> =
            model["siblings"].as_array().unwrap().iter().map(|s| s["rfilename"].as_str().unwrap()).collect();
        assert_eq!(paths, FILES);
    }
    let refs = server.get(&api(REPOSITORY, "/refs?include_prs=1")).await.json();
    let branch = json!([{ "name": "main", "ref": "refs/heads/main", "targetCommit": commit }]);
    let tag = json!([{ "name": digest[..12], "ref": format!("refs/tags/{}", &digest[..12]), "targetCommit": commit }]);
    assert_eq!(refs, json!({ "branches": branch, "tags": tag, "converts": [], "pullRequests": [] }));
    assert_eq!(server.get(&api(REPOSITORY, "/refs")).await.json().get("pullRequests"), None);
    let commits = server.get(&api(REPOSITORY, "/commits/main")).await.json();
    assert_eq!((commits[0]["id"].as_str(), commits.as_array().unwrap().len()), (Some(commit.as_str()), 1));
    for key in ["title", "message", "date"] {
        assert!(commits[0][key].is_string(), "{key}");
    }
}

#[tokio::test]
async fn every_list_of_files_agrees_with_the_files() {
    let server = Server::start().await;
    let tree = server.get(&api(REPOSITORY, "/tree/main?recursive=true&expand=false")).await.json();
    let form = "paths=config.json&paths=model.safetensors&paths=none&paths=README.md&expand=False&paths=\
                preprocessor_config.json";
    let posted = post(&server, "application/x-www-form-urlencoded", form).await;
    let asked = json!({ "paths": FILES }).to_string();
    assert_eq!(posted.json(), tree);
    assert_eq!(post(&server, "application/json; charset=utf-8", &asked).await.json(), tree);
    for flag in ["true", "True"] {
        let model = server.get(&api(REPOSITORY, &format!("?blobs={flag}"))).await.json();
        for (file, sibling) in tree.as_array().unwrap().iter().zip(model["siblings"].as_array().unwrap()) {
            let path = file["path"].as_str().unwrap();
            let body = server.get(&resolve(REPOSITORY, "main", path)).await.body;
            assert_eq!((&sibling["rfilename"], &sibling["blobId"]), (&file["path"], &file["oid"]));
            assert_eq!((&sibling["size"], &file["size"]), (&json!(body.len()), &json!(body.len())));
            if path == "model.safetensors" {
                let digest = hex(&sha256(&body));
                assert_eq!(
                    (&file["lfs"]["oid"], &sibling["lfs"]["sha256"]),
                    (&json!(digest), &json!(digest))
                );
                let pointer = format!(
                    "version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {}\n",
                    body.len()
                );
                assert_eq!(file["oid"], json!(blob_id(pointer.as_bytes())));
                assert_eq!(file["lfs"]["pointerSize"], json!(pointer.len()));
            } else {
                assert_eq!((file.get("lfs"), &file["oid"]), (None, &json!(blob_id(&body))));
            }
        }
    }
}

/// The repository that holds a model of `depth` of a gene with known data, and a server for it.
async fn carded() -> Server {
    let mut meta = crate::support::meta();
    (meta.data, meta.licence) = ("clothes 12ab".to_owned(), "MIT".to_owned());
    meta.weights_licence = Some("CC0-1.0".to_owned());
    meta.labels = ["T-shirt", "a `b`", "c\nd"].map(ToOwned::to_owned).to_vec();
    let bytes = genebank::gene::store::render(meta.clone(), &crate::support::weights(&meta), 7).unwrap().1;
    let models = models(&bytes);
    let bank = bank_config(models.path());
    Server::on(Limits::default(), models, bank).await
}

#[tokio::test]
async fn a_card_says_what_a_user_has_to_know() {
    let server = carded().await;
    let card = async |repository: &str| {
        let body = server.get(&resolve(repository, "main", "README.md")).await.body;
        String::from_utf8(body).unwrap()
    };
    let text = card("genebank/tiny-d3-w24-hf").await;
    let (head, text) = text.strip_prefix("---\n").unwrap().split_once("---\n").unwrap();
    let lines = head.lines().map(|line| line.split_once(": ").unwrap());
    let head: serde_json::Map<_, _> =
        lines.map(|(key, json)| (key.to_owned(), serde_json::from_str(json).unwrap())).collect();
    let expected = json!({
        "base_model": "genebank/tiny",
        "datasets": ["clothes"],
        "library_name": "transformers",
        "license": "cc0-1.0",
        "model-index": [{ "name": "genebank/tiny-d3-w24-hf", "results": [{
            "task": { "type": "image-classification" },
            "dataset": { "name": "clothes", "type": "clothes", "split": "test" },
            "metrics": [{ "type": "accuracy", "value": 0.5 }],
        }] }],
        "pipeline_tag": "image-classification",
        "tags": ["genebank", "safetensors"],
    });
    assert_eq!(Value::Object(head), expected);
    let model = server.get(&api("genebank/tiny-d3-w24-hf", "")).await.json();
    assert_eq!((&model["cardData"], &model["model-index"]), (&expected, &expected["model-index"]));
    for part in [
        "3 classes, in order: `T-shirt`, `a  b `, `c d`.",
        "mean [0.5] and std [0.5]",
        "8 x 8 pixels (one channel, grey)",
        "trained on `clothes` alone",
        "Licence of the weights: `CC0-1.0`",
        "Licence of the training data: `MIT`",
        "AutoModelForImageClassification.from_pretrained(\"genebank/tiny-d3-w24-hf\")",
        "Image.new(\"L\", (8, 8))",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(card("genebank/tiny-d5-w24").await.contains("not measured at this size"));
    assert!(!card("genebank/tiny-d3-w24").await.contains("base_model"), "it is the gene's own repository");
}

/// Every model of a list.
async fn list(server: &Server, query: &str) -> Vec<Value> {
    let answer = server.get(&format!("/api/models?{query}")).await;
    assert_eq!(answer.status, 200, "{query}");
    answer.json().as_array().unwrap().clone()
}

#[tokio::test]
async fn models_are_found_by_data_set_and_licence() {
    let server = carded().await;
    for (query, found) in [
        ("filter=dataset%3Aclothes", 1),
        ("filter=dataset%3Aclothes&filter=license:cc0-1.0&filter=timm", 1),
        ("filter=dataset:clothes,image-classification", 1),
        ("filter=dataset:other", 0),
        ("filter=license:mit", 0),
        ("filter=dataset:clothes&filter=transformers", 0),
    ] {
        assert_eq!(list(&server, query).await.len(), found, "{query}");
    }
    let tags = |server: Vec<Value>| server[0]["tags"].as_array().unwrap().clone();
    assert!(tags(list(&server, "").await).contains(&json!("dataset:clothes")));
    let without = tags(list(&Server::start().await, "").await);
    assert!(!without.iter().any(|tag| tag.as_str().unwrap().starts_with("dataset:")), "{without:?}");
}

#[tokio::test]
async fn dates_are_those_of_the_genes_files() {
    let folder = models(&gene_bytes());
    let newer = genebank::gene::GeneMeta { name: "newer".to_owned(), ..crate::support::meta() };
    let bytes = genebank::gene::store::render(newer, &crate::support::weights(&crate::support::meta()), 7);
    codec::write_atomic(&folder.path().join("newer.safetensors"), [bytes.unwrap().1.as_ref()]).unwrap();
    for (name, seconds) in [("tiny", 1_600_000_000), ("newer", 1_700_000_000)] {
        let file =
            std::fs::File::options().write(true).open(folder.path().join(format!("{name}.safetensors")));
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.unwrap().set_modified(time).unwrap();
    }
    let start = async || {
        let bank = bank_config(folder.path());
        Server::on(Limits::default(), tempfile::tempdir().unwrap(), bank).await
    };
    let date = "2020-09-13T12:26:40.000Z";
    // The second server stands for one that was started again.
    for server in [start().await, start().await] {
        let model = server.get(&api(REPOSITORY, "")).await.json();
        assert_eq!((&model["createdAt"], &model["lastModified"]), (&json!(date), &json!(date)));
        let commits = server.get(&api(REPOSITORY, "/commits/main")).await.json();
        assert_eq!(commits[0]["date"], json!(date));
        for (query, first) in [("sort=lastModified", "newer"), ("sort=created_at&limit=1", "newer")] {
            let models = list(&server, query).await;
            assert_eq!(models[0]["id"], json!(format!("genebank/{first}-d3-w24")), "{query}");
            assert_eq!(models[0]["lastModified"], json!("2023-11-14T22:13:20.000Z"));
        }
    }
    let (path, server) = (folder.path().join("tiny.safetensors"), start().await);
    let newest = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_001);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(newest).unwrap();
    drop(server);
    assert_eq!(list(&start().await, "sort=lastModified").await[0]["id"], json!("genebank/tiny-d3-w24"));
}

#[tokio::test]
async fn the_name_of_a_gene_is_its_trained_size() {
    let server = Server::start().await;
    let (short, long) = ("genebank/tiny", "genebank/tiny-d3-w24");
    let models = [server.get(&api(short, "")).await.json(), server.get(&api(long, "")).await.json()];
    assert_eq!(models[0], models[1]);
    assert_eq!(models[0]["id"], json!(long));
    for path in FILES {
        let [a, b] = [short, long].map(|repository| resolve(repository, "main", path));
        let (a, b) = (server.get(&a).await, server.get(&b).await);
        assert!(a.status == 200 && a.body == b.body && a.header("etag") == b.header("etag"), "{path}");
    }
    // An ending belongs to a size.
    for name in ["genebank/tiny-hf", "genebank/nobody", "other/tiny"] {
        assert_eq!(server.get(&api(name, "")).await.status, 404, "{name}");
    }
    assert_eq!(private_server().await.get(&api(short, "")).await.status, 401);
}

/// A server whose gene needs a token.
async fn private_server() -> Server {
    let models = models(&gene_bytes());
    let bank = bank_config(models.path());
    Server::guarded(Limits::default(), models, bank, private()).await
}

async fn post(server: &Server, content_type: &str, body: &str) -> Answer {
    let headers = format!("content-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    server.http("POST", &api(REPOSITORY, "/paths-info/main"), &headers).await
}

#[tokio::test]
async fn the_header_of_the_weights_is_told_without_them() {
    let server = Server::start().await;
    let told = server.get(&api(REPOSITORY, "/safetensors-metadata/model.safetensors")).await.json();
    let file = server.get(&resolve(REPOSITORY, "main", "model.safetensors")).await.body;
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    assert_eq!(told["headers"]["model.safetensors"], header);
    let other = server.get(&api(REPOSITORY, "/safetensors-metadata/model.safetensors.index.json")).await;
    refused(&other, 404, Some("EntryNotFound"), "model.safetensors");
}

#[tokio::test]
async fn what_does_not_exist_is_refused_as_clients_expect() {
    let server = Server::start().await;
    let (repository, revision, entry) = ("RepoNotFound", "RevisionNotFound", "EntryNotFound");
    for (path, code, words) in [
        (resolve("genebank/none-d5-w24", "main", "config.json"), repository, "tiny"),
        (resolve("genebank/tiny-d65-w24", "main", "config.json"), repository, "1..=64"),
        (resolve("genebank/tiny-d0-w24", "main", "config.json"), repository, "1..=64"),
        (resolve("genebank/tiny-d5-w16", "main", "config.json"), repository, "[8, 24]"),
        (resolve("genebank/tiny-d5-w99999999999999999999", "main", "config.json"), repository, "the form"),
        (resolve("genebank/tiny-d05-w24", "main", "config.json"), repository, "the form"),
        (resolve("genebank/-d5-w24", "main", "config.json"), repository, "empty"),
        (resolve("other/tiny-d5-w24", "main", "config.json"), repository, "genebank"),
        (resolve("genebank/%2e%2e%2ftiny-d5-w24", "main", "config.json"), repository, "tiny"),
        ("/tiny-d5-w24/resolve/main/config.json".to_owned(), repository, "genebank"),
        ("/datasets/genebank/x/resolve/main/a".to_owned(), repository, "genebank"),
        ("/api/datasets/genebank/x".to_owned(), repository, "genebank"),
        ("/api/models/gpt2".to_owned(), repository, "genebank"),
        (api("genebank/none-d5-w24", ""), repository, "tiny"),
        (api(REPOSITORY, "/revision/v1"), revision, "Invalid rev id: v1"),
        (api(REPOSITORY, "/tree/refs%2Fpr%2F5"), revision, "Invalid rev id: refs/pr/5"),
        (resolve(REPOSITORY, "refs%2Fconvert%2Fparquet", "x"), revision, "Invalid rev id"),
        (resolve(REPOSITORY, &"0".repeat(40), "config.json"), revision, "Invalid rev id"),
        (resolve(REPOSITORY, "MAIN", "config.json"), revision, "main"),
        (resolve(REPOSITORY, "main", "pytorch_model.bin"), entry, "config.json"),
        (resolve(REPOSITORY, "main", "a/../config.json"), entry, "config.json"),
        (resolve(REPOSITORY, "main", "..%2F..%2Fetc%2Fpasswd"), entry, "etc/passwd"),
        (api(REPOSITORY, "/tree/main/folder"), entry, "folder"),
    ] {
        let answer = server.get(&path).await;
        refused(&answer, 404, Some(code), words);
        assert_eq!(answer.header("x-repo-commit").is_some(), code == entry, "{path}");
        if path.contains("/resolve/") {
            let head = server.http("HEAD", &path, "").await;
            assert_eq!((head.header("x-error-code"), head.body.len()), (answer.header("x-error-code"), 0));
        }
    }
    assert_eq!(server.get("/api/agent-harnesses").await.status, 404);
}

#[tokio::test]
async fn hostile_requests_are_refused_and_the_server_goes_on() {
    let server = Server::start().await;
    let long = "x".repeat(5000);
    for (path, status) in [
        (resolve(REPOSITORY, "main", "%FF%FE"), 400),
        (resolve(REPOSITORY, "main", &long), 404),
        (resolve(REPOSITORY, &long, "x"), 404),
        (resolve(&format!("genebank/{long}-d1-w8"), "main", "x"), 404),
        (resolve("genebank/%0d%0aset-cookie:a-d5-w24", "main", "x"), 404),
        (api(REPOSITORY, "?blobs=maybe"), 400),
        ("/api/models?limit=0".to_owned(), 400),
        ("/api/models?num_parameters=many".to_owned(), 400),
        ("/api/models?cursor=18446744073709551615".to_owned(), 200),
        ("/api/models?limit=18446744073709551615".to_owned(), 200),
    ] {
        let answer = server.get(&path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("set-cookie"), None);
        assert!(answer.head.len() < 4000, "{}", answer.head.len());
    }
    for (content_type, body, status) in [
        ("application/json", "{", 400),
        ("application/json", "{\"paths\":[1]}", 400),
        ("application/x-www-form-urlencoded", "%ff%ff&&&=&paths", 200),
        ("text/plain", "", 200),
    ] {
        assert_eq!(post(&server, content_type, body).await.status, status, "{body}");
    }
    let paths = api(REPOSITORY, "/paths-info/main");
    // The announced length is enough: the server does not wait for the body.
    let announced = server.http("POST", &paths, "content-length: 9999999999\r\n").await;
    refused(&announced, 413, None, "65536");
    let chunk = format!("transfer-encoding: chunked\r\n\r\n11000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x11000));
    assert_eq!(server.http("POST", &paths, &chunk).await.status, 413);
    assert_eq!(server.get(&paths).await.status, 405);
    assert_eq!(server.http("POST", &api(REPOSITORY, ""), "content-length: 0\r\n").await.status, 405);
    let with_body = server.http("GET", &api(REPOSITORY, ""), "content-length: 1\r\n\r\nx").await;
    assert_eq!(with_body.status, 400);
    assert_eq!(server.get(&api(REPOSITORY, "")).await.status, 200);
}

#[tokio::test]
async fn the_id_of_a_request_is_given_back() {
    let server = Server::start().await;
    let address = resolve(REPOSITORY, "main", "config.json");
    for (headers, id) in [
        ("x-request-id: abc\r\n".to_owned(), Some("abc")),
        ("x-amzn-trace-id: def\r\n".to_owned(), Some("def")),
        ("x-amzn-trace-id: def\r\nx-request-id: abc\r\n".to_owned(), Some("abc")),
        (format!("x-request-id: {}\r\n", "a".repeat(300)), None),
        (String::new(), None),
    ] {
        assert_eq!(server.http("GET", &address, &headers).await.header("x-request-id"), id);
    }
    let missing = server.http("GET", &resolve(REPOSITORY, "main", "x"), "x-request-id: abc\r\n").await;
    assert_eq!(missing.header("x-request-id"), Some("abc"));
}

#[tokio::test]
async fn the_list_is_searched_and_paged() {
    let server = Server::start().await;
    let ids = async |query: &str| -> Vec<String> {
        let answer = server.get(&format!("/api/models?{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        answer.json().as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
    };
    // The test gene was measured at only one size.
    for query in
        ["", "author=genebank", "search=TINY", "filter=timm&filter=depth:3", "gated=False", "limit=1"]
    {
        assert_eq!(ids(query).await, ["genebank/tiny-d3-w24"], "{query}");
    }
    let total = server.get("/api/models").await.json()[0]["safetensors"]["total"].as_u64().unwrap();
    assert_eq!(ids(&format!("num_parameters=min:{total},max:{total}")).await.len(), 1);
    for query in [
        "author=other".to_owned(),
        "search=none".to_owned(),
        "filter=transformers".to_owned(),
        "gated=true".to_owned(),
        "cursor=1".to_owned(),
        format!("num_parameters=max:{}", total - 1),
        format!("num_parameters=min:{}", total + 1),
    ] {
        assert!(ids(&query).await.is_empty(), "{query}");
    }
}

#[tokio::test]
async fn pages_name_the_next_one_whole() {
    let mut meta = crate::support::meta();
    meta.quality = (1..=5)
        .map(|depth| genebank::gene::Quality { depth, width: 24, tuning_epochs: 0, value: 0.5, items: None })
        .collect();
    let bytes = genebank::gene::store::render(meta.clone(), &crate::support::weights(&meta), 7).unwrap().1;
    let models = models(&bytes);
    let bank = bank_config(models.path());
    let server = Server::on(Limits::default(), models, bank).await;
    let (mut path, mut ids) = ("/api/models?limit=2&search=tiny".to_owned(), Vec::new());
    for page in 0..3 {
        let answer = server.get(&path).await;
        ids.extend(answer.json().as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()));
        match answer.header("link") {
            Some(link) => {
                let next =
                    link.strip_prefix("<http://test").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
                next.clone_into(&mut path);
            }
            None => assert_eq!(page, 2),
        }
    }
    assert_eq!(ids, (1..=5).map(|d| format!("genebank/tiny-d{d}-w24")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_private_gene_needs_a_token_over_every_interface() {
    let server = private_server().await;
    let (good, bad) = ("authorization: Bearer hf_secret\r\n", "authorization: Bearer hf_other\r\n");
    let address = resolve(REPOSITORY, "main", "config.json");
    for path in [address.clone(), api(REPOSITORY, ""), api(REPOSITORY, "/tree/main")] {
        let answer = server.get(&path).await;
        refused(&answer, 401, Some("RepoNotFound"), "private");
        assert_eq!(answer.header("www-authenticate"), Some("bearer realm=\"genebank\""));
        refused(
            &server.http("GET", &path, bad).await,
            401,
            None,
            "Invalid credentials in Authorization header",
        );
        assert_eq!(server.http("GET", &path, good).await.status, 200);
    }
    let pinned = {
        let model = server.http("GET", &api(REPOSITORY, ""), good).await.json();
        assert_eq!(model["private"], json!(true));
        resolve(REPOSITORY, model["sha"].as_str().unwrap(), "config.json")
    };
    let caching = server.http("HEAD", &pinned, good).await;
    assert_eq!(caching.header("cache-control"), Some("private, max-age=31536000, immutable"));
    // A path without a gene's name means the default gene, which is private too.
    for path in [
        "/v1/models/tiny/d5-w24.safetensors",
        "/v1/models//d5-w24.safetensors",
        "/v1/plan?max_parameters=9000000",
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.header("www-authenticate").is_some()), (401, true), "{path}");
        assert_eq!(server.http("GET", path, bad).await.status, 401, "{path}");
        assert_eq!(server.http("GET", path, good).await.status, 200, "{path}");
    }
    for path in ["/v1/genes", "/api/models"] {
        assert_eq!(server.get(path).await.json(), json!([]), "{path}");
        assert_eq!(server.http("GET", path, good).await.json().as_array().unwrap().len(), 1, "{path}");
    }
    let client = genebank::client::Client::connect(&server.url()).await.unwrap();
    assert!(client.genes().await.unwrap().is_empty());
    let (out, request) = (tempfile::tempdir().unwrap(), genebank::bank::ModelRequest::default());
    let path = out.path().join("m");
    let refused = client.init_model(&request, &path, |_| {}).await.unwrap_err();
    assert_eq!(refused.kind().codes().grpc, 16, "{refused}");
    let client = client.with_token("hf_secret").unwrap();
    assert_eq!(client.genes().await.unwrap().len(), 1);
    client.init_model(&request, &path, |_| {}).await.unwrap();
    client.with_token("a\nb").unwrap_err();
    let who = server.http("GET", "/api/whoami-v2", good).await.json();
    assert_eq!((&who["name"], &who["type"]), (&json!("ci"), &json!("user")));
    assert_eq!(server.get("/api/whoami-v2").await.status, 401);
}

#[tokio::test]
async fn a_server_without_tokens_ignores_those_of_others() {
    let server = Server::start().await;
    let answer =
        server.http("GET", &api(REPOSITORY, ""), "authorization: Bearer hf_of_another_hub\r\n").await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.get("/api/whoami-v2").await.status, 401);
}

/// The tensors of a repository.
async fn tensors(server: &Server, repository: &str) -> TensorFile {
    let body = server.get(&resolve(repository, "main", "model.safetensors")).await.body;
    TensorFile::from_bytes(body.into(), repository).unwrap()
}

#[tokio::test]
async fn layouts_hold_the_same_values_under_other_names() {
    let server = Server::start().await;
    // Width 24 is stored; width 8 is derived from it.
    for size in ["d5-w24", "d2-w8"] {
        for ending in ["", "-f16"] {
            let timm = tensors(&server, &format!("genebank/tiny-{size}{ending}")).await;
            let native = tensors(&server, &format!("genebank/tiny-{size}-hf{ending}")).await;
            for (a, b) in [
                ("cls_token", "vit.embeddings.cls_token"),
                ("patch_embed.proj.weight", "vit.embeddings.patch_embeddings.projection.weight"),
                ("blocks.1.mlp.fc2.weight", "vit.encoder.layer.1.output.dense.weight"),
                ("norm.bias", "vit.layernorm.bias"),
                ("head.weight", "classifier.weight"),
            ] {
                let (a, b) = (timm.tensor(a).unwrap(), native.tensor(b).unwrap());
                assert_eq!((&a.bytes, &a.shape), (&b.bytes, &b.shape), "{size}{ending}");
            }
            for parameter in ["weight", "bias"] {
                let fused = timm.tensor(&format!("blocks.1.attn.qkv.{parameter}")).unwrap();
                let parts = ["query", "key", "value"].map(|part| {
                    let name = format!("vit.encoder.layer.1.attention.attention.{part}.{parameter}");
                    native.tensor(&name).unwrap().clone()
                });
                let joined: Vec<u8> = parts.iter().flat_map(|part| part.bytes.to_vec()).collect();
                assert!(fused.bytes == joined, "{size}{ending} {parameter}");
                assert_eq!(parts[0].shape[0] * 3, fused.shape[0]);
            }
        }
    }
}

#[tokio::test]
async fn layouts_and_types_have_commits_of_their_own() {
    let server = Server::start().await;
    let mut commits = std::collections::BTreeSet::new();
    for ending in ["", "-hf", "-f16", "-hf-bf16"] {
        commits.insert(commit(&server, &format!("{REPOSITORY}{ending}")).await);
    }
    assert_eq!(commits.len(), 4);
    let layout = server.get("/v1/models/tiny/d5-w24.safetensors?layout=transformers").await;
    let hub = server.get(&resolve(&format!("{REPOSITORY}-hf"), "main", "model.safetensors")).await;
    assert!(layout.body == hub.body);
    // Fresh values are drawn by timm's names, so the layout of transformers refuses them.
    for query in
        ["layout=other", "layout=transformers&labels=%5B%22x%22%5D", "layout=transformers&method=scratch"]
    {
        let path = format!("/v1/models/tiny/d5-w24.safetensors?{query}");
        assert_eq!(server.get(&path).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn names_and_configuration_are_those_of_transformers() {
    let server = Server::start().await;
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden("vit_checkpoint.json")).unwrap()).unwrap();
    let native = tensors(&server, "genebank/tiny-d2-w24-hf").await;
    let shapes: serde_json::Map<_, _> =
        native.shapes().map(|(name, shape)| (name.to_owned(), json!(shape))).collect();
    assert_eq!(Value::Object(shapes), golden["tensors"]);
    let config = server.get(&resolve("genebank/tiny-d2-w24-hf", "main", "config.json")).await.json();
    assert_eq!(config, golden["config"]);
}

fn golden(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The digest of every file of three repositories of the gene `bytes`.
async fn digests(bytes: &[u8]) -> String {
    let models = models(bytes);
    let bank = bank_config(models.path());
    let server = Server::on(Limits::default(), models, bank).await;
    let mut found = String::new();
    for repository in ["genebank/tiny-d5-w24", "genebank/tiny-d2-w8-hf", "genebank/tiny-d3-w24-bf16"] {
        for path in FILES {
            let body = server.get(&resolve(repository, "main", path)).await.body;
            found += &format!("{repository} {path} {}\n", hex(&sha256(&body)));
        }
    }
    found
}

#[tokio::test]
async fn every_byte_of_three_repositories_is_pinned() {
    // The gene comes from a file, because the last bits of a probe's logits depend on the processor.
    let gene = std::fs::read(golden("gene.safetensors")).unwrap();
    // If this changes, RENDER_VERSION must change.
    assert_eq!(digests(&gene).await, std::fs::read_to_string(golden("repositories.txt")).unwrap());
}

#[tokio::test]
#[ignore = "writes the golden files: cargo test --test it golden_repositories -- --ignored"]
async fn golden_repositories() {
    // The gene stays, because another processor would give it another probe.
    let gene = std::fs::read(golden("gene.safetensors")).unwrap_or_else(|_| gene_bytes());
    codec::write_atomic(&golden("gene.safetensors"), [gene.as_slice()]).unwrap();
    let found = digests(&gene).await;
    codec::write_atomic(&golden("repositories.txt"), [found.as_bytes()]).unwrap();
}

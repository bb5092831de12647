//! HEAD, ranges, conditions and queries.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::Server;

const FILE: &str = "/v1/models/tiny/d5-w24.safetensors";

#[tokio::test]
async fn head_says_what_get_would_send() {
    let server = Server::start().await;
    let (head, get) = (server.http("HEAD", FILE, "").await, server.get(FILE).await);
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-length", "content-type", "etag", "accept-ranges"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
        assert!(head.header(name).is_some(), "{name}");
    }
    assert_eq!(get.header("content-length").unwrap(), get.body.len().to_string());
    assert_eq!(get.header("transfer-encoding"), None);
}

#[tokio::test]
async fn one_range_is_a_part_of_the_file() {
    let server = Server::start().await;
    let whole = server.get(FILE).await;
    let (size, etag) = (whole.body.len(), whole.header("etag").unwrap());
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=100-4099", 100..4100),
        ("bytes=100-", 100..size),
        ("bytes=-7", size - 7..size),
        ("bytes=5-99999999999", 5..size),
    ] {
        let answer = server.http("GET", FILE, &format!("range: {range}\r\n")).await;
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == whole.body[part.clone()], "{range}");
        let expected = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), Some(expected.as_str()));
        assert_eq!(answer.header("content-length"), Some(part.len().to_string().as_str()));
    }
    for (headers, status) in [
        (format!("range: bytes={size}-\r\n"), 416),
        ("range: bytes=0-1,3-4\r\n".to_owned(), 200),
        (format!("range: bytes=0-0\r\nif-range: {etag}\r\n"), 206),
        ("range: bytes=0-0\r\nif-range: \"other\"\r\n".to_owned(), 200),
    ] {
        let answer = server.http("GET", FILE, &headers).await;
        assert_eq!(answer.status, status, "{headers}");
        if status == 416 {
            assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()));
        }
    }
}

#[tokio::test]
async fn conditions_may_have_several_lines() {
    let server = Server::start().await;
    let own = server.http("HEAD", FILE, "").await.header("etag").unwrap().to_owned();
    for (headers, status) in [
        (format!("if-none-match: \"a\"\r\nif-none-match: {own}\r\n"), 304),
        (format!("if-none-match: W/{own}\r\n"), 304),
        ("if-none-match: \"a\"\r\nif-none-match: \"b\"\r\n".to_owned(), 200),
        (format!("if-match: {own}\r\n"), 200),
        ("if-match: *\r\n".to_owned(), 200),
        (format!("if-match: \"a\"\r\nif-match: \"b\", {own}\r\n"), 200),
        ("if-match: \"a\"\r\n".to_owned(), 412),
        // If-Match compares strongly, and a line that cannot be read names nothing.
        (format!("if-match: W/{own}\r\n"), 412),
        ("if-match: \u{e9}\r\n".to_owned(), 412),
        // It is read first.
        (format!("if-match: \"a\"\r\nif-none-match: {own}\r\n"), 412),
        (format!("if-match: {own}\r\nif-none-match: {own}\r\n"), 304),
        ("if-match: \"a\"\r\nrange: bytes=0-0\r\n".to_owned(), 412),
    ] {
        for method in ["GET", "HEAD"] {
            assert_eq!(server.http(method, FILE, &headers).await.status, status, "{method} {headers}");
        }
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = Server::start().await;
    for (request, status) in [
        ("GET /healthz HTTP/1.1\r\nhost: a:80\r\n", "200"),
        ("GET /healthz HTTP/1.0\r\n", "200"),
        ("GET http://a/healthz HTTP/1.1\r\nhost: a\r\n", "200"),
        ("GET /healthz HTTP/1.1\r\n", "400"),
        ("GET http://a/healthz HTTP/1.1\r\n", "400"),
        ("GET /healthz HTTP/1.1\r\nhost: a\r\nhost: a\r\n", "400"),
        ("GET /healthz HTTP/1.0\r\nhost: a\r\nhost: b\r\n", "400"),
        ("GET /healthz HTTP/1.1\r\nhost: a/b\r\n", "400"),
        ("GET /no/route HTTP/1.1\r\nhost: a\r\nhost: b\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("{request}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}{answer}");
    }
}

#[tokio::test]
async fn a_known_file_is_not_sent_again() {
    let server = Server::start().await;
    let etag = server.http("HEAD", FILE, "").await.header("etag").unwrap().to_owned();
    for (value, status) in [(etag.as_str(), 304), ("*", 304), ("\"a\", \"b\"", 200)] {
        let answer = server.http("GET", FILE, &format!("if-none-match: {value}\r\n")).await;
        assert_eq!(answer.status, status, "{value}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    let other = server.http("HEAD", &format!("{FILE}?dtype=f16"), "").await;
    assert_ne!(other.header("etag"), Some(etag.as_str()));
}

#[tokio::test]
async fn what_is_not_known_is_refused() {
    let server = Server::start().await;
    for (path, status) in [
        (format!("{FILE}?dtyp=f16"), 400),
        (format!("{FILE}?dtype=f16&dtype=f32"), 400),
        (format!("{FILE}?digest=no"), 400),
        (format!("{FILE}?summary=no"), 400),
        (format!("{FILE}?layout=keras"), 400),
        (format!("{FILE}?rule=random"), 400),
        (format!("{FILE}?allow_untrained_width=yes"), 400),
        ("/v1/models/tiny/d05-w24.safetensors".to_owned(), 404),
        ("/v1/models/tiny/d5.safetensors".to_owned(), 404),
        ("/v1/models/tiny/d5-w24.bin".to_owned(), 404),
        ("/v1/models/%2e%2e/d5-w24.safetensors".to_owned(), 404),
        ("/nowhere".to_owned(), 404),
    ] {
        let answer = server.get(&path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
    }
    assert_eq!(server.http("POST", FILE, "content-length: 0\r\n").await.status, 405);
    assert_eq!(server.http("GET", FILE, "content-length: 1\r\n\r\nx").await.status, 400);
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_summary_says_what_the_file_will_be() {
    // The server allows no renders, and these requests need none.
    let server = Server::of(genebank::server::Limits::default(), 0).await;
    let summary = server.get(&format!("{FILE}?layout=transformers&summary")).await.json();
    let head = server.http("HEAD", &format!("{FILE}?layout=transformers"), "").await;
    assert_eq!(head.header("content-length").unwrap(), summary["size_bytes"].to_string());
    assert_eq!(
        (&summary["gene"], &summary["depth"], &summary["width"]),
        (&"tiny".into(), &5.into(), &24.into())
    );
    let plain = server.get(&format!("{FILE}?summary")).await.json();
    assert_ne!(plain["identity"], summary["identity"]);
}

//! A server without room: the client waits as long as it is asked to, and the program gives up with its own exit code.

use std::{net::SocketAddr, time::Duration};

use genebank::{
    bank::ModelRequest,
    client::{Client, Event, Transport},
    server::Limits,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::{GENE, Server, program};

/// Answers every HTTP request with 429, and asks for a pause of `seconds`.
async fn full(seconds: u32) -> SocketAddr {
    async fn refuse(stream: TcpStream, seconds: u32) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let body = r#"{"kind":"overloaded","detail":"4 renders are running"}"#;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: {seconds}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            if line == "\r\n" {
                stream.write_all(answer.as_bytes()).await?;
            }
            line.clear();
        }
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that leaves ends only its own connection.
            tokio::spawn(refuse(stream, seconds));
        }
    });
    address
}

/// The first pause of a client before it tries again.
async fn first_pause(url: &str, transport: Transport) -> Duration {
    let (say, mut heard) = mpsc::unbounded_channel();
    let client = Client::connect_by(url, transport).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let watch = move |event| {
        if let Event::Retry { pause, .. } = event {
            say.send(pause).unwrap();
        }
    };
    let request = ModelRequest { gene: GENE.to_owned(), ..ModelRequest::default() };
    tokio::select! {
        outcome = client.init_model(&request, &path, watch) => panic!("it ended: {outcome:?}"),
        pause = heard.recv() => pause.unwrap(),
    }
}

#[tokio::test]
async fn a_client_waits_as_long_as_the_server_asks() {
    let http = format!("http://{}", full(7).await);
    assert_eq!(first_pause(&http, Transport::Http).await, Duration::from_secs(7));
    // A server whose renders are all taken asks for one second.
    let server = Server::of(Limits::default(), 0).await;
    assert_eq!(first_pause(&server.url(), Transport::Grpc).await, Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_full_is_exit_code_4() {
    let url = format!("http://{}", full(0).await);
    let run = move || {
        let folder = tempfile::tempdir().unwrap();
        let output = program()
            .args(["init", GENE, "--server", &url, "--transport", "http", "-o"])
            .arg(folder.path().join("m"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("4 renders are running"), "{said}");
        assert!(crate::support::entries(folder.path()).is_empty());
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

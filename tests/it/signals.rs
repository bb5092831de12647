//! The signals that a service manager or a terminal sends to `genebank serve`.
#![cfg(unix)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{gene_bytes, models, program};

struct Serving {
    process: Child,
    address: String,
    _models: tempfile::TempDir,
}

impl Serving {
    /// A server that would wait for its clients longer than any test.
    fn start() -> Self {
        let models = models(&gene_bytes());
        let mut process = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--grace", "100000", "--models"])
            .arg(models.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("//").next().unwrap().to_owned();
        Self { process, address, _models: models }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.process.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.unwrap().success());
    }

    fn healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(&self.address) else { return false };
        let mut answer = String::new();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).is_ok_and(|_| answer.starts_with("HTTP/1.1 200"))
    }

    fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        while start.elapsed() < Duration::from_mins(1) {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("the server goes on")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already unless the test fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_does_not_end_a_server_and_a_second_signal_cuts() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut server = Serving::start();
        server.signal("HUP");
        assert!(server.healthy());
        // This call goes on for as long as its client likes.
        let url = format!("http://{}", server.address);
        let channel = tonic::transport::Endpoint::new(url).unwrap().connect().await.unwrap();
        let mut client = HealthClient::new(channel);
        let mut watching = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert!(watching.message().await.unwrap().is_some());
        server.signal(first);
        let drained = Instant::now();
        while server.healthy() {
            assert!(drained.elapsed() < Duration::from_mins(1), "it still accepts connections");
            sleep(Duration::from_millis(20));
        }
        assert!(server.process.try_wait().unwrap().is_none(), "it did not wait for the open call");
        server.signal(second);
        assert!(server.ended().success());
    }
}

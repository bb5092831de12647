//! A relay between client and server that stops after a given number of bytes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// Passes bytes. It runs until its runtime ends, even if this is dropped.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    passed: Arc<AtomicU64>,
    /// Number of HTTP/1.1 connections.
    plain: Arc<AtomicU64>,
    limit: Arc<AtomicU64>,
}

impl Relay {
    /// Starts a relay to the server at `to`. If `old` is true, it knows only HTTP/1.1 and refuses other connections.
    pub(crate) async fn start(to: SocketAddr, old: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Self {
            address,
            passed: Arc::default(),
            plain: Arc::default(),
            limit: Arc::new(AtomicU64::new(u64::MAX)),
        };
        let own = relay.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(own.clone().pass(client, to, old));
            }
        });
        relay
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Number of bytes passed from the server.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Number of HTTP/1.1 connections so far.
    pub(crate) fn plain(&self) -> u64 {
        self.plain.load(Ordering::SeqCst)
    }

    /// Passes this many more bytes, or up to 64 KiB beyond, and then waits.
    pub(crate) fn pass_only(&self, bytes: u64) {
        self.limit.store(self.passed().saturating_add(bytes), Ordering::SeqCst);
    }

    async fn pass(self, mut client: TcpStream, to: SocketAddr, old: bool) {
        let mut first = [0; 3];
        let known = client.peek(&mut first).await.is_ok() && &first != b"PRI";
        self.plain.fetch_add(u64::from(known), Ordering::SeqCst);
        if old && !known {
            let _ = client
                .write_all(b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-length: 0\r\n\r\n")
                .await;
            return;
        }
        let mut server = TcpStream::connect(to).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let down = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let count: usize = from_server.read(&mut buffer).await?;
                if count == 0 {
                    return Ok::<_, std::io::Error>(());
                }
                while self.passed() >= self.limit.load(Ordering::SeqCst) {
                    sleep(Duration::from_millis(2)).await;
                }
                self.passed.fetch_add(count as u64, Ordering::SeqCst);
                to_client.write_all(&buffer[..count]).await?;
            }
        };
        // Either side may close at any time, which the tests provoke.
        tokio::select! {
            _ = down => {}
            _ = copy(&mut from_client, &mut to_server) => {}
        }
    }
}

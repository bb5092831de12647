//! What the targets share: a small gene, and a server in this process that is asked over a real connection.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::OnceLock,
    time::Duration,
};

use genebank::{
    bank,
    gene::Synthetic,
    nn::{VitConfig, vit::RawVitConfig},
    server::{Access, Config, Limits},
    tensor::codec::write_atomic,
};
use tokio_util::sync::CancellationToken;

/// The bytes of a gene of a few KiB, called `tiny`.
pub fn gene() -> Vec<u8> {
    let raw = RawVitConfig {
        image_size: 4,
        patch_size: 2,
        channels: 1,
        classes: 2,
        depth: 2,
        width: 4,
        heads: 2,
        mlp_ratio: 1,
    };
    let config = VitConfig::try_from(raw).expect("a shape");
    let gene = Synthetic { name: "tiny".to_owned(), config, stages: 2, widths: vec![2], seed: 1 };
    gene.render().expect("a gene").1.to_vec()
}

/// The address of the server.
fn address() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        // The folder is used until the process ends.
        let models = tempfile::tempdir().expect("a folder").keep();
        write_atomic(&models.join("tiny.safetensors"), [gene().as_slice()]).expect("a file");
        let config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            grace: Duration::from_secs(1),
            limits: Limits::default(),
            bank: bank::Config {
                store: models.join("store"),
                models: Some(models),
                default_gene: None,
                data: None,
                cache_bytes: 16 << 20,
                request_bytes: 64 << 20,
                renders: 4,
                tunings: 1,
                device: candle_core::Device::Cpu,
            },
            access: Access::default(),
            tls: None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let app = runtime.block_on(config.build()).expect("a server");
        let address = app.local_addr();
        std::thread::spawn(move || runtime.block_on(app.serve(CancellationToken::new())));
        address
    })
}

/// An answer over HTTP/1.1.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// A connection that is kept from one input to the next.
#[derive(Default)]
pub struct Connection(Option<BufReader<TcpStream>>);

impl Connection {
    /// Sends a whole request and reads its answer.
    ///
    /// # Panics
    /// If there is no answer, or one that says that the server failed.
    pub fn ask(&mut self, request: &[u8]) -> Answer {
        let mut reader = self.0.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(address()).expect("a connection");
            stream.set_nodelay(true).expect("an open connection");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("an open connection");
            BufReader::new(stream)
        });
        // A server that has seen enough may answer before it has read everything.
        let _ = reader.get_mut().write_all(request);
        let answer = read(&mut reader).expect("an answer");
        assert!(answer.status < 500, "{} {}", answer.head, String::from_utf8_lossy(&answer.body));
        if !answer.head.contains("connection: close") {
            self.0 = Some(reader);
        }
        answer
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let (mut head, mut length, mut chunked) = (String::new(), 0, false);
    loop {
        let start = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = head[start..].trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().map_err(std::io::Error::other)?;
        }
        chunked |= line == "transfer-encoding: chunked";
        if line.is_empty() {
            break;
        }
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut body = Vec::new();
    while chunked {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        reader.take(length).read_to_end(&mut body)?;
        reader.read_line(&mut line)?;
        chunked = length > 0;
    }
    reader.take(length).read_to_end(&mut body)?;
    Ok(Answer { status, head: head.to_ascii_lowercase(), body })
}

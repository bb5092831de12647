//! The port with TLS: ALPN chooses between the protocols, clients check the certificate, and bad files stop the start.

use std::{
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use genebank::{
    error::Kind,
    server::{Access, Config, Limits, Tls},
    tensor::codec,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use tokio_util::sync::CancellationToken;

use crate::support::{GENE, bank_config, gene_bytes, models};

/// A server with TLS and the test gene.
pub(crate) struct Secure {
    pub(crate) url: String,
    roots: RootCertStore,
    /// Folder of the genes, the certificate and the key.
    folder: TempDir,
    _stop: tokio_util::sync::DropGuard,
}

fn files(folder: &Path) -> (Tls, RootCertStore) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    codec::write_atomic(&tls.certificate, [cert.pem().as_bytes()]).unwrap();
    codec::write_atomic(&tls.key, [signing_key.serialize_pem().as_bytes()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    (tls, roots)
}

fn config(folder: &Path, tls: Tls, access: Access) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        grace: Duration::from_secs(2),
        limits: Limits { head_timeout: Duration::from_secs(1), ..Limits::default() },
        bank: bank_config(folder),
        access,
        tls: Some(tls),
    }
}

impl Secure {
    async fn start() -> Self {
        Self::guarded(Access::default()).await
    }

    /// Starts a server with these access rules.
    pub(crate) async fn guarded(access: Access) -> Self {
        let folder = models(&gene_bytes());
        let (tls, roots) = files(folder.path());
        let app = config(folder.path(), tls, access).build().await.unwrap();
        let url = app.url().replace("127.0.0.1", "localhost");
        let stop = CancellationToken::new();
        tokio::spawn(app.serve(stop.clone()));
        Self { url, roots, folder, _stop: stop.drop_guard() }
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("https://").unwrap()
    }

    pub(crate) async fn connect(&self, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(self.address()).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    fn genebank(&self, trusted: bool, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_genebank"));
        command.args(arguments).args(["--server", &self.url]).env_remove("GENEBANK_MODELS");
        if trusted {
            command.env("SSL_CERT_FILE", self.folder.path().join("cert.pem"));
        }
        command.output().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_are_spoken_by_alpn() {
    let server = Secure::start().await;
    // A client that names no protocol speaks HTTP/1.1.
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = server.connect(protocols).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        // A peer that closes without a closing alert causes an error, but all bytes have arrived by then.
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    }
    let stream = server.connect(&["h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    server.connect(&["gopher"]).await.unwrap_err();

    // The server does not wait for a client that sends nothing.
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(20), silent.read(&mut [0])).await;
    assert_eq!(closed.expect("the handshake has a limit").unwrap_or(0), 0);
}

#[test]
fn the_client_checks_the_certificate() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(Secure::start());
    let out = server.folder.path().join("m.safetensors");
    let out = out.to_str().unwrap();
    let refused = server.genebank(false, &["init", GENE, "-o", out]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(!Path::new(out).exists());
    let trusted = server.genebank(true, &["init", GENE, "-o", out]);
    assert!(trusted.status.success(), "{trusted:?}");
    assert!(Path::new(out).exists());
    let http = ["init", GENE, "--transport", "http", "-o"];
    let over_http = format!("{out}.http");
    let refused = server.genebank(false, &[&http[..], &[&over_http]].concat());
    assert_eq!((refused.status.code(), Path::new(&over_http).exists()), (Some(1), false), "{refused:?}");
    let trusted = server.genebank(true, &[&http[..], &[&over_http]].concat());
    assert!(trusted.status.success(), "{trusted:?}");
    assert!(std::fs::read(out).unwrap() == std::fs::read(&over_http).unwrap());
    let listed = server.genebank(true, &["list"]);
    assert!(String::from_utf8(listed.stdout).unwrap().contains(GENE));
}

#[tokio::test]
async fn files_that_are_no_certificate_and_key_end_the_start() {
    let folder = models(&gene_bytes());
    let (tls, _) = files(folder.path());
    let other = tempfile::tempdir().unwrap();
    let (other, _) = files(other.path());
    let gene = folder.path().join(format!("{GENE}.safetensors"));
    let missing = folder.path().join("missing.pem");
    for (wrong, named) in [
        (Tls { certificate: missing.clone(), ..tls.clone() }, &missing),
        (Tls { key: missing.clone(), ..tls.clone() }, &missing),
        (Tls { certificate: gene.clone(), ..tls.clone() }, &gene),
        (Tls { key: tls.certificate.clone(), ..tls.clone() }, &tls.certificate),
        (Tls { key: other.key.clone(), ..tls.clone() }, &tls.certificate),
    ] {
        let error = config(folder.path(), wrong, Access::default()).build().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(named.to_str().unwrap()), "{error}");
    }
}

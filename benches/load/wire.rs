//! Throughput for one artifact: HTTP compared with nginx serving the same file, and gRPC compared with the generated
//! service.

use std::{path::Path, process::Command};

use genebank::{proto::InitModelRequest, tensor::codec::write_atomic};
use prost::Message as _;

use crate::{
    Gene, Outcome, Size, bare,
    clients::{Call, ask, curl, h2load_grpc, h2load_http},
    nginx, quartiles,
    server::Server,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    gene: Gene,
    #[command(flatten)]
    size: Size,
    /// Alternating pairs of measurements for each row.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Data per measurement, GiB; rounded up to whole transfers.
    #[arg(long, default_value_t = 4)]
    gib: u64,
    /// Measure only the rows whose name contains this text.
    #[arg(long, default_value = "")]
    only: String,
}

/// Measures one kind of transfer; returns bytes per second.
type Way<'a> = Box<dyn Fn() -> Outcome<f64> + 'a>;

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let www = folder.path();
    let (certificate, key) = certificate(www)?;
    let models = &options.gene.models;
    let plain = Server::start(models, &[])?;
    let secure = Server::start(models, &["--tls-cert", &certificate, "--tls-key", &key])?;
    let path = options.gene.path(&options.size);
    let (ours, ours_tls) =
        (format!("http://{}{path}", plain.address), format!("https://{}{path}", secure.address));
    let file = www.join("model.safetensors");
    let written =
        Command::new("curl").args(["--silent", "--fail", "--output"]).arg(&file).arg(&ours).status()?;
    let bytes = ask(&plain.address, "HEAD", &path, false)?.length;
    if !written.success() || std::fs::metadata(&file)?.len() != bytes {
        return Err("the file for nginx was not written".into());
    }
    let off = nginx::serve(www, "off", "sendfile off;")?;
    let on = nginx::serve(www, "on", "sendfile on; tcp_nopush on;")?;
    // By default nginx reads and writes 32 KiB at a time. Our writes have up to 256 KiB.
    let large = nginx::serve(www, "large", "sendfile off; output_buffers 2 256k;")?;
    let tls = format!(
        "sendfile on; ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};"
    );
    let tls = nginx::serve(www, "tls", &tls)?;
    let url = |scheme: &str, server: &Server| format!("{scheme}://{}/model.safetensors", server.address);
    let bare = format!("http://{}/", bare::serve(std::fs::read(&file)?)?);
    let (off, on, large) = (url("http", &off), url("http", &on), url("http", &large));
    let tls = url("https", &tls);

    let request = |chunk: u32| InitModelRequest {
        gene: options.gene.gene.clone(),
        depth: Some(options.size.depth),
        width: Some(options.size.width),
        max_chunk_bytes: chunk,
        ..InitModelRequest::default()
    };
    let (message, small) = (www.join("call.bin"), www.join("call-256k.bin"));
    write_atomic(&message, [framed(&request(0))?.as_slice()])?;
    write_atomic(&small, [framed(&request(256 << 10))?.as_slice()])?;
    let service = format!("http://{}/genebank.v1.GeneBank/InitModel", plain.address);
    let times = (options.gib << 30).div_ceil(bytes);
    let by_curl = |url: &str| -> Way<'_> {
        let url = url.to_owned();
        Box::new(move || curl(&url, bytes, times))
    };
    let by_h2load = |url: &str| -> Way<'_> {
        let url = url.to_owned();
        Box::new(move || h2load_http(&url, bytes, times))
    };
    let grpc = |frame: u32, generated: bool, message: &Path| -> Way<'_> {
        let (url, message) = (service.clone(), message.to_owned());
        Box::new(move || h2load_grpc(&Call { url: &url, message: &message, frame, generated }, bytes, times))
    };
    let rows: [(&str, Way<'_>, Way<'_>); 13] = [
        ("HTTP/1.1 / nginx, sendfile off (curl)", by_curl(&ours), by_curl(&off)),
        ("HTTP/1.1 / nginx, sendfile off, buffers of 256 KiB (curl)", by_curl(&ours), by_curl(&large)),
        ("HTTP/1.1 / nginx, sendfile on (curl)", by_curl(&ours), by_curl(&on)),
        ("HTTP/1.1 / nginx, sendfile off (h2load)", by_h2load(&ours), by_h2load(&off)),
        ("HTTP/1.1 / nginx, sendfile off, buffers of 256 KiB (h2load)", by_h2load(&ours), by_h2load(&large)),
        ("HTTP/1.1 / nginx, sendfile on (h2load)", by_h2load(&ours), by_h2load(&on)),
        ("HTTP/1.1 / a bare loop over memory (curl)", by_curl(&ours), by_curl(&bare)),
        ("a bare loop over memory / nginx, sendfile off (curl)", by_curl(&bare), by_curl(&off)),
        ("TLS 1.3 / nginx (curl)", by_curl(&ours_tls), by_curl(&tls)),
        (
            "gRPC / generated, 1 MiB frames (h2load)",
            grpc(1 << 20, false, &message),
            grpc(1 << 20, true, &message),
        ),
        (
            "gRPC / generated with 256 KiB chunks, 1 MiB frames (h2load)",
            grpc(1 << 20, false, &message),
            grpc(1 << 20, true, &small),
        ),
        (
            "gRPC / generated, 16 KiB frames (h2load)",
            grpc(16 << 10, false, &message),
            grpc(16 << 10, true, &message),
        ),
        ("gRPC, 1 MiB frames / HTTP/1.1 (h2load)", grpc(1 << 20, false, &message), by_h2load(&ours)),
    ];
    println!("{bytes} bytes, {times} transfers a measurement, {} pairs", options.pairs);
    println!("| pair | first, GB/s | second, GB/s | ratio: lower quartile | median | upper quartile |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (name, first, second) in rows.iter().filter(|(name, ..)| name.contains(&options.only)) {
        // One uncounted measurement each warms up digests and page caches.
        first()?;
        second()?;
        let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
        for pair in 0..options.pairs {
            let (a, b) = if pair % 2 == 0 {
                let a = first()?;
                (a, second()?)
            } else {
                let b = second()?;
                (first()?, b)
            };
            ratios.push(a / b);
            rates[0].push(a / 1e9);
            rates[1].push(b / 1e9);
        }
        let [low, median, high] = quartiles(&mut ratios);
        let [a, b] = rates.map(|mut rates| quartiles(&mut rates)[1]);
        println!("| {name} | {a:.2} | {b:.2} | {low:.2} | {median:.2} | {high:.2} |");
    }
    Ok(())
}

/// The message with its gRPC prefix.
fn framed(message: &InitModelRequest) -> Outcome<Vec<u8>> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len())?.to_be_bytes();
    Ok([&[0], length.as_slice(), body.as_slice()].concat())
}

/// Paths of a self-signed certificate and its key.
fn certificate(folder: &Path) -> Outcome<(String, String)> {
    let path = |name: &str| folder.join(name).display().to_string();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-keyout", &key, "-out", &certificate])
        .output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
    }
    Ok((certificate, key))
}

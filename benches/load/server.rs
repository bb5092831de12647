//! The release program and nginx as processes.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use genebank::tensor::codec::write_atomic;

use crate::Outcome;

/// A server that ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Server {
    /// `genebank serve` over `models`, with further arguments.
    pub(crate) fn start(models: &Path, more: &[&str]) -> Outcome<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_genebank"))
            .args(["serve", "--listen", "127.0.0.1:0", "--models"])
            .arg(models)
            .args(more)
            .env("GENEBANK_LOG", "warn")
            .env_remove("GENEBANK_DATA")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().rsplit("//").next().filter(|a| a.contains(':')).ok_or("no address")?;
        Ok(Self { process, address: address.to_owned() })
    }

    /// nginx over the files of `www`; `server` are directives of its one server beside address and root.
    pub(crate) fn nginx(www: &Path, name: &str, server: &str) -> Outcome<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (folder, address) = (www.display(), format!("127.0.0.1:{port}"));
        let listen = if server.contains("ssl_certificate") { "ssl" } else { "" };
        let text = format!(
            "daemon off; worker_processes auto; pid {folder}/{name}.pid; error_log {folder}/{name}.log;\n\
             events {{}}\nhttp {{ access_log off; default_type application/octet-stream;\n\
             server {{ listen {address} {listen}; root {folder}; {server} }} }}\n"
        );
        let file = www.join(format!("{name}.conf"));
        write_atomic(&file, [text.as_bytes()])?;
        let process = Command::new("nginx").arg("-c").arg(&file).spawn()?;
        let server = Self { process, address };
        for _ in 0..100 {
            if TcpStream::connect(&server.address).is_ok() {
                return Ok(server);
            }
            sleep(Duration::from_millis(20));
        }
        Err(format!("nginx does not listen on {}", server.address).into())
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(&self) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that nginx ends its workers. What has ended already needs none of it.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        for _ in 0..50 {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

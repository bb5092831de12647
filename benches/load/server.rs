//! The release program as a child process; `first_byte` uses it too.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::Outcome;

/// A server process. Dropping this ends it.
pub(crate) struct Server {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Server {
    /// Starts `genebank serve` for the genes in `models`, with further arguments.
    pub(crate) fn start(models: &Path, more: &[&str]) -> Outcome<Self> {
        Self::launch(models, more, Stdio::inherit())
    }

    /// Like [`Server::start`], with the server's messages in `said`.
    pub(crate) fn launch(models: &Path, more: &[&str], said: Stdio) -> Outcome<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_genebank"))
            .args(["serve", "--listen", "127.0.0.1:0", "--models"])
            .arg(models)
            .args(more)
            .env("GENEBANK_LOG", "warn")
            .env_remove("GENEBANK_DATA")
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().rsplit("//").next().filter(|a| a.contains(':')).ok_or("no address")?;
        Ok(Self::of(process, address.to_owned()))
    }

    /// Takes over a process that listens on `address`.
    pub(crate) const fn of(process: Child, address: String) -> Self {
        Self { process, address }
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(&self) -> Outcome<u64> {
        self.memory("VmRSS:")
    }

    /// What the system counts under `key` (proc(5)), bytes; `VmHWM:` is the most resident memory so far.
    pub(crate) fn memory(&self, key: &str) -> Outcome<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On SIGTERM nginx stops its workers too. If the process has already ended, failure does no harm.
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

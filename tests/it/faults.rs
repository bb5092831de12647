//! Kills server and client with SIGKILL in the middle of a download. The file is always complete or absent, and in the
//! end it is there.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use genebank::digest::{hex, sha256};

use crate::{proxy::Proxy, support::program};

const SEED: u64 = 11;
const KILLS: usize = 50;

/// A process that is killed when this is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    /// Sends SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This fails if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number drawn from the seed.
fn random(label: &str, number: usize, below: u64) -> u64 {
    let digest = sha256(format!("{SEED} {label} {number}").as_bytes());
    u64::from_le_bytes(digest[..8].try_into().unwrap()) % below
}

/// Starts a server and waits until it has loaded its genes.
fn serve(folder: &Path, listen: SocketAddr) -> (Process, SocketAddr) {
    let mut command = program();
    command.arg("serve").arg("--models").arg(folder).args(["--listen", &listen.to_string()]);
    let mut server = Process::start(command.stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address =
        line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it says {line:?}"));
    (server, address.parse().unwrap())
}

fn init(proxy: &Proxy, path: &Path) -> Process {
    let mut command = program();
    Process::start(command.args(["init", "big", "--server", &proxy.url()]).arg("-o").arg(path))
}

/// Watches the final name, where there must never be a partial file.
struct Watch {
    stop: Arc<AtomicBool>,
    watching: Option<std::thread::JoinHandle<Vec<u64>>>,
}

impl Watch {
    fn start(path: PathBuf, size: u64) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let watching = std::thread::spawn(move || {
            let mut parts = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let length = std::fs::metadata(&path).ok().map(|data| data.len());
                parts.extend(length.filter(|length| *length != size));
                std::thread::sleep(Duration::from_millis(1));
            }
            parts
        });
        Self { stop, watching: Some(watching) }
    }

    fn parts(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.take().unwrap().join().unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn fifty_kills_leave_a_whole_file_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let (models, path) = (folder.path().join("models"), folder.path().join("out/m.safetensors"));
    std::fs::create_dir(&models).unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    let mut synthesize = program();
    let shape =
        ["--image-size", "32", "--patch-size", "4", "--classes", "10", "--width", "384", "--heads", "6"];
    synthesize.args(["synthesize", "--depth", "4"]).args(shape).arg(models.join("big.safetensors"));
    assert!(synthesize.output().unwrap().status.success());

    // On a separate address, no other test can take the port between a kill and a start.
    let host = if cfg!(target_os = "linux") { "127.0.0.77:0" } else { "127.0.0.1:0" };
    let (mut server, address) = serve(&models, host.parse().unwrap());
    let proxy = Proxy::start(address);
    let expected = {
        let mut undisturbed = init(&proxy, &path);
        assert!(undisturbed.0.wait().unwrap().success());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(bytes.len() > 20 << 20, "{} bytes are too few to be killed in", bytes.len());
        (bytes.len() as u64, sha256(&bytes))
    };
    let watch = Watch::start(path.clone(), expected.0);
    let verified = |what: &str| {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(hex(&sha256(&bytes)), hex(&expected.1), "{what}");
    };
    let (mut done, mut files) = ([0, 0], 0);
    let mut client = init(&proxy, &path);
    // Some downloads end before the kill, so there are more points than kills.
    for point in 0.. {
        if done.iter().sum::<usize>() == KILLS {
            break;
        }
        proxy.stop_after(1 + random("point", point, expected.0 * 3 / 5));
        if !proxy.stands_still(|| client.has_ended()) {
            proxy.go_on();
            if client.0.wait().unwrap().success() {
                verified("a download that ended");
                std::fs::remove_file(&path).unwrap();
                files += 1;
            }
            client = init(&proxy, &path);
            continue;
        }
        let victim = random("victim", point, 2) as usize;
        if victim == 0 {
            server.kill();
            proxy.go_on();
            server = serve(&models, address).0;
        } else {
            client.kill();
            proxy.go_on();
            client = init(&proxy, &path);
        }
        done[victim] += 1;
    }
    // A client that lost its server too often has given up, so start it again.
    while !client.0.wait().unwrap().success() {
        client = init(&proxy, &path);
    }
    verified("the last download");
    let parts = watch.parts();
    assert!(parts.is_empty(), "under the final name lay {parts:?} bytes of {}", expected.0);
    assert!(done.iter().all(|count| *count > 0), "both are killed: {done:?}");
    assert_eq!(crate::support::entries(path.parent().unwrap()), ["m.safetensors"]);
    println!("kills of server and client: {done:?}; files verified: {}", files + 1);
}

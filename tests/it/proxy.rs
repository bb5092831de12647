//! A proxy between a client and a server, which remembers what was asked and can stop at a byte of the answers.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    passed: Mutex<Passed>,
    changed: Condvar,
}

#[derive(Default)]
struct Passed {
    /// What clients sent.
    asked: Vec<u8>,
    /// Bytes of answers that were handed on.
    answered: u64,
    /// Byte of the answers beyond which none is handed on.
    stop: Option<u64>,
}

impl Proxy {
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // Without a server the connection is dropped, as by a host that is up.
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(upstream)) else { continue };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let state = shared.clone();
                std::thread::spawn(move || pass(from, to, |bytes| state.ask(bytes)));
                let state = shared.clone();
                std::thread::spawn(move || pass(server, client, |bytes| state.answer(bytes)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Methods and paths of the requests of HTTP/1.1 since the last time.
    pub(crate) fn requests(&self) -> Vec<String> {
        let asked = std::mem::take(&mut self.state.passed.lock().unwrap().asked);
        let asked = String::from_utf8_lossy(&asked);
        asked.lines().filter_map(|line| line.strip_suffix(" HTTP/1.1")).map(ToOwned::to_owned).collect()
    }

    /// Hands on `bytes` more of the answers, and no further one.
    pub(crate) fn stop_after(&self, bytes: u64) {
        let mut passed = self.state.passed.lock().unwrap();
        passed.stop = Some(passed.answered + bytes);
        self.state.changed.notify_all();
    }

    /// Waits until it stands still or `ended` says that it never will. Whether it does.
    pub(crate) fn stands_still(&self, mut ended: impl FnMut() -> bool) -> bool {
        let mut passed = self.state.passed.lock().unwrap();
        while passed.stop.is_some_and(|stop| passed.answered < stop) {
            if ended() {
                return false;
            }
            passed = self.state.changed.wait_timeout(passed, Duration::from_millis(20)).unwrap().0;
        }
        true
    }

    /// Hands on everything again.
    pub(crate) fn go_on(&self) {
        self.state.passed.lock().unwrap().stop = None;
        self.state.changed.notify_all();
    }
}

impl State {
    fn ask(&self, bytes: &[u8]) -> usize {
        self.passed.lock().unwrap().asked.extend_from_slice(bytes);
        bytes.len()
    }

    /// How many of `bytes` may pass, once some may.
    fn answer(&self, bytes: &[u8]) -> usize {
        let mut passed = self.passed.lock().unwrap();
        loop {
            let left = passed.stop.map_or(u64::MAX, |stop| stop.saturating_sub(passed.answered));
            let count = left.min(bytes.len() as u64);
            if count > 0 {
                passed.answered += count;
                self.changed.notify_all();
                return count as usize;
            }
            passed = self.changed.wait(passed).unwrap();
        }
    }
}

/// Hands on bytes until one side is gone, as many at a time as `may_pass`.
fn pass(mut from: TcpStream, mut to: TcpStream, may_pass: impl Fn(&[u8]) -> usize) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut bytes = &buffer[..length];
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(may_pass(bytes));
            if to.write_all(now).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            bytes = rest;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

//! A proxy between client and server. It records the requests, and can stop at a given byte of the responses.

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
    /// Bytes from clients.
    asked: Vec<u8>,
    /// Number of response bytes that were forwarded.
    answered: u64,
    /// Number of response bytes after which nothing more is forwarded.
    stop: Option<u64>,
}

impl Proxy {
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // If the server is down, the connection is dropped, as by a host that is up.
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

    /// Methods and paths of the HTTP/1.1 requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        let asked = std::mem::take(&mut self.state.passed.lock().unwrap().asked);
        let asked = String::from_utf8_lossy(&asked);
        asked.lines().filter_map(|line| line.strip_suffix(" HTTP/1.1")).map(ToOwned::to_owned).collect()
    }

    /// Forwards `bytes` more of the responses, and then stops.
    pub(crate) fn stop_after(&self, bytes: u64) {
        let mut passed = self.state.passed.lock().unwrap();
        passed.stop = Some(passed.answered + bytes);
        self.state.changed.notify_all();
    }

    /// Waits until the proxy has stopped, and returns true. Returns false once `ended` returns true.
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

    /// Forwards everything again.
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

    /// Waits until some of `bytes` may pass, and returns how many.
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

/// Forwards bytes until one side closes. `may_pass` says how many may pass at a time.
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

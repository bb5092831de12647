//! The simplest possible server: it writes one response from memory, with a thread for each connection. Its speed is
//! the limit of loopback and client.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use crate::Outcome;

/// Bytes per write.
const CHUNK: usize = 256 << 10;

/// Answers every request with `body` until the process ends; returns the address.
pub(crate) fn serve(body: Vec<u8>) -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let body = Arc::new(body);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let body = body.clone();
            // An error means that the client has left, and only its own thread ends.
            thread::spawn(move || answer(stream, &body));
        }
    });
    Ok(address)
}

fn answer(stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut requests, mut out) = (BufReader::new(stream.try_clone()?), stream);
    let mut line = String::new();
    while requests.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())?;
            body.chunks(CHUNK).try_for_each(|chunk| out.write_all(chunk))?;
        }
        line.clear();
    }
    Ok(())
}

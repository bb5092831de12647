//! nginx as a child process.

use std::{net::TcpStream, path::Path, process::Command, thread::sleep, time::Duration};

use genebank::tensor::codec::write_atomic;

use crate::{Outcome, server::Server};

/// Starts nginx for the files in `www`. `directives` are added to its one server block, after address and root.
pub(crate) fn serve(www: &Path, name: &str, directives: &str) -> Outcome<Server> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (folder, address) = (www.display(), format!("127.0.0.1:{port}"));
    let listen = if directives.contains("ssl_certificate") { "ssl" } else { "" };
    let text = format!(
        "daemon off; worker_processes auto; pid {folder}/{name}.pid; error_log {folder}/{name}.log;\n\
         events {{}}\nhttp {{ access_log off; default_type application/octet-stream;\n\
         server {{ listen {address} {listen}; root {folder}; {directives} }} }}\n"
    );
    let file = www.join(format!("{name}.conf"));
    write_atomic(&file, [text.as_bytes()])?;
    let server = Server::of(Command::new("nginx").arg("-c").arg(&file).spawn()?, address);
    for _ in 0..100 {
        if TcpStream::connect(&server.address).is_ok() {
            return Ok(server);
        }
        sleep(Duration::from_millis(20));
    }
    Err(format!("nginx does not listen on {}", server.address).into())
}

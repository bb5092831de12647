//! What the clients of a server can take from it and from each other, in numbers.

use std::time::Duration;

/// Limits of a server. Every wait for a client has an end here, and whatever a client can hold has a number.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at the same time. Further ones are told about the health of the server, and nothing else.
    pub connections: usize,
    /// Connections of one address at the same time. An IPv6 network of 64 bits counts as one address.
    pub connections_of_one: usize,
    /// Connections beyond these two numbers at the same time. When one more comes, the oldest of them is cut.
    pub spare_connections: usize,
    /// How long a connection is used before its client is asked to open another one.
    pub connection_age: Duration,
    /// Calls at the same time on one HTTP/2 connection.
    pub streams: u32,
    /// Calls at the same time that end when their client ends them: reflection, and watching the health.
    pub open_calls: usize,
    /// Such calls of one address.
    pub open_calls_of_one: usize,
    /// Bytes of the headers of one request over HTTP/2.
    pub head_bytes: u32,
    /// Bytes of all requests with a body that are arriving or being answered.
    pub body_bytes: usize,
    /// Bytes of such requests of one address.
    pub body_bytes_of_one: usize,
    /// How long a connection may take to send the head of its first request, handshake included.
    pub head_timeout: Duration,
    /// How long the body of a request may take to arrive, and the next message of an open call.
    pub body_timeout: Duration,
    /// How long a client may take to read the next 1 MiB of a response.
    pub read_timeout: Duration,
    /// How long a connection is kept without a request.
    pub idle_timeout: Duration,
    /// How long it is kept without a request after it was told to close.
    pub leave_timeout: Duration,
    /// How often an HTTP/2 client is asked for a sign of life.
    pub ping_interval: Duration,
    /// How long that sign may take.
    pub ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            connections_of_one: 1024,
            spare_connections: 64,
            connection_age: Duration::from_hours(1),
            streams: 256,
            open_calls: 64,
            open_calls_of_one: 32,
            head_bytes: 16 << 10,
            body_bytes: 64 << 20,
            body_bytes_of_one: 32 << 20,
            head_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(20),
            read_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(2),
            leave_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// Those of a connection beyond the limit: a few short answers, and it ends.
    pub(super) fn spare(self) -> Self {
        let short = self.leave_timeout;
        let head_timeout = self.head_timeout.min(short);
        Self { connection_age: short, head_timeout, read_timeout: short, idle_timeout: short, ..self }
    }

    /// Those of a connection that was told to close.
    pub(super) fn leaving(self) -> Self {
        Self { head_timeout: self.leave_timeout, idle_timeout: self.leave_timeout, ..self }
    }
}

//! What a client may take from us: time, memory, connections. Each is a setting of the daemon.

use std::time::Duration;

/// Limits of the HTTP face.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a request (or the connection's opening) to the end of its head; also for
    /// the TLS handshake.
    pub header_timeout: Duration,
    /// Bytes of request line and headers together; more is 400 RequestHeaderSectionTooLarge.
    pub header_bytes: usize,
    /// Number of header fields, 256 at most; more is 400, too. S3's 2 KiB of user metadata can be many small fields.
    pub headers: usize,
    /// How long a request body may bring no byte, and how long a client may take none of a response.
    pub body_idle: Duration,
    /// How long a connection may stay open without a request. Longer than a proxy's own, so that the
    /// proxy closes first and never sends into a closing connection.
    pub keep_alive_idle: Duration,
    /// Connections at once; when there are so many, no more are accepted until one ends.
    pub connections: usize,
    /// Streams at once on one HTTP/2 connection.
    pub h2_streams: u32,
    /// How long requests in flight may go on after the shutdown signal.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            header_bytes: 16 << 10,
            headers: 256,
            body_idle: Duration::from_secs(60),
            keep_alive_idle: Duration::from_secs(120),
            connections: 4096,
            h2_streams: 128,
            drain: Duration::from_secs(30),
        }
    }
}

//! The server over real loopback sockets, with services of a few lines behind it.

mod bodies;
mod express;
mod lifecycle;
mod limits;
mod service;
mod tls;
mod writers;

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Drained, Endpoint, Limits, Listener, ServerOptions, Service, run};
use crate::reply::{FileBody, ReplyBody, into_axum};

/// A server that a test started.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<io::Result<Drained>>,
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("the server listens on loopback")
    }

    fn stop(&mut self) {
        self.stop
            .take()
            .expect("stopped once")
            .send(())
            .expect("the server waits for it");
    }

    async fn drained(self) -> Drained {
        self.done
            .await
            .expect("the server does not panic")
            .expect("the server started")
    }
}

fn loopback() -> Listener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    Listener::from_tcp(listener).expect("a listener can be made non-blocking")
}

fn start(limits: Limits, listener: Listener, service: impl Into<Service>) -> Running {
    let Ok(Endpoint::Tcp { address, .. }) = listener.endpoint() else {
        panic!("a TCP listener has an address")
    };
    let (stop, stopped) = oneshot::channel();
    let options = ServerOptions {
        limits,
        ..ServerOptions::default()
    };
    let done = tokio::spawn(run(vec![listener], service.into(), options, async {
        // An error is a dropped sender, thus a test that ended: a reason to stop like the message itself.
        let _ = stopped.await;
    }));
    Running {
        address,
        stop: Some(stop),
        done,
    }
}

fn serve(router: axum::Router) -> Running {
    start(Limits::default(), loopback(), router)
}

/// A router with one fallback, as the gateway has it.
fn answering<F, Fut>(answer: F) -> axum::Router
where
    F: Fn(Request<axum::body::Body>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<ReplyBody>> + Send + 'static,
{
    axum::Router::new().fallback(move |request: Request<axum::body::Body>| {
        let answer = answer(request);
        async move { into_axum(answer.await) }
    })
}

fn reply(status: u16, body: impl Into<ReplyBody>) -> Response<ReplyBody> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status.try_into().expect("a status");
    response
}

/// Bytes that repeat nowhere within a page, so that a shifted or padded body shows.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().expect("the temporary directory takes a file");
    file.write_all(bytes)
        .expect("the temporary file takes its bytes");
    // Old, so that any later write shows in the mtime whatever the clock's granularity.
    file.set_modified(std::time::UNIX_EPOCH)
        .expect("our own file");
    Arc::new(file)
}

/// A run of the file, checked as the store checks it: by size and mtime.
fn lend(file: &Arc<File>, offset: u64, len: u64) -> FileBody {
    let stamp = |file: &File| {
        file.metadata()
            .map(|m| (m.size(), m.mtime(), m.mtime_nsec()))
    };
    let (before, checked) = (stamp(file).expect("fstat"), file.clone());
    FileBody::new(file.clone(), offset, len, move || {
        Ok(stamp(&checked)? == before)
    })
}

fn file_reply(file: &Arc<File>, offset: u64, len: u64) -> Response<ReplyBody> {
    reply(200, ReplyBody::File(lend(file, offset, len)))
}

impl From<FileBody> for ReplyBody {
    fn from(file: FileBody) -> Self {
        Self::File(file)
    }
}

/// A response as it came off the wire.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Bytes,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), request: &str) {
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the server takes the request");
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u16, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).expect("our heads are ASCII");
    let status = head
        .get(9..12)
        .and_then(|text| text.parse().ok())
        .expect("a status line");
    Ok((status, head))
}

async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Got> {
    let (status, head) = read_head(stream).await?;
    let mut got = Got {
        status,
        head,
        body: Bytes::new(),
    };
    let len = got
        .header("content-length")
        .map_or(0, |text| text.parse().expect("a length"));
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    got.body = body.into();
    Ok(got)
}

/// One request on a connection that is kept.
async fn get(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> Got {
    send(stream, &format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).await;
    read_reply(stream).await.expect("a whole reply")
}

/// Everything until the connection ends, by close or reset.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buf = [0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buf).await {
        bytes.extend_from_slice(&buf[..count]);
    }
    bytes
}

//! Replays a plan and checks every answer: status, Content-Length, the bytes received, and, where the plan says
//! so, the bytes themselves. Bodies that are only counted are taken out of the socket without being copied
//! (`MSG_TRUNC`), so that a large GET measures the server and not us; `--copy 1` copies them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Options;
use crate::plan::{self, Request};

/// How much is received or sent by one call.
const STEP: usize = 1 << 20;

/// No answer takes longer: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// What all connections share.
struct Run {
    address: String,
    status: u16,
    copy: bool,
    count: usize,
    requests: Vec<Request>,
    send: Vec<u8>,
    want: Vec<u8>,
    next: AtomicUsize,
    failed: AtomicBool,
}

/// Replays `--plan` until `--requests` were answered, over `--connections`; prints the wall time from the moment
/// when all connections stand to the last byte of the last answer, and what half and 99 of 100 answers took at most.
///
/// # Errors
/// The first answer that is not the expected one, in words.
pub fn run(options: &Options) -> Result<String, String> {
    let file = |name| match options.get(name) {
        None => Ok(Vec::new()),
        Some(path) => std::fs::read(path).map_err(|error| format!("{path}: {error}")),
    };
    let (send, want) = (file("send")?, file("want")?);
    let run = Run {
        address: options.text("address")?.to_owned(),
        status: options.number("status")? as u16,
        copy: options.get("copy").is_some(),
        count: options.number("requests")?,
        requests: plan::parse(&file("plan")?, send.len(), want.len())?,
        send,
        want,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    };
    let connections = options.number("connections")?;
    let barrier = Barrier::new(connections + 1);
    let (wall, results) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| work(&run, &barrier)))
            .collect();
        barrier.wait();
        let started = Instant::now();
        let joined: Vec<_> = threads
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        (started.elapsed(), joined)
    });
    let (mut bytes, mut times) = (0, Vec::new());
    for result in results {
        let (received, took) = result.map_err(|_| "a connection's thread panicked")??;
        bytes += received;
        times.extend(took);
    }
    times.sort_unstable();
    let of_hundred = |share: usize| {
        let at = (times.len() * share).div_ceil(100).max(1) - 1;
        times.get(at).copied().unwrap_or_default().as_secs_f64()
    };
    Ok(format!(
        "{{\"answers\": {}, \"bytes\": {bytes}, \"wall\": {:.6}, \"p50\": {:.6}, \"p99\": {:.6}}}",
        run.count,
        wall.as_secs_f64(),
        of_hundred(50),
        of_hundred(99)
    ))
}

/// One connection: takes the next request until there is none. Gives the bytes of bodies received, and what each answer
/// took, from sending to its last byte.
fn work(run: &Run, barrier: &Barrier) -> Result<(u64, Vec<Duration>), String> {
    let connected = Connection::open(&run.address);
    barrier.wait(); // also without a connection: the others must not wait for ever
    let outcome = connected.and_then(|mut connection| {
        let (mut bytes, mut times) = (0, Vec::new());
        while !run.failed.load(Ordering::Relaxed) {
            let index = run.next.fetch_add(1, Ordering::Relaxed);
            if index >= run.count {
                break;
            }
            let request = &run.requests[index % run.requests.len()];
            let asked = Instant::now();
            let answered = connection.ask(run, request);
            bytes += answered.map_err(|why| {
                let line = request
                    .head
                    .split(|&b| b == b'\r')
                    .next()
                    .unwrap_or_default();
                format!("{}: {why}", String::from_utf8_lossy(line))
            })?;
            times.push(asked.elapsed());
        }
        Ok((bytes, times))
    });
    if outcome.is_err() {
        run.failed.store(true, Ordering::Relaxed);
    }
    outcome
}

struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Result<Self, String> {
        let words = |error| format!("{address}: {error}");
        let socket = TcpStream::connect(address).map_err(words)?;
        socket.set_nodelay(true).map_err(words)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(words)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(words)?;
        Ok(Self {
            socket,
            buffer: vec![0; STEP],
        })
    }

    /// Sends one request and receives its answer; gives the bytes of its body.
    fn ask(&mut self, run: &Run, request: &Request) -> Result<u64, String> {
        let body = &run.send[request.send.0..request.send.0 + request.send.1];
        self.send(&request.head, body)
            .map_err(|error| format!("sending: {error}"))?;
        let (head, mut filled) = self.head()?;
        let answer = Head::parse(&self.buffer[..head])?;
        if answer.status != run.status {
            let text = String::from_utf8_lossy(&self.buffer[..filled]).into_owned();
            return Err(format!(
                "{} instead of {}: {text}",
                answer.status, run.status
            ));
        }
        if answer.close {
            return Err("the server does not keep the connection".into());
        }
        if request
            .length
            .is_some_and(|length| answer.length != Some(length))
        {
            return Err(format!(
                "Content-Length {:?} instead of {:?}",
                answer.length, request.length
            ));
        }
        if request.bodiless || answer.status == 204 {
            return if filled == head {
                Ok(0)
            } else {
                Err("bytes after a head without body".into())
            };
        }
        let length = answer.length.ok_or("an answer without Content-Length")?;
        if (filled - head) as u64 > length {
            return Err("more bytes than Content-Length".into());
        }
        let want = request.want.map(|at| &run.want[at..at + length as usize]);
        let mut got = filled - head;
        if want.is_some_and(|want| want[..got] != self.buffer[head..filled]) {
            return Err("another body than expected".into());
        }
        while (got as u64) < length {
            let step = usize::try_from(length - got as u64).map_or(STEP, |rest| rest.min(STEP));
            if want.is_none() && !run.copy {
                filled = discard(&self.socket, &mut self.buffer[..step])?;
            } else {
                filled = receive(&mut self.socket, &mut self.buffer[..step])?;
            }
            if want.is_some_and(|want| want[got..got + filled] != self.buffer[..filled]) {
                return Err(format!("another body than expected, after {got} bytes"));
            }
            got += filled;
        }
        Ok(length)
    }

    /// A short body goes out with the head, as clients that care do.
    fn send(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        if head.len() + body.len() > STEP / 4 {
            self.socket.write_all(head)?;
            return body
                .chunks(STEP)
                .try_for_each(|piece| self.socket.write_all(piece));
        }
        self.buffer[..head.len()].copy_from_slice(head);
        self.buffer[head.len()..head.len() + body.len()].copy_from_slice(body);
        self.socket
            .write_all(&self.buffer[..head.len() + body.len()])
    }

    /// Receives until a head is complete; gives its length and how much of the buffer is filled.
    fn head(&mut self) -> Result<(usize, usize), String> {
        let mut filled = 0;
        loop {
            // Little at a time: what is received with the head is copied, and a large body's bytes should not be.
            let end = filled + 8192;
            filled += receive(&mut self.socket, &mut self.buffer[filled..end])?;
            let end = self.buffer[..filled]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok((end + 4, filled));
            }
            if filled > 65536 {
                return Err("a head without an end".into());
            }
        }
    }
}

/// What matters of an answer's head.
struct Head {
    status: u16,
    length: Option<u64>,
    close: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a head that is not text")?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let mut head = Self {
            status: status.ok_or("no status line")?,
            length: None,
            close: false,
        };
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                head.length = Some(
                    value
                        .trim()
                        .parse()
                        .map_err(|_| "no number in Content-Length")?,
                );
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.trim().eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}

/// Receives what is there, at least one byte.
fn receive(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, String> {
    match socket.read(buffer) {
        Ok(0) => Err("closed before its end".into()),
        Ok(count) => Ok(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err("no byte within a minute".into())
        }
        Err(error) => Err(format!("receiving: {error}")),
    }
}

unsafe extern "C" {
    fn recv(socket: i32, buffer: *mut u8, length: usize, flags: i32) -> isize;
}

/// Linux: on TCP, takes bytes out of the socket's queue without copying them (tcp(7)).
const MSG_TRUNC: i32 = 0x20;

/// Takes what is there out of the socket, at most the buffer's length; the buffer's bytes mean nothing afterwards.
fn discard(socket: &TcpStream, buffer: &mut [u8]) -> Result<usize, String> {
    // SAFETY: the buffer is ours for the call and as long as we say; the descriptor lives as long as `socket`.
    let count = unsafe {
        recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
            MSG_TRUNC,
        )
    };
    match usize::try_from(count) {
        Ok(0) => Err("closed before its end".into()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("receiving: {}", std::io::Error::last_os_error())),
    }
}

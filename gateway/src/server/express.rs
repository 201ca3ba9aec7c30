//! The express way: a plain GET or HEAD is answered where its head was read, in one write; a plain PUT of a short body
//! is taken in whole, and answered by whoever stores it (`express/put.rs`).
//!
//! A connection in the clear begins here. A head that comes whole, and holds nothing but what [`known`]
//! names, is offered to the service; what it answers is sent at once. The first head of any other kind goes to hyper,
//! as it was received, and with it the connection, until some heads in a row could have gone this way. So no head is
//! ever refused here, and nothing waits but for the socket.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::header::{DATE, SERVER};
use http::{HeaderMap, Method, StatusCode};
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use twintree_store::Timestamp;

use put::{Answered, Receiving, Working};
pub use put::{Answering, Intent};

use super::account::{Account, client_of};
use super::front::{Front, HOST_ID, REQUEST_ID};
use super::limits::Limits;
use super::outgoing::Lent;
use super::request_id::{RequestId, host_id};
use super::socket::Socket;
use crate::date::http_date;
use crate::meta::USER_PREFIX as USER_META;
use crate::reply::{FileBody, Noted};

/// The longest head that is taken here, in bytes, and the most fields of one.
const MAX_HEAD: usize = 4 << 10;
const MAX_FIELDS: usize = 24;
/// The longest body of a PUT, in bytes.
const MAX_BODY: u64 = 64 << 10;
/// How much is read at once: a head and most bodies.
const AT_ONCE: usize = 16 << 10;
/// How many heads in a row bring a connection back here, at first and at most.
const PLAIN_HEADS: u32 = 2;
const MOST_PLAIN_HEADS: u32 = 1024;
/// What a thread keeps of memory for answers, in bytes.
const MAX_KEPT: usize = 128 << 10;

/// A service that can answer at once.
pub trait Express: Send + Sync {
    /// Writes the fields of a head that says 200, an empty line and the body behind what `out` holds. `None`: the
    /// request takes the whole way, as if it had not been here; what `out` holds does not matter.
    fn answer(&self, head: &ExpressHead<'_>, out: &mut Vec<u8>) -> Option<Expressed>;

    /// Says what a PUT asks for, whose body may still be on its way. `None`: as above.
    fn intend(&self, head: &ExpressHead<'_>) -> Option<Box<dyn Intent>>;
}

/// The head of a request on the express way.
#[derive(Debug)]
pub struct ExpressHead<'a> {
    /// GET, HEAD or PUT.
    pub method: Method,
    /// Begins with a slash; still encoded; without a query.
    pub path: &'a str,
    /// Each name once, in lower case; all values are visible ASCII. `host` is there.
    pub fields: &'a [(&'a str, &'a str)],
    /// How many bytes of a body follow it.
    pub body: u64,
    /// When it was read.
    pub received: Timestamp,
    /// Bytes of the head itself.
    len: usize,
}

/// What was answered.
pub struct Expressed {
    /// For the log.
    pub noted: Noted,
    /// Bytes of the body behind the head.
    pub body: usize,
    /// A body that is not there: a file to be sent after the head.
    pub file: Option<FileBody>,
}

/// Where a connection goes on.
pub(crate) enum Left {
    /// Nowhere: it is closed.
    Closed,
    /// With hyper, which is given these bytes first.
    Hyper(Socket, BytesMut),
    /// On the express way.
    Express(Socket),
}

/// A connection on the express way.
pub(crate) struct ExpressWay {
    /// Until it goes to hyper.
    socket: Option<Socket>,
    front: Arc<Front>,
    service: Arc<dyn Express>,
    sending: Option<Sending>,
    receiving: Option<Receiving>,
    /// A request that is performed elsewhere.
    working: Option<Arc<Working>>,
    finishing: bool,
    patience: Patience,
}

/// How many heads in a row that could go the express way bring a connection back to it: where it answered none of
/// them the last time (they ask for what is not there, or not small), twice as many as before.
#[derive(Clone)]
pub(crate) struct Patience(Arc<AtomicU32>);

impl Default for Patience {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(PLAIN_HEADS)))
    }
}

impl Patience {
    /// Is that enough of them?
    pub(crate) fn ends_with(&self, plain_heads: u32) -> bool {
        plain_heads >= self.0.load(Relaxed)
    }

    fn answered(&self) {
        self.0.store(PLAIN_HEADS, Relaxed);
    }

    fn declined(&self) {
        let more = self.0.load(Relaxed).saturating_mul(2);
        self.0.store(more.min(MOST_PLAIN_HEADS), Relaxed);
    }
}

/// An answer that is being sent.
pub(crate) struct Sending {
    bytes: Vec<u8>,
    sent: usize,
    /// What comes after these.
    file: Option<Lent>,
    account: Account,
    /// The connection ends with it.
    last: bool,
}

impl ExpressWay {
    pub(crate) fn new(
        socket: Socket,
        front: Arc<Front>,
        service: Arc<dyn Express>,
        patience: Patience,
    ) -> Self {
        Self {
            socket: Some(socket),
            front,
            service,
            sending: None,
            receiving: None,
            working: None,
            finishing: false,
            patience,
        }
    }

    /// Closes after the answer that is being sent.
    pub(crate) fn end_soon(&mut self) {
        self.finishing = true;
    }

    /// Takes what has come into `room`, and begins to answer it; where it cannot, says where the connection goes on.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<Option<Left>>> {
        let Some(socket) = &self.socket else {
            return Poll::Ready(Ok(Some(Left::Closed)));
        };
        let taken = ready!(socket.poll_take(cx, room))?;
        let read = &room[..taken];
        if read.is_empty() {
            self.finishing = true;
            return Poll::Ready(Ok(None));
        }
        let is_put = read.starts_with(b"PUT /");
        if !is_put {
            self.sending = self.answer(read);
        }
        if self.sending.is_some() {
            return Poll::Ready(Ok(None));
        }
        // Only what is not answered by now is waited for.
        self.front.pulse.received();
        if is_put {
            self.receiving = self.begin_put(read);
        }
        let goes_on = self.receiving.is_some();
        Poll::Ready(Ok((!goes_on).then(|| self.leave(BytesMut::from(read)))))
    }

    /// Answers what was read, if it is one head that can be.
    fn answer(&self, bytes: &[u8]) -> Option<Sending> {
        let limits = &self.front.options.limits;
        with_parsed(bytes, limits, |head| {
            let (started, id) = (Instant::now(), RequestId::next());
            let mut out = take_buffer();
            begin(&mut out, StatusCode::OK, id, head.received);
            // The whole way meets the same panic, and answers for it.
            let answered =
                std::panic::catch_unwind(AssertUnwindSafe(|| self.service.answer(head, &mut out)));
            let Some(Expressed { noted, body, file }) = answered.unwrap_or_default() else {
                keep_buffer(out);
                self.patience.declined();
                return None;
            };
            let mut account = self.open_account(started, id, head.method.clone());
            account.answered(StatusCode::OK, noted);
            account.handed_over(body as u64);
            self.patience.answered();
            let file = file.map(|file| Lent::new(file, &mut account));
            Some(Sending {
                bytes: out,
                sent: 0,
                file,
                account,
                last: false,
            })
        })
    }

    fn open_account(&self, started: Instant, id: RequestId, method: Method) -> Account {
        let trusted = &self.front.options.trusted_proxies;
        // `X-Forwarded-For` is no field of this way.
        let client = client_of(self.front.peer, &HeaderMap::new(), trusted);
        Account::open(self.front.pulse.clone(), started, id, method, client)
    }

    /// Begins a PUT of which these bytes have come, if it is one for here.
    fn begin_put(&self, bytes: &[u8]) -> Option<Receiving> {
        let limits = &self.front.options.limits;
        with_parsed(bytes, limits, |head| {
            let intent = self.service.intend(head);
            if intent.is_none() {
                self.patience.declined();
            }
            Receiving::begin(head, intent?, bytes, limits)
        })
    }

    /// Hands a PUT that has come whole to whoever stores it, and answers through this descriptor.
    fn perform(&self, back: OwnedFd, received: Receiving) -> Arc<Working> {
        let id = RequestId::next();
        let account = self.open_account(received.started(), id, Method::PUT);
        self.patience.answered();
        received.perform(back, id, account)
    }
}

impl ExpressWay {
    /// Goes to hyper, with what was read.
    fn leave(&mut self, read: BytesMut) -> Left {
        let socket = self.socket.take();
        socket.map_or(Left::Closed, |socket| Left::Hyper(socket, read))
    }
}

impl Future for ExpressWay {
    type Output = io::Result<Left>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Left>> {
        let me = self.get_mut();
        // Every turn sends something, reads something, or returns.
        loop {
            let Some(socket) = &mut me.socket else {
                return Poll::Ready(Ok(Left::Closed));
            };
            if let Some(sending) = &mut me.sending {
                let rest = &sending.bytes[sending.sent..];
                if !rest.is_empty() {
                    let sent = match &sending.file {
                        Some(_) => ready!(socket.poll_send_more(cx, rest))?,
                        None => ready!(socket.poll_send(cx, rest))?,
                    };
                    if sent == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    sending.sent += sent;
                } else if let Some(file) = &mut sending.file {
                    ready!(file.poll(socket, cx, &mut sending.account))?;
                    sending.file = None;
                }
                if sending.sent == sending.bytes.len() && sending.file.is_none() {
                    sending.account.whole();
                    me.finishing |= sending.last;
                    keep_buffer(std::mem::take(&mut sending.bytes));
                    me.sending = None;
                }
                continue;
            }
            if let Some(working) = &me.working {
                match ready!(working.poll(socket, cx, me.finishing)) {
                    Answered::Sent { last } => me.finishing |= last,
                    Answered::ToSend(sending) => me.sending = Some(*sending),
                }
                me.working = None;
                continue;
            }
            if let Some(receiving) = &mut me.receiving {
                let whole = ready!(receiving.poll(socket, cx))?;
                let Some(received) = me.receiving.take() else {
                    continue;
                };
                // Where too many files are open, it takes the whole way.
                let back = whole.then(|| socket.second_descriptor().ok()).flatten();
                match back {
                    Some(back) => me.working = Some(me.perform(back, received)),
                    None => return Poll::Ready(Ok(me.leave(received.into_bytes()))),
                }
                continue;
            }
            if me.finishing {
                ready!(Pin::new(&mut *socket).poll_shutdown(cx))?;
                return Poll::Ready(Ok(Left::Closed));
            }
            let next = READ.with_borrow_mut(|room| {
                room.resize(AT_ONCE, 0);
                me.poll_head(cx, room)
            });
            if let Some(left) = ready!(next)? {
                return Poll::Ready(Ok(left));
            }
        }
    }
}

/// Could a request without a body go this way, as far as its head says?
pub(crate) fn takes(bytes: &[u8], limits: &Limits) -> bool {
    with_parsed(bytes, limits, |head| {
        (head.method != Method::PUT).then_some(())
    })
    .is_some()
}

/// Calls `then` with the head, if the bytes are one that may go this way.
fn with_parsed<T>(
    bytes: &[u8],
    limits: &Limits,
    then: impl FnOnce(&ExpressHead<'_>) -> Option<T>,
) -> Option<T> {
    let method = if bytes.starts_with(b"GET /") {
        Method::GET
    } else if bytes.starts_with(b"HEAD /") {
        Method::HEAD
    } else if bytes.starts_with(b"PUT /") {
        Method::PUT
    } else {
        return None;
    };
    let has_body = method == Method::PUT;
    if !has_body && !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let headers = &mut headers[..limits.headers.min(MAX_FIELDS)];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, headers);
    let Ok(httparse::Status::Complete(len)) = parsed else {
        return None;
    };
    let path = request.path.filter(|path| path.bytes().all(is_of_a_path))?;
    if len > limits.header_bytes.min(MAX_HEAD) || request.version != Some(1) {
        return None;
    }
    let mut fields = [("", ""); MAX_FIELDS];
    let mut seen = 0;
    for (count, header) in request.headers.iter().enumerate() {
        let (kind, name) =
            known(header.name).or_else(|| of_a_put(header.name).filter(|_| has_body))?;
        let value = std::str::from_utf8(header.value).ok()?;
        // Without a branch, so that it is done for many bytes at a time.
        let is_plain = value
            .bytes()
            .fold(true, |plain, byte| plain & (b' '..=b'~').contains(&byte));
        let is_second = match kind {
            USERS => fields[..count].iter().any(|(other, _)| *other == name),
            _ => seen & kind != 0,
        };
        let is_odd = match name {
            "connection" => !value.eq_ignore_ascii_case("keep-alive"),
            "expect" => !value.eq_ignore_ascii_case("100-continue"),
            _ => false,
        };
        if !is_plain || is_second || is_odd {
            return None;
        }
        seen |= kind;
        fields[count] = (name, value);
    }
    if seen & HOST == 0 {
        return None;
    }
    let fields = &fields[..request.headers.len()];
    let value_of = |name| fields.iter().find(|(other, _)| *other == name);
    let body = match has_body {
        true => length(value_of("content-length")?.1)?,
        false => 0,
    };
    // What comes behind it is another request.
    if (bytes.len() - len) as u64 > body {
        return None;
    }
    // Who waits for `100 Continue` where no body follows waits in vain: the whole way ends the connection for it.
    if body == 0 && value_of("expect").is_some() {
        return None;
    }
    then(&ExpressHead {
        method,
        path,
        fields,
        body,
        received: Timestamp::now(),
        len,
    })
}

/// The length of a body that may go this way.
fn length(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let length = digits.parse().ok().filter(|_| is_number)?;
    (length <= MAX_BODY).then_some(length)
}

/// The fields that may be there, each with a bit of its own: they say who asks and how, and change nothing about the
/// answer but as the service reads them.
fn known(name: &str) -> Option<(u64, &'static str)> {
    let mut lower = [0; 32];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    Some(match &*lower {
        b"accept" => (1 << 0, "accept"),
        b"accept-encoding" => (1 << 1, "accept-encoding"),
        b"accept-language" => (1 << 2, "accept-language"),
        b"amz-sdk-invocation-id" => (1 << 3, "amz-sdk-invocation-id"),
        b"amz-sdk-request" => (1 << 4, "amz-sdk-request"),
        b"authorization" => (1 << 5, "authorization"),
        b"cache-control" => (1 << 6, "cache-control"),
        b"connection" => (1 << 7, "connection"),
        b"host" => (HOST, "host"),
        b"pragma" => (1 << 9, "pragma"),
        b"user-agent" => (1 << 10, "user-agent"),
        b"x-amz-checksum-mode" => (1 << 11, "x-amz-checksum-mode"),
        b"x-amz-content-sha256" => (1 << 12, "x-amz-content-sha256"),
        b"x-amz-date" => (1 << 13, "x-amz-date"),
        b"x-amz-user-agent" => (1 << 14, "x-amz-user-agent"),
        _ => return None,
    })
}

/// How many bits these take; the bit of `host`; and what all user metadata has.
const KNOWN: usize = 15;
const HOST: u64 = 1 << 8;
const USERS: u64 = 0;

/// The fields that a PUT may have beside these: they say what it stores. User metadata has names of its own, which are
/// taken as they stand where they are in lower case.
fn of_a_put(name: &str) -> Option<(u64, &str)> {
    const NAMES: [&str; 18] = [
        "content-length",
        "content-type",
        "content-md5",
        "expect",
        "x-amz-checksum-crc32",
        "x-amz-checksum-crc32c",
        "x-amz-checksum-crc64nvme",
        "x-amz-checksum-sha1",
        "x-amz-checksum-sha256",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-storage-class",
        "x-amz-acl",
        "x-amz-tagging",
        "content-disposition",
        "content-encoding",
        "content-language",
        "expires",
        "x-amz-website-redirect-location",
    ];
    let mut names = NAMES.iter();
    if let Some(at) = names.position(|known| known.eq_ignore_ascii_case(name)) {
        return Some((1 << (KNOWN + at), NAMES[at]));
    }
    let is_user_meta = name.starts_with(USER_META) && !name.bytes().any(|b| b.is_ascii_uppercase());
    is_user_meta.then_some((USERS, name))
}

/// What a path is made of (RFC 3986, 3.3): no query begins, and no library reads it in another way.
fn is_of_a_path(byte: u8) -> bool {
    const OF_A_PATH: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < table.len() {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let (others, mut at) = (b"/-._~%!$&'()*+,;=:@", 0);
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        table
    };
    OF_A_PATH[usize::from(byte)]
}

/// Writes what every answer begins with.
fn begin(out: &mut Vec<u8>, status: StatusCode, id: RequestId, now: Timestamp) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        let reason = status.canonical_reason().unwrap_or_default();
        out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    }
    let at = out.len() + REQUEST_ID.as_str().len() + ": ".len();
    BEGINNING.with_borrow_mut(|(second, fields)| {
        if *second != now.seconds() || fields.is_empty() {
            *second = now.seconds();
            fields.clear();
            push_field(fields, REQUEST_ID.as_str(), id.as_str().as_bytes());
            push_field(fields, HOST_ID.as_str(), host_id().as_bytes());
            push_field(fields, SERVER.as_str(), b"twintree");
            push_field(fields, DATE.as_str(), http_date(*second).as_bytes());
        }
        out.extend_from_slice(fields);
    });
    let id = id.as_str().as_bytes();
    out[at..at + id.len()].copy_from_slice(id);
}

/// Writes one field of a head.
pub(crate) fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// What was read last.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The second of the last answer, and the fields that it began with: in the same second only the id is another.
    static BEGINNING: RefCell<(i64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
}

fn take_buffer() -> Vec<u8> {
    BUFFER.take()
}

fn keep_buffer(mut buffer: Vec<u8>) {
    if buffer.capacity() <= MAX_KEPT {
        buffer.clear();
        BUFFER.set(buffer);
    }
}

mod put;

#[cfg(test)]
mod tests;

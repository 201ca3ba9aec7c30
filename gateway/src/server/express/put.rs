//! A short PUT on the express way: its head is verified, its body is taken in whole, and whoever stores it answers the
//! client from the thread where that is done. So no thread is woken between the disk and the socket: the connection
//! wakes when the next request comes.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{Method, Response};
use parking_lot::Mutex;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Instant, Sleep};
use twintree_store::Timestamp;

use super::{ExpressHead, Sending, begin, push_field};
use crate::error::{Code, Origin, S3Error, S3Result};
use crate::reply::Noted;
use crate::server::account::Account;
use crate::server::limits::Limits;
use crate::server::request_id::{RequestId, host_id};
use crate::server::socket::Socket;
use crate::service::describe;

/// How long a body may be on its way here: hyper takes over where it lags, with limits of its own.
const LAG: Duration = Duration::from_secs(1);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a PUT asks for, whose head is verified.
pub trait Intent: Send {
    /// Performs it, on a thread of its own: this one does not wait.
    fn perform(self: Box<Self>, body: Bytes, answering: Answering);
}

/// A PUT whose body is on its way.
pub(super) struct Receiving {
    intent: Box<dyn Intent>,
    /// Head and body; of the body `filled` says how much.
    bytes: BytesMut,
    filled: usize,
    head: usize,
    path: Box<str>,
    started: Instant,
    received: Timestamp,
    /// What the client waits for before it sends the body.
    interim: &'static [u8],
    longest: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl Receiving {
    /// Begins with what has come. `None`: it is too much for this machine.
    pub(super) fn begin(
        head: &ExpressHead<'_>,
        intent: Box<dyn Intent>,
        came: &[u8],
        limits: &Limits,
    ) -> Option<Self> {
        let whole = head.len + usize::try_from(head.body).ok()?;
        let mut bytes = BytesMut::with_capacity(whole);
        bytes.extend_from_slice(came);
        bytes.resize(whole, 0);
        let waits = came.len() < whole && head.fields.iter().any(|(name, _)| *name == "expect");
        Some(Self {
            intent,
            bytes,
            filled: came.len(),
            head: head.len,
            path: head.path.into(),
            started: Instant::now(),
            received: head.received,
            interim: if waits { CONTINUE } else { &[] },
            longest: LAG.min(limits.body_idle / 2).min(limits.header_timeout / 2),
            until: None,
        })
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Takes the rest of the body. `false`: hyper is to have what there is.
    pub(super) fn poll(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<bool>> {
        while !self.interim.is_empty() {
            let sent = ready!(Pin::new(&mut *socket).poll_write(cx, self.interim))?;
            if sent == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.interim = &self.interim[sent..];
        }
        while self.filled < self.bytes.len() {
            let mut rest = ReadBuf::new(&mut self.bytes[self.filled..]);
            if Pin::new(&mut *socket)
                .poll_read(cx, &mut rest)?
                .is_pending()
            {
                let longest = self.longest;
                let until = self
                    .until
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
                ready!(until.as_mut().poll(cx));
                return Poll::Ready(Ok(false));
            }
            match rest.filled().len() {
                0 => return Poll::Ready(Ok(false)),
                read => self.filled += read,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Gives what has come, as it came.
    pub(super) fn into_bytes(mut self) -> BytesMut {
        self.bytes.truncate(self.filled);
        self.bytes
    }

    /// Hands it to whoever performs it, with a descriptor to answer through.
    pub(super) fn perform(self, back: OwnedFd, id: RequestId, account: Account) -> Arc<Working> {
        let working = Arc::new(Working::default());
        let body = self.bytes.freeze().split_off(self.head);
        account.took_in(body.len());
        let answering = Answering {
            way: Some(Way {
                account,
                back,
                working: Arc::clone(&working),
            }),
            id,
            path: self.path,
            received: self.received,
        };
        self.intent.perform(body, answering);
        working
    }
}

/// A request that is performed on another thread, as its connection sees it.
#[derive(Default)]
pub(super) struct Working(Mutex<Stands>);

#[derive(Default)]
struct Stands {
    answered: Option<Answered>,
    waker: Option<Waker>,
    /// The connection has nothing else to wait for.
    is_awaited: bool,
}

/// How the client was answered.
pub(super) enum Answered {
    /// The socket took all of it.
    Sent {
        /// The connection ends with it.
        last: bool,
    },
    /// The connection is to send it.
    ToSend(Box<Sending>),
}

impl Working {
    /// Waits for the answer or, since a client that was answered sends its next request, for that.
    pub(super) fn poll(
        &self,
        socket: &Socket,
        cx: &mut Context<'_>,
        is_finishing: bool,
    ) -> Poll<Answered> {
        let mut stands = self.0.lock();
        if let Some(answered) = stands.answered.take() {
            return Poll::Ready(answered);
        }
        stands.waker = Some(cx.waker().clone());
        stands.is_awaited |= is_finishing || socket.poll_read_ready(cx).is_ready();
        Poll::Pending
    }

    fn answered(&self, answered: Answered) {
        let mut stands = self.0.lock();
        let is_awaited = stands.is_awaited || !matches!(answered, Answered::Sent { last: false });
        stands.answered = Some(answered);
        let waker = stands.waker.take().filter(|_| is_awaited);
        drop(stands);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The way back to a client. Where it is dropped, the client is told of an InternalError.
pub struct Answering {
    way: Option<Way>,
    id: RequestId,
    path: Box<str>,
    received: Timestamp,
}

struct Way {
    account: Account,
    back: OwnedFd,
    working: Arc<Working>,
}

impl Answering {
    /// Answers: with what is given, or with the document of the error.
    pub fn answer(mut self, noted: Noted, result: S3Result<Response<Bytes>>) {
        self.send(noted, result);
    }

    fn send(&mut self, mut noted: Noted, result: S3Result<Response<Bytes>>) {
        let Some(Way {
            mut account,
            back,
            working,
        }) = self.way.take()
        else {
            return;
        };
        let reply = result.unwrap_or_else(|error| {
            noted.failure = Some(describe(&error));
            self.document(&error)
        });
        let out = self.written(&reply);
        account.answered(reply.status(), noted);
        account.handed_over(reply.body().len() as u64);
        let last = reply.headers().contains_key(CONNECTION);
        // The peer may be gone; its connection will find that out.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = rustix::net::send(&back, &out, flags).unwrap_or(0);
        if sent == out.len() {
            account.whole();
            drop(account); // the request has ended before its connection goes on
            working.answered(Answered::Sent { last });
        } else {
            working.answered(Answered::ToSend(Box::new(Sending {
                bytes: out,
                sent,
                file: None,
                account,
                last,
            })));
        }
    }

    fn document(&self, error: &S3Error) -> Response<Bytes> {
        let resource = crate::route::percent_decode(&self.path);
        let origin = Origin {
            resource: resource.as_deref().unwrap_or(&self.path),
            request_id: self.id.as_str(),
            host_id: host_id(),
        };
        error.to_response(&origin, &Method::PUT)
    }

    fn written(&self, reply: &Response<Bytes>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + reply.body().len());
        begin(&mut out, reply.status(), self.id, self.received);
        for (name, value) in reply.headers() {
            push_field(&mut out, name.as_str(), value.as_bytes());
        }
        if !reply.headers().contains_key(CONTENT_LENGTH) {
            push_field(&mut out, CONTENT_LENGTH.as_str(), b"0");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(reply.body());
        out
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.way.is_some() {
            tracing::error!(request_id = self.id.as_str(), "a request panicked");
            let error = S3Error::new(Code::InternalError);
            self.send(Noted::default(), Err(error));
        }
    }
}

//! The body of a response as hyper takes it: bytes, or a file by sendfile or by copies.
//!
//! It carries the request's account: how many bytes were handed over, by which way, and the log line
//! that is written when the body ends, is given up, or fails.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::account::Account;
use super::connection_io::{Piece, Pieces};
use super::marker::{SendBuf, WINDOW};
use super::pages::{self, CHUNK, Now};
use super::socket::Socket;
use crate::reply::{FileBody, SentBy};

/// The last bytes of a sendfile body travel alone: the file is checked before them, so that a change
/// under the long run before cuts a response that would else be complete.
const TAIL: u64 = 4096;

/// A response body.
pub(crate) struct Outgoing {
    source: Source,
    account: Account,
}

enum Source {
    Empty,
    Axum(axum::body::Body),
    Send(SendFile),
    Copy(CopyFile),
}

impl Outgoing {
    /// No bytes, whatever the head says: HEAD, 204, 304.
    pub(crate) fn empty(mut account: Account) -> Self {
        account.sent_by(SentBy::Nothing);
        account.whole();
        Self {
            source: Source::Empty,
            account,
        }
    }

    /// The bytes of an axum body.
    pub(crate) fn axum(body: axum::body::Body, mut account: Account) -> Self {
        if body.is_end_stream() {
            return Self::empty(account);
        }
        account.offer(0);
        Self {
            source: Source::Axum(body),
            account,
        }
    }

    /// A file, by sendfile where the connection has pieces and the file is local, else by copies.
    pub(crate) fn file(file: FileBody, pieces: Option<Pieces>, mut account: Account) -> Self {
        let cursor = Cursor::of(file);
        account.offer(0);
        let source = match pieces {
            Some(pieces) if !cursor.file.remote && !cursor.file.copied => {
                account.sent_by(SentBy::Sendfile);
                Source::Send(SendFile { cursor, pieces })
            }
            _ => {
                account.sent_by(if cursor.file.remote {
                    SentBy::Blocking
                } else {
                    SentBy::Nowait
                });
                Source::Copy(CopyFile {
                    cursor,
                    waits: false,
                })
            }
        };
        Self { source, account }
    }
}

impl Body for Outgoing {
    type Data = SendBuf;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<SendBuf>, io::Error>>> {
        let me = self.get_mut();
        me.account.taken();
        let next = ready!(match &mut me.source {
            Source::Empty => Poll::Ready(None),
            Source::Axum(body) => poll_axum(body, cx),
            Source::Send(send) => send.poll_next(cx, &mut me.account),
            Source::Copy(copy) => copy.poll_next(cx, &mut me.account),
        });
        match &next {
            Some(Ok(buf)) => me.account.handed_over(bytes::Buf::remaining(buf) as u64),
            Some(Err(error)) => me.account.failed(error),
            None => me.account.whole(),
        }
        // hyper asks for no more where it knows that there is none.
        if matches!(next, Some(Ok(_))) && me.is_end_stream() {
            me.account.whole();
        }
        Poll::Ready(next.map(|result| result.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Axum(body) => body.is_end_stream(),
            Source::Send(SendFile { cursor, .. }) | Source::Copy(CopyFile { cursor, .. }) => {
                cursor.left == 0
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Axum(body) => body.size_hint(),
            Source::Send(SendFile { cursor, .. }) | Source::Copy(CopyFile { cursor, .. }) => {
                SizeHint::with_exact(cursor.left)
            }
        }
    }
}

/// A body for HTTP/2, whose encoder copies short frames into a buffer of its own, where the connection would see
/// no marker any more: it hands out bytes only, and fails where a marker comes.
pub(crate) struct WithoutMarkers(pub(crate) Outgoing);

impl Body for WithoutMarkers {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let next = ready!(Pin::new(&mut self.get_mut().0).poll_frame(cx));
        Poll::Ready(next.map(|frame| match frame?.into_data() {
            Ok(SendBuf::Bytes(bytes)) => Ok(Frame::data(bytes)),
            Ok(SendBuf::File(_)) => Err(io::Error::other(
                "a marker reached an HTTP/2 stream, which cannot send files",
            )),
            Err(_trailers) => Err(io::Error::other("no operation answers with trailers")),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

type Next = Poll<Option<io::Result<SendBuf>>>;

fn poll_axum(body: &mut axum::body::Body, cx: &mut Context<'_>) -> Next {
    loop {
        return Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(io::Error::other(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => Some(Ok(SendBuf::Bytes(bytes))),
                Err(_trailers) => continue, // no operation answers with trailers
            },
        });
    }
}

/// Where in its file a body stands.
struct Cursor {
    file: Arc<FileBody>,
    at: u64,
    left: u64,
    /// A thread of the blocking pool at work on the next run.
    waiting: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Cursor {
    fn of(file: FileBody) -> Self {
        Self {
            at: file.offset,
            left: file.len,
            file: Arc::new(file),
            waiting: None,
        }
    }

    fn on_the_pool(
        &mut self,
        work: impl FnOnce(&FileBody, u64) -> io::Result<Bytes> + Send + 'static,
    ) {
        let (file, at) = (self.file.clone(), self.at);
        self.waiting = Some(crate::pool::on_pool(move || work(&file, at)));
    }

    /// The result of the thread at work, `None` where there is none.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(task) = &mut self.waiting else {
            return Poll::Ready(None);
        };
        let result = ready!(Pin::new(task).poll(cx));
        self.waiting = None;
        // A panic in the pool, or a runtime that is shutting down: this response is cut.
        Poll::Ready(Some(
            result.unwrap_or_else(|error| Err(io::Error::other(error))),
        ))
    }

    fn step(&mut self, count: usize) {
        self.at += count as u64;
        self.left -= count as u64;
    }
}

/// A file by sendfile: each run is a piece in the connection's queue and a marker in hyper's.
struct SendFile {
    cursor: Cursor,
    pieces: Pieces,
}

impl SendFile {
    fn poll_next(&mut self, cx: &mut Context<'_>, account: &mut Account) -> Next {
        let cursor = &mut self.cursor;
        if cursor.left == 0 {
            return Poll::Ready(None);
        }
        let body = cursor.left.saturating_sub(TAIL);
        let run = if body == 0 {
            cursor.left
        } else {
            body.min(WINDOW as u64)
        };
        let run = usize::try_from(run).expect("a run is at most a window");
        loop {
            match ready!(cursor.poll_waiting(cx)) {
                Some(Ok(_loaded)) => break,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // sendfile would wait for the disk on this thread: a thread that may wait loads the pages first.
                None if !pages::are_cached(&cursor.file.file, cursor.at, run) => {
                    account.hopped();
                    cursor.on_the_pool(move |file, at| {
                        pages::load(&file.file, at, run).map(|()| Bytes::new())
                    });
                }
                None => break,
            }
        }
        self.pieces.push(Piece {
            file: cursor.file.clone(),
            offset: cursor.at,
            len: run,
        });
        cursor.step(run);
        Poll::Ready(Some(Ok(SendBuf::File(run))))
    }
}

/// A file by sendfile, without hyper.
pub(crate) struct Lent {
    send: SendFile,
    /// Bytes of the front piece that are still to be sent.
    left: usize,
}

impl Lent {
    pub(crate) fn new(file: FileBody, account: &mut Account) -> Self {
        account.sent_by(SentBy::Sendfile);
        let (cursor, pieces) = (Cursor::of(file), Pieces::default());
        Self {
            send: SendFile { cursor, pieces },
            left: 0,
        }
    }

    /// Sends as much as the socket takes; ready at the end of the file's bytes.
    pub(crate) fn poll(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        account: &mut Account,
    ) -> Poll<io::Result<()>> {
        // Every turn sends something, or returns.
        loop {
            if self.left == 0 {
                match ready!(self.send.poll_next(cx, account)) {
                    None => return Poll::Ready(Ok(())),
                    Some(Err(error)) => {
                        account.failed(&error);
                        return Poll::Ready(Err(error));
                    }
                    Some(Ok(run)) => self.left = bytes::Buf::remaining(&run),
                }
                account.handed_over(self.left as u64);
            }
            let (pieces, left) = (&self.send.pieces, self.left);
            self.left -= ready!(socket.poll_try_write(cx, |socket| pieces.send(socket, left)))?;
        }
    }
}

/// A file by copies: from the page cache on this thread, on the blocking pool where that would wait.
struct CopyFile {
    cursor: Cursor,
    /// The try on this thread would have waited: the next read belongs to the pool.
    waits: bool,
}

impl CopyFile {
    fn poll_next(&mut self, cx: &mut Context<'_>, account: &mut Account) -> Next {
        let cursor = &mut self.cursor;
        if cursor.left == 0 {
            return Poll::Ready(None);
        }
        let run = usize::try_from(cursor.left).map_or(CHUNK, |left| left.min(CHUNK));
        let bytes = loop {
            match ready!(cursor.poll_waiting(cx)) {
                Some(result) => break result,
                None if cursor.file.remote || self.waits => {
                    self.waits = false;
                    account.hopped();
                    cursor.on_the_pool(move |file, at| {
                        let bytes = pages::read_waiting(&file.file, at, run)?;
                        file.check()?;
                        Ok(bytes)
                    });
                }
                None => match read_checked(&cursor.file, cursor.at, run) {
                    Ok(Now::Read(bytes)) => break Ok(bytes),
                    Ok(Now::WouldWait) => self.waits = true,
                    Err(error) => break Err(error),
                },
            }
        };
        if let Ok(bytes) = &bytes {
            cursor.step(bytes.len());
        }
        Poll::Ready(Some(bytes.map(SendBuf::Bytes)))
    }
}

/// Reads first and checks then: what is handed over was read while the file was what it was.
fn read_checked(file: &FileBody, at: u64, len: usize) -> io::Result<Now> {
    let read = pages::read_now(&file.file, at, len)?;
    file.check()?;
    Ok(read)
}

//! Stands between a socket and hyper's HTTP/1.1, and lets no head through that `head.rs` refuses.
//!
//! Heads are judged where they lie and bodies pass by their length, chunk by chunk where they come so: what follows a
//! body is a head again. In place of a refused head hyper is given one of ours, and the service, which is told so
//! ([`Refusals`]), answers it in its turn: with a document, an id and a line in the log. Nothing behind it is read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use parking_lot::Mutex;

use super::chunk_walk::ChunkWalk;
use super::express;
use super::head::{Framing, Judged, Refusal, judge, max_bytes};
use super::limits::Limits;

/// How much is asked for of a head that came in part.
const STEP: usize = 8 << 10;

/// Where the service finds why the request that it is given is none.
#[derive(Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<Option<Refusal>>>);

impl Refusals {
    /// Takes the refusal of the request that hyper has just read. To be asked when hyper calls the service and not
    /// later: it reads on while the service is at work.
    pub(crate) fn take(&self) -> Option<Refusal> {
        self.0.lock().take()
    }
}

/// What the connection may know of its screen while hyper has it.
#[derive(Default)]
pub(crate) struct Lookout {
    /// Nothing of a request is here, and hyper waits for one (or for the end).
    waits: AtomicBool,
    /// Writes so far, and whether the last of them was flushed.
    writes: AtomicU64,
    unflushed: AtomicBool,
    /// Heads in a row that could have gone the express way.
    plain: AtomicU32,
    /// hyper closes the connection.
    closing: AtomicBool,
}

impl Lookout {
    /// Is the connection between two requests, as far as its IO shows? Gives the writes so far.
    pub(crate) fn is_between_requests(&self) -> Option<u64> {
        let between = self.waits.load(Relaxed)
            && !self.unflushed.load(Relaxed)
            && !self.closing.load(Relaxed);
        between.then(|| self.writes.load(Relaxed))
    }

    /// How many of the last heads could have gone the express way.
    pub(crate) fn plain_heads(&self) -> u32 {
        self.plain.load(Relaxed)
    }

    fn writes(&self) {
        self.writes.fetch_add(1, Relaxed);
        self.unflushed.store(true, Relaxed);
    }
}

/// What comes behind the bytes that are known.
#[derive(Clone, Copy)]
enum Next {
    Head,
    Chunks(ChunkWalk),
    /// What hyper ends by itself.
    Anything,
    /// Nothing that anybody will read.
    Nothing,
}

/// An IO whose heads are judged.
pub(crate) struct Screen<Io> {
    io: Io,
    limits: Limits,
    refusals: Refusals,
    lookout: Arc<Lookout>,
    /// Bytes that came and that hyper does not have yet.
    held: BytesMut,
    /// How much of a head in `held` was judged, and was a part only.
    judged: usize,
    /// So many bytes pass unseen: the rest of a judged head, of a body.
    known: u64,
    next: Next,
}

impl<Io> Screen<Io> {
    /// Screens `io`, and before it what was `read` from it; why a head was refused goes to `refusals`.
    pub(crate) fn new(io: Io, read: BytesMut, limits: Limits, refusals: Refusals) -> Self {
        Self {
            io,
            limits,
            refusals,
            lookout: Arc::default(),
            held: read,
            judged: 0,
            known: 0,
            next: Next::Head,
        }
    }

    /// What may be known of it from outside.
    pub(crate) fn lookout(&self) -> Arc<Lookout> {
        Arc::clone(&self.lookout)
    }

    /// The IO, between two requests.
    pub(crate) fn into_io(self) -> Io {
        self.io
    }

    fn is_at_head(&self) -> bool {
        self.known == 0 && matches!(self.next, Next::Head)
    }

    /// Judges a head; says whether there is something to pass, be it ours.
    fn judge(&mut self, bytes: &[u8]) -> Option<Refusal> {
        match judge(bytes, &self.limits) {
            Judged::Partial => {}
            Judged::Whole { len, body } => {
                let (length, next) = match body {
                    Framing::Length(length) => (length, Next::Head),
                    Framing::Chunked => (0, Next::Chunks(ChunkWalk::default())),
                };
                self.known = length.saturating_add(len as u64);
                self.next = next;
                let plain = match express::takes(bytes, &self.limits) {
                    true => self.lookout.plain_heads().saturating_add(1),
                    false => 0,
                };
                self.lookout.plain.store(plain, Relaxed);
            }
            Judged::Http2 => self.next = Next::Anything,
            Judged::Refused(refusal) => return Some(refusal),
        }
        None
    }

    /// Puts a head of ours in the place of all that came.
    fn refuse(&mut self, refusal: Refusal) {
        let head: &[u8] = if refusal.method == http::Method::HEAD {
            b"HEAD / HTTP/1.1\r\nhost: refused\r\n\r\n"
        } else {
            b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n"
        };
        self.held = BytesMut::from(head);
        self.known = head.len() as u64;
        self.next = Next::Nothing;
        *self.refusals.0.lock() = Some(refusal);
    }

    /// Says how many of these bytes hyper is given now: never any beyond the end of a body.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let known = usize::try_from(self.known)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        self.known -= known as u64;
        let rest = &bytes[known..];
        match &mut self.next {
            Next::Head | Next::Nothing => known,
            Next::Anything => bytes.len(),
            Next::Chunks(walk) => {
                let walked = walk.walk(rest);
                match walk {
                    ChunkWalk::Ended => self.next = Next::Head,
                    ChunkWalk::Broken => self.next = Next::Anything,
                    _ => {}
                }
                known + walked
            }
        }
    }

    /// Judges the head in `held`, once it may be whole.
    fn judge_held(&mut self) {
        while let [b'\n', ..] | [b'\r', b'\n', ..] = self.held[..] {
            // Empty lines ahead of a request mean nothing; not kept, they cannot be judged again and again.
            self.held.advance(if self.held[0] == b'\n' { 1 } else { 2 });
            self.judged = 0;
        }
        let fresh = &self.held[self.judged.saturating_sub(3)..];
        if self.judged > 0 && !may_end(fresh) && self.held.len() < max_bytes(&self.limits) {
            self.judged = self.held.len();
            return;
        }
        let held = std::mem::take(&mut self.held);
        self.judged = held.len();
        match self.judge(&held) {
            Some(refusal) => self.refuse(refusal),
            None => self.held = held,
        }
        if !self.is_at_head() {
            self.judged = 0;
        }
    }

    /// Gives hyper what it may have of `held`.
    fn deliver(&mut self, cursor: &mut ReadBufCursor<'_>) {
        let mut held = std::mem::take(&mut self.held);
        let passed = self.pass(&held[..held.len().min(cursor.remaining())]);
        cursor.put_slice(&held[..passed]);
        held.advance(passed);
        if !held.is_empty() {
            self.held = held; // else its memory goes: an idle connection holds none
        }
    }
}

/// May a head end here? (A parse of all that came would cost the square of a head that comes byte by byte.)
fn may_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

impl<Io: Read + Unpin> Screen<Io> {
    /// Reads into hyper's own buffer, and holds back what must not pass yet. `None`: nothing passed.
    fn poll_direct(
        &mut self,
        cx: &mut Context<'_>,
        cursor: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<Option<()>>> {
        // SAFETY: the slice is only handed to ReadBuf::uninit, which never de-initialises bytes of it.
        let mut buf = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(Pin::new(&mut self.io).poll_read(cx, buf.unfilled()))?;
        let bytes = buf.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(Some(())));
        }
        if self.is_at_head() {
            if let Some(refusal) = self.judge(bytes) {
                self.refuse(refusal);
                return Poll::Ready(Ok(None));
            }
            if self.is_at_head() {
                self.judged = bytes.len();
            }
        }
        let passed = self.pass(bytes);
        self.held.extend_from_slice(&bytes[passed..]);
        // SAFETY: `buf` covered the cursor's slice, and its first `passed` bytes are filled.
        unsafe { cursor.advance(passed) };
        Poll::Ready(Ok((passed > 0).then_some(())))
    }

    /// Reads on where a part of a head is held; says whether there is more to come.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); STEP];
        let mut buf = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, buf.unfilled()))?;
        self.held.extend_from_slice(buf.filled());
        Poll::Ready(Ok(!buf.filled().is_empty()))
    }
}

impl<Io: Read + Unpin> Read for Screen<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let read = me.poll_next(cx, cursor);
        let waits = read.is_pending() && me.is_at_head() && me.held.is_empty();
        me.lookout.waits.store(waits, Relaxed);
        read
    }
}

impl<Io: Read + Unpin> Screen<Io> {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self;
        // Every turn reads something, or returns, or passes something in the next.
        loop {
            if me.held.is_empty() {
                if matches!(me.next, Next::Nothing) {
                    return Poll::Pending; // the answer ends the connection; no end of the stream may end it first
                }
                match ready!(me.poll_direct(cx, &mut cursor))? {
                    Some(()) => return Poll::Ready(Ok(())),
                    None => continue,
                }
            }
            if me.is_at_head() {
                me.judge_held();
            }
            if me.is_at_head() {
                // Also where only empty lines were held: to pass nothing would be to say that nothing more comes.
                if ready!(me.poll_more(cx))? {
                    continue;
                }
                me.judged = 0; // what is wrong in it may have come behind what was judged
                me.judge_held();
                if me.is_at_head() {
                    me.next = Next::Anything; // a head without its end is hyper's to forget
                    continue;
                }
            }
            me.deliver(&mut cursor);
            return Poll::Ready(Ok(()));
        }
    }
}

impl<Io: Write + Unpin> Write for Screen<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        me.lookout.writes();
        Pin::new(&mut me.io).poll_write(cx, buf)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        me.lookout.writes();
        Pin::new(&mut me.io).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let flushed = Pin::new(&mut me.io).poll_flush(cx);
        if flushed.is_ready() {
            me.lookout.unflushed.store(false, Relaxed);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        me.lookout.closing.store(true, Relaxed);
        Pin::new(&mut me.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

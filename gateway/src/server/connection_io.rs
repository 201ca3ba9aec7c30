//! The two ends of hyper's connections: one that turns markers into sendfile, one that refuses them.
//!
//! [`PlainIo`] carries HTTP/1.1 in the clear. It sends what precedes a marker with MSG_MORE and the
//! marker's bytes by sendfile from the connection's next [`Piece`], or by copies where there is no sendfile. [`GuardedIo`] carries everything
//! else (TLS, HTTP/2). A marker where no file can be sent fails the connection: its bytes are zeros,
//! and a client must never take them for an object.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::marker::is_marker;
use super::socket::Socket;
use crate::reply::FileBody;

/// Bytes that are copied at once where sendfile is not to be had.
const COPIED: usize = 64 << 10;

/// The file bytes that one marker stands for.
pub(crate) struct Piece {
    pub(crate) file: Arc<FileBody>,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

impl Piece {
    /// Sends its first bytes without sendfile; 0: the file ends before them.
    fn copy(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut bytes = vec![0; self.len.min(COPIED)];
        let read = rustix::io::pread(&self.file.file, &mut bytes, self.offset)?;
        self.file.check()?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = rustix::net::send(socket, &bytes[..read], flags)?;
        self.offset += sent as u64;
        Ok(sent)
    }
}

/// The pieces of one connection, in the order of their markers.
#[derive(Clone, Default)]
pub(crate) struct Pieces(Arc<Mutex<VecDeque<Piece>>>);

impl Pieces {
    /// Queues the piece of the marker that is yielded next.
    pub(crate) fn push(&self, piece: Piece) {
        self.0.lock().push_back(piece);
    }

    /// Sends from the front piece; `marker` bytes are what hyper believes to be left of it.
    pub(super) fn send(&self, socket: BorrowedFd<'_>, marker: usize) -> io::Result<usize> {
        let mut queue = self.0.lock();
        let Some(piece) = queue.front_mut().filter(|piece| piece.len == marker) else {
            return Err(io::Error::other(
                "a marker without its piece: the response is out of step",
            ));
        };
        piece.file.check()?;
        // Linux: sendfile has no MSG_NOSIGNAL; it relies on SIGPIPE being ignored, as Rust's runtime does.
        let sent = match rustix::fs::sendfile(
            socket,
            &piece.file.file,
            Some(&mut piece.offset),
            piece.len,
        ) {
            // A filesystem that cannot, or a sandbox that forbids it; its pages are in memory by now.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                piece.copy(socket)?
            }
            sent => sent?,
        };
        if sent == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file shrank while it was sent",
            ));
        }
        piece.len -= sent;
        if piece.len == 0 {
            queue.pop_front();
        }
        Ok(sent)
    }
}

/// A plain HTTP/1.1 connection.
pub(crate) struct PlainIo {
    socket: Socket,
    pieces: Pieces,
}

impl PlainIo {
    /// Joins the socket with the pieces that its responses push.
    pub(crate) fn new(socket: Socket, pieces: Pieces) -> Self {
        Self { socket, pieces }
    }

    /// The socket, where no piece is on its way.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

impl hyper::rt::Read for PlainIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        poll_read_into(Pin::new(&mut self.get_mut().socket), cx, cursor)
    }
}

impl hyper::rt::Write for PlainIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        refuse_marker(buf)?;
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let Some(marker) = bufs.iter().position(|buf| is_marker(buf)) else {
            return Pin::new(&mut me.socket).poll_write_vectored(cx, bufs);
        };
        let prefix: usize = bufs[..marker].iter().map(|buf| buf.len()).sum();
        let mut sent = 0;
        // Every turn sends something, or returns, or clears the socket's readiness and so returns in the next.
        loop {
            match me.socket.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending if sent > 0 => return Poll::Ready(Ok(sent)), // hyper comes back for the rest
                Poll::Pending => return Poll::Pending,
            }
            let step = me.socket.try_write(|socket| {
                if sent < prefix {
                    // Linux: MSG_MORE holds the head back, so that it leaves in one segment with the body.
                    let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                    let nothing = &mut rustix::net::SendAncillaryBuffer::default();
                    Ok(rustix::net::sendmsg(
                        socket,
                        &bufs[..marker],
                        nothing,
                        flags,
                    )?)
                } else {
                    me.pieces.send(socket, bufs[marker].len())
                }
            });
            match step {
                Ok(count) => {
                    sent += count;
                    if sent != prefix || prefix == 0 {
                        return Poll::Ready(Ok(sent));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// Any other connection: copies bytes, refuses markers.
pub(crate) struct GuardedIo<S>(pub(crate) S);

impl<S: AsyncRead + Unpin> hyper::rt::Read for GuardedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        poll_read_into(Pin::new(&mut self.get_mut().0), cx, cursor)
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for GuardedIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        refuse_marker(buf)?;
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        bufs.iter().try_for_each(|buf| refuse_marker(buf))?;
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

fn refuse_marker(buf: &[u8]) -> io::Result<()> {
    if is_marker(buf) {
        return Err(io::Error::other(
            "a marker reached a connection that cannot send files",
        ));
    }
    Ok(())
}

fn poll_read_into<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    mut cursor: ReadBufCursor<'_>,
) -> Poll<io::Result<()>> {
    // SAFETY: the slice is only handed to ReadBuf::uninit, which never de-initialises bytes of it.
    let mut buf = ReadBuf::uninit(unsafe { cursor.as_mut() });
    ready!(stream.poll_read(cx, &mut buf))?;
    let filled = buf.filled().len();
    // SAFETY: ReadBuf says that its first `filled` bytes are initialised, and it covers the cursor's slice.
    unsafe { cursor.advance(filled) };
    Poll::Ready(Ok(()))
}

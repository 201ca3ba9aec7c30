//! A connected stream socket, TCP or Unix, with the connection's pulse on it.
//!
//! Knows neither HTTP nor TLS. Closing lingers while a peer still sends a head or a body that nobody
//! will read: closing at once would answer with a reset, which destroys the error reply on its way.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

use super::pulse::Pulse;

/// How long, and for how many bytes, closing waits for the peer to stop sending.
const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected socket.
pub(crate) struct Socket {
    stream: Stream,
    pulse: Arc<Pulse>,
    closing: Closing,
}

enum Closing {
    No,
    Lingers {
        until: Pin<Box<Sleep>>,
        budget: usize,
    },
}

impl Socket {
    /// Takes a TCP connection and turns Nagle's algorithm off (on, it costs a third of the small GETs).
    ///
    /// # Errors
    /// What setting the option says; the peer may be gone already.
    pub(crate) fn tcp(stream: TcpStream, pulse: Arc<Pulse>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: Stream::Tcp(stream),
            pulse,
            closing: Closing::No,
        })
    }

    /// Takes a Unix connection.
    pub(crate) fn unix(stream: UnixStream, pulse: Arc<Pulse>) -> Self {
        Self {
            stream: Stream::Unix(stream),
            pulse,
            closing: Closing::No,
        }
    }

    /// Gives a second descriptor of the socket, for another thread.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub(crate) fn second_descriptor(&self) -> io::Result<OwnedFd> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd().try_clone_to_owned(),
            Stream::Unix(stream) => stream.as_fd().try_clone_to_owned(),
        }
    }

    /// Waits until there is something to read, or the peer has closed.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Waits until the kernel takes bytes again.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = match &self.stream {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Unix(stream) => stream.poll_write_ready(cx),
        };
        if ready.is_pending() {
            self.pulse.write_blocked();
        }
        ready
    }

    /// Runs one write system call; `WouldBlock` from it clears the readiness.
    ///
    /// # Errors
    /// What the call says.
    pub(crate) fn try_write(
        &self,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let sent = match &self.stream {
            Stream::Tcp(stream) => stream.try_io(Interest::WRITABLE, || call(stream.as_fd())),
            Stream::Unix(stream) => stream.try_io(Interest::WRITABLE, || call(stream.as_fd())),
        };
        if sent.is_ok() {
            self.pulse.write_progressed();
        }
        sent
    }

    /// Runs one write system call once the kernel takes bytes, and again where it was interrupted.
    pub(crate) fn poll_try_write(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        // Every turn returns, or clears the readiness and so returns in the next.
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_write(&mut call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Sends bytes that more will follow. Linux: MSG_MORE holds them back, so that they leave in one segment with it.
    pub(crate) fn poll_send_more(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        self.poll_try_write(cx, |socket| Ok(rustix::net::send(socket, bytes, flags)?))
    }

    /// Sends bytes once the kernel takes some.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        self.poll_try_write(cx, |socket| Ok(rustix::net::send(socket, bytes, flags)?))
    }

    /// Takes what has come, once something has, and says how many bytes; 0: the peer sends no more. The pulse learns of
    /// them from the caller.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // Every turn returns, or clears the readiness and so returns in the next.
        loop {
            let (mut taken, size) = (0, room.len());
            let mut call = |socket: BorrowedFd<'_>| {
                (taken, _) = rustix::net::recv(socket, &mut *room, RecvFlags::DONTWAIT)?;
                match taken {
                    // There was no more: were it still ready, the next look would ask the kernel in vain.
                    1.. if taken < size => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            };
            let tried = match &self.stream {
                Stream::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || call(stream.as_fd()))
                }
                Stream::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || call(stream.as_fd()))
                }
            };
            match tried {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                _ => return Poll::Ready(Ok(taken)),
            }
        }
    }

    fn note_write(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.pulse.write_blocked(),
            Poll::Ready(Ok(_)) => self.pulse.write_progressed(),
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.pulse.received();
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.note_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // nothing is buffered on our side of the socket
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.closing, Closing::No) {
            match &mut self.stream {
                Stream::Tcp(stream) => ready!(Pin::new(stream).poll_shutdown(cx))?,
                Stream::Unix(stream) => ready!(Pin::new(stream).poll_shutdown(cx))?,
            }
            if !self.pulse.leaves_unread() {
                return Poll::Ready(Ok(()));
            }
            let until = Box::pin(tokio::time::sleep(LINGER_TIME));
            self.closing = Closing::Lingers {
                until,
                budget: LINGER_BYTES,
            };
        }
        self.poll_linger(cx).map(Ok)
    }
}

impl Socket {
    /// Reads and forgets until the peer closes, fails, or has had its time and bytes.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0u8; 16 << 10];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            let result = match &mut self.stream {
                Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buf),
                Stream::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            };
            let Closing::Lingers { until, budget } = &mut self.closing else {
                return Poll::Ready(());
            };
            match result {
                Poll::Pending => return until.as_mut().poll(cx),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    *budget = budget.saturating_sub(buf.filled().len());
                    if buf.filled().is_empty() || *budget == 0 || until.as_mut().poll(cx).is_ready()
                    {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

//! The body of a request as operations read it: with a limit on silence, and given back when an
//! operation leaves it unread, so that the connection can stay in step.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::pulse::Pulse;

/// A request body that fails with `TimedOut` when no byte came for the idle limit.
pub(crate) struct IncomingBody {
    /// `Some` until dropped.
    inner: Option<Incoming>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    ended: bool,
    leftover: Leftover,
}

/// Where a body that was not read to its end is found again.
#[derive(Clone)]
pub(crate) struct Leftover {
    slot: Arc<Mutex<Option<Incoming>>>,
    pulse: Arc<Pulse>,
}

impl Leftover {
    /// An empty place for the body of one request.
    pub(crate) fn new(pulse: Arc<Pulse>) -> Self {
        Self {
            slot: Arc::default(),
            pulse,
        }
    }

    /// Takes the unread rest, if there is one and its reader has let go of it.
    pub(crate) fn take(&self) -> Option<Incoming> {
        self.slot.lock().take()
    }
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// The client sent nothing for too long.
    #[error("no byte of the body came for {} s", .0.as_secs())]
    Idle(Duration),
    /// The client closed or broke the framing.
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

impl From<IncomingError> for io::Error {
    fn from(error: IncomingError) -> Self {
        let kind = match error {
            IncomingError::Idle(_) => io::ErrorKind::TimedOut,
            IncomingError::Broken(_) => io::ErrorKind::UnexpectedEof,
        };
        io::Error::new(kind, error)
    }
}

impl IncomingBody {
    /// Wraps a body; what is left of it when this is dropped goes to `leftover`.
    pub(crate) fn new(inner: Incoming, idle: Duration, leftover: Leftover) -> Self {
        Self {
            inner: Some(inner),
            idle,
            timer: None,
            waiting: false,
            ended: false,
            leftover,
        }
    }

    /// Starts or continues the limit; ready when the time is up.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if !self.waiting {
            timer.as_mut().reset(Instant::now() + idle);
            self.waiting = true;
        }
        timer.as_mut().poll(cx)
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting = false;
                self.ended = !matches!(frame, Some(Ok(_)));
                if let Some(Ok(frame)) = &frame {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    self.leftover.pulse.meter().received(bytes);
                }
                Poll::Ready(frame.map(|result| result.map_err(IncomingError::Broken)))
            }
            Poll::Pending if self.poll_idle(cx).is_ready() => {
                Poll::Ready(Some(Err(IncomingError::Idle(self.idle))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        let Some(inner) = self
            .inner
            .take()
            .filter(|inner| !self.ended && !inner.is_end_stream())
        else {
            return;
        };
        if Arc::strong_count(&self.leftover.slot) == 1 {
            // The answer did not wait for the reader to let go: nobody looks here any more, hyper closes.
            self.leftover.pulse.left_body_unread();
        } else {
            *self.leftover.slot.lock() = Some(inner);
        }
    }
}

//! One connection from handshake to close: which IO and which HTTP it gets, and who may end it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;

use super::connection_io::{GuardedIo, Pieces, PlainIo};
use super::express::{ExpressWay, Left, Patience};
use super::front::Front;
use super::limits::Limits;
use super::listener::{Accepted, Peer};
use super::outgoing::{Outgoing, WithoutMarkers};
use super::pulse::Pulse;
use super::screen::{Lookout, Refusals, Screen};
use super::seldom::Seldom;
use super::socket::Socket;
use super::{ServerOptions, Service, Stage};

/// How long an idle HTTP/2 client has to close after it was told.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long a client that has connected, or has sent a part of a head, may take for the rest of it when the server leaves:
/// its request is on its way, and closing would lose it.
pub(crate) const LAST_HEAD: Duration = Duration::from_secs(1);

/// What a connection is served with.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) service: Service,
    pub(crate) options: Arc<ServerOptions>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) stage: watch::Receiver<Stage>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the socket failed: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("its time was up")]
    TimedOut,
    #[error("the server is leaving")]
    Cut,
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Serves a connection until it ends.
pub(crate) async fn serve(accepted: Accepted, peer: Peer, serving: Serving) {
    let pulse = Arc::new(Pulse::new(&serving.options));
    let _open = pulse.meter().connected();
    let result = match accepted {
        Accepted::Tcp(stream) => match Socket::tcp(stream, pulse.clone()) {
            Ok(socket) => serve_socket(socket, peer, pulse, serving).await,
            Err(error) => Err(error.into()),
        },
        Accepted::Unix(stream) => {
            serve_socket(Socket::unix(stream, pulse.clone()), peer, pulse, serving).await
        }
    };
    if let Err(reason) = result {
        // What was under way has its own line; clients that leave are daily life.
        tracing::debug!(?peer, %reason, "connection ended");
    }
}

async fn serve_socket(
    socket: Socket,
    peer: Peer,
    pulse: Arc<Pulse>,
    mut serving: Serving,
) -> Result<(), Ended> {
    let front = |pieces, tls| {
        let (router, options, pulse) = (
            serving.service.router.clone(),
            serving.options.clone(),
            pulse.clone(),
        );
        Arc::new(Front {
            router,
            options,
            pulse,
            peer,
            tls,
            pieces,
        })
    };
    let limits = &serving.options.limits;
    let Some(tls) = serving.tls.take() else {
        let pieces = Pieces::default();
        let front = front(Some(pieces.clone()), false);
        let express = serving.service.express;
        let patience = Patience::default();
        let mut at = match express {
            Some(_) => Left::Express(socket),
            None => Left::Hyper(socket, BytesMut::new()),
        };
        // Every turn is a way of the connection that ended.
        loop {
            let stage = &mut serving.stage;
            at = match (at, &express) {
                (Left::Hyper(socket, read), express) => {
                    let io = PlainIo::new(socket, pieces.clone());
                    let (hyper, lookout) = http1(io, read, front.clone());
                    let way = WholeWay {
                        hyper: Some(hyper),
                        lookout,
                        pulse: pulse.clone(),
                        back: express.is_some().then(|| patience.clone()),
                        between: None,
                    };
                    drive(way, &pulse, limits, stage).await?
                }
                (Left::Express(socket), Some(express)) => {
                    let (front, express) = (front.clone(), Arc::clone(express));
                    let way = ExpressWay::new(socket, front, express, patience.clone());
                    drive(way, &pulse, limits, stage).await?
                }
                (Left::Closed | Left::Express(_), _) => return Ok(()),
            };
        }
    };
    let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(socket);
    let handshake = tokio::time::timeout(limits.header_timeout, handshake).await;
    let stream = handshake
        .map_err(|_elapsed| Ended::TimedOut)
        .and_then(|shaken| shaken.map_err(Ended::Handshake))
        .inspect_err(|_| pulse.meter().handshake_failed())?;
    pulse.handshake_ended();
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = GuardedIo(stream);
    if speaks_h2 {
        pulse.multiplex();
        drive(
            http2(io, front(None, true)),
            &pulse,
            limits,
            &mut serving.stage,
        )
        .await
    } else {
        drive(
            http1(io, BytesMut::new(), front(None, true)).0,
            &pulse,
            limits,
            &mut serving.stage,
        )
        .await
    }
}

/// A connection on one of its ways.
trait Connection: Future<Output = Result<Self::Left, Self::Failed>> {
    /// What is left of it.
    type Left;
    /// What it fails with.
    type Failed: Into<Ended>;

    /// Finishes what is in flight, takes nothing new.
    fn finish(self: Pin<&mut Self>);
}

impl Connection for ExpressWay {
    type Left = Left;
    type Failed = std::io::Error;

    fn finish(self: Pin<&mut Self>) {
        self.get_mut().end_soon();
    }
}

/// A connection in the clear with hyper, until it may go back to the express way.
struct WholeWay<S: HttpService<Incoming>> {
    /// Until it ends.
    hyper: Option<http1::Connection<Screen<PlainIo>, S>>,
    lookout: Arc<Lookout>,
    pulse: Arc<Pulse>,
    /// When it may go back; `None`: it stays.
    back: Option<Patience>,
    /// The writes, when it was between two requests at the last look.
    between: Option<u64>,
}

impl<S: HttpService<Incoming>> WholeWay<S> {
    /// Does the connection go back now? Only between two requests, the last of which had no bodies, so that nothing of
    /// one is left to be read; and only where hyper had nothing to write when it was polled once more: then nothing is
    /// in its buffers.
    fn goes_back(&mut self, cx: &mut Context<'_>) -> bool {
        let wanted = self
            .back
            .as_ref()
            .is_some_and(|back| back.ends_with(self.lookout.plain_heads()));
        let between = (wanted && self.pulse.is_idle())
            .then(|| self.lookout.is_between_requests())
            .flatten();
        let before = std::mem::replace(&mut self.between, between);
        if between.is_some() && before != between {
            cx.waker().wake_by_ref();
        }
        between.is_some() && before == between
    }
}

impl<S> Future for WholeWay<S>
where
    S: HttpService<Incoming, ResBody = Outgoing> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = hyper::Result<Left>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<Left>> {
        let me = self.get_mut();
        let Some(hyper) = &mut me.hyper else {
            return Poll::Ready(Ok(Left::Closed));
        };
        if let Poll::Ready(ended) = Pin::new(hyper).poll(cx) {
            return Poll::Ready(ended.map(|()| Left::Closed));
        }
        if !me.goes_back(cx) {
            return Poll::Pending;
        }
        let parts = me.hyper.take().map(http1::Connection::into_parts);
        Poll::Ready(Ok(parts.map_or(Left::Closed, |parts| {
            let socket = parts.io.into_io().into_socket();
            match parts.read_buf.is_empty() {
                true => Left::Express(socket),
                false => Left::Hyper(socket, parts.read_buf.into()),
            }
        })))
    }
}

impl<S> Connection for WholeWay<S>
where
    S: HttpService<Incoming, ResBody = Outgoing> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Left = Left;
    type Failed = hyper::Error;

    fn finish(self: Pin<&mut Self>) {
        let me = self.get_mut();
        me.back = None;
        if let Some(hyper) = &mut me.hyper {
            Pin::new(hyper).graceful_shutdown();
        }
    }
}

/// `read` came before what `io` will give.
fn http1<Io: Read + Write + Unpin + Send + 'static>(
    io: Io,
    read: BytesMut,
    front: Arc<Front>,
) -> (
    http1::Connection<
        Screen<Io>,
        impl HttpService<Incoming, ResBody = Outgoing, Error = Infallible, Future: Send> + Unpin,
    >,
    Arc<Lookout>,
) {
    let refusals = Refusals::default();
    let io = Screen::new(io, read, front.options.limits.clone(), refusals.clone());
    let lookout = io.lookout();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The pulse has the header timeout: hyper's would run while a kept connection is idle, too.
        .header_read_timeout(None)
        .max_headers(front.options.limits.headers)
        // Never flatten: flattening copies the memory behind markers, which is zeros.
        .writev(true)
        .pipeline_flush(false);
    let service = service_fn(move |request| {
        let (front, refusal) = (front.clone(), refusals.take());
        async move { Ok::<_, Infallible>(front.answer(request, refusal).await) }
    });
    (builder.serve_connection(io, service), lookout)
}

fn http2<Io: Read + Write + Unpin + Send + 'static>(
    io: Io,
    front: Arc<Front>,
) -> impl Connection<Left = (), Failed = hyper::Error> {
    let limits = &front.options.limits;
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        // Above our own limit, so that a head between the two gets the S3 error.
        .max_header_list_size(
            u32::try_from(limits.header_bytes.saturating_mul(4)).unwrap_or(u32::MAX),
        )
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(1 << 20)
        .keep_alive_interval(limits.keep_alive_idle / 2)
        .keep_alive_timeout(limits.body_idle);
    builder.serve_connection(
        io,
        service_fn(move |request| {
            let front = front.clone();
            async move {
                let response = front.answer(request, None).await;
                Ok::<_, Infallible>(response.map(WithoutMarkers))
            }
        }),
    )
}

impl<I, S, B> Connection for hyper::server::conn::http1::Connection<I, S>
where
    I: Read + Write + Unpin,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Left = ();
    type Failed = hyper::Error;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Connection for hyper::server::conn::http2::Connection<I, S, E>
where
    I: Read + Write + Unpin,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    type Left = ();
    type Failed = hyper::Error;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What a connection is interrupted for.
enum Due {
    /// The server's stage has changed, or nobody tells any more.
    Stage(Result<Stage, watch::error::RecvError>),
    /// The last head has had its time.
    LastHead,
    /// It is time to look at the pulse.
    Look,
}

/// Runs a connection until it ends by itself, its time is up, or the server leaves.
async fn drive<C: Connection>(
    connection: C,
    pulse: &Pulse,
    limits: &Limits,
    stage: &mut watch::Receiver<Stage>,
) -> Result<C::Left, Ended> {
    let mut connection = pin!(connection);
    let first_look = pulse
        .next_look(limits)
        .unwrap_or_else(tokio::time::Instant::now);
    let mut watchdog = pin!(tokio::time::sleep_until(first_look));
    let mut last_head = pin!(tokio::time::sleep(LAST_HEAD));
    let mut told_to_finish = false;
    // Another way of this connection may have seen it change.
    let mut leaving = match *stage.borrow() {
        Stage::Serving => false,
        Stage::Draining => true,
        Stage::Cutting => return Err(Ended::Cut),
    };
    loop {
        let awaits_last_head = leaving && !told_to_finish;
        let turn = poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx);
            if ended.is_ready() || !awaits_last_head || pulse.owes_head() {
                return ended;
            }
            told_to_finish = true;
            connection.as_mut().finish();
            connection.as_mut().poll(cx)
        });
        let due = {
            let due = pin!(async {
                tokio::select! {
                    biased;
                    changed = stage.changed() => {
                        Due::Stage(changed.map(|()| *stage.borrow_and_update()))
                    }
                    () = last_head.as_mut(), if awaits_last_head => Due::LastHead,
                    () = watchdog.as_mut() => Due::Look,
                }
            });
            tokio::select! {
                biased;
                result = turn => return result.map_err(Into::into),
                due = Seldom::new(due) => due,
            }
        };
        match due {
            Due::Stage(Ok(Stage::Serving)) => {}
            Due::Stage(Ok(Stage::Draining)) => {
                leaving = true;
                last_head
                    .as_mut()
                    .reset(tokio::time::Instant::now() + LAST_HEAD);
            }
            Due::Stage(Ok(Stage::Cutting) | Err(_)) => return Err(Ended::Cut),
            Due::LastHead => {
                told_to_finish = true;
                connection.as_mut().finish();
            }
            Due::Look => match pulse.next_look(limits) {
                Some(next) => watchdog.as_mut().reset(next),
                // HTTP/2 says goodbye, so that no request is lost on its way to us.
                None if pulse.is_multiplexed() && !told_to_finish => {
                    told_to_finish = true;
                    connection.as_mut().finish();
                    watchdog
                        .as_mut()
                        .reset(tokio::time::Instant::now() + GOODBYE);
                }
                None => return Err(Ended::TimedOut),
            },
        }
    }
}

/// The mistake that must never happen, for the tests that show what it would cost.
#[cfg(test)]
pub(crate) async fn serve_guarded_with_pieces(
    io: GuardedIo<tokio::io::DuplexStream>,
    router: axum::Router,
    speaks_h2: bool,
) -> Result<(), String> {
    let options = Arc::<ServerOptions>::default();
    let pulse = Arc::new(Pulse::new(&options));
    let pieces = Some(Pieces::default());
    let front = Front {
        router,
        options,
        pulse,
        peer: Peer::Unix,
        tls: true,
        pieces,
    };
    let result = if speaks_h2 {
        http2(io, Arc::new(front)).await
    } else {
        http1(io, BytesMut::new(), Arc::new(front)).0.await
    };
    result.map_err(|error| format!("{error:?}"))
}

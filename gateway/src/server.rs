//! The HTTP server: listeners, connections, limits, drain.
//!
//! It drives hyper's connections itself, because only so a response body can be a file that the
//! kernel sends (`connection_io.rs`); axum's router is the service behind. It knows nothing of S3.
//! Listeners and the shutdown signal are passed in.

mod account;
mod chunk_walk;
mod connection;
mod connection_io;
mod express;
mod front;
mod head;
mod incoming;
mod limits;
mod listener;
mod marker;
mod outgoing;
pub(crate) mod pages;
mod pulse;
mod request_id;
mod screen;
mod seldom;
mod socket;
pub mod tls;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;

use connection::Serving;
use listener::Accepting;

use crate::meter::Meter;

pub(crate) use express::push_field;
pub use express::{Answering, Express, ExpressHead, Expressed, Intent};
pub use front::Arrival;
pub use incoming::IncomingError;
pub use limits::Limits;
pub use listener::{Endpoint, Listener};
pub use request_id::{RequestId, host_id};

/// How the server treats its clients.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// What a client may take.
    pub limits: Limits,
    /// Proxies whose `X-Forwarded-For` is believed, for the log only.
    pub trusted_proxies: Vec<IpAddr>,
    /// Where requests are counted.
    pub meter: Arc<Meter>,
    /// Requests are no news: the log has them at debug.
    pub quiet: bool,
}

/// What answers the requests.
#[derive(Clone)]
pub struct Service {
    /// One fallback handler behind it is meant: path parameters would cost more than the rest of a small request.
    pub router: axum::Router,
    /// What plain small requests are offered to first.
    pub express: Option<Arc<dyn Express>>,
}

impl Service {
    /// Asks for one answer from within, as a client without a key would, and says whether one came that is no failure
    /// of ours. Touches no disk.
    pub async fn answers(&self) -> bool {
        let asked = http::Request::get("/")
            .header(http::header::HOST, "localhost")
            .body(axum::body::Body::empty());
        let Ok(request) = asked else { return false };
        match self.router.clone().call(request).await {
            Ok(response) => !response.status().is_server_error(),
            Err(never) => match never {},
        }
    }
}

impl From<axum::Router> for Service {
    fn from(router: axum::Router) -> Self {
        Self {
            router,
            express: None,
        }
    }
}

/// How far the server is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Serving,
    Draining,
    Cutting,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request that was in flight got its whole answer.
    Clean,
    /// The drain deadline came first; so many connections were cut.
    Cut {
        /// Connections that were still at work.
        connections: usize,
    },
}

/// Serves until `shutdown` completes and the connections are drained.
///
/// # Errors
/// What giving a listener to the runtime says.
pub async fn run(
    listeners: Vec<Listener>,
    service: impl Into<Service>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Drained> {
    marker::prepare();
    let (service, options) = (service.into(), Arc::new(options));
    let slots = Arc::new(Semaphore::new(
        options.limits.connections.min(Semaphore::MAX_PERMITS),
    ));
    let (stage, watching) = watch::channel(Stage::Serving);
    for listener in listeners {
        let accepting = listener.start()?;
        let (service, options, stage) = (service.clone(), options.clone(), watching.clone());
        let serving = Serving {
            service,
            options,
            tls: accepting.tls.clone(),
            stage,
        };
        tokio::spawn(accept_all(accepting, serving, slots.clone()));
    }
    drop(watching);
    shutdown.await;
    Ok(drain(stage, options.limits.drain).await)
}

/// Every task holds a receiver of `stage`: when all are gone, everything has ended.
async fn drain(stage: watch::Sender<Stage>, deadline: Duration) -> Drained {
    stage.send_replace(Stage::Draining);
    if tokio::time::timeout(deadline, stage.closed()).await.is_ok() {
        return Drained::Clean;
    }
    let connections = stage.receiver_count();
    stage.send_replace(Stage::Cutting);
    stage.closed().await;
    Drained::Cut { connections }
}

/// Accepts from one listener until the server drains.
async fn accept_all(accepting: Accepting, serving: Serving, slots: Arc<Semaphore>) {
    let mut stage = serving.stage.clone();
    let mut leaving = pin!(async move {
        // An error means that the sender is gone, which ends serving as well.
        while stage
            .changed()
            .await
            .is_ok_and(|()| *stage.borrow_and_update() == Stage::Serving)
        {}
    });
    let mut backoff = Backoff::default();
    loop {
        // A full house accepts nobody: the kernel's backlog holds them, and no descriptor is spent.
        let accepted = async {
            let slot = slots
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (slot, accepting.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = leaving.as_mut() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((connection, peer)) => {
                backoff = Backoff::default();
                let serving = serving.clone();
                tokio::spawn(async move {
                    connection::serve(connection, peer, serving).await;
                    drop(slot);
                });
            }
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                // EMFILE, ENFILE, ENOMEM: the connection stays in the backlog, so trying again at once would spin.
                let pause = backoff.next();
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                tokio::select! {
                    () = leaving.as_mut() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// Linux: accept(2) also reports errors of the connection that it would have returned.
fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::TimedOut
    )
}

/// Pauses that double from 10 ms to 1 s.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(1));
        pause
    }
}

#[cfg(test)]
mod tests;

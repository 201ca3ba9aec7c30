//! The admin listener: what it says of this daemon, and its life beside the S3 face.

mod metrics;
mod process;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use twintree_fuse::Mount;
use twintree_gateway::admin::{self, Admin};
use twintree_gateway::meter::{Exposition, Meter};
use twintree_gateway::server::{self, Endpoint, Listener};
use twintree_store::Store;

use crate::commands::background::Background;
use crate::commands::{Failure, cannot_listen};
use crate::config::{Address, Config};

/// Who knows how everything fares.
pub struct Overseer {
    store: Arc<Store>,
    meter: Arc<Meter>,
    background: Weak<Background>,
    /// The mount, for as long as it should stand.
    mount: Mutex<Option<Mount>>,
    leaving: AtomicBool,
    most_connections: usize,
}

/// The listener at work; stopping it lets a page that is being read end.
pub struct Serving {
    stop: oneshot::Sender<()>,
    done: JoinHandle<std::io::Result<server::Drained>>,
}

impl Overseer {
    /// Before there is a mount.
    pub fn new(config: &Config, store: &Arc<Store>, background: &Arc<Background>) -> Self {
        Self {
            store: Arc::clone(store),
            meter: Arc::default(),
            background: Arc::downgrade(background),
            mount: Mutex::new(None),
            leaving: AtomicBool::new(false),
            most_connections: config.limits.connections,
        }
    }

    /// The tree.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where the S3 face counts its requests.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Notes that it stands.
    pub fn mounted(&self, mount: Option<Mount>) {
        *self.mount.lock().unwrap_or_else(PoisonError::into_inner) = mount;
    }

    /// Gives it back, to be taken down.
    pub fn unmounted(&self) -> Option<Mount> {
        let mut mount = self.mount.lock().unwrap_or_else(PoisonError::into_inner);
        mount.take()
    }

    /// Notes that we drain.
    pub fn leaves(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn of_mount<T>(&self, of: impl FnOnce(&Mount) -> T) -> Option<T> {
        let mount = self.mount.lock().unwrap_or_else(PoisonError::into_inner);
        mount.as_ref().map(of)
    }
}

impl Admin for Overseer {
    fn unready(&self) -> Vec<String> {
        let mut causes = self.store.troubles();
        causes.extend(self.of_mount(Mount::trouble).flatten());
        if self.leaving.load(Ordering::Relaxed) {
            causes.push("draining: no new connections are taken".to_owned());
        }
        causes
    }

    fn metrics(&self, out: &mut Exposition) {
        self.meter.write(out);
        metrics::write(self, out);
        process::write(out);
    }
}

/// Binds what was asked for.
///
/// # Errors
/// An address that cannot be had.
pub fn bind(addresses: &[Address]) -> Result<Vec<Listener>, Failure> {
    let failed = |e| cannot_listen("--admin", &e);
    let mut listeners = Vec::new();
    for address in addresses {
        match address {
            Address::Tcp(address) => {
                if !address.ip().is_loopback() {
                    tracing::warn!(%address, "the admin listener asks for no key and is open to other machines");
                }
                let bound = Listener::tcp(&[*address]);
                listeners.extend(bound.map_err(failed)?);
            }
            Address::Unix(path) => {
                listeners.push(Listener::unix(path).map_err(failed)?);
            }
        }
    }
    Ok(listeners)
}

/// Where the admin listener is, as it is said on standard output.
///
/// # Errors
/// What getsockname says.
pub fn endpoints(listeners: &[Listener]) -> Result<Vec<Endpoint>> {
    let endpoints = listeners.iter().map(Listener::endpoint);
    endpoints.collect::<Result<_, _>>().context("listener")
}

/// Starts to answer.
pub fn serve(overseer: &Arc<Overseer>, listeners: Vec<Listener>) -> Serving {
    let (stop, stopped) = oneshot::channel::<()>();
    let overseer: Arc<dyn Admin> = Arc::<Overseer>::clone(overseer);
    let done = tokio::spawn(async move {
        server::run(
            listeners,
            admin::router(overseer),
            admin::options(),
            async {
                // A sender that is gone is a daemon that leaves in another way.
                let _ = stopped.await;
            },
        )
        .await
    });
    Serving { stop, done }
}

impl Serving {
    /// Ends it.
    ///
    /// # Errors
    /// What serving said.
    pub async fn stop(self) -> Result<()> {
        // It has ended already where nobody listens.
        let _ = self.stop.send(());
        self.done.await.context("admin")?.context("admin")?;
        Ok(())
    }
}

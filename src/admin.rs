//! The admin listener: what it says of this daemon, and its life beside the S3 face.

mod metrics;
mod process;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use twintree_fuse::Mount;
use twintree_gateway::admin::{self, Admin};
use twintree_gateway::console::{Console, MountState, Pages, Port, SealState, State};
use twintree_gateway::meter::{Exposition, Meter};
use twintree_gateway::server::tls::{self, Certificates};
use twintree_gateway::server::{self, Endpoint, Listener};
use twintree_store::Store;
use twintree_store::watch::SealPolicy;

use crate::commands::background::Background;
use crate::commands::{Failure, cannot_listen};
use crate::config::{Address, Config, ConsoleAt};

/// Who knows how everything fares.
pub struct Overseer {
    store: Arc<Store>,
    meter: Arc<Meter>,
    background: Weak<Background>,
    /// The mount, for as long as it should stand.
    mount: Mutex<Option<Mount>>,
    leaving: AtomicBool,
    most_connections: usize,
    seal: SealPolicy,
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
            seal: config.seal_policy(),
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

    fn state(&self) -> State {
        let mount = self.of_mount(|mount| {
            let (files, directories, _) = mount.open();
            MountState {
                place: mount.place().display().to_string(),
                is_up: mount.trouble().is_none(),
                is_passthrough: mount.is_passthrough(),
                files,
                directories,
            }
        });
        let tallies = self.store.seal_tallies();
        let background = self.background.upgrade();
        State {
            troubles: self.unready(),
            mount,
            seal: SealState {
                policy: match self.seal {
                    SealPolicy::Off => "off",
                    SealPolicy::Written => "written",
                    SealPolicy::All => "all",
                },
                waiting: (tallies.waiting_doubted + tallies.waiting_written + tallies.waiting_busy)
                    as u64,
                sealed: tallies.sealed,
                failed: tallies.failed,
                passes: background.is_some_and(|background| background.passes()),
            },
        }
    }
}

/// Where the console is, as each of the two faces needs to know it: the pages that the admin listener shows, and what the
/// S3 face does.
pub fn console(
    config: &Config,
    overseer: &Arc<Overseer>,
    s3: &[Endpoint],
    admin: &[Endpoint],
) -> (Option<Pages>, Console) {
    let port = |endpoint: &Endpoint| match endpoint {
        Endpoint::Tcp { address, tls } => Some(Port {
            tls: *tls,
            number: address.port(),
        }),
        Endpoint::Unix(_) => None,
    };
    let pages = |s3| Pages {
        s3,
        region: config.settings.region.clone(),
    };
    match config.console {
        ConsoleAt::Nowhere => (None, Console::Off),
        ConsoleAt::S3 => {
            let overseer: Arc<dyn Admin> = Arc::<Overseer>::clone(overseer);
            (None, Console::Here(pages(None), overseer))
        }
        ConsoleAt::Admin if admin.is_empty() => (None, Console::Off),
        ConsoleAt::Admin => (
            s3.iter().find_map(port).map(|s3| pages(Some(s3))),
            Console::Elsewhere(admin.iter().filter_map(port).collect()),
        ),
    }
}

/// The sockets that a service manager holds for it; where it holds none, what was asked for.
///
/// # Errors
/// An address that cannot be had.
pub fn bind(
    config: &Config,
    certificates: Option<&Arc<Certificates>>,
    held: Vec<OwnedFd>,
) -> Result<Vec<Listener>, Failure> {
    let failed = |e| cannot_listen("--admin", &e);
    let clients = config.tls_client_ca.as_deref();
    let certificates = certificates.filter(|_| config.admin_tls);
    let tls = certificates.map(|all| tls::with_certificates(Arc::clone(all), clients));
    let tls = tls.transpose().context("TLS")?;
    let secured = |listener: Listener| match &tls {
        Some(tls) if listener.is_tcp() => listener.with_tls(Arc::clone(tls)),
        _ => listener,
    };
    if !held.is_empty() {
        let listeners = held.into_iter().map(Listener::held);
        let listeners: Vec<Listener> = listeners
            .collect::<Result<_, _>>()
            .context("cannot listen on what the service manager holds")?;
        return Ok(listeners.into_iter().map(secured).collect());
    }
    let mut listeners = Vec::new();
    for address in &config.admin {
        match address {
            Address::Tcp(address) => {
                if !address.ip().is_loopback() {
                    tracing::warn!(%address, "the admin listener asks for no key and is open to other machines");
                }
                let bound = Listener::tcp(&[*address]);
                listeners.extend(bound.map_err(failed)?.into_iter().map(secured));
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
pub fn serve(
    overseer: &Arc<Overseer>,
    listeners: Vec<Listener>,
    console: Option<Pages>,
) -> Serving {
    let (stop, stopped) = oneshot::channel::<()>();
    let overseer: Arc<dyn Admin> = Arc::<Overseer>::clone(overseer);
    let done = tokio::spawn(async move {
        server::run(
            listeners,
            admin::router(overseer, console),
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

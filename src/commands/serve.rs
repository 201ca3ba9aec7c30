//! `twintree serve`: open the store, bind, tell, serve, drain.

use std::io::{IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use twintree_fuse::Mount;
use twintree_gateway::auth::Credentials;
use twintree_gateway::call::Gateway;
use twintree_gateway::server::tls::{self, Certificates};
use twintree_gateway::server::{self, Drained, Endpoint, Listener, ServerOptions};
use twintree_store::{Store, StoreError};

use super::background::Background;
use super::{Failure, cannot_listen, cannot_mount, snippets, surroundings};
use crate::admin::{self, Overseer};
use crate::config::{Address, Config};
use crate::reload::{self, Reload};
use crate::secrets::Keys;
use crate::systemd::{self, Notifier};
use crate::{cli, config, logging, memory, secrets};

/// How long work that no client waits for any more may go on after the drain.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM or SIGINT, then lets what is in flight end.
///
/// # Errors
/// `Usage` for what was said wrongly, `Work` for what could not be opened or bound.
pub fn run(args: cli::Serve) -> Result<(), Failure> {
    let file = config::read_file(args.config.as_deref()).map_err(Failure::Usage)?;
    let (json, filter) = config::logging(&args, &file).map_err(Failure::Usage)?;
    let values = reload::values(&args).map_err(Failure::Usage)?;
    let refilter = logging::start(json, &filter).map_err(Failure::Usage)?;
    let config = config::resolve(args.clone(), file).map_err(Failure::Usage)?;
    let notifier = Notifier::new(set).map_err(Failure::Usage)?;
    let held = systemd::sockets(set).map_err(Failure::Usage)?;
    config::check::served(&config).map_err(Failure::Missing)?;
    surroundings::clock(SystemTime::now())?;
    surroundings::descriptors()?;
    if config.mount.is_some() {
        twintree_fuse::look_for_device().map_err(cannot_mount)?;
    }
    let store = open(&config)?;
    let keys = keys(&config)?;
    store.report_filesystems(state_outside(&config));
    let certificates = certificates(&config)?;
    let listeners = listeners(&config, certificates.as_ref(), held.s3)?;
    let admin_listeners = admin::bind(&config, certificates.as_ref(), held.admin)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let background = Arc::new(Background::start(&config, &store)?);
    let overseer = Arc::new(Overseer::new(&config, &store, &background));
    let reload = Reload {
        args,
        credentials: Arc::new(Credentials::new([(
            keys.access.clone(),
            keys.secret.clone(),
        )])),
        certificates,
        refilter,
        store,
        values,
        at_terminal: std::io::stdin().is_terminal(),
    };
    let bound = Bound {
        s3: listeners,
        admin: admin_listeners,
    };
    let all = serve(&config, &overseer, keys, bound, reload, notifier);
    let outcome = runtime.block_on(all);
    // A thread that waits for a disk that never answers must not keep us from leaving: nothing that it
    // would do is half done without it.
    runtime.shutdown_timeout(LAST_WORK);
    drop(background);
    outcome
}

/// A variable of the environment; one that is empty counts as not set.
pub fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The state directory, where we may write it: not with `--read-only`, and never into the served tree.
fn state_outside(config: &Config) -> Option<&std::path::Path> {
    if config.read_only {
        return None;
    }
    match secrets::refuse_served(config) {
        Ok(()) => Some(&config.state_dir),
        Err(e) => {
            tracing::warn!("what filesystems can do is not probed and remembered: {e:#}");
            None
        }
    }
}

fn keys(config: &Config) -> Result<Keys, Failure> {
    if let Some(keys) = secrets::given(config, set).map_err(Failure::Usage)? {
        return Ok(keys);
    }
    secrets::refuse_served(config).map_err(Failure::Usage)?;
    Ok(secrets::kept(config)?)
}

fn open(config: &Config) -> Result<Arc<Store>, Failure> {
    let store = match Store::open(config.store()) {
        // What was said of buckets contradicts itself.
        Err(StoreError::InvalidRequest(why)) => return Err(Failure::Usage(anyhow!(why))),
        opened => opened.with_context(|| format!("cannot serve {}", config.root.display()))?,
    };
    for (dir, other) in store.shadowed() {
        tracing::warn!(
            "{} is not served: {} is the bucket of its name",
            dir.display(),
            other.display()
        );
    }
    store.set_list_cache(config.list_cache);
    Ok(store)
}

fn certificates(config: &Config) -> Result<Option<Arc<Certificates>>> {
    if config.tls.is_empty() {
        return Ok(None);
    }
    let certificates = Certificates::read(&config.tls).context("TLS")?;
    Ok(Some(Arc::new(certificates)))
}

/// The sockets that a service manager holds for us; where it holds none, our own.
fn listeners(
    config: &Config,
    certificates: Option<&Arc<Certificates>>,
    held: Vec<OwnedFd>,
) -> Result<Vec<Listener>, Failure> {
    let clients = config.tls_client_ca.as_deref();
    let tls = certificates.map(|all| tls::with_certificates(Arc::clone(all), clients));
    let tls = tls.transpose().context("TLS")?;
    let listeners = match held.is_empty() {
        true => bind(config)?,
        false => held
            .into_iter()
            .map(Listener::held)
            .collect::<Result<_, _>>()
            .context("cannot listen on what the service manager holds")?,
    };
    // What comes through the file system never leaves this machine: it is in the clear.
    let secured = |listener: Listener| match &tls {
        Some(tls) if listener.is_tcp() => listener.with_tls(Arc::clone(tls)),
        _ => listener,
    };
    Ok(listeners.into_iter().map(secured).collect())
}

fn bind(config: &Config) -> Result<Vec<Listener>, Failure> {
    let failed = |e| cannot_listen("--listen", &e);
    let tcp: Vec<_> = config
        .listen
        .iter()
        .filter_map(|a| {
            if let Address::Tcp(a) = a {
                Some(*a)
            } else {
                None
            }
        })
        .collect();
    let mut listeners = Listener::tcp(&tcp).map_err(failed)?;
    for address in &config.listen {
        if let Address::Unix(path) = address {
            listeners.push(Listener::unix(path).map_err(failed)?);
        }
    }
    Ok(listeners)
}

/// What we listen on.
struct Bound {
    s3: Vec<Listener>,
    admin: Vec<Listener>,
}

async fn serve(
    config: &Config,
    overseer: &Arc<Overseer>,
    keys: Keys,
    bound: Bound,
    reload: Reload,
    notifier: Notifier,
) -> Result<(), Failure> {
    let store = overseer.store();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let endpoints: Vec<Endpoint> = bound
        .s3
        .iter()
        .map(Listener::endpoint)
        .collect::<Result<_, _>>()
        .context("listener")?;
    let admin_endpoints = admin::endpoints(&bound.admin)?;
    let (pages, console) = admin::console(config, overseer, &endpoints, &admin_endpoints);
    let gateway = Gateway {
        store: Arc::clone(store),
        credentials: Arc::clone(&reload.credentials),
        settings: config.settings.clone(),
        console,
    };
    let options = ServerOptions {
        limits: config.limits.clone(),
        trusted_proxies: config.settings.trusted_proxies.clone(),
        meter: Arc::clone(overseer.meter()),
        ..ServerOptions::default()
    };
    // Signals are caught by now: none may leave a mount behind.
    let mount = tokio::task::block_in_place(|| {
        let options = config.mount.as_ref();
        options
            .map(|options| Mount::start(store, options))
            .transpose()
    });
    let mount = mount.map_err(cannot_mount)?;
    overseer.mounted(mount);
    let admin = admin::serve(overseer, bound.admin, pages);
    greet(config, &keys, &endpoints, &admin_endpoints);
    let service = twintree_gateway::service::service(Arc::new(gateway));
    let notifier = Arc::new(notifier);
    let serving = serving(config, &endpoints);
    let rest = config.give_back_after.unwrap_or(memory::REST);
    tokio::spawn(memory::give_back_at_each_rest(rest));
    notifier.ready(&serving);
    let asked = service.clone();
    let ask = move || {
        let asked = asked.clone();
        async move { asked.answers().await }
    };
    tokio::spawn(Arc::clone(&notifier).keep_telling(ask, config.roots(), serving));
    let leave = config.limits.drain + LAST_WORK * 2;
    let leaving = Arc::clone(overseer);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = reload.at_each(hangup) => {}
        }
        leaving.leaves();
        tracing::info!("draining: no new connections; requests in flight go on");
        notifier.stopping(leave);
    };
    let served = server::run(bound.s3, service, options, shutdown).await;
    if let Some(mount) = overseer.unmounted() {
        tokio::task::block_in_place(|| mount.stop());
    }
    admin.stop().await?;
    match served.context("serving")? {
        Drained::Clean => tracing::info!("every request got its answer"),
        Drained::Cut { connections } => {
            tracing::warn!(connections, "the drain time is over: connections were cut")
        }
    }
    Ok(())
}

/// What the service manager shows as our state.
fn serving(config: &Config, endpoints: &[Endpoint]) -> String {
    let at: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let roots = systemd::listed(&config.roots());
    format!("serving {roots} on {}", at.join(", "))
}

/// Says on standard output where we listen, and to whom a first start made a key, how to use it.
fn greet(config: &Config, keys: &Keys, endpoints: &[Endpoint], admin: &[Endpoint]) {
    let mut text = String::new();
    // First: whoever waits for us waits for the last line that says where we listen.
    for endpoint in admin {
        text.push_str(&format!("admin on {endpoint}\n"));
    }
    for endpoint in endpoints {
        text.push_str(&format!("listening on {endpoint}\n"));
    }
    tracing::info!(
        root = %systemd::listed(&config.roots()),
        durability = ?config.durability,
        keys_from = keys.source,
        read_only = config.read_only,
        "serving"
    );
    if keys.fresh {
        text.push_str(&snippets::text(endpoints, keys, config));
    }
    let mut out = std::io::stdout().lock();
    // Nobody may be reading: that is no reason not to serve.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

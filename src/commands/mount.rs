//! `twintree mount ROOT DIR`: the mount alone, until SIGTERM or SIGINT.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use twintree_fuse::Mount;
use twintree_store::Store;
use twintree_store::watch::{SealPolicy, WatchOptions};

use super::{Failure, background, cannot_mount, surroundings};
use crate::{cli, config, logging};

/// Mounts, waits, unmounts.
///
/// # Errors
/// `Usage` for what was said wrongly, `Work` for what cannot be opened or mounted.
pub fn run(args: cli::MountAlone) -> Result<(), Failure> {
    let filter = args.log.clone().unwrap_or_else(|| "info".to_owned());
    let _stays_as_it_is = logging::start(false, &filter).map_err(Failure::Usage)?;
    let file = config::read_file(args.tree.config.as_deref()).map_err(Failure::Usage)?;
    let (tree, options, watch) = config::mount_alone(args, file).map_err(Failure::Usage)?;
    let shown = tree.root.display().to_string();
    surroundings::descriptors()?;
    let store = Store::open(tree).with_context(|| format!("cannot mount {shown}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    // Before it stands: a signal that comes meanwhile must not leave a mount behind.
    let signals = runtime.block_on(async {
        let both = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        );
        Ok::<_, std::io::Error>((both.0?, both.1?))
    });
    let (mut terminate, mut interrupt) = signals.context("signals")?;
    let mount = Mount::start(&store, &options).map_err(cannot_mount)?;
    let watcher = match watch {
        true => background::watch(&store, SealPolicy::Off, WatchOptions::default()),
        false => None,
    };
    runtime.block_on(async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    });
    drop(watcher);
    mount.stop();
    Ok(())
}

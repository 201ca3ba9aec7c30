//! What runs beside the two faces: the sealer, the watcher, the upkeep, and the pass over all that was there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use twintree_store::sealer::{Left, SealEvent, SealOptions, SealReport, Sealer};
use twintree_store::sweep::{SweepAges, Upkeep};
use twintree_store::watch::{SealPolicy, WatchOptions, Watcher};
use twintree_store::{BucketInfo, Coverage, Store};

use crate::config::Config;

/// Bytes a second that the pass over all files reads at most: nobody waits for it.
const RATE: u64 = 100 << 20;
/// How long a file must have been left alone.
const UNTOUCHED: Duration = Duration::from_secs(10);
/// How long after the start the watcher lets the tree's directories be: whoever starts a server wants its first
/// answers first.
const FIRST: Duration = Duration::from_millis(250);

/// All of it; dropping it ends it.
pub struct Background {
    // Ended in this order: who brings work before who does it.
    watcher: Option<Watcher>,
    pass: Option<Pass>,
    _sealer: Option<Sealer>,
    _upkeep: Option<Upkeep>,
}

impl Background {
    /// Starts what the settings ask for.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn start(config: &Config, store: &Arc<Store>) -> Result<Self> {
        let seal = config.seal_policy();
        let untouched = config.seal_after.unwrap_or(UNTOUCHED);
        let sealer = match seal {
            SealPolicy::Off => None,
            SealPolicy::Written | SealPolicy::All => {
                let started = store.start_sealer_after(untouched);
                Some(started.context("the sealer cannot start")?)
            }
        };
        // The watcher first: what comes while the pass goes by is heard of.
        let is_served = seal != SealPolicy::Off || config.mount.is_some();
        let watcher = match config.watch && is_served {
            true => {
                let options = WatchOptions {
                    sweep: config.watch_sweep,
                    max_watches: config.watch_most,
                    first: config.watch_after.unwrap_or(FIRST),
                    ..WatchOptions::default()
                };
                watch(store, seal, options)
            }
            false => None,
        };
        let pass = match seal {
            SealPolicy::All => Some(Pass::start(store, untouched)?),
            SealPolicy::Off | SealPolicy::Written => None,
        };
        let upkeep = match config.read_only {
            false => Some(
                store
                    .start_upkeep(SweepAges::with_uploads(config.abandoned_uploads))
                    .context("the upkeep cannot start")?,
            ),
            true => None,
        };
        Ok(Self {
            watcher,
            pass,
            _sealer: sealer,
            _upkeep: upkeep,
        })
    }
}

impl Background {
    /// How much of the tree is watched; `None`: it is not.
    pub fn coverage(&self) -> Option<Coverage> {
        self.watcher.as_ref().map(Watcher::coverage)
    }

    /// Does the pass over all files still run?
    pub fn passes(&self) -> bool {
        let thread = self.pass.as_ref().and_then(|pass| pass.thread.as_ref());
        thread.is_some_and(|thread| !thread.is_finished())
    }
}

/// Starts the watcher, as `options` say but for what it has sealed. Where it cannot be had nothing becomes wrong, and
/// it is said.
pub fn watch(store: &Arc<Store>, seal: SealPolicy, options: WatchOptions) -> Option<Watcher> {
    let options = WatchOptions {
        // What was there before is the pass's, which no queue's length bounds.
        seal: match seal {
            SealPolicy::All => SealPolicy::Written,
            other => other,
        },
        ..options
    };
    match store.start_watcher(options) {
        Ok(watcher) => Some(watcher),
        Err(e) => {
            tracing::warn!(
                "the tree is not watched (fs.inotify.max_user_instances may be too low): what is changed directly shows in a mount after its TTL, and is not sealed by itself: {e}"
            );
            None
        }
    }
}

/// One pass over everything, in a thread of its own.
struct Pass {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pass {
    fn start(store: &Arc<Store>, untouched: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, stopping) = (Arc::clone(store), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("seal all".to_owned())
            .spawn(move || pass(&store, untouched, &stopping))
            .context("no thread to seal everything with")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that seals everything panicked");
        }
    }
}

fn pass(store: &Arc<Store>, untouched: Duration, stop: &AtomicBool) {
    let options = SealOptions {
        rate: Some(RATE),
        threads: 1,
        untouched,
    };
    let buckets = match store.buckets() {
        Ok(buckets) => buckets,
        Err(e) => return tracing::warn!("what was there before is not sealed: {e}"),
    };
    for BucketInfo { name, .. } in buckets {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let counts = Arc::<Counts>::default();
        let sealed = store.bucket(&name).and_then(|bucket| {
            if bucket.is_read_only() {
                return Ok(());
            }
            let (bucket, told) = (Arc::new(bucket), Arc::clone(&counts));
            let later = Arc::clone(&bucket);
            let report: Arc<SealReport> = Arc::new(move |event: SealEvent<'_>| {
                if let SealEvent::Left(entry, Left::Open | Left::Young | Left::Changed) = &event {
                    later.seal_later(&entry.key);
                }
                told.take(&event);
            });
            bucket.seal("", &options, stop, &report)
        });
        counts.say(name.as_str());
        if let Err(e) = sealed {
            tracing::warn!(bucket = name.as_str(), "not all of it is sealed: {e}");
        }
    }
}

#[derive(Default)]
struct Counts {
    sealed: AtomicU64,
    already: AtomicU64,
    failed: AtomicU64,
    left: AtomicU64,
}

impl Counts {
    fn take(&self, event: &SealEvent<'_>) {
        let count = match event {
            SealEvent::Read(_) => return,
            SealEvent::Already(_) => &self.already,
            SealEvent::Sealed(_) => &self.sealed,
            SealEvent::Left(..) => &self.left,
            SealEvent::Failed(entry, e) => {
                tracing::debug!(key = entry.key, "not sealed: {e}");
                &self.failed
            }
            SealEvent::Unread(key, why) => {
                tracing::debug!(key, why, "not read");
                &self.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn say(&self, bucket: &str) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        tracing::info!(
            bucket,
            sealed = of(&self.sealed),
            already = of(&self.already),
            left_for_later = of(&self.left),
            failed = of(&self.failed),
            "looked for what has no MD5 yet"
        );
    }
}

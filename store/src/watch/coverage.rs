//! How much of the tree is watched, what is done about the rest, and what is said of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{COARSE, Watch, Watcher};
use crate::Timestamp;

/// How often directories without a watch are looked at, at most.
const SWEEP: Duration = Duration::from_secs(60);
/// How much longer is rested than was looked, so that a large tree does not keep a processor busy.
const REST: u32 = 20;

/// How much of the tree is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Directories with a watch.
    pub watched: usize,
    /// Directories that still wait for theirs.
    pub waiting: usize,
    /// Directories without one, since there are too many.
    pub left_out: usize,
    /// How often events were lost, and everything was looked at again.
    pub overflows: usize,
}

/// The same, as it is counted.
#[derive(Default)]
pub(super) struct Counts {
    pub watched: AtomicUsize,
    pub waiting: AtomicUsize,
    pub left_out: AtomicUsize,
    pub overflows: AtomicUsize,
}

/// When directories without a watch are looked at.
pub(super) struct Sweeps {
    /// How long is rested at least.
    every: Duration,
    /// When the look that is going on, or the last one, began: by the monotonic clock, and by files' clocks.
    began: (Instant, Timestamp),
    /// When the next one is due; `None` while one is going on.
    due: Option<Instant>,
    /// Whether it was said last that directories are left out.
    said: Option<bool>,
}

impl Sweeps {
    pub fn new(every: Option<Duration>) -> Self {
        Self {
            every: every.unwrap_or(SWEEP),
            began: (Instant::now(), Timestamp::now()),
            due: None,
            said: None,
        }
    }
}

impl Watcher {
    /// How much of the tree is watched now.
    pub fn coverage(&self) -> Coverage {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Coverage {
            watched: of(&self.counts.watched),
            waiting: of(&self.counts.waiting),
            left_out: of(&self.counts.left_out),
            overflows: of(&self.counts.overflows),
        }
    }
}

impl Watch {
    /// Everything was looked at: says how far that went, and begins again in time where not all has a watch.
    pub(super) fn rest(&mut self) {
        let left_out = self.counts.left_out.load(Ordering::Relaxed);
        if self.sweeps.said != Some(left_out > 0) {
            self.sweeps.said = Some(left_out > 0);
            self.say(left_out);
        }
        match self.sweeps.due {
            _ if left_out == 0 => self.sweeps.due = None,
            None => {
                let pause = (self.sweeps.began.0.elapsed() * REST).max(self.sweeps.every);
                self.sweeps.due = Some(Instant::now() + pause);
            }
            Some(due) if due <= Instant::now() => self.sweep(),
            Some(_) => {}
        }
    }

    /// Looks at the directories that have no watch, for what changed since they were looked at last.
    fn sweep(&mut self) {
        let since = Timestamp(self.sweeps.began.1.0 - COARSE);
        self.sweeps.due = None;
        if let Err(e) = self.look_at_all(since, false) {
            tracing::warn!("the tree cannot be looked at: {e}");
        }
    }

    /// A look at everything begins.
    pub(super) fn looks_anew(&mut self) {
        self.sweeps.began = (Instant::now(), Timestamp::now());
        self.counts.left_out.store(0, Ordering::Relaxed);
    }

    fn say(&self, left_out: usize) {
        // The root has a watch of its own.
        let watched = self.watched.len().saturating_sub(1);
        match left_out {
            0 => tracing::info!("direct changes are heard of at once in all {watched} directories"),
            _ => tracing::warn!(
                "direct changes are heard of at once in {watched} directories; {left_out} more have no watch and are looked at every {} s or less often: raise fs.inotify.max_user_watches (sysctl), of which we take half, above {}",
                self.sweeps.every.as_secs(),
                2 * (watched + left_out + 1)
            ),
        }
    }
}

/// Half of the watches that the kernel allows one user.
pub(super) fn half_of_the_limit() -> usize {
    // An interface of the kernel, not a name below any root.
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    text.ok()
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(8192)
        / 2
}

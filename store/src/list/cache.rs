//! Sorted directories, kept between pages: bounded, the longest unused goes first.
//!
//! A kept directory counts only while its mtime and ctime are those that it had before its names were read,
//! and only if it had been quiet then for longer than its filesystem's clock ticks; else a name added within
//! the same tick would stay unseen. Watches may later vouch for directories that are never quiet.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::entry::Tagged;
use super::fan::Fan;
use super::names::Names;
use crate::known::{Known, had_been_quiet};
use crate::{BucketName, Timestamp};

/// Memory for what listings keep, in bytes, where nothing else is said: three quarters for names (about four million),
/// the rest for ETags.
pub(crate) const BUDGET: usize = 172 << 20;
/// What one known ETag takes, in bytes.
const KNOWN: usize = 120;
/// What a kept directory costs beside its names, in bytes.
const OVERHEAD: usize = 256;
/// Entries that were complained about and are remembered, so that each is logged once.
const MAX_WARNED: usize = 1000;

/// Which directory: an inode number alone may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DirId {
    /// The device, major and minor.
    pub device: (u32, u32),
    /// The inode number.
    pub inode: u64,
    /// When it was born; zero where the filesystem does not say.
    pub born: Timestamp,
}

/// When a directory's names (or a file) last changed, as the filesystem says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirTimes {
    /// mtime.
    pub modified: Timestamp,
    /// ctime.
    pub changed: Timestamp,
}

impl DirTimes {
    /// Had the directory been quiet at `now` for so long that any later change shows in its times?
    pub fn settled(self, now: Timestamp) -> bool {
        had_been_quiet(self.modified, self.changed, now)
    }
}

struct Kept {
    times: DirTimes,
    names: Arc<Names>,
    used: u64,
}

#[derive(Default)]
struct Shelf {
    kept: HashMap<DirId, Kept>,
    bytes: usize,
    clock: u64,
}

/// The kept directories of one store, and what was said of its bad entries.
pub(crate) struct NameCache {
    shelf: Mutex<Shelf>,
    warned: Mutex<HashSet<(BucketName, String)>>,
    /// Threads at work for pages.
    pub fan: Fan,
    /// The files themselves.
    pub known: Known<Tagged>,
    /// Who is told of entries that cannot be read, instead of the log; then no such entry ends a walk.
    complaints: Option<Box<Complain>>,
    /// For names, in bytes.
    budget: AtomicUsize,
}

/// Takes the key (of a directory: ending in `/`) and what the system said.
pub(crate) type Complain = dyn Fn(&str, &str) + Send + Sync;

impl Default for NameCache {
    fn default() -> Self {
        Self::with_budget(BUDGET)
    }
}

impl NameCache {
    /// A cache that holds at most so many bytes.
    pub fn with_budget(budget: usize) -> Self {
        let (names, known) = shares(budget);
        Self {
            shelf: Mutex::default(),
            warned: Mutex::default(),
            fan: Fan::default(),
            known: Known::with_capacity(known),
            complaints: None,
            budget: AtomicUsize::new(names),
        }
    }

    /// Holds at most so many bytes from now on; what is more goes.
    pub fn set_budget(&self, budget: usize) {
        let (names, known) = shares(budget);
        self.budget.store(names, Ordering::Relaxed);
        self.known.set_capacity(known);
        let mut shelf = self.shelf.lock();
        if shelf.bytes > names {
            shelf.shrink(names);
        }
    }

    /// For one walk over everything: keeps nothing, and hands every entry that cannot be read to `complain`.
    pub fn for_one_walk(complain: Box<Complain>) -> Self {
        Self {
            complaints: Some(complain),
            ..Self::with_budget(0)
        }
    }

    /// Is somebody told of every entry that cannot be read?
    pub fn is_complete(&self) -> bool {
        self.complaints.is_some()
    }

    /// The names, if they are kept and the directory still shows the same times.
    pub fn get(&self, id: DirId, times: DirTimes) -> Option<Arc<Names>> {
        let mut shelf = self.shelf.lock();
        shelf.clock += 1;
        let clock = shelf.clock;
        let kept = shelf.kept.get_mut(&id).filter(|kept| kept.times == times)?;
        kept.used = clock;
        Some(kept.names.clone())
    }

    /// Keeps names that were read while the directory showed `times`, which were settled.
    pub fn keep(&self, id: DirId, times: DirTimes, names: Arc<Names>) {
        let size = names.size() + OVERHEAD;
        let budget = self.budget.load(Ordering::Relaxed);
        if size > budget {
            return;
        }
        let mut shelf = self.shelf.lock();
        shelf.remove(&id);
        if shelf.bytes + size > budget {
            shelf.shrink(budget - size);
        }
        shelf.clock += 1;
        shelf.bytes += size;
        let used = shelf.clock;
        shelf.kept.insert(id, Kept { times, names, used });
    }

    /// Logs once that an entry cannot be read and is left out of listings.
    pub fn warn_once(&self, bucket: &BucketName, key: &str, why: &dyn Display) {
        if let Some(complain) = &self.complaints {
            return complain(key, &why.to_string());
        }
        let mut warned = self.warned.lock();
        if warned.len() < MAX_WARNED && warned.insert((bucket.clone(), key.to_owned())) {
            tracing::warn!(bucket = bucket.as_str(), key, "left out of listings: {why}");
        }
    }
}

/// The bytes for names and the number of ETags of a budget.
fn shares(budget: usize) -> (usize, usize) {
    let names = budget / 4 * 3;
    (names, (budget - names) / KNOWN)
}

impl Shelf {
    fn remove(&mut self, id: &DirId) {
        if let Some(old) = self.kept.remove(id) {
            self.bytes -= old.names.size() + OVERHEAD;
        }
    }

    /// Drops the longest unused until at most `target` bytes are held, and a quarter more, so that the sort
    /// below is paid once for many insertions.
    fn shrink(&mut self, target: usize) {
        let target = target - target / 4;
        let mut by_age: Vec<(u64, DirId)> = self
            .kept
            .iter()
            .map(|(id, kept)| (kept.used, *id))
            .collect();
        by_age.sort_unstable_by_key(|(used, _)| *used);
        for (_, id) in by_age {
            if self.bytes <= target {
                break;
            }
            self.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::Kind;
    use super::*;

    fn id(inode: u64) -> DirId {
        DirId {
            device: (0, 1),
            inode,
            born: Timestamp(7),
        }
    }

    fn times(at: i64) -> DirTimes {
        DirTimes {
            modified: Timestamp(at),
            changed: Timestamp(at),
        }
    }

    fn names(count: usize) -> Arc<Names> {
        let mut names = Names::default();
        for n in 0..count {
            names
                .push(&format!("{n:08}"), Kind::File)
                .expect("few names");
        }
        names.sort();
        Arc::new(names)
    }

    #[test]
    fn a_directory_that_shows_other_times_is_read_again() {
        let cache = NameCache::default();
        cache.keep(id(1), times(10), names(3));
        assert!(cache.get(id(1), times(10)).is_some());
        assert!(cache.get(id(1), times(11)).is_none());
        assert!(
            cache
                .get(
                    DirId {
                        born: Timestamp(8),
                        ..id(1)
                    },
                    times(10)
                )
                .is_none()
        );
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_budget_holds() {
        let one = names(100).size() + OVERHEAD;
        let cache = NameCache::default();
        cache.budget.store(one * 4, Ordering::Relaxed);
        for n in 0..4 {
            cache.keep(id(n), times(1), names(100));
        }
        assert!(cache.get(id(0), times(1)).is_some());
        cache.keep(id(9), times(1), names(100));
        assert!(cache.shelf.lock().bytes <= one * 4);
        assert!(cache.get(id(0), times(1)).is_some(), "used last");
        assert!(cache.get(id(1), times(1)).is_none(), "used first");
        assert!(cache.get(id(9), times(1)).is_some());
        cache.keep(id(10), times(1), names(1000));
        assert!(
            cache.get(id(10), times(1)).is_none(),
            "larger than the budget"
        );
    }

    #[test]
    fn a_smaller_budget_counts_at_once() {
        let cache = NameCache::default();
        for n in 0..4 {
            cache.keep(id(n), times(1), names(100));
        }
        let one = names(100).size() + OVERHEAD;
        cache.set_budget(one * 4);
        assert!(
            cache.shelf.lock().bytes <= one * 3,
            "a quarter is for ETags"
        );
        assert!(cache.get(id(3), times(1)).is_some(), "used last");
        for n in 4..9 {
            cache.keep(id(n), times(1), names(100));
            assert!(cache.shelf.lock().bytes <= one * 3);
        }
    }

    #[test]
    fn only_quiet_directories_are_settled() {
        let second = 1_000_000_000;
        assert!(times(1).settled(Timestamp(second)));
        assert!(!times(second - 1).settled(Timestamp(second)));
        assert!(
            !times(second).settled(Timestamp(2 * second)),
            "whole seconds only"
        );
        assert!(times(second).settled(Timestamp(4 * second)));
        assert!(
            !times(second + 5).settled(Timestamp(second)),
            "from the future"
        );
    }
}

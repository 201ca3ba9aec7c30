//! What was found out of files, by what stat shows of them: whoever comes by again need not ask for more.
//!
//! Setting an xattr moves ctime, so equal size, mtime and ctime mean the same record and the same metadata; but
//! for files that were changed within the last ticks of the clock, which are not kept. Only local filesystems:
//! elsewhere clocks differ.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::Timestamp;
use crate::record::FileState;

/// How long a directory must be quiet, in nanoseconds: several ticks of the coarsest kernel clock (10 ms).
const QUIET: i64 = 50_000_000;
/// The same where stamps show whole seconds only: FAT counts in twos.
const QUIET_COARSE: i64 = 2_500_000_000;
const SHARDS: usize = 16;

type Files<V> = HashMap<(u64, u64), (FileState, V), RandomState>;

/// Two generations: what is not asked for while the younger one fills goes with the older one.
struct Shard<V> {
    young: Files<V>,
    old: Files<V>,
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self {
            young: Files::default(),
            old: Files::default(),
        }
    }
}

/// Known files.
pub(crate) struct Known<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
    /// Of one generation of one shard.
    capacity: AtomicUsize,
}

impl<V: Clone> Known<V> {
    /// Knows at most so many files; two thirds of it are kept however often they are asked for in turn.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            shards: Default::default(),
            capacity: AtomicUsize::new(of_generation(capacity)),
        }
    }

    /// Knows at most so many files from now on; what is more goes.
    pub fn set_capacity(&self, capacity: usize) {
        let capacity = of_generation(capacity);
        if capacity < self.capacity.swap(capacity, Ordering::Relaxed) {
            for shard in &self.shards {
                *shard.lock() = Shard::default();
            }
        }
    }

    /// What is known of a file that shows exactly this.
    pub fn get(&self, state: &FileState) -> Option<V> {
        let key = (state.device, state.inode);
        let mut shard = self.shard(state.inode).lock();
        if let Some((known, value)) = shard.young.get(&key) {
            return (known == state).then(|| value.clone());
        }
        let (known, value) = shard.old.remove(&key)?;
        if known != *state {
            return None;
        }
        self.insert(&mut shard, known, value.clone());
        Some(value)
    }

    /// Keeps what was found out of a file that showed this, and had been quiet.
    pub fn keep(&self, state: FileState, value: V) {
        self.insert(&mut self.shard(state.inode).lock(), state, value);
    }

    fn insert(&self, shard: &mut Shard<V>, state: FileState, value: V) {
        // A listing comes by all its files in turn: the generations must not change while both have room, or each
        // pass over a directory forgets what the next one is about to ask for.
        let capacity = self.capacity.load(Ordering::Relaxed);
        let full = shard.young.len() + shard.old.len() >= 2 * capacity;
        if full && shard.young.len() >= capacity {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard
            .young
            .insert((state.device, state.inode), (state, value));
    }

    fn shard(&self, inode: u64) -> &Mutex<Shard<V>> {
        // Inode numbers of one directory follow each other.
        &self.shards[(inode % SHARDS as u64) as usize]
    }
}

/// How many files one generation of one shard holds where all hold so many.
fn of_generation(capacity: usize) -> usize {
    (capacity / SHARDS / 3).max(1)
}

/// Had what shows these times been quiet at `now` for so long that any later change shows in them?
pub(crate) fn had_been_quiet(modified: Timestamp, changed: Timestamp, now: Timestamp) -> bool {
    let coarse = modified.subsec_nanos() == 0 && changed.subsec_nanos() == 0;
    let quiet = if coarse { QUIET_COARSE } else { QUIET };
    now.0.saturating_sub(modified.max(changed).0) > quiet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::state;

    const TAGGED: &str = "what was found out";
    const CAPACITY: usize = 1000;

    #[test]
    fn only_the_very_same_state_is_known() {
        let known = Known::with_capacity(CAPACITY);
        known.keep(state(1, 10), TAGGED);
        assert_eq!(known.get(&state(1, 10)), Some(TAGGED));
        assert_eq!(known.get(&state(1, 11)), None);
        assert_eq!(known.get(&state(2, 10)), None);
        assert_eq!(
            known.get(&FileState {
                size: 6,
                ..state(1, 10)
            }),
            None
        );
        assert_eq!(
            known.get(&FileState {
                modified: Timestamp(8),
                ..state(1, 10)
            }),
            None
        );
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let known = Known::with_capacity(SHARDS * 8);
        for inode in 0..10_000 {
            known.keep(state(inode, 1), TAGGED);
            assert_eq!(known.get(&state(0, 1)), Some(TAGGED), "used all the time");
        }
        assert_eq!(known.get(&state(16, 1)), None);
        assert_eq!(known.get(&state(9_999, 1)), Some(TAGGED));
        let held: usize = known
            .shards
            .iter()
            .map(|shard| shard.lock())
            .map(|s| s.young.len() + s.old.len())
            .sum();
        assert!(held <= SHARDS * 8, "{held}");
    }

    #[test]
    fn a_directory_that_fits_is_known_whole_at_every_pass() {
        let known = Known::with_capacity(SHARDS * 3 * 8);
        let files = SHARDS as u64 * 2 * 8;
        for inode in 0..files {
            known.keep(state(inode, 1), TAGGED);
        }
        for pass in 0..3 {
            for inode in 0..files {
                let found = known.get(&state(inode, 1));
                assert_eq!(found, Some(TAGGED), "pass {pass}, file {inode}");
            }
        }
    }
}

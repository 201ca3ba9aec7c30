//! What was found out of files, by what stat shows of them: whoever comes by again need not ask for more.
//!
//! Setting an xattr moves ctime, so equal size, mtime and ctime mean the same record and the same metadata; but
//! for files that were changed within the last ticks of the clock, which are not kept. Only local filesystems:
//! elsewhere clocks differ.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};

use crate::Timestamp;
use crate::record::FileState;

/// How long a directory must be quiet, in nanoseconds: several ticks of the coarsest kernel clock (10 ms).
const QUIET: i64 = 50_000_000;
/// The same where stamps show whole seconds only: FAT counts in twos.
const QUIET_COARSE: i64 = 2_500_000_000;
const SHARDS: usize = 16;
/// Inode numbers in a row that share a shard: those of one directory follow each other, and who asks for several
/// holds a shard for as many.
const BLOCK: u64 = 16;

type Files<V> = HashMap<(u64, u64), Entry<V>, RandomState>;

/// What a file showed, but for what it is found by, and what was found out: small, since what is scattered over
/// memory costs by the cache line.
struct Entry<V> {
    size: u64,
    modified: Timestamp,
    changed: Timestamp,
    value: V,
}

impl<V> Entry<V> {
    fn is_of(&self, state: &FileState) -> bool {
        self.size == state.size && self.modified == state.modified && self.changed == state.changed
    }
}

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
        self.look(Holds::of(self).shard(state.inode), state)
    }

    /// As [`Known::get`], of several files, in their order; `None` stays `None`. One by one, each would wait for its
    /// memory in turn: here the processor fetches that of the next ones meanwhile.
    pub fn get_all(&self, states: &[Option<FileState>]) -> Vec<Option<V>> {
        let mut holds = Holds::of(self);
        let mut look = |state: &FileState| self.look(holds.shard(state.inode), state);
        states
            .iter()
            .map(|state| state.as_ref().and_then(&mut look))
            .collect()
    }

    fn look(&self, shard: &mut Shard<V>, state: &FileState) -> Option<V> {
        let key = (state.device, state.inode);
        if let Some(known) = shard.young.get(&key) {
            return known.is_of(state).then(|| known.value.clone());
        }
        let known = shard.old.remove(&key)?;
        if !known.is_of(state) {
            return None;
        }
        let value = known.value.clone();
        self.insert(shard, key, known);
        Some(value)
    }

    /// Keeps what was found out of a file that showed this, and had been quiet.
    pub fn keep(&self, state: FileState, value: V) {
        self.keep_all([(state, value)]);
    }

    /// As [`Known::keep`], of several files.
    pub fn keep_all(&self, found: impl IntoIterator<Item = (FileState, V)>) {
        let mut holds = Holds::of(self);
        for (state, value) in found {
            let entry = Entry {
                size: state.size,
                modified: state.modified,
                changed: state.changed,
                value,
            };
            let key = (state.device, state.inode);
            self.insert(holds.shard(state.inode), key, entry);
        }
    }

    fn insert(&self, shard: &mut Shard<V>, key: (u64, u64), entry: Entry<V>) {
        // A listing comes by all its files in turn: the generations must not change while both have room, or each
        // pass over a directory forgets what the next one is about to ask for.
        let capacity = self.capacity.load(Ordering::Relaxed);
        let full = shard.young.len() + shard.old.len() >= 2 * capacity;
        if full && shard.young.len() >= capacity {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(key, entry);
    }
}

/// One shard at a time, held for as long as it is the one that is wanted: never two at once, which others would take
/// in another order.
struct Holds<'a, V> {
    known: &'a Known<V>,
    held: Option<(usize, MutexGuard<'a, Shard<V>>)>,
}

impl<'a, V> Holds<'a, V> {
    fn of(known: &'a Known<V>) -> Self {
        Self { known, held: None }
    }

    fn shard(&mut self, inode: u64) -> &mut Shard<V> {
        let index = (inode / BLOCK % SHARDS as u64) as usize;
        if self.held.as_ref().is_none_or(|(held, _)| *held != index) {
            self.held = None;
        }
        let (_, shard) = self
            .held
            .get_or_insert_with(|| (index, self.known.shards[index].lock()));
        shard
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
        assert_eq!(known.get(&state(1, 1)), None);
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

    #[test]
    fn several_are_known_in_the_order_in_which_they_are_asked_for() {
        let known = Known::with_capacity(CAPACITY);
        for inode in 0..100 {
            known.keep(state(inode, 1), inode);
        }
        let changed = Some(state(7, 2));
        let asked = [
            Some(state(50, 1)),
            None,
            changed,
            Some(state(3, 1)),
            Some(state(200, 1)),
            Some(state(51, 1)),
        ];
        assert_eq!(
            known.get_all(&asked),
            [Some(50), None, None, Some(3), None, Some(51)]
        );
    }

    #[test]
    fn what_a_listing_knows_of_a_file_fits_into_a_cache_line() {
        type Line = ((u64, u64), Entry<crate::list::Tagged>);
        assert!(size_of::<Line>() <= 64, "{}", size_of::<Line>());
    }
}

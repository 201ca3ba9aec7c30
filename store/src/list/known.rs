//! Entity tags that a listing found out, by what statx shows of the file: the next page that comes by needs
//! one call for it instead of two or three.
//!
//! Setting a record moves ctime, so equal size, mtime and ctime mean the same record; but for files that were
//! changed within the last ticks of the clock, which are not kept. Only local filesystems: elsewhere clocks
//! differ.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::record::FileState;
use crate::{Algorithm, ChecksumType, ETag};

/// Files that are known at most: about 45 MiB. Two thirds of it are kept however often they are listed in turn.
const CAPACITY: usize = 3 << 17;
const SHARDS: usize = 16;

/// What a page shows of a file beside size and mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// As HEAD would answer it.
    pub etag: ETag,
    /// The algorithm and type of its checksum.
    pub checksum: Option<(Algorithm, ChecksumType)>,
}

/// Two generations: what is not asked for while the younger one fills goes with the older one.
#[derive(Default)]
struct Shard {
    young: HashMap<(u64, u64), (FileState, Tagged)>,
    old: HashMap<(u64, u64), (FileState, Tagged)>,
}

/// Known files.
pub(crate) struct Known {
    shards: [Mutex<Shard>; SHARDS],
    /// Of one generation of one shard.
    capacity: usize,
}

impl Default for Known {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Known {
    /// Knows at most so many files.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            shards: Default::default(),
            capacity: (capacity / SHARDS / 3).max(1),
        }
    }

    /// What is known of a file that shows exactly this.
    pub fn get(&self, state: &FileState) -> Option<Tagged> {
        let key = (state.device, state.inode);
        let mut shard = self.shard(state.inode).lock();
        if let Some((known, tagged)) = shard.young.get(&key) {
            return (known == state).then_some(*tagged);
        }
        let (known, tagged) = shard.old.remove(&key)?;
        if known != *state {
            return None;
        }
        self.insert(&mut shard, known, tagged);
        Some(tagged)
    }

    /// Keeps what was found out of a file that showed this, and had been quiet.
    pub fn keep(&self, state: FileState, tagged: Tagged) {
        self.insert(&mut self.shard(state.inode).lock(), state, tagged);
    }

    fn insert(&self, shard: &mut Shard, state: FileState, tagged: Tagged) {
        // A listing comes by all its files in turn: the generations must not change while both have room, or each
        // pass over a directory forgets what the next one is about to ask for.
        let full = shard.young.len() + shard.old.len() >= 2 * self.capacity;
        if full && shard.young.len() >= self.capacity {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard
            .young
            .insert((state.device, state.inode), (state, tagged));
    }

    fn shard(&self, inode: u64) -> &Mutex<Shard> {
        // Inode numbers of one directory follow each other.
        &self.shards[(inode % SHARDS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn state(inode: u64, changed: i64) -> FileState {
        FileState {
            device: 1,
            inode,
            size: 5,
            modified: Timestamp(7),
            changed: Timestamp(changed),
        }
    }

    const TAGGED: Tagged = Tagged {
        etag: ETag::Derived(1, 2),
        checksum: None,
    };

    #[test]
    fn only_the_very_same_state_is_known() {
        let known = Known::default();
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

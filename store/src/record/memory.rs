//! What this process remembers: the ctime that a file showed when its record was last known true.
//!
//! Keyed by (device, inode), with the record's exact bytes: other bytes on the file mean that
//! another gateway wrote it, and the memory says nothing any more. Bounded; the oldest go first.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::stamp::FileState;
use crate::Timestamp;

/// How many files are remembered at most, over all shards.
const CAPACITY: usize = 1 << 18;
const SHARDS: usize = 64;

/// Remembered ctimes of one process.
pub(crate) struct Memory {
    shards: Vec<Mutex<Shard>>,
    capacity: usize,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<(u64, u64), Entry, RandomState>,
    /// Keys in the order of their arrival, for eviction.
    arrival: VecDeque<(u64, u64)>,
}

struct Entry {
    changed: Timestamp,
    record: Box<[u8]>,
}

/// What the memory says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    /// These bytes were true at this very ctime.
    Same,
    /// These bytes were true at another ctime.
    Moved,
    /// Nothing (any more).
    Nothing,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Memory {
    /// A memory of at most so many files.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            shards,
            capacity: capacity.div_ceil(SHARDS).max(1),
        }
    }

    /// Remembers that `record` was true of the file at the ctime of `state`.
    pub(crate) fn remember(&self, state: &FileState, record: &[u8]) {
        let key = (state.device, state.inode);
        let mut shard = self.shard(key).lock();
        let entry = Entry {
            changed: state.changed,
            record: record.into(),
        };
        if shard.entries.insert(key, entry).is_none() {
            shard.arrival.push_back(key);
        }
        // A forgotten key leaves its place in the queue, so that the queue is what is bounded.
        while shard.arrival.len() > self.capacity {
            if let Some(oldest) = shard.arrival.pop_front() {
                shard.entries.remove(&oldest);
            }
        }
    }

    /// Looks a file up; other bytes than the remembered ones drop the memory.
    pub(crate) fn recall(&self, state: &FileState, record: &[u8]) -> Recall {
        let key = (state.device, state.inode);
        let mut shard = self.shard(key).lock();
        match shard.entries.get(&key) {
            None => Recall::Nothing,
            Some(entry) if *entry.record != *record => {
                shard.entries.remove(&key);
                Recall::Nothing
            }
            Some(entry) if entry.changed == state.changed => Recall::Same,
            Some(_) => Recall::Moved,
        }
    }

    fn shard(&self, (device, inode): (u64, u64)) -> &Mutex<Shard> {
        // Inode numbers of one directory are consecutive: spread them.
        let mixed = (inode ^ device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(mixed >> 58) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::state;

    #[test]
    fn same_bytes_and_ctime_are_the_same() {
        let memory = Memory::default();
        memory.remember(&state(1, 5), b"record");
        assert_eq!(memory.recall(&state(1, 5), b"record"), Recall::Same);
        assert_eq!(memory.recall(&state(1, 6), b"record"), Recall::Moved);
        assert_eq!(memory.recall(&state(2, 5), b"record"), Recall::Nothing);
    }

    #[test]
    fn other_bytes_drop_the_memory() {
        let memory = Memory::default();
        memory.remember(&state(1, 5), b"record");
        assert_eq!(
            memory.recall(&state(1, 5), b"another gateway's"),
            Recall::Nothing
        );
        assert_eq!(memory.recall(&state(1, 6), b"record"), Recall::Nothing);
    }

    #[test]
    fn memory_is_bounded() {
        let memory = Memory::with_capacity(640);
        for inode in 0..100_000 {
            memory.remember(&state(inode, 1), b"r");
            memory.recall(&state(inode, 1), b"other");
            memory.remember(&state(inode, 1), b"r");
        }
        let held: usize = memory
            .shards
            .iter()
            .map(|shard| shard.lock().entries.len())
            .sum();
        let queued: usize = memory
            .shards
            .iter()
            .map(|shard| shard.lock().arrival.len())
            .sum();
        assert!(
            held <= 640 && queued <= 640,
            "{held} entries, {queued} queued"
        );
    }
}

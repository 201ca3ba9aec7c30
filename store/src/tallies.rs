//! What a store counts of its own work, for whoever watches over it: sealing, and what shared a sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::sealer::settle::Outcome;
use crate::{Result, Store};

/// The upper ends of the classes of batches: of how many one sync was the last word. One without an end is behind.
pub const BATCHES: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Files whose ETag and checksum were made or checked in the background, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealTallies {
    /// A record was written.
    pub sealed: u64,
    /// It had a valid one.
    pub valid: u64,
    /// Somebody was at it: it waits, or whoever writes it brings it back.
    pub busy: u64,
    /// It was gone, or its record is a later version's.
    pub skipped: u64,
    /// It could not be read or recorded.
    pub failed: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files that wait because somebody who read them met a record in doubt.
    pub waiting_doubted: usize,
    /// Files that wait because they were written.
    pub waiting_written: usize,
    /// Files that wait for whoever is at them.
    pub waiting_busy: usize,
}

/// One kind of sync: how often it was called, and how many each call served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncTallies {
    /// Calls by their class of [`BATCHES`].
    pub calls: [u64; BATCHES.len() + 1],
    /// Files or directories that were served by all of them together.
    pub served: u64,
}

/// All kinds of sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitTallies {
    /// fsync of one file.
    pub file: SyncTallies,
    /// fsync of a directory, for all who published in it.
    pub directory: SyncTallies,
    /// syncfs of a filesystem.
    pub filesystem: SyncTallies,
}

/// The same, as sealing is counted.
#[derive(Default)]
pub(crate) struct SealCounts {
    sealed: AtomicU64,
    valid: AtomicU64,
    busy: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    pub waiting_busy: AtomicUsize,
}

impl SealCounts {
    /// Counts what became of a file.
    pub fn settled(&self, outcome: &Result<Outcome>) {
        let count = match outcome {
            Ok(Outcome::Sealed) => &self.sealed,
            Ok(Outcome::Valid) => &self.valid,
            Ok(Outcome::Busy(_)) => &self.busy,
            Ok(Outcome::Gone | Outcome::Foreign) => &self.skipped,
            Ok(Outcome::Remembered) | Err(_) => &self.failed,
        };
        count.fetch_add(1, Relaxed);
    }

    /// Counts bytes that were read.
    pub fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// The same, as syncs are counted.
#[derive(Default)]
pub(crate) struct CommitCounts {
    pub file: Calls,
    pub directory: Calls,
    pub filesystem: Calls,
}

/// Calls of one kind of sync.
#[derive(Default)]
pub(crate) struct Calls {
    classes: [AtomicU64; BATCHES.len() + 1],
    served: AtomicU64,
}

impl Calls {
    /// Counts a call that so many waited for.
    pub fn served(&self, batch: u64) {
        self.classes[BATCHES.partition_point(|end| *end < batch)].fetch_add(1, Relaxed);
        self.served.fetch_add(batch, Relaxed);
    }

    fn tallies(&self) -> SyncTallies {
        SyncTallies {
            calls: std::array::from_fn(|class| self.classes[class].load(Relaxed)),
            served: self.served.load(Relaxed),
        }
    }
}

impl Store {
    /// What was sealed since the start, and what waits for it.
    pub fn seal_tallies(&self) -> SealTallies {
        let counts = &self.sealing;
        let (waiting_doubted, waiting_written) = self.seal_queue.lengths();
        SealTallies {
            sealed: counts.sealed.load(Relaxed),
            valid: counts.valid.load(Relaxed),
            busy: counts.busy.load(Relaxed),
            skipped: counts.skipped.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            bytes: counts.bytes.load(Relaxed),
            waiting_doubted,
            waiting_written,
            waiting_busy: counts.waiting_busy.load(Relaxed),
        }
    }

    /// What was synced since the start, and how many shared it.
    pub fn commit_tallies(&self) -> CommitTallies {
        let counts: &Arc<CommitCounts> = self.syncers.counts();
        CommitTallies {
            file: counts.file.tallies(),
            directory: counts.directory.tallies(),
            filesystem: counts.filesystem.tallies(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_of_the_class_that_it_does_not_exceed() {
        let calls = Calls::default();
        for batch in [1, 1, 2, 3, 128, 129] {
            calls.served(batch);
        }
        let tallies = calls.tallies();
        assert_eq!(tallies.calls, [2, 1, 1, 0, 0, 0, 0, 1, 1]);
        assert_eq!(tallies.served, 264);
    }
}

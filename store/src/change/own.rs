//! What the mount wrote and closed just now: a watcher hears of that a moment later, and must not take it for
//! somebody else's. Each file is remembered as it was left, so that what another makes of it meanwhile is news.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Inode;
use crate::record::FileState;

/// Files remembered at most; of more a watcher tells the mount what it knows.
const MAX: usize = 1 << 16;

/// Files that were closed since the watcher looked last, and those from before that.
#[derive(Default)]
pub(super) struct Own {
    /// Does anybody look?
    looking: AtomicBool,
    closed: Mutex<[HashMap<Inode, FileState>; 2]>,
}

impl Own {
    /// Whether a watcher looks from now on.
    pub fn look(&self, looking: bool) {
        self.looking.store(looking, Ordering::Relaxed);
        *self.closed.lock() = Default::default();
    }

    /// Remembers a file as it was left.
    pub fn left(&self, state: FileState) {
        if !self.looking.load(Ordering::Relaxed) {
            return;
        }
        let [now, _] = &mut *self.closed.lock();
        if now.len() < MAX {
            now.insert(state.inode(), state);
        }
    }

    /// Is a file as it was left?
    pub fn is_as_left(&self, state: &FileState) -> bool {
        let closed = self.closed.lock();
        let inode = state.inode();
        closed.iter().any(|files| files.get(&inode) == Some(state))
    }

    /// The watcher has read all events that had come: of files that were closed before the last time, none comes.
    pub fn looked(&self) {
        let mut closed = self.closed.lock();
        closed.swap(0, 1);
        closed[0].clear();
    }
}

//! What one process remembers of a store and of each bucket, and hangs its locks and caches on. Nothing
//! here matters to correctness after a restart: what matters lies on disk.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::fsfacts::FsFacts;
use crate::lock::Locks;
use crate::multipart::UploadLocks;
use crate::notes::Notes;
use crate::root::Tree;
use crate::settled::Settled;

/// Buckets remembered at once; beyond it those that no request holds are forgotten.
const MAX_BUCKETS: usize = 10_000;
/// Buckets whose directories are held open at once.
const MAX_HELD: usize = 64;

/// One bucket's in-process state, found again by the device and inode of its directory.
pub(crate) struct BucketShared {
    /// Device and inode of the bucket's directory.
    pub id: (u64, u64),
    /// What its directory lies on.
    pub facts: FsFacts,
    /// Held while `bucket.json` is replaced.
    pub settings: Mutex<()>,
    /// The keys' locks.
    pub locks: Locks,
    /// The locks of multipart uploads.
    pub uploads: UploadLocks,
    /// Folders that may be left empty.
    pub notes: Notes,
    /// Young directories whose entries are on disk.
    pub settled: Settled,
}

/// The buckets that this process has seen.
#[derive(Default)]
pub(crate) struct Buckets {
    by_id: Mutex<HashMap<(u64, u64), Arc<BucketShared>>>,
    /// Names that once were a filesystem of their own, so that a bare mount point is not taken for them.
    mounted: Mutex<HashMap<String, u64>>,
    /// Directories of buckets on the root's own filesystem, held open. What is held keeps its inode's number.
    held: Mutex<HashMap<String, Arc<Held>, RandomState>>,
}

/// A bucket's directory, as it was resolved last.
pub(crate) struct Held {
    pub tree: Tree,
    pub shared: Arc<BucketShared>,
    /// Where it is looked for: the root's own path and its name.
    pub path: Arc<CString>,
    /// Which root that is; 0 also of what lies in none.
    pub root: usize,
}

impl Buckets {
    /// The state of the bucket with this identity, where this process has seen it.
    pub fn known(&self, id: (u64, u64)) -> Option<Arc<BucketShared>> {
        self.by_id.lock().get(&id).map(Arc::clone)
    }

    /// The state of a bucket that is new; somebody else may have added it meanwhile.
    pub fn add(&self, id: (u64, u64), facts: FsFacts) -> Arc<BucketShared> {
        let mut by_id = self.by_id.lock();
        if by_id.len() >= MAX_BUCKETS {
            by_id.retain(|_, shared| Arc::strong_count(shared) > 1);
        }
        let new = || {
            Arc::new(BucketShared {
                id,
                facts,
                settings: Mutex::new(()),
                locks: Locks::default(),
                uploads: UploadLocks::default(),
                notes: Notes::default(),
                settled: Settled::default(),
            })
        };
        Arc::clone(by_id.entry(id).or_insert_with(new))
    }

    /// Notes the device that a bucket lies on. `false`: it used to be a filesystem of its own and now
    /// lies on the root's, so its disk was unmounted under us.
    pub fn still_mounted(&self, name: &str, device: u64, root_device: u64) -> bool {
        let mut mounted = self.mounted.lock();
        if device == root_device {
            return !mounted.contains_key(name);
        }
        if mounted.len() < MAX_BUCKETS && !mounted.contains_key(name) {
            mounted.insert(name.to_owned(), device);
            // What lies under the disk is never taken for the bucket again.
            self.held.lock().remove(name);
        }
        true
    }

    /// The directory that had this name last.
    pub fn held(&self, name: &str) -> Option<Arc<Held>> {
        self.held.lock().get(name).cloned()
    }

    /// Holds a directory of the root's own filesystem: one of another would keep its disk from being unmounted.
    pub fn hold(&self, name: &str, held: Arc<Held>) {
        let mounted = self.mounted.lock();
        if mounted.contains_key(name) {
            return; // its disk came since it was resolved
        }
        let mut all = self.held.lock();
        if all.len() >= MAX_HELD {
            all.clear();
        }
        all.insert(name.to_owned(), held);
    }

    /// A bucket that was removed through S3 may come back on the root's own filesystem.
    pub fn forget(&self, name: &str) {
        self.mounted.lock().remove(name);
        self.held.lock().remove(name);
    }
}

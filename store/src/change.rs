//! Who is writing, what changed, and who must be told: what makes the two faces one.
//!
//! **Who is writing.** The mount counts each writable open of a file here, from open to RELEASE. While one is
//! counted the file is *in flux*: S3 answers it with a derived ETag salted with the open's number and without
//! a checksum, and no record of its content is believed or written. The kernel shows a passthrough mount no
//! write, so what counts is the open, not the writing.
//!
//! How the mount uses it:
//! - writable open: `let writing = bucket.writing(&file)?` *before* the file can be written through it; kept
//!   in the handle.
//! - before O_TRUNC, setattr(size), fallocate, as target of copy_file_range, at each WRITE that it sees:
//!   `writing.touched(&file)?` (a call after the first costs one atomic load). Without a handle
//!   (truncate(2)): a `Writing` for the length of the call.
//! - FLUSH: `writing.compare(&file)?`. RELEASE: `writing.finish(&file, Some(&key))`. A `Writing` that is only
//!   dropped ends the count too, and seals nothing.
//! - chmod, chown, utimens, rename, link, setxattr: `bucket.keeping_record(&file, moves, || the call)?`.
//!
//! **Who must be told.** Every path of the store that changes what a name stands for announces it after its
//! locks are dropped and before its caller answers, and waits until each [`Subscriber`] has told the kernel,
//! a second at most. The mount subscribes once; it queues what it is told and acknowledges from a thread of
//! its own (`reference/fuse.md` section 9). It gets what S3 does, never what itself does through the tree.

mod own;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::BucketName;
use crate::record::FileState;
use held::Held;
use own::Own;

/// How long an answer waits for the subscribers.
const PATIENCE: Duration = Duration::from_secs(1);
const SHARDS: usize = 16;

/// A file or directory on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// Device number (`st_dev`).
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// The number of a writable open: increasing in one process, random between processes, so that two openings
/// never give one ETag to two contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FluxNumber(pub u64);

/// What happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The name stands for a new file or link.
    Published,
    /// The name is gone.
    Deleted,
    /// The file or directory is the same; what is said of it (tags, headers, record) is new: attributes and
    /// xattrs, not content.
    Attributes,
    /// The same file holds other bytes: a direct writer wrote in place. Only hints say so.
    Content,
    /// A directory was made: a parent, or the object `dir/`.
    DirectoryMade,
    /// An empty directory was removed.
    DirectoryRemoved,
    /// A bucket was made. `parent` is the root.
    BucketMade,
    /// A bucket was removed. `parent` is the root.
    BucketRemoved,
    /// Events were lost, or too many came: anything in the directory `parent` may have changed, or below its
    /// entry `name` where one is named.
    Anything,
}

/// A name that stands for something else now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The bucket.
    pub bucket: BucketName,
    /// The directory that holds the name; for buckets, the root.
    pub parent: Inode,
    /// The name in that directory, as on disk.
    pub name: Vec<u8>,
    /// What the name stood for before, where it is known; with [`ChangeKind::Attributes`], what it stands for.
    pub old: Option<Inode>,
    /// What happened.
    pub kind: ChangeKind,
}

/// Who must be told of changes.
pub trait Subscriber: Send + Sync {
    /// Takes a change. Called on the thread of whoever made it, with no lock of the store held; must not
    /// wait (queue it), and must not call the store. Dropping `done` says that the kernel was told.
    fn changed(&self, change: &Change, done: Acknowledgement);
}

/// Dropped once the kernel was told: the answer waits for it.
pub struct Acknowledgement(Arc<Round>);

/// Keeps a subscriber subscribed; dropping it ends that.
pub struct Subscription {
    changes: Arc<Changes>,
    number: u64,
}

/// What the faces of one store tell each other.
#[derive(Default)]
pub struct Changes {
    /// Files in flux: 0 costs a reader one load.
    open: AtomicUsize,
    last: OnceLock<AtomicU64>,
    writers: [Mutex<HashMap<Inode, Writers>>; SHARDS],
    /// Held by who reads a record, decides, and writes it: by inode, since one file may have many names.
    records: [Mutex<()>; SHARDS],
    own: Own,
    listening: AtomicUsize,
    subscribers: RwLock<Vec<(u64, Arc<dyn Subscriber>)>>,
    /// Was the incident that is under way warned of?
    late: AtomicBool,
}

/// The writable opens of one file.
struct Writers {
    count: usize,
    /// The latest of them.
    number: FluxNumber,
    /// Did any of them change the content?
    moved: bool,
}

/// Changes that were told, and whose acknowledgements are waited for at the end: dropped, it waits for none.
pub(crate) struct Announcement<'a> {
    changes: &'a Changes,
    round: Option<Arc<Round>>,
}

/// A file's record, held.
pub(crate) struct RecordGuard<'a> {
    _held: Held,
    _record: MutexGuard<'a, ()>,
}

/// One announcement's open acknowledgements.
#[derive(Default)]
struct Round {
    open: Mutex<usize>,
    done: Condvar,
}

impl Changes {
    /// The number of the latest writable open of this file, while one is open.
    pub fn in_flux(&self, inode: Inode) -> Option<FluxNumber> {
        if self.open.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.shard(inode).lock().get(&inode).map(|w| w.number)
    }

    /// Stays the same while nobody opens anything for writing: who looks at a file after he asked for it need
    /// not look again until it moves. The kernel's clock is too coarse to tell as much.
    pub(crate) fn openings(&self) -> u64 {
        self.last
            .get()
            .map_or(0, |last| last.load(Ordering::SeqCst))
    }

    /// Counts a writable open.
    pub(crate) fn begin(&self, inode: Inode) -> FluxNumber {
        let last = self
            .last
            .get_or_init(|| AtomicU64::new((crate::random::number() >> 1).max(1)));
        let number = FluxNumber(last.fetch_add(1, Ordering::SeqCst) + 1);
        let mut shard = self.shard(inode).lock();
        self.open.fetch_add(1, Ordering::SeqCst);
        let writers = shard.entry(inode).or_insert(Writers {
            count: 0,
            number,
            moved: false,
        });
        writers.count += 1;
        writers.number = writers.number.max(number);
        number
    }

    /// Ends one. `true`: it was the last, and somebody changed the content.
    pub(crate) fn end(&self, inode: Inode, moved: bool) -> bool {
        let mut shard = self.shard(inode).lock();
        self.open.fetch_sub(1, Ordering::SeqCst);
        let Some(writers) = shard.get_mut(&inode) else {
            return moved;
        };
        writers.count -= 1;
        writers.moved |= moved;
        let last = writers.count == 0 && writers.moved;
        if writers.count == 0 {
            shard.remove(&inode);
        }
        last
    }

    /// A writable open is about to end, and the file is as it is to stay: what a watcher hears of it is no news.
    pub(crate) fn leaves(&self, state: FileState) {
        self.own.left(state);
    }

    /// Is what a file shows the mount's own doing? It is open for writing there, or as it was left there.
    pub(crate) fn is_own(&self, state: &FileState) -> bool {
        self.in_flux(state.inode()).is_some() || self.own.is_as_left(state)
    }

    /// Whether a watcher asks [`Changes::is_own`] from now on, and says when it [`Changes::watcher_looked`].
    pub(crate) fn watcher_looks(&self, looks: bool) {
        self.own.look(looks);
    }

    /// The watcher has read all events that had come.
    pub(crate) fn watcher_looked(&self) {
        self.own.looked();
    }

    /// Holds the record of a file against who else in this process would write it. A few system calls long.
    pub(crate) fn record(&self, inode: Inode) -> RecordGuard<'_> {
        RecordGuard {
            _record: self.records[shard(inode)].lock(),
            _held: Held::one(),
        }
    }

    /// Holds the records of several files; in one order for all, so that nobody waits in a ring.
    pub(crate) fn records(&self, inodes: impl IntoIterator<Item = Inode>) -> Vec<RecordGuard<'_>> {
        let mut shards: Vec<usize> = inodes.into_iter().map(shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let hold = |shard: usize| RecordGuard {
            _record: self.records[shard].lock(),
            _held: Held::one(),
        };
        shards.into_iter().map(hold).collect()
    }

    /// Subscribes; ends when the subscription is dropped.
    pub fn subscribe(self: &Arc<Self>, subscriber: Arc<dyn Subscriber>) -> Subscription {
        let number = crate::random::number();
        let mut subscribers = self.subscribers.write();
        subscribers.push((number, subscriber));
        self.listening.store(subscribers.len(), Ordering::SeqCst);
        Subscription {
            changes: Arc::clone(self),
            number,
        }
    }

    /// Is anybody to be told? What a change would need looking up is not looked up else.
    pub fn is_heard(&self) -> bool {
        self.listening.load(Ordering::SeqCst) != 0
    }

    /// Tells all subscribers and waits until they acknowledged, a second at most. No lock may be held.
    pub fn announce(&self, changes: &[Change]) {
        let mut announcement = self.announcement();
        announcement.add(changes.iter().cloned());
        announcement.wait();
    }

    /// Tells all subscribers, and waits for nobody: what a direct writer did.
    pub fn hint(&self, changes: &[Change]) {
        self.announcement().add(changes.iter().cloned());
    }

    /// Begins an announcement.
    pub(crate) fn announcement(&self) -> Announcement<'_> {
        Announcement {
            changes: self,
            round: None,
        }
    }

    fn shard(&self, inode: Inode) -> &Mutex<HashMap<Inode, Writers>> {
        &self.writers[shard(inode)]
    }
}

fn shard(inode: Inode) -> usize {
    // Inode numbers of one directory are consecutive: spread them.
    let mixed = (inode.inode ^ inode.device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 60) as usize
}

impl Announcement<'_> {
    /// Tells all subscribers of more changes. No lock may be held: a subscriber's kernel may be waiting for
    /// somebody who waits for that lock.
    pub(crate) fn add(&mut self, changes: impl IntoIterator<Item = Change>) {
        held::assert_none();
        if !self.changes.is_heard() {
            return;
        }
        let round = self.round.get_or_insert_with(Arc::default);
        let subscribers: Vec<_> = self
            .changes
            .subscribers
            .read()
            .iter()
            .map(|(_, subscriber)| Arc::clone(subscriber))
            .collect();
        for change in changes {
            for subscriber in &subscribers {
                *round.open.lock() += 1;
                subscriber.changed(&change, Acknowledgement(Arc::clone(round)));
            }
        }
    }

    /// Waits until all were acknowledged, a second at most.
    pub(crate) fn wait(self) {
        held::assert_none();
        let Some(round) = self.round else {
            return;
        };
        let until = Instant::now() + PATIENCE;
        let mut open = round.open.lock();
        while *open > 0 {
            if round.done.wait_until(&mut open, until).timed_out() && *open > 0 {
                if !self.changes.late.swap(true, Ordering::SeqCst) {
                    tracing::warn!(
                        "the mount was not told of a change within a second: it may show what was until its caches expire"
                    );
                }
                return;
            }
        }
        drop(open);
        self.changes.late.store(false, Ordering::SeqCst);
    }
}

/// Counts the locks that a thread holds, where debug assertions are on, so that an announcement under a lock
/// fails every test that comes by.
pub(crate) mod held {
    use std::cell::Cell;

    thread_local! {
        static LOCKS: Cell<usize> = const { Cell::new(0) };
    }

    /// One lock, held.
    pub(crate) struct Held(());

    impl Held {
        /// Counts one more.
        pub(crate) fn one() -> Self {
            if cfg!(debug_assertions) {
                LOCKS.with(|locks| locks.set(locks.get() + 1));
            }
            Self(())
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            if cfg!(debug_assertions) {
                LOCKS.with(|locks| locks.set(locks.get() - 1));
            }
        }
    }

    /// Fails where this thread holds a lock.
    pub(crate) fn assert_none() {
        debug_assert_eq!(LOCKS.with(Cell::get), 0, "told while a lock is held");
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        *self.0.open.lock() -= 1;
        self.0.done.notify_all();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.changes.subscribers.write();
        subscribers.retain(|(number, _)| *number != self.number);
        self.changes
            .listening
            .store(subscribers.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;

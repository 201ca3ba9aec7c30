//! Hints of what direct writers do: early invalidation of what a mount's kernel remembers, and sealing of what
//! arrives. Turning it off changes latency, never truth: every read judges the file itself.
//!
//! One thread lays inotify watches on the directories of all buckets, breadth first and those that changed
//! last before their siblings, no faster than it may and to no more than half of the user's limit; what is
//! left out is looked at now and then (`watch/coverage.rs`), and by whoever reads it. Links are not followed, the reserved
//! directory and hidden names are not watched. What the kernel could not queue is made up for by looking at
//! everything again.
//!
//! This talks to inotify itself, on watches by descriptor: the notify crate (8.2) asks for an event at every
//! open, so that each GET would wake it, and watches by path, which a rename under it redirects.

mod coverage;
mod events;
mod place;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{self, AtFlags, FileType, Stat};
use rustix::io::Errno;

pub use coverage::Coverage;
use coverage::{Counts, Sweeps, half_of_the_limit};
use events::Events;
use place::Place;

use crate::change::ChangeKind;
use crate::name::RESERVED;
use crate::path::{DiskPath, key_text};
use crate::record::FileState;
use crate::root::kind;
use crate::seal::Queue;
use crate::{BucketName, Change, Inode, Result, Store, StoreError, Timestamp};

/// How long the thread sleeps without events before it looks whether it should end, or lay more.
const IDLE: Duration = Duration::from_millis(100);
/// How long is waited for more once something happened. Linux: events that follow each other and are alike become
/// one in the queue, and a writer wakes nobody meanwhile; each costs him, and us, far less.
const TOGETHER: Duration = Duration::from_millis(5);
/// Directories of which the watches are still to be laid, at most: more are left out.
const MAX_WAITING: usize = 1 << 20;
/// Bytes of events read at once: some thousands of them.
const EVENTS: usize = 128 << 10;
/// How far a filesystem's clock may lag behind ours, in nanoseconds.
const COARSE: i64 = 2_000_000_000;
const MASK: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// Which files get an MD5 in the background that nobody asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SealPolicy {
    /// None but those that were sealed or PUT before and changed.
    Off,
    /// Those that arrive or change while we run.
    #[default]
    Written,
    /// All.
    All,
}

/// How a store is watched.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// What is sealed.
    pub seal: SealPolicy,
    /// Directories watched at most; `None`: half of what the kernel allows a user.
    pub max_watches: Option<usize>,
    /// Watches laid in a second at most.
    pub per_second: u32,
    /// How often directories that have no watch are looked at, at most; `None`: once a minute.
    pub sweep: Option<Duration>,
    /// How long the directories of the buckets are let be at first. What changes in them meanwhile counts as heard of
    /// when they are looked at.
    pub first: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            seal: SealPolicy::default(),
            max_watches: None,
            per_second: 2_000,
            sweep: None,
            first: Duration::ZERO,
        }
    }
}

/// The running watcher; dropping it ends it.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// A directory with a watch. `place` is `None` for the root.
struct Watched {
    place: Option<Place>,
    inode: Inode,
}

/// A directory that waits for its watch.
struct Waiting {
    place: Place,
    /// Files in it that changed since are new to us.
    since: Timestamp,
    /// Did it appear while we run, so that somebody may know it without its entries?
    is_new: bool,
}

struct Watch {
    store: Arc<Store>,
    options: WatchOptions,
    counts: Arc<Counts>,
    queue: OwnedFd,
    watched: HashMap<i32, Watched>,
    /// Which of them is a directory's.
    known: HashMap<Inode, i32>,
    waiting: VecDeque<Waiting>,
    sweeps: Sweeps,
    limit: usize,
    /// When the queue was last known to be empty.
    drained: Timestamp,
    /// The directory of the last event, which the next one often is of as well.
    last_dir: Option<(i32, OwnedFd)>,
}

/// Nobody asks any more what is the mount's own.
impl Drop for Watch {
    fn drop(&mut self) {
        self.store.changes.watcher_looks(false);
    }
}

impl Store {
    /// Starts watching in the background. Nothing waits for it.
    ///
    /// # Errors
    /// `Exhausted` where the user has no inotify instance left, `Io` where no thread can be had.
    pub fn start_watcher(self: &Arc<Self>, options: WatchOptions) -> Result<Watcher> {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::<Counts>::default());
        let mut watch = Watch::new(self, options, Arc::clone(&counts))?;
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || watch.run(&stopping))
            .map_err(|e| StoreError::from_io("the watcher's thread", e))?;
        Ok(Watcher {
            stop,
            counts,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watcher's thread panicked");
        }
    }
}

impl Watch {
    fn new(store: &Arc<Store>, options: WatchOptions, counts: Arc<Counts>) -> Result<Self> {
        let failed = |e: Errno| StoreError::from_io("watching the tree", e.into());
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let mut watch = Self {
            store: Arc::clone(store),
            options,
            counts,
            queue,
            watched: HashMap::new(),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            sweeps: Sweeps::new(options.sweep),
            limit: options.max_watches.unwrap_or_else(half_of_the_limit),
            drained: Timestamp::now(),
            last_dir: None,
        };
        store.changes.watcher_looks(true);
        watch.begin(false)?;
        Ok(watch)
    }

    /// Begins with everything, or begins with it again.
    fn begin(&mut self, again: bool) -> Result<()> {
        let since = match self.options.seal {
            SealPolicy::All if !again => Timestamp(i64::MIN),
            _ if again => Timestamp(self.drained.0 - COARSE),
            _ => self.drained,
        };
        self.look_at_all(since, again)
    }

    /// Watches the roots, and has all buckets wait to be looked at.
    fn look_at_all(&mut self, since: Timestamp, is_new: bool) -> Result<()> {
        self.looks_anew();
        let store = Arc::clone(&self.store);
        for root in &store.roots {
            self.lay(&root.open_top()?, None)?;
        }
        for bucket in self.store.buckets()? {
            let place = Place {
                bucket: bucket.name,
                path: None,
            };
            self.wait(Waiting {
                place,
                since,
                is_new,
            });
        }
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut buffer = vec![std::mem::MaybeUninit::uninit(); EVENTS];
        let started = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let let_be = self.options.first.saturating_sub(started.elapsed());
            let pause = match self.waiting.is_empty() {
                true => IDLE,
                false => IDLE.min(let_be),
            };
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: pause.as_nanos().try_into().unwrap_or(0),
            };
            // An interrupted or failed poll is followed by a read that would not wait.
            let happened = poll(
                &mut [PollFd::new(&self.queue, PollFlags::IN)],
                Some(&timeout),
            );
            if happened.is_ok_and(|count| count > 0) {
                std::thread::sleep(TOGETHER);
            }
            self.drain(&mut buffer);
            if let_be.is_zero() {
                self.lay_some();
            }
            if self.waiting.is_empty() {
                self.rest();
            }
            let counts = &self.counts;
            counts.watched.store(self.watched.len(), Ordering::Relaxed);
            counts.waiting.store(self.waiting.len(), Ordering::Relaxed);
        }
    }

    /// Reads all events there are.
    fn drain(&mut self, buffer: &mut [std::mem::MaybeUninit<u8>]) {
        let began = Timestamp::now();
        let events = Events::read(&self.queue, buffer);
        for event in events.each {
            self.happened(event.watch, event.flags, &event.name);
        }
        if events.lost {
            self.overflowed();
        }
        self.last_dir = None;
        self.drained = began;
        self.store.changes.watcher_looked();
    }

    /// Events were lost: whoever listens is told that anything may have changed, and all is looked at again.
    fn overflowed(&mut self) {
        self.counts.overflows.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("more changed in the tree than could be followed: it is looked at again");
        if let Err(e) = self.begin(true) {
            tracing::warn!("the tree cannot be looked at again: {e}");
        }
    }

    fn happened(&mut self, watch: i32, flags: ReadFlags, name: &[u8]) {
        if flags.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
            if let Some(gone) = self.watched.remove(&watch)
                && self.known.get(&gone.inode) == Some(&watch)
            {
                self.known.remove(&gone.inode);
            }
            return;
        }
        if flags.contains(ReadFlags::MOVE_SELF) {
            // Where it went, its new parent says; what it was called is not true any more.
            let _ = inotify::remove_watch(&self.queue, watch);
            return;
        }
        let Some(Watched { place, inode }) = self.watched.get(&watch) else {
            return;
        };
        if name.is_empty() || self.is_kept_back(place.as_ref(), name) {
            return;
        }
        let (place, parent) = (place.clone(), *inode);
        match place {
            None => self.bucket_happened(flags, name),
            Some(place) => self.entry_happened((watch, &place), parent, flags, name),
        }
    }

    fn bucket_happened(&mut self, flags: ReadFlags, name: &[u8]) {
        let Some(bucket) = std::str::from_utf8(name)
            .ok()
            .and_then(|name| BucketName::parse(name).ok())
        else {
            return;
        };
        let came = flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let kind = match came {
            true => ChangeKind::BucketMade,
            false if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) => {
                ChangeKind::BucketRemoved
            }
            false => return,
        };
        // Whichever root it is in: all of them show as one.
        let (device, inode) = self.store.first_root().inode();
        self.hint(Change {
            bucket: bucket.clone(),
            parent: Inode { device, inode },
            name: name.to_vec(),
            old: None,
            kind,
        });
        if came {
            let path = None;
            self.appeared(Place { bucket, path });
        }
    }

    fn entry_happened(
        &mut self,
        (watch, place): (i32, &Place),
        parent: Inode,
        flags: ReadFlags,
        name: &[u8],
    ) {
        let Some(path) = place.child(name) else {
            return;
        };
        let directory = flags.contains(ReadFlags::ISDIR);
        let came = flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let went = flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        let kind = match (came, went, directory) {
            (true, _, true) => ChangeKind::DirectoryMade,
            (true, _, false) => ChangeKind::Published,
            (_, true, true) => ChangeKind::DirectoryRemoved,
            (_, true, false) => ChangeKind::Deleted,
            _ if flags.contains(ReadFlags::ATTRIB) => ChangeKind::Attributes,
            _ => ChangeKind::Content,
        };
        // A name that was moved is news, whoever writes the file.
        let moved = went || flags.contains(ReadFlags::MOVED_TO);
        let seen = match moved || !self.store.changes.is_heard() {
            true => None,
            false => self.look_at(watch, place, name),
        };
        // The mount knows what is written through it, and its kernel's pages are the newer ones. But a second
        // name, which a link has, is news.
        let own = seen.is_some_and(|stat| {
            (!came || stat.st_nlink == 1) && self.store.changes.is_own(&FileState::of(&stat))
        });
        if !own {
            self.hint(Change {
                bucket: place.bucket.clone(),
                parent,
                name: name.to_vec(),
                old: seen
                    .filter(|_| !came)
                    .map(|stat| FileState::of(&stat).inode()),
                kind,
            });
        }
        if came && directory {
            self.appeared(Place {
                bucket: place.bucket.clone(),
                path: Some(path),
            });
        } else if !directory && flags.contains(ReadFlags::MOVED_TO) {
            // What S3 publishes comes this way, too, and is valid.
            self.seal(Queue::push, &place.bucket, &path);
        } else if !directory && flags.contains(ReadFlags::CLOSE_WRITE) {
            self.seal(Queue::push_written, &place.bucket, &path);
        }
    }

    fn hint(&self, change: Change) {
        self.store.changes.hint(&[change]);
    }

    fn seal(&self, push: fn(&Queue, &BucketName, &str), bucket: &BucketName, path: &DiskPath) {
        let seals = self.options.seal != SealPolicy::Off;
        if seals && !self.store.rules_of(bucket).read_only {
            push(&self.store.seal_queue, bucket, &key_text(path.as_bytes()));
        }
    }

    /// A directory that came while we run: whatever is in it came with it.
    fn appeared(&mut self, place: Place) {
        self.waiting.push_front(Waiting {
            place,
            since: Timestamp(i64::MIN),
            is_new: true,
        });
    }

    fn wait(&mut self, waiting: Waiting) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(waiting);
        } else {
            self.counts.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lays watches for one beat, as many as the rate allows in it.
    fn lay_some(&mut self) {
        let until = Instant::now() + IDLE;
        let beat = (self.options.per_second / 10).max(1);
        let mut laid = 0;
        while laid < beat
            && let Some(waiting) = self.waiting.pop_front()
        {
            laid += 1;
            if let Err(e) = self.visit(&waiting) {
                tracing::debug!("a directory is not watched: {e}");
            }
        }
        if laid == beat && !self.waiting.is_empty() {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Watches a directory, and looks at what is in it.
    fn visit(&mut self, waiting: &Waiting) -> Result<()> {
        let place = &waiting.place;
        let bucket = self.store.bucket(&place.bucket)?;
        let Some(dir) = place.open(&bucket)? else {
            return Ok(());
        };
        // Watched first: what comes while its names are read shows in one or the other.
        let had_one = self.is_watched(&dir)?;
        let inode = self.lay(&dir, Some(place.clone()))?;
        let changed = !had_one && FileState::look(&dir)?.modified >= waiting.since;
        if waiting.is_new || changed {
            self.hint(Change {
                bucket: place.bucket.clone(),
                parent: inode,
                name: Vec::new(),
                old: None,
                kind: ChangeKind::Anything,
            });
        }
        let failed = |e: Errno| StoreError::from_io("a directory", e.into());
        let mut below = Vec::new();
        for entry in place::entries(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || self.is_kept_back(Some(place), name) {
                continue;
            }
            let looks = entry.file_type();
            let is_file = looks == FileType::RegularFile;
            // What has a watch already was heard of, unless events were lost.
            if is_file && (self.options.seal == SealPolicy::Off || had_one && !waiting.is_new) {
                continue;
            }
            let Ok(stat) = fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let (state, Some(path)) = (FileState::of(&stat), place.child(name)) else {
                continue;
            };
            match kind(&stat) {
                FileType::Directory => below.push((state.modified, path)),
                FileType::RegularFile if state.modified.max(state.changed) >= waiting.since => {
                    self.seal(Queue::push, &place.bucket, &path);
                }
                _ => {}
            }
        }
        below.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
        for (_, path) in below {
            self.wait(Waiting {
                place: Place {
                    bucket: place.bucket.clone(),
                    path: Some(path),
                },
                ..*waiting
            });
        }
        Ok(())
    }

    /// Watches an open directory, whatever it is called by now.
    fn lay(&mut self, dir: &OwnedFd, place: Option<Place>) -> Result<Inode> {
        let inode = FileState::look(dir)?.inode();
        if self.watched.len() >= self.limit && !self.known.contains_key(&inode) {
            self.counts.left_out.fetch_add(1, Ordering::Relaxed);
            return Ok(inode);
        }
        let name = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
        match inotify::add_watch(&self.queue, name, MASK) {
            Ok(watch) => {
                self.known.insert(inode, watch);
                self.watched.insert(watch, Watched { place, inode });
            }
            Err(Errno::NOSPC) => {
                self.limit = self.watched.len();
                self.counts.left_out.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => return Err(StoreError::from_io("watching a directory", e.into())),
        }
        Ok(inode)
    }

    fn is_watched(&self, dir: &OwnedFd) -> Result<bool> {
        Ok(self.known.contains_key(&FileState::look(dir)?.inode()))
    }

    /// What lies under a name of a watched directory.
    fn look_at(&mut self, watch: i32, place: &Place, name: &[u8]) -> Option<Stat> {
        if self
            .last_dir
            .as_ref()
            .is_none_or(|(last, _)| *last != watch)
        {
            let bucket = self.store.bucket(&place.bucket).ok()?;
            self.last_dir = Some((watch, place.open(&bucket).ok()??));
        }
        let (_, dir) = self.last_dir.as_ref()?;
        fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn is_kept_back(&self, place: Option<&Place>, name: &[u8]) -> bool {
        let scopes = &self.store.scopes;
        let scope = place.map_or(scopes.usual(), |place| scopes.of(&place.bucket));
        name.eq_ignore_ascii_case(RESERVED.as_bytes()) || scope.hide.hides(name)
    }
}

#[cfg(test)]
mod tests;

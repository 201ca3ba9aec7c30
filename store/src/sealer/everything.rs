//! Sealing all of a bucket, or the part of it below a prefix: what `twintree seal` does.
//!
//! It goes by the inventory, leaves alone what has a valid record, and so goes on where an earlier run
//! ended. Files are read by several threads at one pace; those that somebody is at work on get a few more
//! turns at the end. Everything is reported as it happens; nothing is kept but what waits for its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::StatVfsMountFlags;

use super::pace::Pace;
use super::settle::{Busy, Outcome, Terms, settle};
use crate::root::system;
use crate::{Bucket, InventoryEntry, RecordState, Result, StoreError};

/// Files that wait for a thread, for each thread.
const AHEAD: usize = 64;
/// Busy files that wait for another turn at most.
const MAX_BUSY: usize = 4096;
/// How often they get another turn, and how long after the last: longer together than the coarsest clock asks
/// for.
const TURNS: usize = 3;
const AGAIN: Duration = Duration::from_secs(2);
/// How long is slept before it is looked whether to stop.
const SLICE: Duration = Duration::from_millis(50);

/// How a bucket is sealed.
#[derive(Clone, Copy, Debug)]
pub struct SealOptions {
    /// Bytes a second at most, of all threads together; `None`: as fast as the disk is.
    pub rate: Option<u64>,
    /// Threads that read; at least one.
    pub threads: usize,
    /// Files changed more recently than this wait.
    pub untouched: Duration,
}

/// Why an object is left without a valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Somebody has it open for writing.
    Open,
    /// It was changed so shortly ago that time alone can tell.
    Young,
    /// It was changed while it was read.
    Changed,
    /// Its record is of a later version of twintree.
    Foreign,
    /// It is no longer there.
    Gone,
}

/// What happens while a bucket is sealed.
#[derive(Debug)]
pub enum SealEvent<'a> {
    /// So many bytes more were read.
    Read(u64),
    /// The object had a valid record: already in the inventory, or when it was its turn.
    Already(&'a InventoryEntry),
    /// The object has one now.
    Sealed(&'a InventoryEntry),
    /// The object has none, and why.
    Left(&'a InventoryEntry, Left),
    /// The object has none, because reading it or writing its record failed.
    Failed(&'a InventoryEntry, StoreError),
    /// An entry that cannot be read: its key (of a directory: ending in `/`) and what the system said.
    Unread(&'a str, &'a str),
}

/// Who is told; by several threads at once.
pub type SealReport = dyn Fn(SealEvent<'_>) + Send + Sync;

impl Bucket {
    /// Can records be written here at all?
    ///
    /// # Errors
    /// `ReadOnly` where the store, or the filesystem that the bucket lies on, is.
    pub fn check_sealable(&self) -> Result<()> {
        self.check_writable()?;
        let shown = || format!("bucket {:?}", self.name().as_str());
        let dir = self.tree.open_top()?;
        let facts = rustix::fs::fstatvfs(&dir).map_err(|e| system(&shown(), e))?;
        match facts.f_flag.contains(StatVfsMountFlags::RDONLY) {
            true => Err(StoreError::ReadOnly(format!(
                "the filesystem of {}",
                shown()
            ))),
            false => Ok(()),
        }
    }

    /// Has the thread in the background seal an object when it has been left alone for long enough.
    pub fn seal_later(&self, key: &str) {
        self.store.seal_queue.push(self.name(), key);
    }

    /// Seals every object whose key begins with `prefix` and that has no valid record, until `stop` is set.
    /// Blocking.
    ///
    /// # Errors
    /// As [`Bucket::check_sealable`], and what the disk says of the bucket itself. What fails with one object
    /// is reported.
    pub fn seal(
        &self,
        prefix: &str,
        options: &SealOptions,
        stop: &AtomicBool,
        report: &Arc<SealReport>,
    ) -> Result<()> {
        self.check_sealable()?;
        let pace = Pace::new(options.rate);
        let run = Run {
            bucket: self,
            terms: Terms {
                untouched: super::nanos(options.untouched),
                pace: &pace,
                stop,
                read: &|bytes| report(SealEvent::Read(bytes)),
            },
            report: report.as_ref(),
            busy: Mutex::default(),
        };
        let threads = options.threads.max(1);
        run.in_threads(threads, |send| {
            let unread = Arc::clone(report);
            let mut all = self.inventory(prefix, move |key, why| {
                unread(SealEvent::Unread(key, why));
            })?;
            while let Some(stretch) = all.stretch()? {
                for entry in stretch {
                    match entry.state {
                        RecordState::Valid => report(SealEvent::Already(&entry)),
                        _ if send.send(entry).is_err() => return Ok(()),
                        _ => {}
                    }
                    if run.is_stopped() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })?;
        for _ in 0..TURNS {
            let waiting = std::mem::take(&mut *run.busy.lock());
            if waiting.is_empty() || !run.pause() {
                break;
            }
            run.in_threads(threads, |send| {
                for (entry, _) in waiting {
                    if run.is_stopped() || send.send(entry).is_err() {
                        break;
                    }
                }
                Ok(())
            })?;
        }
        if !run.is_stopped() {
            for (entry, left) in std::mem::take(&mut *run.busy.lock()) {
                run.tell(&entry, left);
            }
        }
        Ok(())
    }
}

/// One sealing of one bucket.
struct Run<'a> {
    bucket: &'a Bucket,
    terms: Terms<'a>,
    report: &'a SealReport,
    busy: Mutex<Vec<(InventoryEntry, Left)>>,
}

impl Run<'_> {
    /// Has threads seal what `feed` sends, and waits for them.
    fn in_threads(
        &self,
        threads: usize,
        feed: impl FnOnce(&SyncSender<InventoryEntry>) -> Result<()>,
    ) -> Result<()> {
        let (send, receive) = sync_channel(threads * AHEAD);
        let receive = Mutex::new(receive);
        let started = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let builder = std::thread::Builder::new().name("seal".to_owned());
                match builder.spawn_scoped(scope, || self.work(&receive)) {
                    Ok(_) => started.fetch_add(1, Ordering::Relaxed),
                    // Fewer threads are slower, none is a failure.
                    Err(e) if started.load(Ordering::Relaxed) == 0 => {
                        return Err(StoreError::from_io("a thread to seal with", e));
                    }
                    Err(_) => break,
                };
            }
            let fed = feed(&send);
            drop(send);
            fed
        })
    }

    fn work(&self, receive: &Mutex<Receiver<InventoryEntry>>) {
        loop {
            let next = receive.lock().recv();
            let Ok(entry) = next else { return };
            // What waits is drained, so that who sends it is not left waiting.
            if !self.is_stopped() {
                self.one(entry);
            }
        }
    }

    fn one(&self, entry: InventoryEntry) {
        let bucket = self.bucket;
        let outcome = settle(&bucket.store, bucket.name(), &entry.key, &self.terms);
        let left = match outcome {
            Ok(Outcome::Sealed) => return (self.report)(SealEvent::Sealed(&entry)),
            Ok(Outcome::Valid) => return (self.report)(SealEvent::Already(&entry)),
            Ok(Outcome::Gone) => return self.tell(&entry, Left::Gone),
            Ok(Outcome::Remembered) => {
                let denied = StoreError::Denied("its record cannot be written".to_owned());
                return (self.report)(SealEvent::Failed(&entry, denied));
            }
            Err(e) => return (self.report)(SealEvent::Failed(&entry, e)),
            Ok(Outcome::Busy(Busy::Stopped)) => return,
            Ok(Outcome::Foreign) => return self.tell(&entry, Left::Foreign),
            Ok(Outcome::Busy(Busy::Open | Busy::Counted)) => Left::Open,
            Ok(Outcome::Busy(Busy::Young(_))) => Left::Young,
            Ok(Outcome::Busy(Busy::Changed)) => Left::Changed,
        };
        let mut busy = self.busy.lock();
        if busy.len() < MAX_BUSY {
            return busy.push((entry, left));
        }
        drop(busy);
        self.tell(&entry, left);
    }

    fn tell(&self, entry: &InventoryEntry, left: Left) {
        (self.report)(SealEvent::Left(entry, left));
    }

    fn is_stopped(&self) -> bool {
        self.terms.stop.load(Ordering::Relaxed)
    }

    /// Waits for the next turn of busy files; `false` where we are to stop.
    fn pause(&self) -> bool {
        let slices = AGAIN.as_millis() / SLICE.as_millis();
        for _ in 0..slices {
            if self.is_stopped() {
                return false;
            }
            std::thread::sleep(SLICE);
        }
        !self.is_stopped()
    }
}

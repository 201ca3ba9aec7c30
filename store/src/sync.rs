//! Group commit without a commit thread: who arrives while a sync runs shares the next one.
//!
//! For each object the order stays `sync_file -> publish -> sync_dir -> answer`; only the system calls are
//! shared. Few writers sync their own file. From [`SHARED_FROM`] on one of them calls syncfs for all who
//! arrived before it started, unless syncfs turns out to be the slower way (somebody else's dirty pages).
//! An fsync that fails fails its request and is never tried again on that descriptor.
//!
//! Where the disk is faster than the processor, nobody arrives during a sync. So who leads a shared one first
//! waits for as many as the last ones served, as long as somebody comes in each [`GAP`]. Whether there are so
//! many is tried now and then: it costs one writer alone a gap for each [`TRIED_EVERY`] syncs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs;

use crate::tallies::CommitCounts;

/// Writers at once from which one syncfs serves all.
const SHARED_FROM: u64 = 8;
/// A leader for whom nobody came in so long waits no more.
const GAP: Duration = Duration::from_micros(500);
/// How many gaps a leader waits at most.
const GAPS: u32 = 4;
/// Of so many syncs one finds out whether there are others to share it with, and how many.
const TRIED_EVERY: u64 = 64;

/// The syncs of one filesystem.
#[derive(Default)]
pub(crate) struct Syncer {
    /// Files that are being synced by themselves.
    alone: AtomicU64,
    /// How many the last shared syncs served.
    crowd: AtomicU64,
    turns: AtomicU64,
    whole: Rounds,
    /// By inode.
    dirs: Mutex<HashMap<u64, Arc<Rounds>>>,
    /// Rolling times in nanoseconds: of one fsync of a file, and of one syncfs.
    fsync_time: AtomicU64,
    syncfs_time: AtomicU64,
    counts: Arc<CommitCounts>,
}

/// A directory that got entries.
pub(crate) struct DirToSync<'a> {
    pub dir: &'a OwnedFd,
    pub inode: u64,
    /// How many it got.
    pub entries: u64,
}

/// The syncers of all filesystems that this process has written to, by device.
#[derive(Default)]
pub(crate) struct Syncers {
    by_device: Mutex<HashMap<u64, Arc<Syncer>>>,
    /// Of all of them.
    counts: Arc<CommitCounts>,
}

/// Begins to write a range of a file to disk, so that the sync at its end has less to wait for. It may wait for the
/// disk's queue, and promises nothing: what fails here fails again where it is synced.
pub fn begin_writeback(file: &std::fs::File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else {
        return;
    };
    // SAFETY: a system call on a descriptor that is borrowed for its duration; it touches no memory of ours.
    let result = unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
    if result != 0 {
        tracing::debug!("writeback was not begun: {}", io::Error::last_os_error());
    }
}

impl Syncers {
    /// The syncer of a device.
    pub fn of(&self, device: u64) -> Arc<Syncer> {
        let of_this = || {
            Arc::new(Syncer {
                counts: Arc::clone(&self.counts),
                ..Syncer::default()
            })
        };
        Arc::clone(self.by_device.lock().entry(device).or_insert_with(of_this))
    }

    /// What was synced, on all devices.
    pub fn counts(&self) -> &Arc<CommitCounts> {
        &self.counts
    }
}

impl Syncer {
    /// Makes a file's data, size and xattrs durable.
    ///
    /// # Errors
    /// What fsync or syncfs says, also of an earlier write-back of this file.
    pub fn sync_file(&self, file: impl AsFd) -> io::Result<()> {
        if self.is_shared(1) {
            self.timed_syncfs(&file, 1)?;
            return written(&file);
        }
        self.alone.fetch_add(1, Ordering::SeqCst);
        let result = self.sync_alone(&file);
        self.alone.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Makes several files durable as [`Syncer::sync_file`] does one, and says of each what became of it.
    pub fn sync_files(&self, files: &[&File]) -> Vec<io::Result<()>> {
        let many = files.len() as u64;
        let [first, others @ ..] = files else {
            return Vec::new();
        };
        if self.is_shared(many) {
            return match self.timed_syncfs(first, many) {
                Ok(()) => files.iter().map(written).collect(),
                Err(e) => files.iter().map(|_| Err(same(&e))).collect(),
            };
        }
        self.alone.fetch_add(many, Ordering::SeqCst);
        // So the first fsync has the blocks of all to commit, and the others find that done.
        if !others.is_empty() {
            files.iter().for_each(|file| begin_writeback(file, 0, 0));
        }
        let results = files.iter().map(|file| self.sync_alone(file)).collect();
        self.alone.fetch_sub(many, Ordering::SeqCst);
        results
    }

    /// Makes a directory's entries durable: all that were made before the call.
    ///
    /// # Errors
    /// What fsync or syncfs says.
    pub fn sync_dir(&self, dir: impl AsFd, inode: u64) -> io::Result<()> {
        self.in_dir(inode, |rounds, distinct| {
            if self.is_cheaper(self.crowd.load(Ordering::Relaxed).max(distinct)) {
                return self.timed_syncfs(&dir, 1);
            }
            self.fsync_dir(rounds, dir.as_fd(), 1)
        })
    }

    /// Makes the entries of several directories durable, of each so many that were made by who calls, and says of each
    /// what became of it.
    pub fn sync_dirs(&self, dirs: &[DirToSync<'_>]) -> Vec<io::Result<()>> {
        let Some(first) = dirs.first() else {
            return Vec::new();
        };
        let crowd = (dirs.len() as u64).max(self.dirs.lock().len() as u64);
        if self.whole.is_gathering.load(Ordering::Relaxed) || self.is_cheaper(crowd) {
            let entries = dirs.iter().map(|dir| dir.entries).sum();
            return match self.timed_syncfs(&first.dir, entries) {
                Ok(()) => dirs.iter().map(|_| Ok(())).collect(),
                Err(e) => dirs.iter().map(|_| Err(same(&e))).collect(),
            };
        }
        let sync = |one: &DirToSync<'_>| {
            self.in_dir(one.inode, |rounds, _| {
                self.fsync_dir(rounds, one.dir.as_fd(), one.entries)
            })
        };
        dirs.iter().map(sync).collect()
    }

    /// Does something with the rounds of one directory; it is told of how many there are some.
    fn in_dir<T>(&self, inode: u64, sync: impl FnOnce(&Rounds, u64) -> T) -> T {
        let (rounds, distinct) = {
            let mut dirs = self.dirs.lock();
            let rounds = Arc::clone(dirs.entry(inode).or_default());
            (rounds, dirs.len() as u64)
        };
        let result = sync(&rounds, distinct);
        let mut dirs = self.dirs.lock();
        drop(rounds);
        if dirs
            .get(&inode)
            .is_some_and(|left| Arc::strong_count(left) == 1)
        {
            dirs.remove(&inode);
        }
        result
    }

    fn fsync_dir(&self, rounds: &Rounds, dir: BorrowedFd<'_>, entries: u64) -> io::Result<()> {
        let call = |served| {
            self.counts.directory.served(served);
            fs::fsync(dir).map_err(Into::into)
        };
        rounds.join(entries, |_| 0, call)
    }

    /// Shall so many files be synced together, and with others?
    fn is_shared(&self, many: u64) -> bool {
        let alone = self.alone.load(Ordering::Relaxed) + many;
        self.whole.is_gathering.load(Ordering::Relaxed)
            || self.is_cheaper(alone.max(self.crowd.load(Ordering::Relaxed)))
            || (self.is_tried() && self.is_cheaper(SHARED_FROM))
    }

    /// Is it time to find out how many there are?
    fn is_tried(&self) -> bool {
        self.turns.fetch_add(1, Ordering::Relaxed) % TRIED_EVERY == TRIED_EVERY - 1
    }

    /// Does one syncfs for all cost less than what it replaces?
    fn is_cheaper(&self, crowd: u64) -> bool {
        if crowd < SHARED_FROM {
            return false;
        }
        let syncfs = self.syncfs_time.load(Ordering::Relaxed);
        let one = self.fsync_time.load(Ordering::Relaxed);
        if syncfs <= one.saturating_mul(crowd) {
            return true;
        }
        // Remembering a slow syncfs fades, so that it is tried again.
        self.syncfs_time
            .store(syncfs - syncfs / 32, Ordering::Relaxed);
        false
    }

    fn sync_alone(&self, file: &impl AsFd) -> io::Result<()> {
        let start = Instant::now();
        self.counts.file.served(1);
        fs::fsync(file)?;
        record(&self.fsync_time, start);
        Ok(())
    }

    /// For how many who leads a shared sync waits: where few are known of, and now and then, for as many as come.
    /// Who brings several waits for nobody: those that come meanwhile are together elsewhere.
    fn wanted(&self, turn: u64, many: u64) -> u64 {
        match self.crowd.load(Ordering::Relaxed) {
            _ if many > 1 => 0,
            few if few < SHARED_FROM => u64::MAX,
            _ if turn.is_multiple_of(TRIED_EVERY) => u64::MAX,
            crowd => crowd,
        }
    }

    /// One syncfs for `many` that the caller has, and for whoever else waits.
    fn timed_syncfs(&self, any: &impl AsFd, many: u64) -> io::Result<()> {
        self.whole.join(
            many,
            |turn| self.wanted(turn, many),
            |served| {
                // A crowd that had a slow moment is not forgotten at once.
                let before = self.crowd.load(Ordering::Relaxed);
                self.crowd
                    .store(served.max((before + served) / 2), Ordering::Relaxed);
                self.counts.filesystem.served(served);
                let start = Instant::now();
                fs::syncfs(any)?;
                record(&self.syncfs_time, start);
                Ok(())
            },
        )
    }
}

/// What became of a file's own pages after a syncfs.
fn written(file: &impl AsFd) -> io::Result<()> {
    // Linux: syncfs reports errors to the descriptor it is called on, which is another waiter's. This
    // call waits for nothing here and reports what became of this file's own pages (fs/sync.c).
    let raw = file.as_fd().as_raw_fd();
    // SAFETY: a system call on a descriptor that is borrowed for its duration; it touches no memory of ours.
    let result = unsafe { libc::sync_file_range(raw, 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The same error for another who shared the call.
pub(crate) fn same(e: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO))
}

/// A rolling time: an eighth of the newest, seven of what was.
fn record(time: &AtomicU64, start: Instant) {
    let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let was = time.load(Ordering::Relaxed);
    time.store(
        if was == 0 {
            took
        } else {
            was - was / 8 + took / 8
        },
        Ordering::Relaxed,
    );
}

/// Rounds of one shared call: whoever comes waits for a round that starts after it came.
#[derive(Default)]
struct Rounds {
    state: Mutex<RoundState>,
    ended: Condvar,
    all_came: Condvar,
    /// A leader waits for others.
    is_gathering: AtomicBool,
}

#[derive(Default)]
struct RoundState {
    /// Rounds that were started.
    started: u64,
    /// Somebody leads a round.
    led: bool,
    /// Who came since the last round began: the next is for all of them.
    arrived: u64,
    /// For how many its leader waits.
    wanted: u64,
    /// How the last rounds ended: an OS error number, by round. Kept while somebody may ask for it.
    failed: HashMap<u64, i32>,
    finished: u64,
    waiting: usize,
}

impl Rounds {
    /// Waits, with `many`, for a round that starts from now on; leads it when nobody else does. Who leads waits until
    /// the round serves as many as are `wanted` of it (by its number), and calls with how many it serves.
    fn join(
        &self,
        many: u64,
        wanted: impl FnOnce(u64) -> u64,
        call: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let mine = state.started + 1;
        state.waiting += 1;
        state.arrived += many;
        if state.arrived >= state.wanted && self.is_gathering.load(Ordering::Relaxed) {
            self.all_came.notify_one();
        }
        while state.finished < mine && state.led {
            self.ended.wait(&mut state);
        }
        if state.finished < mine {
            state.led = true;
            state.wanted = wanted(mine);
            self.gather(&mut state);
            state.started += 1;
            let served = std::mem::take(&mut state.arrived);
            drop(state);
            let result = call(served);
            state = self.state.lock();
            state.led = false;
            state.finished = state.started;
            if let Err(e) = result {
                let round = state.finished;
                state
                    .failed
                    .insert(round, e.raw_os_error().unwrap_or(libc::EIO));
            }
            self.ended.notify_all();
        }
        let outcome = state.failed.get(&mine).copied();
        state.waiting -= 1;
        if state.waiting == 0 {
            state.failed.clear();
        }
        outcome.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
    }

    /// Lets others join the round that is about to start, while they come.
    fn gather(&self, state: &mut MutexGuard<'_, RoundState>) {
        if state.arrived >= state.wanted {
            return;
        }
        self.is_gathering.store(true, Ordering::Relaxed);
        for _ in 0..GAPS {
            let before = state.arrived;
            self.all_came.wait_for(state, GAP);
            if state.arrived >= state.wanted || state.arrived == before {
                break;
            }
        }
        self.is_gathering.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn who_arrives_during_a_round_waits_for_the_next() {
        let rounds = Rounds::default();
        let calls = Mutex::new(Vec::new());
        let inside = Barrier::new(2);
        let release = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rounds.join(
                    1,
                    |_| 0,
                    |served| {
                        calls.lock().push(served);
                        inside.wait();
                        while !release.load(Ordering::SeqCst) {
                            std::thread::yield_now();
                        }
                        Ok(())
                    },
                )
            });
            inside.wait();
            let late: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        rounds.join(
                            1,
                            |_| 0,
                            |served| {
                                assert!(
                                    release.load(Ordering::SeqCst),
                                    "a late comer's round began before the first ended"
                                );
                                calls.lock().push(served);
                                Ok(())
                            },
                        )
                    })
                })
                .collect();
            while rounds.state.lock().waiting < 9 {
                std::thread::yield_now();
            }
            release.store(true, Ordering::SeqCst);
            for thread in late {
                thread.join().expect("no panic").expect("no error");
            }
        });
        assert_eq!(*calls.lock(), [1, 8], "late comers share one round");
    }

    #[test]
    fn who_leads_waits_for_as_many_as_are_wanted() {
        // A machine that is busy may let us come too late, but not every time.
        let is_shared = |_| {
            let rounds = Rounds::default();
            let served = AtomicU64::new(0);
            std::thread::scope(|scope| {
                let leader = scope.spawn(|| {
                    let call = |how_many| {
                        served.store(how_many, Ordering::SeqCst);
                        Ok(())
                    };
                    rounds.join(1, |_| 2, call)
                });
                while !rounds.is_gathering.load(Ordering::SeqCst) && !leader.is_finished() {
                    std::thread::yield_now();
                }
                rounds.join(1, |_| 0, |_| Ok(())).expect("no error");
                leader.join().expect("no panic").expect("no error");
            });
            served.load(Ordering::SeqCst) == 2
        };
        assert!((0..1000).any(is_shared));
    }

    #[test]
    fn who_knows_of_no_crowd_waits_for_whoever_comes() {
        let syncer = Syncer::default();
        assert_eq!(syncer.wanted(1, 1), u64::MAX);
        assert_eq!(syncer.wanted(1, 2), 0);
        syncer.crowd.store(20, Ordering::Relaxed);
        assert_eq!(syncer.wanted(1, 1), 20);
        assert_eq!(syncer.wanted(TRIED_EVERY, 1), u64::MAX);
        assert_eq!(syncer.wanted(TRIED_EVERY, 2), 0);
    }

    #[test]
    fn who_waits_for_nobody_is_served_alone() {
        let rounds = Rounds::default();
        let mut served = 0;
        let call = |how_many| {
            served = how_many;
            Ok(())
        };
        rounds.join(1, |_| u64::MAX, call).expect("no error");
        assert_eq!(served, 1);
    }

    #[test]
    fn a_failed_round_fails_all_who_shared_it_and_nobody_later() {
        let rounds = Rounds::default();
        let failed = rounds.join(1, |_| 0, |_| Err(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(failed.expect_err("fails").raw_os_error(), Some(libc::EIO));
        rounds
            .join(1, |_| 0, |_| Ok(()))
            .expect("the next round is its own");
    }

    #[test]
    fn files_and_directories_are_synced_from_many_threads() {
        let dir = tempfile::tempdir().expect("a directory");
        let syncer = Syncer::default();
        std::thread::scope(|scope| {
            for n in 0..32 {
                let (syncer, dir) = (&syncer, dir.path());
                scope.spawn(move || {
                    let file = std::fs::File::create(dir.join(n.to_string())).expect("a file");
                    syncer.sync_file(&file).expect("synced");
                    let folder = std::fs::File::open(dir).expect("a directory");
                    let inode = fs::fstat(&folder).expect("its state").st_ino;
                    syncer.sync_dir(&folder, inode).expect("synced");
                });
            }
        });
        assert!(syncer.dirs.lock().is_empty());
        assert_eq!(syncer.alone.load(Ordering::SeqCst), 0);
    }
}

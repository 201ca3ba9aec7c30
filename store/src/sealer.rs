//! The thread that settles unverified files: it reads them, and where the content is what the record says
//! it stamps the record anew, so that every gateway finds it valid. Where it is not, the content half ends.
//!
//! The procedure makes a torn hash impossible (reference on filesystems, 6.2): force pages down, make
//! sure that nobody writes, look, read, look again, and write the record under the key's lock only if
//! nothing moved. A file that somebody is writing waits its turn.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::open::Found;
use crate::record::{self, FileState, Record, Verdict, disk};
use crate::{Access, Bucket, BucketName, ObjectKey, Result, Store, StoreError, Timestamp};

/// How long an empty queue is waited on before the thread looks whether it should end.
const IDLE: Duration = Duration::from_millis(200);
/// How long a busy file waits for its next turn, and how many turns it has.
const AGAIN: Duration = Duration::from_secs(2);
const TURNS: u32 = 60;
/// Busy files that wait at most.
const MAX_BUSY: usize = 4096;
/// How long a file must have been left alone where a lease proves nothing.
const QUIET: i64 = 2_000_000_000;
/// Bytes read at once, and bytes a second at most, so that nobody's disk is kept from its work.
const CHUNK: usize = 1 << 20;
const RATE: u64 = 200 << 20;
/// Filesystems on which a read lease proves that no writer has the file open.
/// F_SETSIG of fcntl(2), which the libc crate lacks on this target.
const F_SETSIG: libc::c_int = 10;
const LEASES: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];

/// The running sealer; dropping it ends it after the file at hand.
pub struct Sealer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What became of one file.
enum Outcome {
    /// Its record is settled, or nothing had to be done.
    Settled,
    /// Somebody is at work on it.
    Busy,
}

struct Busy {
    bucket: BucketName,
    key: String,
    due: Instant,
    turns: u32,
}

impl Store {
    /// Starts the sealer's thread.
    ///
    /// # Errors
    /// `Io` where no thread can be had.
    pub fn start_sealer(self: &Arc<Self>) -> Result<Sealer> {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, stopping) = (Arc::clone(self), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("sealer".to_owned())
            .spawn(move || run(&store, &stopping))
            .map_err(|e| StoreError::from_io("the sealer's thread", e))?;
        Ok(Sealer {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sealer's thread panicked");
        }
    }
}

fn run(store: &Arc<Store>, stop: &AtomicBool) {
    let mut busy: VecDeque<Busy> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let due = busy.front().is_some_and(|b| b.due <= Instant::now());
        let (bucket, key, turns) = match if due { busy.pop_front() } else { None } {
            Some(again) => (again.bucket, again.key, again.turns),
            None => match store.seal_queue.pop(IDLE) {
                Some((bucket, key)) => (bucket, key, 0),
                None => continue,
            },
        };
        match settle(store, &bucket, &key, stop) {
            Ok(Outcome::Settled) => {}
            Ok(Outcome::Busy) if turns < TURNS && busy.len() < MAX_BUSY => {
                busy.push_back(Busy {
                    bucket,
                    key,
                    due: Instant::now() + AGAIN,
                    turns: turns + 1,
                });
            }
            // Who asks for it again brings it back.
            Ok(Outcome::Busy) => {}
            Err(e) => tracing::debug!(bucket = bucket.as_str(), key, "not sealed: {e}"),
        }
    }
}

fn settle(
    store: &Arc<Store>,
    bucket: &BucketName,
    key: &str,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let bucket = store.bucket(bucket)?;
    let Ok(key) = ObjectKey::parse(key) else {
        return Ok(Outcome::Settled);
    };
    let Some(Found::File(file, stat)) = bucket.find(&key, Access::Blocking)? else {
        return Ok(Outcome::Settled);
    };
    let examined = record::describe::examine(&bucket, &file, FileState::of(&stat))?;
    let Verdict::Unverified(Some(old)) = examined.verdict else {
        return Ok(Outcome::Settled);
    };
    // Linux: a store through a mapping changes no time until its page is written back.
    rustix::fs::fdatasync(&file).map_err(|e| crate::root::system(key.as_str(), e))?;
    let Some(lease) = Lease::take(&bucket, &file)? else {
        return Ok(Outcome::Busy);
    };
    let before = FileState::look(&file)?;
    let Some(found) = hash(&file, &lease, stop)? else {
        return Ok(Outcome::Busy);
    };
    let _held = bucket.lock_key(&key)?;
    let still = record::describe::examine(&bucket, &file, FileState::look(&file)?)?;
    if still.state != before || still.bytes != examined.bytes || !lease.holds(&file) {
        return Ok(Outcome::Busy);
    }
    restamp(&bucket, &file, old, found, &before)?;
    Ok(Outcome::Settled)
}

/// Writes the settled record. The file's own mtime stays: only the record learns it.
fn restamp(
    bucket: &Bucket,
    file: &OwnedFd,
    mut record: Record,
    found: (u64, u64),
    state: &FileState,
) -> Result<()> {
    let same = found == (record.stamp.size, record.crc64);
    record.stamp.modified = state.modified;
    record.stamp.seal = state.changed;
    if !same {
        // The content half ends, the object half stays: a size that no file has makes the record stale.
        record.stamp.size = (1 << 48) - 1;
    }
    // The seal is the ctime that the filesystem shows now, and the window is counted from it.
    record.stamp.seal = record.stamp.seal.max(Timestamp::now());
    let bytes = disk::write_record(file, &record, &bucket.tree)?;
    if same {
        bucket
            .store
            .judge
            .memory
            .remember(&FileState::look(file)?, &bytes);
    }
    Ok(())
}

/// Length and CRC64NVME of the content; `None` where a writer came or we are to stop.
fn hash(file: &OwnedFd, lease: &Lease, stop: &AtomicBool) -> Result<Option<(u64, u64)>> {
    let failed = |e| StoreError::from_io("reading an object", e);
    let reader = File::from(file.try_clone().map_err(failed)?);
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let (mut buffer, mut offset, start) = (vec![0; CHUNK], 0_u64, Instant::now());
    loop {
        let length = reader.read_at(&mut buffer, offset).map_err(failed)?;
        if length == 0 {
            return Ok(Some((offset, digest.finalize())));
        }
        digest.update(&buffer[..length]);
        offset += length as u64;
        if stop.load(Ordering::Relaxed) || !lease.holds(file) {
            return Ok(None);
        }
        let earned = Duration::from_millis(offset * 1000 / RATE);
        std::thread::sleep(
            earned
                .saturating_sub(start.elapsed())
                .min(Duration::from_secs(1)),
        );
    }
}

/// Proof that nobody writes: a read lease, or that the file was left alone for a while.
struct Lease<'a> {
    file: Option<&'a OwnedFd>,
}

impl<'a> Lease<'a> {
    fn take(bucket: &Bucket, file: &'a OwnedFd) -> Result<Option<Self>> {
        if LEASES.contains(&bucket.shared.facts.name) {
            // Linux: a broken lease sends SIGIO, which ends a process that does not expect it; SIGURG is
            // ignored by default (fcntl(2), F_SETSIG).
            let raw = file.as_fd().as_raw_fd();
            // SAFETY: two fcntl calls on a borrowed descriptor with plain integers.
            let taken = unsafe {
                libc::fcntl(raw, F_SETSIG, libc::SIGURG) == 0
                    && libc::fcntl(raw, libc::F_SETLEASE, libc::F_RDLCK) == 0
            };
            if taken {
                return Ok(Some(Self { file: Some(file) }));
            }
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EAGAIN) {
                return Ok(None);
            }
            // Not the owner, or leases are off: the quiet time has to do.
        }
        let state = FileState::look(file)?;
        let moved = state.modified.max(state.changed);
        Ok((Timestamp::now().0.saturating_sub(moved.0) > QUIET).then_some(Self { file: None }))
    }

    /// Has nobody asked to write since?
    fn holds(&self, file: &OwnedFd) -> bool {
        if self.file.is_none() {
            return true;
        }
        // SAFETY: fcntl on a borrowed descriptor without an argument.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file {
            // SAFETY: fcntl on a descriptor that outlives the lease, with a plain integer.
            if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) } != 0 {
                // Closing the descriptor releases it as well.
                tracing::debug!(
                    "a lease cannot be given back: {}",
                    std::io::Error::last_os_error()
                );
            }
        }
    }
}

//! The thread that settles unverified files: it reads them, and where the content is what the record says
//! it stamps the record anew, so that every gateway finds it valid. Where it is not, the content half is
//! written anew. Either record keeps the derived ETag that it replaces, so that a client that read the
//! file before goes on with its If-Match.
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
use crate::record::stamp::may_hide;
use crate::record::{self, FileState, Record, Stamp, Verdict, kind};
use crate::{
    Access, Bucket, BucketName, Digester, ETag, Inode, ObjectKey, Result, Store, StoreError,
    Timestamp,
};

/// How long an empty queue is waited on before the thread looks whether it should end.
const IDLE: Duration = Duration::from_millis(200);
/// How long a busy file waits for its next turn, and how many turns it has.
const AGAIN: Duration = Duration::from_secs(2);
const TURNS: u32 = 60;
/// Busy files that wait at most.
const MAX_BUSY: usize = 4096;
/// How long a file must have been left alone before it is settled: its ETag must not change in the middle
/// of a client's work, and who changed it may not be done.
const UNTOUCHED: Duration = Duration::from_secs(10);
/// How long a file must have been left alone where a lease proves nothing.
const QUIET: i64 = 2_000_000_000;
/// Bytes read at once, and bytes a second at most, so that nobody's disk is kept from its work.
const CHUNK: usize = 1 << 20;
const RATE: u64 = 200 << 20;
/// F_SETSIG of fcntl(2), which the libc crate lacks on this target.
const F_SETSIG: libc::c_int = 10;
/// Filesystems on which a read lease proves that no writer has the file open.
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
        self.start_sealer_after(UNTOUCHED)
    }

    /// Starts the sealer's thread with another quiet time than ten seconds: for tests.
    ///
    /// # Errors
    /// `Io` where no thread can be had.
    pub fn start_sealer_after(self: &Arc<Self>, untouched: Duration) -> Result<Sealer> {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, stopping) = (Arc::clone(self), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("sealer".to_owned())
            .spawn(move || run(&store, nanos(untouched), &stopping))
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

fn run(store: &Arc<Store>, untouched: i64, stop: &AtomicBool) {
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
        match settle(store, &bucket, &key, untouched, stop) {
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
    untouched: i64,
    stop: &AtomicBool,
) -> Result<Outcome> {
    store.check_writable()?;
    let bucket = store.bucket(bucket)?;
    let Ok(key) = ObjectKey::parse(key) else {
        return Ok(Outcome::Settled);
    };
    let Some(Found::File(file, stat)) = bucket.find(&key, Access::Blocking)? else {
        return Ok(Outcome::Settled);
    };
    let examined = record::describe::examine(&bucket, &file, FileState::of(&stat))?;
    // Who has it open for writing brings it back when he closes it.
    if examined.flux.is_some() {
        return Ok(Outcome::Settled);
    }
    let (old, claims) = match examined.verdict {
        Verdict::Unverified(Some(old)) => (Some(old), true),
        Verdict::Stale(old) => (Some(old), false),
        // Only who closed it, having written it, or saw it arrive, queued it here.
        Verdict::None => (None, false),
        Verdict::Valid(_) | Verdict::Unverified(None) => return Ok(Outcome::Settled),
    };
    let stamp = match &old {
        Some(old) if claims => old.stamp,
        _ => Stamp::of(&examined.state),
    };
    if may_hide(&examined.state, stamp) || rest(&examined.state) < untouched {
        return Ok(Outcome::Busy); // time alone may settle it
    }
    // Linux: a store through a mapping changes no time until its page is written back.
    rustix::fs::fdatasync(&file).map_err(|e| crate::root::system(key.as_str(), e))?;
    let Some(lease) = Lease::take(&bucket, &file)? else {
        return Ok(Outcome::Busy);
    };
    let before = FileState::look(&file)?;
    let quiet = Quiet {
        bucket: &bucket,
        file: &file,
        inode: before.inode(),
        lease,
        stop,
    };
    let same = match &old {
        Some(old) if claims => match hash(&quiet)? {
            Some(found) => found == (old.stamp.size, old.crc64),
            None => return Ok(Outcome::Busy),
        },
        _ => false,
    };
    let Some(mut record) = (match old {
        Some(old) if same => Some(old),
        old => read_anew(&quiet, &before, old)?,
    }) else {
        return Ok(Outcome::Busy);
    };
    // The pages were forced down before they were read: what was written without a sync is now.
    record.set_unsynced(None);
    if let ETag::Derived(first, _) = before.derived_etag(bucket.stable_inodes()) {
        record.replaced = Some(first);
    }
    let held = bucket.lock_key(&key)?;
    let held = (bucket.store.changes.record(before.inode()), held);
    let still = record::describe::examine(&bucket, &file, FileState::look(&file)?)?;
    if still.state != before || still.bytes != examined.bytes || !quiet.holds() {
        return Ok(Outcome::Busy);
    }
    match (
        bucket.restamp_held(&file, &before, record, None),
        &still.bytes,
    ) {
        // A file that we may only read: this process knows, and no other needs to.
        (Err(StoreError::Denied(_) | StoreError::ReadOnly(_)), Some(bytes)) if same => {
            store.judge.memory.remember(&before, bytes);
        }
        (other, _) => {
            other?;
        }
    }
    drop(held);
    bucket.announce_attributes(&key, &file);
    Ok(Outcome::Settled)
}

/// A file that is read while nobody writes it.
struct Quiet<'a> {
    bucket: &'a Bucket,
    file: &'a OwnedFd,
    inode: Inode,
    lease: Lease<'a>,
    stop: &'a AtomicBool,
}

impl Quiet<'_> {
    /// Has nobody asked to write since, here or elsewhere?
    fn holds(&self) -> bool {
        self.lease.holds(self.file) && self.bucket.store.changes.in_flux(self.inode).is_none()
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// How long a file has been left alone, in nanoseconds.
fn rest(state: &FileState) -> i64 {
    let moved = state.modified.max(state.changed);
    Timestamp::now().0.saturating_sub(moved.0)
}

/// A record of the content as it is, with the object half of the record that spoke of other bytes, if there
/// was one. `None` where a writer came or we are to stop.
fn read_anew(quiet: &Quiet, state: &FileState, old: Option<Record>) -> Result<Option<Record>> {
    let mut digester = Digester::new(&[]);
    if !read_quietly(quiet, |bytes| digester.update(bytes))? {
        return Ok(None);
    }
    let digests = digester.finish();
    let stamp = Stamp {
        size: digests.length,
        ..Stamp::of(state)
    };
    let mut record = Record::new(ETag::Md5(digests.md5), digests.crc64, stamp);
    let Some(old) = old else {
        record.sealed = true;
        return Ok(Some(record));
    };
    record.type_code = old.type_code;
    record.has_meta = old.has_meta;
    record.sealed = old.sealed;
    record.fields = old.fields;
    record.fields.retain(|(k, _)| *k == kind::META_OVERFLOW);
    Ok(Some(record))
}

/// Length and CRC64NVME of the content; `None` where a writer came or we are to stop.
fn hash(quiet: &Quiet) -> Result<Option<(u64, u64)>> {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let mut length = 0;
    let whole = read_quietly(quiet, |bytes| {
        digest.update(bytes);
        length += bytes.len() as u64;
    })?;
    Ok(whole.then(|| (length, digest.finalize())))
}

/// Reads a file to its end, no faster than [`RATE`]; `false` where a writer came or we are to stop.
fn read_quietly(quiet: &Quiet, mut each: impl FnMut(&[u8])) -> Result<bool> {
    let failed = |e| StoreError::from_io("reading an object", e);
    let reader = File::from(quiet.file.try_clone().map_err(failed)?);
    let (mut buffer, mut offset, start) = (vec![0; CHUNK], 0_u64, Instant::now());
    loop {
        let length = reader.read_at(&mut buffer, offset).map_err(failed)?;
        if length == 0 {
            return Ok(true);
        }
        each(&buffer[..length]);
        offset += length as u64;
        if quiet.stop.load(Ordering::Relaxed) || !quiet.holds() {
            return Ok(false);
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
        Ok((rest(&FileState::look(file)?) > QUIET).then_some(Self { file: None }))
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

#[cfg(test)]
mod tests;

//! How one file is sealed, by whoever seals: the thread in the background, and `twintree seal`.
//!
//! The procedure makes a torn hash impossible (reference on filesystems, 6.2): force pages down, make
//! sure that nobody writes, look, read, look again, and write the record under the key's lock only if
//! nothing moved. A file that somebody is writing waits its turn.
//!
//! Where the content is what the record says the record is stamped anew; else its content half is written
//! anew. Either keeps the derived ETag that it replaces, so that a client that read the file before goes on
//! with its If-Match.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::lease::Lease;
use super::pace::Pace;
use crate::open::Found;
use crate::record::stamp::may_hide;
use crate::record::{self, Examined, FileState, Record, Stamp, Verdict, disk, kind};
use crate::{
    Access, Bucket, BucketName, ETag, Inode, ObjectKey, Result, Store, StoreError, Timestamp,
};

/// On what terms a file is read.
pub(crate) struct Terms<'a> {
    /// How long it must have been left alone, in nanoseconds.
    pub untouched: i64,
    /// How fast it is read.
    pub pace: &'a Pace,
    /// Ends the reading.
    pub stop: &'a AtomicBool,
    /// Told of bytes as they are read.
    pub read: &'a (dyn Fn(u64) + Sync),
}

/// What became of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its record was written, or stamped anew.
    Sealed,
    /// Its content is what its record says, but the record cannot be written: this process alone knows.
    Remembered,
    /// Nothing had to be done: its record is valid.
    Valid,
    /// There is no such file any more.
    Gone,
    /// Its record is of a later version: whoever wrote it may settle it.
    Foreign,
    /// Not now.
    Busy(Busy),
}

/// Why a file cannot be sealed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// Somebody has it open for writing.
    Open,
    /// Somebody has it open for writing in our own mount, and brings it back when he closes it.
    Counted,
    /// It was changed so shortly ago that time alone can tell: about how long it must still be left alone.
    Young(Duration),
    /// It was changed while it was read.
    Changed,
    /// We were told to stop.
    Stopped,
}

/// Seals one object, where it has no valid record.
///
/// # Errors
/// What the disk says.
pub(crate) fn settle(
    store: &Arc<Store>,
    bucket: &BucketName,
    key: &str,
    terms: &Terms,
) -> Result<Outcome> {
    let outcome = settle_uncounted(store, bucket, key, terms);
    store.sealing.settled(&outcome);
    outcome
}

fn settle_uncounted(
    store: &Arc<Store>,
    bucket: &BucketName,
    key: &str,
    terms: &Terms,
) -> Result<Outcome> {
    let bucket = store.bucket(bucket)?;
    bucket.check_writable()?;
    let Ok(key) = ObjectKey::parse(key) else {
        return Ok(Outcome::Gone);
    };
    let Some(Found::File(file, stat)) = bucket.find(&key, Access::Blocking)? else {
        return Ok(Outcome::Gone);
    };
    let examined = record::describe::examine(&bucket, &file, FileState::of(&stat))?;
    if examined.flux.is_some() {
        return Ok(Outcome::Busy(Busy::Counted));
    }
    let (old, claims) = match &examined.verdict {
        Verdict::Unverified(Some(old)) => (Some(old.clone()), true),
        Verdict::Stale(old) => (Some(old.clone()), false),
        Verdict::None => (None, false),
        Verdict::Valid(_) => return Ok(Outcome::Valid),
        Verdict::Unverified(None) => return Ok(Outcome::Foreign),
    };
    let stamp = match &old {
        Some(old) if claims => old.stamp,
        _ => Stamp::of(&examined.state),
    };
    let left = terms.untouched.saturating_sub(rest(&examined.state));
    if may_hide(&examined.state, stamp) || left > 0 {
        let left = Duration::from_nanos(left.try_into().unwrap_or(0));
        return Ok(Outcome::Busy(Busy::Young(left)));
    }
    // Before the lease is taken: nobody shall wait for us while we wait for our turn.
    if !terms.pace.turn(|| !terms.stop.load(Ordering::Relaxed)) {
        return Ok(Outcome::Busy(Busy::Stopped));
    }
    // Linux: a store through a mapping changes no time until its page is written back.
    rustix::fs::fdatasync(&file).map_err(|e| crate::root::system(key.as_str(), e))?;
    let lease = match Lease::take(&bucket, &file)? {
        Ok(lease) => lease,
        Err(busy) => return Ok(Outcome::Busy(busy)),
    };
    let before = FileState::look(&file)?;
    let quiet = Quiet {
        bucket: &bucket,
        file: &file,
        inode: before.inode(),
        size: before.size,
        lease,
        terms,
    };
    let same = match &old {
        Some(old) if claims => match hash(&quiet)? {
            Some(found) => found == (old.stamp.size, old.crc64),
            None => return Ok(quiet.interrupted()),
        },
        _ => false,
    };
    let Some(record) = (match old {
        Some(old) if same => Some(old),
        old => read_anew(&quiet, &before, old)?,
    }) else {
        return Ok(quiet.interrupted());
    };
    let replaced = before.derived_etag(bucket.stable_inodes());
    record_it(
        &quiet,
        &key,
        &before,
        &examined,
        same,
        replacing(record, replaced),
        None,
    )
}

/// The record of what was read, which goes on accepting the derived ETag that it replaces.
pub(super) fn replacing(mut record: Record, replaced: ETag) -> Record {
    // The pages were forced down before they were read: what was written without a sync is now.
    record.set_unsynced(None);
    if let ETag::Derived(first, _) = replaced {
        record.replaced = Some(first);
    }
    record
}

/// Writes the record (and `meta`, as [`Bucket::restamp_held`]), if nothing moved since the file was looked at before
/// it was read.
pub(super) fn record_it(
    quiet: &Quiet,
    key: &ObjectKey,
    before: &FileState,
    examined: &Examined,
    same: bool,
    record: Record,
    meta: Option<Option<&[u8]>>,
) -> Result<Outcome> {
    let (bucket, file) = (quiet.bucket, quiet.file);
    let held = bucket.lock_key(key)?;
    let held = (bucket.store.changes.record(before.inode()), held);
    let still = record::describe::examine(bucket, file, FileState::look(file)?)?;
    if still.state != *before || still.bytes != examined.bytes || !quiet.holds() {
        return Ok(Outcome::Busy(Busy::Changed));
    }
    match (
        bucket.restamp_held(file, before, record, meta),
        &still.bytes,
    ) {
        // A file that we may only read: this process knows, and no other needs to.
        (Err(StoreError::Denied(_) | StoreError::ReadOnly(_)), Some(bytes)) if same => {
            bucket.store.judge.memory.remember(before, bytes);
            return Ok(Outcome::Remembered);
        }
        (Ok(true), _) => {}
        (Ok(false), _) => return Ok(Outcome::Busy(Busy::Changed)),
        (Err(e), _) => return Err(e),
    }
    drop(held);
    bucket.announce_attributes(key, file);
    Ok(Outcome::Sealed)
}

/// A file that is read while nobody writes it.
pub(super) struct Quiet<'a> {
    pub bucket: &'a Bucket,
    pub file: &'a OwnedFd,
    pub inode: Inode,
    pub size: u64,
    pub lease: Lease<'a>,
    pub terms: &'a Terms<'a>,
}

impl Quiet<'_> {
    /// Has nobody asked to write since, here or elsewhere?
    fn holds(&self) -> bool {
        self.lease.holds(self.file) && self.bucket.store.changes.in_flux(self.inode).is_none()
    }

    fn goes_on(&self) -> bool {
        !self.terms.stop.load(Ordering::Relaxed) && self.holds()
    }

    /// Why the reading ended before the file did.
    fn interrupted(&self) -> Outcome {
        Outcome::Busy(match self.holds() {
            true => Busy::Stopped,
            false => Busy::Changed,
        })
    }
}

/// How long a file has been left alone, in nanoseconds.
pub(super) fn rest(state: &FileState) -> i64 {
    let moved = state.modified.max(state.changed);
    Timestamp::now().0.saturating_sub(moved.0)
}

/// A record of the content as it is, with the object half of the record that spoke of other bytes, if there
/// was one. `None` where a writer came or we are to stop.
fn read_anew(quiet: &Quiet, state: &FileState, old: Option<Record>) -> Result<Option<Record>> {
    let kind = quiet.bucket.etag_kind();
    let mut digester = kind.digester(&[]);
    if !read_quietly(quiet, |bytes| digester.update(bytes))? {
        return Ok(None);
    }
    let digests = digester.finish();
    let stamp = Stamp {
        size: digests.length,
        ..Stamp::of(state)
    };
    let mut record = Record::new(kind.of_body(&digests), digests.crc64, stamp);
    let Some(old) = old else {
        record.sealed = true;
        // What nobody PUT may have been given tags.
        record.has_meta = disk::read_meta(quiet.file, None, &quiet.bucket.tree)?.is_some();
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

/// Reads a file to its end, no faster than the pace; `false` where a writer came or we are to stop.
pub(super) fn read_quietly(quiet: &Quiet, mut each: impl FnMut(&[u8])) -> Result<bool> {
    let failed = |e| StoreError::from_io("reading an object", e);
    let reader = File::from(quiet.file.try_clone().map_err(failed)?);
    let pace = quiet.terms.pace;
    // One byte more than it has: then its end shows at once.
    let whole = usize::try_from(quiet.size.saturating_add(1)).unwrap_or(usize::MAX);
    let (mut buffer, mut offset) = (vec![0; pace.chunk().min(whole)], 0_u64);
    loop {
        let length = reader.read_at(&mut buffer, offset).map_err(failed)?;
        if length == 0 {
            return Ok(true);
        }
        each(&buffer[..length]);
        offset += length as u64;
        pace.spent(length);
        (quiet.terms.read)(length as u64);
        quiet.bucket.store.sealing.read(length);
        // The end is read at once: only the next file has to wait for what this one took.
        let more = length == buffer.len();
        let goes_on = match more {
            true => pace.turn(|| quiet.goes_on()),
            false => quiet.goes_on(),
        };
        if !goes_on {
            return Ok(false);
        }
    }
}

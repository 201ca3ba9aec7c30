//! An [`ObjectInfo`] of an open file: what its record says, where it is true, and what it means.

use std::os::fd::AsFd;

use rustix::fs::Stat;

use super::memory::Recall;
use super::stamp::may_hide;
use super::{FileState, Record, Verdict, disk, kind};
use crate::object::Claim;
use crate::{
    Access, Bucket, Checksum, ChecksumType, Digester, ETag, FluxNumber, Meta, Object,
    ObjectChecksum, ObjectInfo, ObjectKey, PartInfo, Result, StoreError, Timestamp, content_type,
    relaxed,
};

/// A record that was read and judged, with the bytes that the judgement is of.
#[derive(Clone, Debug)]
pub(crate) struct Examined {
    /// What fstat showed.
    pub(crate) state: FileState,
    /// Whether the record speaks of the file.
    pub(crate) verdict: Verdict,
    /// Somebody has the file open for writing: then no verdict claims anything of its content.
    pub(crate) flux: Option<FluxNumber>,
    /// The record's bytes.
    pub(crate) bytes: Option<Vec<u8>>,
    /// Where the filesystem has no xattrs: the meta JSON that lay beside the record.
    meta_beside: Option<Vec<u8>>,
}

/// Describes an open file for a reader: an unverified one is looked at once more under its key's
/// lock, since a re-stamp may be half done, and is queued for the sealer. `stat` is of `file`.
///
/// # Errors
/// `WouldBlock` with `Access::Cached` where the lock or another file would have to be waited for;
/// what the disk says.
pub(crate) fn describe(
    bucket: &Bucket,
    file: impl AsFd,
    stat: &Stat,
    key: &str,
    access: Access,
) -> Result<ObjectInfo> {
    let mut examined = examine(bucket, &file, FileState::of(stat))?;
    if matches!(examined.verdict, Verdict::Unverified(_)) {
        if access == Access::Cached {
            return Err(StoreError::WouldBlock);
        }
        let held = bucket.lock_key_for_reading(key)?;
        let again = examine(bucket, &file, FileState::look(&file)?)?;
        drop(held);
        // A change of the content since the caller's stat is the caller's to find: Object::unchanged.
        if again.state.same_content(&examined.state) {
            examined = again;
        }
    }
    if examined.waits_for_sealing() {
        bucket.store.seal_queue.push(bucket.name(), key);
    }
    inform(bucket, file, key, examined, access)
}

/// Describes an open file for somebody who holds its key's lock.
///
/// # Errors
/// What the disk says.
pub(crate) fn describe_locked(
    bucket: &Bucket,
    file: impl AsFd,
    key: &str,
) -> Result<(Examined, ObjectInfo)> {
    let examined = examine(bucket, &file, FileState::look(&file)?)?;
    let info = inform(bucket, file, key, examined.clone(), Access::Blocking)?;
    Ok((examined, info))
}

impl Examined {
    /// Unverified, or changed through a mount that did not live to have it sealed.
    fn waits_for_sealing(&self) -> bool {
        match &self.verdict {
            Verdict::Unverified(_) => true,
            Verdict::Stale(record) => record.dropped && self.flux.is_none(),
            Verdict::Valid(_) | Verdict::None => false,
        }
    }
}

/// Describes a directory that is the object `dir/`: no bytes, and what was said of it.
///
/// # Errors
/// What the disk says.
pub(crate) fn describe_directory(
    bucket: &Bucket,
    dir: impl AsFd,
    modified: Timestamp,
) -> Result<ObjectInfo> {
    let json = disk::read_meta(dir, None, &bucket.tree)?;
    let nothing = Digester::new(&[]).finish();
    Ok(ObjectInfo {
        size: 0,
        modified,
        etag: ETag::Md5(nothing.md5),
        in_flux: false,
        replaced: None,
        derivation: None,
        recorded: None,
        checksum: Some(ObjectChecksum {
            checksum: Checksum::crc64(nothing.crc64),
            kind: ChecksumType::FullObject,
        }),
        parts: Vec::new(),
        part_count: None,
        meta: json
            .and_then(|json| Meta::from_json(&json))
            .unwrap_or_default(),
        upload_id: None,
    })
}

/// Reads and judges the record of an open file that showed `state`.
///
/// # Errors
/// What the disk says.
pub(crate) fn examine(bucket: &Bucket, file: impl AsFd, state: FileState) -> Result<Examined> {
    let raw = disk::read(&file, &bucket.tree)?;
    let mut verdict = judge(bucket, &state, raw.record.as_deref());
    let mut meta_beside = raw.meta_beside;
    // Looked at after the record: who opened the file since has dropped it since.
    let flux = bucket.store.changes.in_flux(state.inode());
    if flux.is_some() {
        verdict = verdict.in_flux();
    }
    // A stale record under an inode's number may speak of a file that is long gone: all of it. What this
    // process dropped of a file that is open, or closed and unchanged since, does not.
    if raw.by_inode
        && let Verdict::Stale(record) = &verdict
        && !(record.dropped && (flux.is_some() || record.stamp.fits(&state)))
    {
        (verdict, meta_beside) = (Verdict::None, None);
    }
    if let (Verdict::Valid(_), Some(bytes)) = (&verdict, &raw.record) {
        remember(bucket, file, &state, bytes)?;
    }
    Ok(Examined {
        state,
        verdict,
        flux,
        bytes: raw.record,
        meta_beside,
    })
}

/// From now on this process knows the ctime of a record that it found valid by the window, so that a
/// later chmod shows. Only if the file still has it: a re-stamp between the fstat and the reading of
/// the record would give a pair that never was.
fn remember(bucket: &Bucket, file: impl AsFd, state: &FileState, bytes: &[u8]) -> Result<()> {
    let memory = &bucket.store.judge.memory;
    if memory.recall(state, bytes) == Recall::Nothing && FileState::look(file)? == *state {
        memory.remember(state, bytes);
    }
    Ok(())
}

/// Judges a record that the caller has read. A listing that reads by name opens the file, and asks
/// [`describe`], whenever the verdict is neither `Valid` nor `None`.
pub(crate) fn judge(bucket: &Bucket, state: &FileState, bytes: Option<&[u8]>) -> Verdict {
    let synced = |boot| relaxed::synced_until(&bucket.tree, boot);
    bucket.store.judge.judge(state, bytes, synced)
}

/// Verifies an unverified file by reading it: is its content what the record says? Where it is, the
/// record is valid now, and this process remembers so, where any change from now on moves ctime; nothing
/// is written. `None`: it is not.
///
/// # Errors
/// What reading says.
pub(crate) fn settle(
    bucket: &Bucket,
    file: impl AsFd,
    examined: &Examined,
) -> Result<Option<Examined>> {
    let (Verdict::Unverified(Some(record)), Some(bytes)) = (&examined.verdict, &examined.bytes)
    else {
        return Ok(None);
    };
    if !crate::seal::content_matches(&file, record)? || FileState::look(&file)? != examined.state {
        return Ok(None);
    }
    if !may_hide(&examined.state, record.stamp) {
        bucket.store.judge.memory.remember(&examined.state, bytes);
    }
    // Not judged again: a coarse clock would still ask for age, and the bytes were just seen.
    Ok(Some(Examined {
        verdict: Verdict::Valid(record.clone()),
        ..examined.clone()
    }))
}

/// What an examined file is to a reader.
///
/// # Errors
/// What the disk says.
pub(crate) fn inform(
    bucket: &Bucket,
    file: impl AsFd,
    key: &str,
    examined: Examined,
    access: Access,
) -> Result<ObjectInfo> {
    let Examined {
        state,
        mut verdict,
        flux,
        meta_beside,
        ..
    } = examined;
    if let Verdict::Valid(record) = &mut verdict
        && record.field(kind::OVERFLOW).is_some()
    {
        if access == Access::Cached {
            return Err(StoreError::WouldBlock);
        }
        disk::load_overflow(record, &bucket.tree)?;
    }
    let meta = meta_of(bucket, file, key, &verdict, meta_beside, access)?;
    let etag = match flux {
        Some(open) => state.derivation(bucket.stable_inodes()).in_flux(open),
        None => verdict.etag(&state, bucket.stable_inodes()),
    };
    let mut info = ObjectInfo {
        size: state.size,
        modified: state.modified,
        etag,
        in_flux: flux.is_some(),
        replaced: None,
        derivation: None,
        recorded: None,
        checksum: None,
        parts: Vec::new(),
        part_count: None,
        meta,
        upload_id: None,
    };
    match verdict {
        Verdict::Valid(record) => {
            info.replaced = record.replaced;
            info.derivation = Some(state.derivation(bucket.stable_inodes()));
            info.checksum = Some(record.checksum());
            info.parts = parts_of(&record, state.size);
            if let ETag::Multipart(_, count) = record.etag {
                info.part_count = Some(count);
            }
            info.upload_id = record.upload_id();
        }
        Verdict::Unverified(Some(record)) => info.recorded = Some(record.etag),
        Verdict::Unverified(None) | Verdict::Stale(_) | Verdict::None => {}
    }
    Ok(info)
}

/// The parts of an object of this size. Those that do not add up to it were written by a person, or are
/// of another object: a range made of them would lie.
fn parts_of(record: &Record, size: u64) -> Vec<PartInfo> {
    let parts = record.parts();
    // At most 65,535 parts of less than 2^48 bytes.
    let sum: u64 = parts.iter().map(|part| part.size).sum();
    if sum == size { parts } else { Vec::new() }
}

/// The object half, which outlives a change of the content; the Content-Type resolved.
fn meta_of(
    bucket: &Bucket,
    file: impl AsFd,
    key: &str,
    verdict: &Verdict,
    beside: Option<Vec<u8>>,
    access: Access,
) -> Result<Meta> {
    let record = verdict.record();
    // Asked for whatever the record says: a person may have set it since.
    let json = match beside {
        Some(json) => Some(json),
        None => {
            let elsewhere =
                record.is_some_and(|record| record.field(kind::META_OVERFLOW).is_some());
            if elsewhere && access == Access::Cached {
                return Err(StoreError::WouldBlock);
            }
            disk::read_meta(file, record, &bucket.tree)?
        }
    };
    let mut meta = json
        .and_then(|json| Meta::from_json(&json))
        .unwrap_or_default();
    if meta.content_type.is_none() {
        meta.content_type = resolve_type(record, key);
    }
    Ok(meta)
}

/// The Content-Type where the meta half names none.
fn resolve_type(record: Option<&Record>, key: &str) -> Option<Vec<u8>> {
    let put = record.filter(|record| !record.sealed);
    let kind = match put {
        Some(record) => content_type::coded(record.type_code),
        None => content_type::by_extension(key),
    };
    kind.map(|kind| kind.as_bytes().to_vec())
}

impl Bucket {
    /// Verifies an unverified object by reading it, for a condition that names what its record says:
    /// where the content is still that, the object is described by the record again. Blocking;
    /// writes nothing.
    ///
    /// # Errors
    /// What reading says.
    pub fn settle(&self, key: &ObjectKey, mut object: Object) -> Result<Object> {
        let Some(file) = object.file.clone() else {
            return Ok(object);
        };
        let openings = self.store.changes.openings();
        let state = FileState::look(&file)?;
        if (state.size, state.modified) != object.stamp {
            return Ok(object); // what was described is gone: the caller's check of the file finds it
        }
        let examined = examine(self, &file, state)?;
        if let Some(settled) = settle(self, &file, &examined)? {
            object.info = inform(self, &file, key.as_str(), settled, Access::Blocking)?;
            object.claim = Claim::of(self, state.inode(), &object.info, openings);
        }
        Ok(object)
    }

    /// Are inode numbers part of a derived ETag here? Not where the server behind a mount, or the
    /// kernel's cache, makes them up anew.
    pub(crate) fn stable_inodes(&self) -> bool {
        !matches!(
            self.shared.facts.name,
            "fuse" | "unknown" | "vfat" | "exfat"
        )
    }
}

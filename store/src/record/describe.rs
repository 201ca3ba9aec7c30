//! An [`ObjectInfo`] of an open file: what its record says, where it is true, and what it means.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::Stat;

use super::disk::Raw;
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
    meta: MetaHalf,
    /// Were they read from xattrs just now? Then they may be kept.
    fresh: bool,
}

/// The meta JSON of a file.
#[derive(Clone, Debug)]
enum MetaHalf {
    Unread,
    Read(Option<Vec<u8>>),
}

/// What lies in the xattrs of a quiet file, kept for whoever reads it next.
pub(crate) struct Xattrs {
    record: Option<Vec<u8>>,
    meta: Option<Vec<u8>>,
}

impl Xattrs {
    /// The record's bytes.
    pub(crate) fn record(&self) -> Option<&[u8]> {
        self.record.as_deref()
    }
}

/// The most that is kept of one file's xattrs, in bytes.
const KEPT: usize = 512;

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
    let asked = Timestamp::now();
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
    examined.read_meta(bucket, &file, access)?;
    if examined.fresh && examined.may_be_kept(asked) && !bucket.is_remote_file(&file, stat) {
        examined.keep(bucket, &file)?;
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
    /// Reads the meta half, unless it is known: whatever the record says, since a person may have set it.
    fn read_meta(&mut self, bucket: &Bucket, file: impl AsFd, access: Access) -> Result<()> {
        if matches!(self.meta, MetaHalf::Read(_)) {
            return Ok(());
        }
        let record = self.verdict.record();
        let elsewhere = record.is_some_and(|record| record.field(kind::META_OVERFLOW).is_some());
        if elsewhere && access == Access::Cached {
            return Err(StoreError::WouldBlock);
        }
        self.meta = MetaHalf::Read(disk::read_meta(file, record, &bucket.tree)?);
        Ok(())
    }

    /// Is what was read after `asked` all there is, small, and of a file that shows every change since?
    fn may_be_kept(&self, asked: Timestamp) -> bool {
        let whole = match &self.verdict {
            Verdict::None => true,
            Verdict::Valid(record) => [kind::OVERFLOW, kind::META_OVERFLOW]
                .into_iter()
                .all(|elsewhere| record.field(elsewhere).is_none()),
            Verdict::Stale(_) | Verdict::Unverified(_) => false,
        };
        let meta = match &self.meta {
            MetaHalf::Read(Some(json)) => json.len(),
            MetaHalf::Read(None) | MetaHalf::Unread => 0,
        };
        let bytes = self.bytes.as_ref().map_or(0, Vec::len) + meta;
        whole && self.flux.is_none() && bytes <= KEPT && self.state.had_been_quiet(asked)
    }

    /// Keeps both halves, if the file is still what it was before they were read.
    fn keep(&self, bucket: &Bucket, file: impl AsFd) -> Result<()> {
        let MetaHalf::Read(meta) = &self.meta else {
            return Ok(());
        };
        if FileState::look(file)? == self.state {
            let (record, meta) = (self.bytes.clone(), meta.clone());
            let xattrs = Arc::new(Xattrs { record, meta });
            bucket.store.judge.xattrs.keep(self.state, xattrs);
        }
        Ok(())
    }

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
        etag: ETag::EMPTY,
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
    let kept = bucket.store.judge.xattrs.get(&state);
    let fresh = kept.is_none();
    let (raw, mut meta) = match kept {
        Some(kept) => {
            let record = kept.record.clone();
            let raw = Raw {
                record,
                in_xattrs: true,
                ..Raw::default()
            };
            (raw, MetaHalf::Read(kept.meta.clone()))
        }
        None => {
            let mut raw = disk::read(&file, &bucket.tree)?;
            let beside = raw.meta_beside.take();
            (
                raw,
                beside.map_or(MetaHalf::Unread, |json| MetaHalf::Read(Some(json))),
            )
        }
    };
    let mut verdict = judge(bucket, &state, raw.record.as_deref());
    // Looked at after the record: who opened the file since has dropped it since.
    let flux = bucket.store.changes.in_flux(state.inode());
    let was_valid = matches!(verdict, Verdict::Valid(_));
    if flux.is_some() {
        verdict = verdict.in_flux();
    }
    // A stale record under an inode's number may speak of a file that is long gone: all of it. What this
    // process dropped of a file that is open, or closed and unchanged since, does not.
    if raw.by_inode
        && !was_valid
        && let Verdict::Stale(record) = &verdict
        && !(record.dropped && (flux.is_some() || record.stamp.fits(&state)))
    {
        (verdict, meta) = (Verdict::None, MetaHalf::Read(None));
    }
    if let (Verdict::Valid(_), Some(bytes)) = (&verdict, &raw.record) {
        remember(bucket, file, &state, bytes)?;
    }
    Ok(Examined {
        state,
        verdict,
        flux,
        bytes: raw.record,
        meta,
        fresh: fresh && raw.in_xattrs,
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
    mut examined: Examined,
    access: Access,
) -> Result<ObjectInfo> {
    examined.read_meta(bucket, &file, access)?;
    let Examined {
        state,
        mut verdict,
        flux,
        meta,
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
    let meta = meta_of(key, &verdict, meta);
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
fn meta_of(key: &str, verdict: &Verdict, half: MetaHalf) -> Meta {
    let json = match half {
        MetaHalf::Read(json) => json,
        MetaHalf::Unread => None,
    };
    let mut meta = json
        .and_then(|json| Meta::from_json(&json))
        .unwrap_or_default();
    if meta.content_type.is_none() {
        meta.content_type = resolve_type(verdict.record(), key);
    }
    meta
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::*;
    use crate::testing;

    /// A bucket with the object `k`, quiet for long enough.
    fn place(dir: &Path) -> (Bucket, ObjectKey, FileState) {
        let bucket = testing::bucket(dir);
        let key = ObjectKey::parse("k").expect("a key");
        testing::put(&bucket, &key, b"body", Meta::default());
        let file = File::open(dir.join("bucket/k")).expect("opened");
        let state = FileState::look(file).expect("there");
        while !state.had_been_quiet(Timestamp::now()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        (bucket, key, state)
    }

    #[test]
    fn xattrs_of_a_quiet_file_are_kept_until_one_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (bucket, key, state) = place(dir.path());
        let open = || bucket.open(&key, Access::Blocking).expect("there").info;
        let kept = |state| bucket.store.judge.xattrs.get(state).is_some();
        assert!(!kept(&state), "nobody asked yet");
        let first = open();
        let path = dir.path().join("bucket/k");
        let look = || FileState::look(File::open(&path).expect("opened")).expect("there");
        let has_xattrs = xattr::get(&path, "user.twintree").is_ok_and(|found| found.is_some());
        assert_eq!(kept(&state), has_xattrs);
        let second = open();
        assert_eq!((first.etag, first.checksum), (second.etag, second.checksum));
        if !has_xattrs {
            return;
        }
        let meta = br#"{"v":1,"meta":{"said":"meanwhile"}}"#;
        xattr::set(&path, "user.twintree.meta", meta).expect("set");
        assert!(!kept(&look()), "its ctime moved");
        let user = vec![("said".to_owned(), b"meanwhile".to_vec())];
        assert_eq!(open().meta.user, user);
    }

    #[test]
    fn what_was_changed_within_the_last_ticks_or_lies_elsewhere_is_not_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (bucket, key, state) = place(dir.path());
        let file = File::open(dir.path().join("bucket/k")).expect("opened");
        let (examined, _) = describe_locked(&bucket, &file, key.as_str()).expect("there");
        let after = |millis: i64| Timestamp(state.changed.0 + millis * 1_000_000);
        assert!(examined.may_be_kept(after(10_000)));
        assert!(!examined.may_be_kept(after(20)), "within the last ticks");
        assert!(!examined.may_be_kept(after(-10_000)), "ahead of the clock");
        let large = MetaHalf::Read(Some(vec![b' '; KEPT]));
        let meta = examined.meta.clone();
        let large = Examined {
            meta: large,
            ..examined
        };
        assert!(!large.may_be_kept(after(10_000)), "large");
        let mut elsewhere = Examined { meta, ..large };
        if let Verdict::Valid(record) = &mut elsewhere.verdict {
            record.set_field(kind::META_OVERFLOW, vec![0; 32]);
        }
        assert!(!elsewhere.may_be_kept(after(10_000)), "in records/");
    }
}

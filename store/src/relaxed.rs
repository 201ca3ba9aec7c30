//! `durability = relaxed`: what was written without a sync, and until when everything is on disk.
//!
//! A record written so carries the flag and the boot that it was written in. In that boot the page
//! cache vouches for it. After another boot only what was sealed before the last whole sync is
//! trusted: `.twintree/synced/BOOT` holds `{"version":1,"boot":...,"synced":ns}` and is rewritten
//! after each syncfs. One file per boot, so that what a boot proved outlives the next one.
//!
//! A syncfs that fails may have lost pages, and no later one tells of them again. From then on nothing that
//! this boot wrote to that filesystem is vouched for: `"synced":null`, for good.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::record::disk::hex;
use crate::record::{BootMark, FileState};
use crate::root::{Tree, system};
use crate::{Bucket, BucketName, Result, Store, StoreError, Timestamp};

/// The buckets that hold something unsynced.
#[derive(Default)]
pub(crate) struct Unsynced {
    buckets: Mutex<HashMap<BucketName, ()>>,
    /// Devices of which a sync failed.
    failed: Mutex<HashSet<u64>>,
}

impl Unsynced {
    /// Notes that the bucket was written to without a sync.
    pub(crate) fn note(&self, bucket: &BucketName) {
        let mut buckets = self.buckets.lock();
        if !buckets.contains_key(bucket) {
            buckets.insert(bucket.clone(), ());
        }
    }

    /// Syncs a whole filesystem. `false`: it, or one before it, failed.
    fn sync_whole(&self, dir: impl AsFd) -> Result<bool> {
        let device = FileState::look(&dir)?.device;
        if let Err(e) = fs::syncfs(dir) {
            self.failed.lock().insert(device);
            tracing::error!(
                "syncing a filesystem failed; what was written to it since the boot is read again after a power cut: {e}"
            );
        }
        Ok(!self.failed.lock().contains(&device))
    }

    fn take(&self) -> Vec<BucketName> {
        self.buckets.lock().drain().map(|(name, ())| name).collect()
    }
}

impl Store {
    /// Brings everything that was written without a sync to disk, and says so in each bucket. The
    /// daemon calls it every 30 seconds and when it stops. Blocking.
    pub fn sync_unsynced(self: &std::sync::Arc<Self>) {
        for name in self.unsynced.take() {
            if let Err(e) = self.bucket(&name).and_then(|bucket| bucket.sync_whole()) {
                tracing::warn!(
                    bucket = name.as_str(),
                    "unsynced writes cannot be synced: {e}"
                );
            }
        }
    }
}

impl Bucket {
    /// Syncs the bucket's filesystem, and those mounted inside it, and writes down until when. In a bucket that became
    /// read-only since it was written to nothing is written: after another boot its latest files are read again.
    fn sync_whole(&self) -> Result<()> {
        let boot = self.store.judge.boot();
        let report = match self.rules.read_only {
            true => None,
            false => Some(Report::begin(&self.tree, boot)?),
        };
        let mut synced = self.store.unsynced.sync_whole(self.tree.open_top()?)?;
        // A filesystem mounted inside the bucket holds objects of it, and records that this speaks of.
        for mount in self.tree.mounts_inside() {
            match self.tree.open_dir(Some(&mount)) {
                Ok(dir) => synced &= self.store.unsynced.sync_whole(dir)?,
                // Unmounted since; umount(2) writes back what it takes away.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(system(self.name().as_str(), e)),
            }
        }
        let Some(report) = report else { return Ok(()) };
        // A process before this one, or beside it, may have seen it fail.
        synced &= told(&report.dir, &hex(&boot)).is_none_or(|told| !told.is_null());
        report.publish(synced)
    }
}

/// The file that will say until when everything is on disk, made before the sync that it speaks of.
struct Report {
    dir: OwnedFd,
    file: File,
    temporary: String,
    boot: [u8; 16],
    /// What is sealed at or before this moment was written before the sync began.
    until: Timestamp,
}

/// Until when all that was written in another boot is known to be on disk; `None`: unknown.
pub(crate) fn synced_until(tree: &Tree, boot: BootMark) -> Option<Timestamp> {
    let dir = tree.reserved("synced", false).ok()??;
    let begin = hex(&boot);
    let mut entries = fs::Dir::read_from(&dir).ok()?.filter_map(Result::ok);
    let entry = entries.find(|entry| entry.file_name().to_bytes().starts_with(begin.as_bytes()))?;
    let name = entry.file_name().to_str().ok()?;
    told(&dir, name)?.as_i64().map(Timestamp)
}

/// What is said of the boot of this id: until when all is on disk, or null for that it is not. `None`: nothing.
fn told(dir: impl AsFd, id: &str) -> Option<serde_json::Value> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::openat(dir, id, flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(file).take(4096).read_to_end(&mut bytes).ok()?;
    let mut json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    if json["version"] != 1 || json["boot"] != id {
        return None;
    }
    Some(json["synced"].take())
}

impl Report {
    fn begin(tree: &Tree, boot: [u8; 16]) -> Result<Self> {
        let missing = || StoreError::Unavailable(".twintree/synced".to_owned());
        let dir = tree.reserved("synced", true)?.ok_or_else(missing)?;
        let temporary = format!("new.{:016x}", crate::random::number());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| system(".twintree/synced", e))?;
        // Linux: before 6.13 ctime lags behind the clock by up to a tick, so what is written after this may show a seal
        // before it. By the filesystem's own clock (which may be a server's) nothing later shows one before
        // that of the file just made, and one in the same tick is left out.
        let made = FileState::look(&file)?.changed;
        Ok(Self {
            dir,
            file: File::from(file),
            temporary,
            boot,
            until: Timestamp(made.0 - 1),
        })
    }

    fn publish(mut self, synced: bool) -> Result<()> {
        let failed = |e: Errno| system(".twintree/synced", e);
        let name = hex(&self.boot);
        let until = if synced {
            self.until.0.to_string()
        } else {
            "null".to_owned()
        };
        let text = format!("{{\"version\":1,\"boot\":\"{name}\",\"synced\":{until}}}\n");
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_all())
            .map_err(|e| StoreError::from_io(".twintree/synced", e))?;
        fs::renameat(&self.dir, &self.temporary, &self.dir, &name).map_err(failed)?;
        fs::fsync(&self.dir).map_err(failed)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // Published, it has another name; what cannot be removed now the sweep takes.
        let _ = fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stamp::mark_of;
    use crate::record::{RECORD_XATTR, Record};
    use std::collections::BTreeMap;

    use crate::{BucketOptions, Meta, ObjectKey, testing};

    // With the time of the clock instead of the filesystem's this fails where ctime lags behind it: before
    // Linux 6.13, and with a server whose clock is slow.
    #[test]
    fn what_is_written_after_a_sync_is_never_covered_by_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = testing::store(dir.path());
        let bucket = testing::bucket_of(&store);
        let (boot, key) = (store.judge.boot(), ObjectKey::parse("f").expect("a key"));
        for round in 0..20_u8 {
            let report = Report::begin(&bucket.tree, boot).expect("begun");
            testing::put(&bucket, &key, &[round], Meta::default());
            report.publish(true).expect("published");
            let path = dir.path().join("bucket/f");
            let Some(bytes) = xattr::get(path, RECORD_XATTR).unwrap_or_default() else {
                return; // no xattrs here
            };
            let record = Record::decode(&bytes).expect("a record");
            let until = synced_until(&bucket.tree, mark_of(&boot)).expect("known");
            assert!(record.stamp.seal > until, "round {round}");
        }
        let synced = dir.path().join("bucket/.twintree/synced");
        assert_eq!(synced.read_dir().expect("a directory").count(), 1);
    }

    #[test]
    fn nothing_is_reported_in_a_bucket_that_became_read_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = testing::store(dir.path());
        let bucket = testing::bucket_of(&store);
        let said = BucketOptions {
            read_only: true,
            ..BucketOptions::default()
        };
        let read_only = BTreeMap::from([(bucket.name().clone(), said)]);
        let synced = dir.path().join("bucket/.twintree/synced");
        for (key, rules, reported) in [
            ("written-before", read_only, false),
            ("written-since", BTreeMap::new(), true),
        ] {
            let key = ObjectKey::parse(key).expect("a key");
            testing::put(&bucket, &key, b"x", Meta::default());
            store.set_bucket_rules(&rules);
            store.sync_unsynced();
            assert!(store.unsynced.take().is_empty());
            assert_eq!(synced.exists(), reported, "{key:?}");
        }
    }
}

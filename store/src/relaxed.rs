//! `durability = relaxed`: what was written without a sync, and until when everything is on disk.
//!
//! A record written so carries the flag and the boot that it was written in. In that boot the page
//! cache vouches for it. After another boot only what was sealed before the last whole sync is
//! trusted: `.twintree/synced/BOOT` holds `{"version":1,"boot":...,"synced":ns}` and is rewritten
//! after each syncfs. One file per boot, so that what a boot proved outlives the next one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};

use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::record::disk::hex;
use crate::root::{Tree, system};
use crate::{Bucket, BucketName, Result, Store, StoreError, Timestamp};

/// The buckets that hold something unsynced.
#[derive(Default)]
pub(crate) struct Unsynced {
    buckets: Mutex<HashMap<BucketName, ()>>,
}

impl Unsynced {
    /// Notes that the bucket was written to without a sync.
    pub(crate) fn note(&self, bucket: &BucketName) {
        let mut buckets = self.buckets.lock();
        if !buckets.contains_key(bucket) {
            buckets.insert(bucket.clone(), ());
        }
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
    /// Syncs the bucket's filesystem, and those mounted inside it, and writes down until when.
    fn sync_whole(&self) -> Result<()> {
        // Read before the sync: what is sealed at or before this moment is covered by it.
        let until = Timestamp::now();
        let failed = |e| system(self.name().as_str(), e);
        fs::syncfs(self.tree.open_top()?).map_err(failed)?;
        // A filesystem mounted inside the bucket holds objects of it, and records that this speaks of.
        for mount in self.tree.mounts_inside() {
            match self.tree.open_dir(Some(&mount)) {
                Ok(dir) => fs::syncfs(dir).map_err(failed)?,
                // Unmounted since; umount(2) writes back what it takes away.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        write_synced(&self.tree, self.store.judge.boot(), until)
    }
}

/// Until when all that was written in another boot is known to be on disk; `None`: unknown.
pub(crate) fn synced_until(tree: &Tree, boot: [u8; 16]) -> Option<Timestamp> {
    let dir = tree.reserved("synced", false).ok()??;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::openat(dir, hex(&boot), flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(file).take(4096).read_to_end(&mut bytes).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    if json["version"] != 1 || json["boot"] != hex(&boot) {
        return None;
    }
    json["synced"].as_i64().map(Timestamp)
}

fn write_synced(tree: &Tree, boot: [u8; 16], until: Timestamp) -> Result<()> {
    let failed = |e: Errno| system(".twintree/synced", e);
    let missing = || StoreError::Unavailable(".twintree/synced".to_owned());
    let dir = tree.reserved("synced", true)?.ok_or_else(missing)?;
    let name = hex(&boot);
    let text = format!(
        "{{\"version\":1,\"boot\":\"{name}\",\"synced\":{}}}\n",
        until.0
    );
    let temporary = format!("new.{:016x}", crate::random::number());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(
        fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(failed)?,
    );
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| StoreError::from_io(".twintree/synced", e))
        .and_then(|()| fs::renameat(&dir, &temporary, &dir, &name).map_err(failed));
    if let Err(e) = written {
        // The sweep takes what cannot be removed now.
        let _ = fs::unlinkat(&dir, &temporary, AtFlags::empty());
        return Err(e);
    }
    fs::fsync(&dir).map_err(failed)
}

//! Multipart uploads without a second copy: parts of the usual size are written straight at their place
//! in one assembly file, which Complete renames to the key.
//!
//! An upload is a directory, `.twintree/uploads/ID/`; nothing of it lives only in a process, so it
//! survives a restart and is shared among gateways. This file is the door; `folder.rs` knows the names
//! and locks in the directory, `slot.rs` and `document.rs` the bytes, `part.rs` how a part is stored,
//! `whole.rs`, `plan.rs` and `complete.rs` how parts become an object, `uploads.rs` lists and sweeps.

mod complete;
pub(crate) mod document;
mod folder;
mod id;
mod part;
mod plan;
mod range;
pub(crate) mod slot;
#[cfg(test)]
mod tests;
mod uploads;
pub(crate) mod whole;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

pub use complete::{CompleteRequest, ListedPart};
pub use document::UploadSpec;
pub use id::UploadId;
pub use part::{PartPage, PartReceipt, PartStage};
pub use slot::MAX_PART;
pub use uploads::{UploadInfo, UploadPage, UploadQuery};

use self::document::Document;
use self::folder::Folder;
use crate::sync::Syncer;
use crate::{
    Algorithm, Bucket, ChecksumType, Durability, ObjectKey, Result, StoreError, Timestamp,
};

/// Stripes of the in-process locks of uploads.
const STRIPES: usize = 64;

/// An upload that is under way, resolved for one request.
pub struct Upload {
    folder: Arc<Folder>,
}

/// What this process holds of the locks of uploads; what keeps others out lies in each upload.
pub(crate) struct UploadLocks {
    slots: [Mutex<()>; STRIPES],
    ending: [Mutex<()>; STRIPES],
}

impl Default for UploadLocks {
    fn default() -> Self {
        let locks = || std::array::from_fn(|_| Mutex::new(()));
        Self {
            slots: locks(),
            ending: locks(),
        }
    }
}

impl UploadLocks {
    /// Held while the slots of an upload are read and changed.
    fn slots(&self, id: &str) -> MutexGuard<'_, ()> {
        self.slots[stripe_of(id)].lock()
    }

    /// Held during Complete and Abort where the filesystem has no locks, before the lease in the upload.
    fn ending(&self, id: &str) -> MutexGuard<'_, ()> {
        self.ending[stripe_of(id)].lock()
    }
}

fn stripe_of(id: &str) -> usize {
    crc_fast::crc64_nvme(id.as_bytes()) as usize % STRIPES
}

impl Bucket {
    /// Begins an upload of `key`. Blocking.
    ///
    /// # Errors
    /// What [`Bucket::stage`] says of the key, `InvalidRequest` for a checksum type that the algorithm
    /// has not, and what the disk says.
    pub fn create_upload(&self, key: &ObjectKey, spec: UploadSpec) -> Result<UploadId> {
        self.check_writable()?;
        if let Some((algorithm, kind)) = spec.checksum {
            check_type(algorithm, kind)?;
        }
        // Staging tells now what publishing would say after the last byte: a key that cannot be.
        drop(self.stage(key, None)?);
        let initiated = Timestamp::now();
        let id = UploadId::new(initiated);
        let document = Document {
            key: key.as_str().to_owned(),
            initiated,
            spec,
        };
        Folder::create(self, id.clone(), document)?;
        Ok(id)
    }

    /// Finds an upload. Blocking.
    ///
    /// # Errors
    /// `NoSuchUpload` where there is none of this id for this key (any more).
    pub fn upload(&self, key: &ObjectKey, id: &UploadId) -> Result<Upload> {
        let upload = self.find_upload(key, id)?.ok_or_else(|| folder::gone(id))?;
        match upload.folder.head()? {
            Some(head) if upload.folder.is_alive(head)? => Ok(upload),
            _ => Err(folder::gone(id)),
        }
    }

    /// The upload with this id for this key, whatever its state.
    fn find_upload(&self, key: &ObjectKey, id: &UploadId) -> Result<Option<Upload>> {
        let folder = Folder::open(self, id)?;
        Ok(folder
            .filter(|f| f.document.key == key.as_str())
            .map(|folder| Upload {
                folder: Arc::new(folder),
            }))
    }

    /// Makes data and entries durable where an answer needs it: always but in relaxed mode on a local
    /// filesystem.
    fn sync_uploads(&self, files: &[&File], dirs: &[&OwnedFd]) -> Result<()> {
        if !self.syncs_uploads() {
            return Ok(());
        }
        let failed = |e| StoreError::from_io("syncing an upload", e);
        for file in files {
            let (syncer, _) = self.syncer_of(file)?;
            syncer.sync_file(file).map_err(failed)?;
        }
        for dir in dirs {
            let (syncer, inode) = self.syncer_of(dir)?;
            syncer.sync_dir(dir, inode).map_err(failed)?;
        }
        Ok(())
    }

    /// The boot that this process runs in.
    fn boot_id(&self) -> [u8; 16] {
        self.store.judge.boot()
    }

    fn syncs_uploads(&self) -> bool {
        self.durability() == Durability::Strict || self.is_remote()
    }

    /// Who syncs what lies where a file or directory does, and its inode number.
    fn syncer_of(&self, fd: impl AsFd) -> Result<(Arc<Syncer>, u64)> {
        let stat = rustix::fs::fstat(fd).map_err(|e| crate::root::system("an upload", e))?;
        Ok((self.store.syncers.of(stat.st_dev), stat.st_ino))
    }
}

impl Upload {
    /// What its creation said, and when that was.
    pub fn info(&self) -> UploadInfo {
        UploadInfo::of(&self.folder)
    }

    /// What the client said when it created the upload.
    pub fn spec(&self) -> &UploadSpec {
        &self.folder.document.spec
    }

    /// Ends the upload and frees its parts. A part that is under way cannot bring it back. Blocking.
    ///
    /// # Errors
    /// `NoSuchUpload` where it ended meanwhile, and what the disk says.
    pub fn abort(self) -> Result<()> {
        self.folder.bucket().check_writable()?;
        let ending = self.folder.lock_ending()?;
        let slots = self.folder.lock_slots()?;
        let head = slots.live_head()?;
        slots.set_head(slot::Head {
            state: slot::State::Aborted,
            ..head
        })?;
        drop(slots);
        self.folder.sync_slots()?;
        self.folder.remove();
        drop(ending);
        Ok(())
    }
}

/// Which checksum types an algorithm has (S3 user guide, "Checking object integrity").
fn check_type(algorithm: Algorithm, kind: ChecksumType) -> Result<()> {
    let possible = match algorithm {
        Algorithm::Crc64Nvme => kind == ChecksumType::FullObject,
        Algorithm::Crc32 | Algorithm::Crc32c => true,
        Algorithm::Sha1 | Algorithm::Sha256 => kind == ChecksumType::Composite,
    };
    if possible {
        return Ok(());
    }
    Err(StoreError::InvalidRequest(format!(
        "The {} checksum type cannot be used with the {} checksum algorithm.",
        document::type_name(kind),
        document::algorithm_name(algorithm).to_ascii_lowercase(),
    )))
}

//! Opening an object: the native path first, then the annex, then nothing.
//!
//! A key is looked for where a file may hold it; what is found there is described from its descriptor
//! alone, so that stat, record and bytes always belong together.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, FileType, OFlags, Stat};

use crate::object::Claim;
use crate::path::{self, DiskPath};
use crate::record::FileState;
use crate::root::{kind, named};
use crate::{
    Access, Bucket, Object, ObjectKey, Result, StoreError, Timestamp, dirmark, fsfacts, record,
};

/// What lies under a key.
pub(crate) enum Found {
    /// A regular file, native or in the annex.
    File(OwnedFd, Stat),
    /// A directory that is the object `dir/`, and its Last-Modified.
    Directory(OwnedFd, Timestamp),
}

impl Bucket {
    /// Opens an object: stat, record and bytes come from one descriptor.
    ///
    /// # Errors
    /// `NoSuchKey`, `NotAnObject`, `OutsideBucket`, `Reserved`, `Denied`; `WouldBlock` with `Access::Cached`.
    pub fn open(&self, key: &ObjectKey, access: Access) -> Result<Object> {
        // On a filesystem of another machine no call is known not to wait.
        if access == Access::Cached && self.is_remote() {
            return Err(StoreError::WouldBlock);
        }
        let openings = self.store.changes.openings();
        match self.find(key, access)? {
            Some(Found::File(file, stat)) => {
                let info = record::describe(self, &file, &stat, key.as_str(), access)?;
                let remote = self.is_remote_file(&file, &stat);
                let stamp = (info.size, info.modified);
                Ok(Object {
                    claim: Claim::of(self, FileState::of(&stat).inode(), &info, openings),
                    info,
                    file: Some(Arc::new(File::from(file))),
                    stamp,
                    snapshot: None,
                    remote,
                })
            }
            Some(Found::Directory(dir, modified)) => {
                let info = record::describe_directory(self, &dir, modified)?;
                Ok(Object {
                    info,
                    file: None,
                    stamp: (0, modified),
                    claim: None,
                    snapshot: None,
                    remote: false,
                })
            }
            None => Err(StoreError::NoSuchKey(key.to_string())),
        }
    }

    /// Finds what lies under a key, wherever it lives.
    ///
    /// # Errors
    /// As [`Bucket::open`], but `None` instead of `NoSuchKey`.
    pub(crate) fn find(&self, key: &ObjectKey, access: Access) -> Result<Option<Found>> {
        self.tree.check_hidden(key)?;
        if let Some(path) = path::native(key)
            && let Some(found) = self.find_native(&path, access)?
        {
            return Ok(Some(found));
        }
        self.find_in_annex(key, access)
    }

    /// Finds a file (or a `dir/` object) at the key's own path.
    ///
    /// # Errors
    /// As [`Bucket::find`].
    pub(crate) fn find_native(&self, path: &DiskPath, access: Access) -> Result<Option<Found>> {
        let Some(file) = self.open_for_reading(path, access)? else {
            return Ok(None);
        };
        let stat = fs::fstat(&file).map_err(|e| named(path, e))?;
        match kind(&stat) {
            FileType::RegularFile if !path.trailing_slash => Ok(Some(Found::File(file, stat))),
            FileType::Directory if path.trailing_slash => Ok(dirmark::read(&file)
                .object
                .map(|modified| Found::Directory(file, modified))),
            FileType::RegularFile | FileType::Directory => Ok(None),
            other => Err(StoreError::NotAnObject {
                key: crate::root::text(path),
                kind: kind_name(other),
            }),
        }
    }

    /// Finds the body of a key in the annex: one call, and an annex that is not there is empty.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn find_in_annex(&self, key: &ObjectKey, access: Access) -> Result<Option<Found>> {
        let path = path::annex_from_bucket(key);
        let Some(file) = self.open_for_reading(&path, access)? else {
            return Ok(None);
        };
        let stat = fs::fstat(&file).map_err(|e| named(&path, e))?;
        Ok((kind(&stat) == FileType::RegularFile).then_some(Found::File(file, stat)))
    }

    /// Opens for reading without touching atime where we may.
    fn open_for_reading(&self, path: &DiskPath, access: Access) -> Result<Option<OwnedFd>> {
        match self
            .tree
            .open(path, OFlags::RDONLY | OFlags::NOATIME, access)
        {
            // Linux: O_NOATIME is for the owner only (open(2), EPERM).
            Err(StoreError::Denied(_)) => self.tree.open(path, OFlags::RDONLY, access),
            other => other,
        }
    }

    /// Does the file lie on a filesystem of another machine?
    pub(crate) fn is_remote_file(&self, file: impl AsFd, stat: &Stat) -> bool {
        if stat.st_dev == self.shared.id.0 {
            self.shared.facts.remote
        } else {
            fsfacts::facts(file).remote
        }
    }
}

/// What an entry is that is no object.
pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Symlink => "symbolic link",
        _ => "special file",
    }
}

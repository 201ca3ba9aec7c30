//! The one door by which an object becomes visible: begin, stage, verify, publish (or discard).

use std::fs::File;
use std::sync::Arc;

use crate::{
    Algorithm, Bucket, Digests, ETag, ETagList, Meta, Object, ObjectChecksum, ObjectKey, Result,
    Timestamp,
};

/// What is on disk before a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Data, record and directory entry.
    Strict,
    /// Nothing: the kernel's write-back.
    Relaxed,
}

/// Which keys are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPolicy {
    /// Every legal key; the annex holds what no path can.
    Any,
    /// Only keys that are paths.
    PosixOnly,
}

/// Conditions of a write, tested under the key's lock against the object as it is then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteConditions {
    /// Absent object: `NoSuchKey`; no match: `PreconditionFailed("If-Match")`.
    pub if_match: Option<ETagList>,
    /// `PreconditionFailed("If-None-Match")` on a match.
    pub if_none_match: Option<ETagList>,
    /// DELETE only: Last-Modified in whole seconds.
    pub if_match_modified: Option<i64>,
    /// DELETE only: size in bytes.
    pub if_match_size: Option<u64>,
}

/// A body that is being received: an unnamed file in the target's own nearest directory (or a named
/// one in `stage/`). Dropping it discards it.
pub struct Stage {
    /// Where the body is written, from offset 0. On a local filesystem writes may be done inline.
    pub file: Arc<File>,
    /// Is the file on a filesystem of another machine?
    pub remote: bool,
}

/// Everything that becomes visible with the bytes. All of it was verified by the caller.
#[derive(Clone, Debug)]
pub struct Put {
    /// Of the staged bytes.
    pub digests: Digests,
    /// What the client said.
    pub meta: Meta,
    /// The checksum to keep and answer with beside CRC64NVME, if the client named one.
    pub checksum: Option<ObjectChecksum>,
    /// Tested under the key's lock.
    pub conditions: WriteConditions,
}

/// What a write made visible.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its entity tag.
    pub etag: ETag,
    /// Its mtime.
    pub modified: Timestamp,
    /// Its size in bytes.
    pub size: u64,
    /// Its checksum: the one kept, else CRC64NVME.
    pub checksum: ObjectChecksum,
}

/// What a copy becomes.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// `None`: the source's headers and user metadata.
    pub replace_meta: Option<Meta>,
    /// `None`: the source's tags. (Tags inside `replace_meta` are ignored.)
    pub replace_tags: Option<Vec<(String, String)>>,
    /// Compute this checksum for the copy; `None` keeps the source's full-object one.
    pub checksum: Option<Algorithm>,
    /// On the destination.
    pub conditions: WriteConditions,
}

impl Bucket {
    /// Begins a write of `key`; `length` is preallocated where known (ENOSPC shows here).
    ///
    /// # Errors
    /// `Reserved`, `KeyBlocked`, `ThroughSymlink`, `ReadOnly`, `NoSpace`, `Denied`.
    pub fn stage(&self, key: &ObjectKey, length: Option<u64>) -> Result<Stage> {
        let _ = (key, length); // contract
        unimplemented!()
    }

    /// Publishes a staged body under `key` in one step, durable as the store is set to. Blocking.
    ///
    /// # Errors
    /// `PreconditionFailed`, `NoSuchKey` (If-Match on nothing), `KeyBlocked`, and what the disk says. The
    /// old object stays.
    pub fn publish(&self, key: &ObjectKey, stage: Stage, put: Put) -> Result<Published> {
        let _ = (key, stage, put); // contract
        unimplemented!()
    }

    /// Deletes `key` and prunes empty parents of our own making. `Ok(false)`: there was none.
    ///
    /// # Errors
    /// `PreconditionFailed`, `NoSuchKey` (If-Match on nothing), and what the disk says.
    pub fn delete(&self, key: &ObjectKey, conditions: &WriteConditions) -> Result<bool> {
        let _ = (key, conditions); // contract
        unimplemented!()
    }

    /// Copies an open object (of this or another bucket) to `key` by reflink or copy_file_range. Onto
    /// itself it changes the record only. A multipart source copied in one go gets the MD5 of its bytes.
    ///
    /// # Errors
    /// As [`Bucket::publish`].
    pub fn copy(
        &self,
        source: &Object,
        key: &ObjectKey,
        request: CopyRequest,
    ) -> Result<Published> {
        let _ = (source, key, request); // contract
        unimplemented!()
    }

    /// Replaces the tags of `key` (empty: none) without touching content; re-stamps at once.
    ///
    /// # Errors
    /// `NoSuchKey` and what the disk says.
    pub fn set_tags(&self, key: &ObjectKey, tags: Vec<(String, String)>) -> Result<()> {
        let _ = (key, tags); // contract
        unimplemented!()
    }
}

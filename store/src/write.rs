//! The one door by which an object becomes visible: begin, stage, verify, publish (or discard).

use crate::publish::{Content, Finished};
use crate::{
    Algorithm, Bucket, Digests, ETag, ETagList, Meta, ObjectChecksum, ObjectKey, Result, Timestamp,
};

pub use crate::stage::Stage;

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
    /// Publishes a staged body under `key` in one step, durable as the store is set to. Blocking.
    ///
    /// # Errors
    /// `PreconditionFailed`, `NoSuchKey` (If-Match on nothing), `KeyBlocked`, and what the disk says. The
    /// old object stays.
    pub fn publish(&self, key: &ObjectKey, stage: Stage, put: Put) -> Result<Published> {
        let Put {
            digests,
            meta,
            checksum,
            conditions,
        } = put;
        let content = Content::of_body(self.etag_kind(), &digests, checksum);
        self.publish_content(
            key,
            stage,
            &Finished {
                content,
                meta,
                old_json: None,
                conditions,
            },
        )
    }
}

//! An object as it is read: one descriptor, and what is known of it from that descriptor alone.

use std::fs::File;
use std::sync::Arc;

use crate::etag::Derivation;
use crate::record::{FileState, Record, disk};
use crate::root::Tree;
use crate::snapshot::Kept;
use crate::{
    Bucket, Changes, ETag, ETagList, Inode, Meta, ObjectChecksum, Result, Store, Timestamp,
};

/// Bytes of a derived ETag: 32 hex digits and `-1`.
const DERIVED_LENGTH: usize = 34;

/// May a call wait for the disk?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No: [`crate::StoreError::WouldBlock`] where an answer is not in the kernel's caches.
    Cached,
    /// Yes.
    Blocking,
}

/// One part of a multipart object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// The part's number as uploaded.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// Its checksum, when one was kept.
    pub checksum: Option<crate::Checksum>,
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// The file's mtime.
    pub modified: Timestamp,
    /// The recorded entity tag where the stamp is valid, else the derived one.
    pub etag: ETag,
    /// Somebody has the file open for writing through the mount: the ETag is volatile, and what comes of
    /// two reads may not fit together.
    pub in_flux: bool,
    /// First half of the derived ETag that sealing replaced; conditions go on accepting it.
    pub(crate) replaced: Option<u64>,
    /// What the ETag of this very state was derived from until its record was verified, in memory only:
    /// conditions go on accepting that one as well.
    pub(crate) derivation: Option<Derivation>,
    /// What the record of an unverified file says: a condition that names it has the file verified first.
    pub(crate) recorded: Option<ETag>,
    /// A valid record's checksum: the client's algorithm, else CRC64NVME. `None` without a valid record.
    pub checksum: Option<ObjectChecksum>,
    /// Parts of a multipart object, in order, with a valid record; else empty.
    pub parts: Vec<PartInfo>,
    /// How many parts the multipart object has; `None` where it is no multipart object.
    pub part_count: Option<u16>,
    /// Headers, user metadata, tags. Content-Type is already resolved: recorded, else from the key's
    /// extension for files nobody PUT, else `None` (`binary/octet-stream`).
    pub meta: Meta,
    /// The upload that made it, by id.
    pub upload_id: Option<String>,
}

impl ObjectInfo {
    /// Does `tag` (without quotes) name this object, by its ETag or by the derived one it replaced?
    pub fn is_tagged(&self, tag: &str) -> bool {
        if self.etag.to_string() == tag {
            return true;
        }
        if tag.len() != DERIVED_LENGTH || !tag.ends_with("-1") {
            return false;
        }
        self.replaced
            .is_some_and(|first| tag.starts_with(&format!("{first:016x}")))
            || self
                .derivation
                .is_some_and(|from| from.etag().to_string() == tag)
    }

    /// Does the list name the ETag that the record of this unverified file holds? Whether it is the
    /// file's is then decided by [`crate::Bucket::settle`].
    pub fn is_recorded_as(&self, list: &ETagList) -> bool {
        match (self.recorded, list) {
            (Some(recorded), ETagList::Tags(tags)) => tags.contains(&recorded.to_string()),
            _ => false,
        }
    }

    /// Is it in the list?
    pub fn matches(&self, list: &ETagList) -> bool {
        match list {
            ETagList::Any => true,
            ETagList::Tags(tags) => tags.iter().any(|tag| self.is_tagged(tag)),
        }
    }
}

/// A recorded ETag or checksum that an answer carries: no other bytes may go out under it.
#[derive(Clone)]
pub(crate) struct Claim {
    etag: ETag,
    /// [`Changes::openings`] before its record was read.
    openings: u64,
    /// The ctime that the file showed when its record was believed.
    changed: Timestamp,
    inode: Inode,
    tree: Tree,
    changes: Arc<Changes>,
}

impl Claim {
    /// What `info`, which describes a file of this inode, claims; `None`: nothing. `openings` was asked for
    /// before it was described.
    pub(crate) fn of(
        bucket: &Bucket,
        inode: Inode,
        info: &ObjectInfo,
        openings: u64,
    ) -> Option<Self> {
        Self::beneath(&bucket.tree, &bucket.store, inode, info, openings)
    }

    /// As [`Claim::of`], of a file beneath this tree.
    pub(crate) fn beneath(
        tree: &Tree,
        store: &Store,
        inode: Inode,
        info: &ObjectInfo,
        openings: u64,
    ) -> Option<Self> {
        let changed = info.derivation?.changed;
        Some(Self {
            etag: info.etag,
            openings,
            changed,
            inode,
            tree: tree.clone(),
            changes: Arc::clone(store.changes()),
        })
    }

    /// Is the file still what was claimed? It shows the same size and mtime. Who has it open for writing may
    /// have written; who had has dropped the record if he did. In another process's mount that shows in ctime,
    /// which a deletion, a chmod or new tags move as well: the record tells.
    pub(crate) fn holds(&self, file: &File, now: &FileState) -> Result<bool> {
        if self.changes.in_flux(self.inode).is_some() {
            return Ok(false);
        }
        // In whole seconds what another process does within the one of the claim moves nothing.
        let may_hide = now.is_in_whole_seconds() || self.changes.openings() != self.openings;
        if now.changed == self.changed && !may_hide {
            return Ok(true);
        }
        let bytes = disk::read(file, &self.tree)?.record;
        let record = bytes.and_then(|bytes| Record::decode(&bytes).ok());
        Ok(record.is_some_and(|record| {
            !record.dropped && record.etag == self.etag && record.stamp.fits(now)
        }))
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Claim").field(&self.etag).finish()
    }
}

/// An open object.
#[derive(Clone, Debug)]
pub struct Object {
    /// What is known of it, all from the one descriptor.
    pub info: ObjectInfo,
    /// Its bytes; `None` for an empty object without a file (`dir/`).
    pub file: Option<Arc<File>>,
    /// The mtime and size to compare with while the body is sent: see [`Watched::unchanged`].
    pub(crate) stamp: (u64, Timestamp),
    /// What its record said of the content, if it was believed.
    pub(crate) claim: Option<Claim>,
    /// Where it is not the file itself, but what that was at one moment.
    pub(crate) snapshot: Option<Arc<Kept>>,
    /// Is the file on a filesystem of another machine, where no call is known not to wait?
    pub remote: bool,
}

impl Object {
    /// Is the answer bound to what a record says of the content: an MD5 ETag, a checksum?
    pub fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }

    /// As [`Watched::unchanged`].
    ///
    /// # Errors
    /// As there.
    pub fn unchanged(&self) -> std::io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(true);
        };
        unchanged(file, self.stamp, self.claim.as_ref())
    }

    /// Its file alone, with what tells whether it is still what [`Object::info`] says; `None` without a file.
    pub fn watched(&self) -> Option<Watched> {
        Some(Watched {
            file: Arc::clone(self.file.as_ref()?),
            stamp: self.stamp,
            claim: self.claim.clone(),
        })
    }
}

/// An open object's file, for who sends its bytes.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its bytes.
    pub file: Arc<File>,
    pub(crate) stamp: (u64, Timestamp),
    pub(crate) claim: Option<Claim>,
}

impl Watched {
    /// Has the file still the size and mtime of when it was described, and what its record claimed, if it claimed
    /// anything? To be asked after reading bytes, and before they are let go.
    ///
    /// # Errors
    /// What fstat says, and where ctime moved, what reading the record says.
    pub fn unchanged(&self) -> std::io::Result<bool> {
        unchanged(&self.file, self.stamp, self.claim.as_ref())
    }
}

fn unchanged(file: &File, stamp: (u64, Timestamp), claim: Option<&Claim>) -> std::io::Result<bool> {
    let now = FileState::of(&rustix::fs::fstat(file)?);
    if (now.size, now.modified) != stamp {
        return Ok(false);
    }
    match claim {
        Some(claim) => claim.holds(file, &now).map_err(std::io::Error::other),
        None => Ok(true),
    }
}

//! Opening an object for a read: at once where the kernel's caches have the answer, with one hop where not.

use twintree_store::{
    Access, Bucket, BucketName, Object, ObjectKey, Snapshot, StoreError, Timestamp,
};

use crate::call::{Call, blocking};
use crate::conditional::{ReadConditions, Verdict};
use crate::error::S3Error;
use crate::range::Slice;
use crate::reply::SentBy;

/// What the client wants to know, beside the names.
pub(super) struct Opening<'a> {
    pub(super) bucket: &'a BucketName,
    pub(super) key: &'a ObjectKey,
    pub(super) conditions: &'a ReadConditions,
}

/// An open object whose conditions are decided.
pub(super) struct Opened {
    pub(super) object: Object,
    pub(super) verdict: Verdict,
    /// Was a thread of the blocking pool needed?
    pub(super) sent_by: SentBy,
}

impl Opening<'_> {
    /// Opens the object and decides the conditions.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`, and what the disk says.
    pub(super) async fn open(&self, call: &Call) -> Result<Opened, S3Error> {
        let bucket = call.bucket(self.bucket).await?;
        let (object, sent_by) = match bucket.open(self.key, Access::Cached) {
            Ok(object) => (object, SentBy::Inline),
            Err(StoreError::WouldBlock) => (self.open_waiting(bucket).await?, SentBy::Blocking),
            Err(error) => return Err(error.into()),
        };
        Ok(self.judged(object, sent_by))
    }

    /// Takes a snapshot of the slice, where somebody is writing the object and the filesystem has reflinks, and
    /// decides the conditions on that; `None`: it is to be opened again.
    ///
    /// # Errors
    /// Where the pool's thread came to an end.
    pub(super) async fn still(
        &self,
        call: &Call,
        opened: Opened,
        slice: Slice,
    ) -> Result<Option<Opened>, S3Error> {
        let bucket = call.bucket(self.bucket).await?;
        let (key, object) = (self.key.clone(), opened.object.clone());
        let wanted = slice.start..slice.start + slice.length;
        let snapshot = blocking(move || Ok(bucket.snapshot(&key, &object, wanted))).await?;
        Ok(match snapshot {
            Snapshot::Taken(object) => Some(self.judged(*object, SentBy::Blocking)),
            Snapshot::Closed => None,
            Snapshot::None => Some(opened),
        })
    }

    fn judged(&self, object: Object, sent_by: SentBy) -> Opened {
        let now = Timestamp::now().seconds();
        Opened {
            verdict: self.conditions.check(&object.info, now),
            object,
            sent_by,
        }
    }

    async fn open_waiting(&self, bucket: Bucket) -> Result<Object, S3Error> {
        let (key, conditions) = (self.key.clone(), self.conditions.clone());
        blocking(move || {
            let object = bucket.open(&key, Access::Blocking)?;
            // A condition that names what the record of an unverified file says is decided by reading the file.
            if conditions
                .tag_lists()
                .any(|list| object.info.is_recorded_as(list))
            {
                return Ok(bucket.settle(&key, object)?);
            }
            Ok(object)
        })
        .await
    }
}

//! Conditions of a write, tested against the object as it is now, under its key's lock.

use crate::open::Found;
use crate::record;
use crate::{Access, Bucket, ETagList, ObjectInfo, ObjectKey, Result, StoreError, WriteConditions};

impl WriteConditions {
    /// Is there nothing to test?
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The header of the first condition.
    fn first(&self) -> &'static str {
        if self.if_match.is_some() {
            "If-Match"
        } else if self.if_none_match.is_some() {
            "If-None-Match"
        } else if self.if_match_modified.is_some() {
            "x-amz-if-match-last-modified-time"
        } else {
            "x-amz-if-match-size"
        }
    }

    /// Does any condition need the object to be there?
    fn need_object(&self) -> bool {
        self.if_match.is_some() || self.if_match_modified.is_some() || self.if_match_size.is_some()
    }

    /// Does a list name this very tag? `*` does not: it asks for nothing that must be verified.
    fn name(&self, tag: &str) -> bool {
        [&self.if_match, &self.if_none_match]
            .into_iter()
            .flatten()
            .any(|list| match list {
                ETagList::Any => false,
                ETagList::Tags(tags) => tags.iter().any(|t| t == tag),
            })
    }

    fn test(&self, info: &ObjectInfo) -> Result<()> {
        let failed = |name| Err(StoreError::PreconditionFailed(name));
        // Nobody can know what is being replaced: whatever it is compared with, it is not that any more.
        if info.in_flux {
            return failed(self.first());
        }
        if self
            .if_match
            .as_ref()
            .is_some_and(|list| !info.matches(list))
        {
            return failed("If-Match");
        }
        if self
            .if_none_match
            .as_ref()
            .is_some_and(|list| info.matches(list))
        {
            return failed("If-None-Match");
        }
        if self
            .if_match_modified
            .is_some_and(|seconds| seconds != info.modified.seconds())
        {
            return failed("x-amz-if-match-last-modified-time");
        }
        if self.if_match_size.is_some_and(|size| size != info.size) {
            return failed("x-amz-if-match-size");
        }
        Ok(())
    }
}

impl Bucket {
    /// Tests conditions. The caller holds the key's lock.
    ///
    /// # Errors
    /// `PreconditionFailed`, `NoSuchKey` where one needs an object, and what the disk says.
    pub(crate) fn check(&self, key: &ObjectKey, conditions: &WriteConditions) -> Result<()> {
        if conditions.is_empty() {
            return Ok(());
        }
        let info = match self.find(key, Access::Blocking) {
            Ok(Some(Found::File(file, _))) => self.info_for(key, &file, conditions)?,
            Ok(Some(Found::Directory(dir, modified))) => {
                record::describe_directory(self, &dir, modified)?
            }
            // A link that leads out of the bucket is no object; a write replaces the link itself.
            Ok(None) | Err(StoreError::OutsideBucket(_)) if conditions.need_object() => {
                return Err(StoreError::NoSuchKey(key.to_string()));
            }
            Ok(None) | Err(StoreError::OutsideBucket(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        conditions.test(&info)
    }

    /// Reads an unverified file whose recorded ETag a condition names, before the key's lock is taken:
    /// under it, what was found then costs no reading. What cannot be found out now is found out there.
    pub(crate) fn verify_ahead(&self, key: &ObjectKey, conditions: &WriteConditions) {
        let lists = [&conditions.if_match, &conditions.if_none_match];
        if !lists
            .iter()
            .any(|list| matches!(list, Some(ETagList::Tags(_))))
        {
            return;
        }
        if let Ok(Some(Found::File(file, _))) = self.find(key, Access::Blocking)
            && let Err(e) = self.info_for(key, &file, conditions)
        {
            tracing::debug!("an unverified object cannot be read ahead: {e}");
        }
    }

    /// The object as conditions see it: one that names what an unverified file's record says has the
    /// file read first.
    fn info_for(
        &self,
        key: &ObjectKey,
        file: &std::os::fd::OwnedFd,
        conditions: &WriteConditions,
    ) -> Result<ObjectInfo> {
        let (examined, info) = record::describe_locked(self, file, key.as_str())?;
        let named = info
            .recorded
            .is_some_and(|recorded| conditions.name(&recorded.to_string()));
        if named && let Some(settled) = record::settle(self, file, &examined)? {
            return record::inform(self, file, key.as_str(), settled, Access::Blocking);
        }
        Ok(info)
    }
}

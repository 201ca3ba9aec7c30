//! A walk over all objects of a bucket, with what is recorded of each: for who compares a tree before and
//! after a migration, and for who seals it.
//!
//! Unlike a page of a listing it says why an ETag is what it is, it hides no entry that cannot be read, and it
//! keeps nothing: its memory is the names of the directories that it stands in. It writes nothing.

use std::sync::Arc;

use rustix::fs::{self, FileType, OFlags};

use super::cache::NameCache;
use super::entry::{Asked, Candidate, Place};
use super::read::Reader;
use super::{Keys, ListQuery, fan};
use crate::record::{FileState, Verdict, disk, judge};
use crate::root::{kind, system};
use crate::{Access, Bucket, Digester, ETag, Result, Timestamp};

/// Entries that are looked at in one go.
const STRETCH: usize = 1000;

/// What the record of an object is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordState {
    /// It speaks of the content as it is: the ETag is the recorded one.
    Valid,
    /// Size or mtime changed since it was made: the ETag is a derived one.
    Stale,
    /// Not known until the content is read: the ETag is a derived one.
    Unverified,
    /// There is none: nobody PUT the file, and it was not sealed. The ETag is a derived one.
    None,
}

impl RecordState {
    /// Its word in an inventory.
    pub fn word(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Stale => "stale",
            Self::Unverified => "unverified",
            Self::None => "none",
        }
    }
}

/// One object.
#[derive(Clone, Debug)]
pub struct InventoryEntry {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// mtime.
    pub modified: Timestamp,
    /// As HEAD would answer it.
    pub etag: ETag,
    /// CRC64NVME of the content, with a valid record.
    pub crc64: Option<u64>,
    /// What its record is worth.
    pub state: RecordState,
}

/// A walk under way.
pub struct Inventory {
    bucket: Bucket,
    keys: Keys,
    cache: Arc<NameCache>,
}

impl Bucket {
    /// Begins a walk over all objects whose keys begin with `prefix`. `unread` is told the key of every entry
    /// that cannot be read (of a directory: ending in `/`) and why; the walk goes on without it.
    ///
    /// # Errors
    /// What the disk says of the bucket itself.
    pub fn inventory(
        &self,
        prefix: &str,
        unread: impl Fn(&str, &str) + Send + Sync + 'static,
    ) -> Result<Inventory> {
        let cache = Arc::new(NameCache::for_one_walk(Box::new(unread)));
        let query = ListQuery {
            prefix: prefix.to_owned(),
            ..ListQuery::default()
        };
        Ok(Inventory {
            keys: self.keys(&query, &cache)?,
            bucket: self.clone(),
            cache,
        })
    }
}

impl Inventory {
    /// The next objects, in key order; `None` at the end. An empty stretch is not the end.
    ///
    /// # Errors
    /// What the disk says of the bucket itself.
    pub fn stretch(&mut self) -> Result<Option<Vec<InventoryEntry>>> {
        let Some(batch) = self.keys.batch(STRETCH)? else {
            return Ok(None);
        };
        let seen = fan::map(&self.cache.fan, &batch.asked(), || {
            |stretch: &[Asked], seen: &mut Vec<Option<InventoryEntry>>| {
                for asked in stretch {
                    seen.push(look_at(&self.bucket, asked)?);
                }
                Ok(())
            }
        })?;
        Ok(Some(seen.into_iter().flatten().collect()))
    }
}

/// Looks at one entry; `None`: there is no object (any more), or it cannot be read and that was said.
fn look_at(bucket: &Bucket, asked: &Asked) -> Result<Option<InventoryEntry>> {
    match asked {
        Asked::Candidate(candidate) => look(bucket, candidate),
        Asked::Name(run, place) => {
            let key = run.key(*place);
            run.reader
                .bearable_open(&key, open(bucket, &run.reader, &key))
        }
    }
}

fn look(bucket: &Bucket, candidate: &Candidate) -> Result<Option<InventoryEntry>> {
    let key = &candidate.key;
    let here = match &candidate.place {
        Place::Marked(modified) => Some(marked(key, *modified)),
        Place::Entry(reader, _) | Place::Path(reader) => {
            reader.bearable_open(key, open(bucket, reader, key))?
        }
    };
    match (&candidate.also, here) {
        (Some(also), None) => look(bucket, also),
        (_, here) => Ok(here),
    }
}

/// Takes everything from one descriptor, as HEAD does; remembers nothing.
fn open(bucket: &Bucket, reader: &Reader, key: &str) -> Result<Option<InventoryEntry>> {
    let Some(path) = reader.locate(key) else {
        return Ok(None);
    };
    let Some(file) = reader.tree.open(&path, OFlags::RDONLY, Access::Blocking)? else {
        return Ok(None);
    };
    let stat = fs::fstat(&file).map_err(|e| system(key, e))?;
    if kind(&stat) != FileType::RegularFile {
        return Ok(None);
    }
    let judged = |state: FileState| -> Result<(FileState, Verdict)> {
        let raw = disk::read(&file, &bucket.tree)?;
        let verdict = judge(bucket, &state, raw.record.as_deref());
        // A stale record under an inode's number may speak of a file that is long gone.
        let gone = raw.by_inode && matches!(verdict, Verdict::Stale(_));
        Ok((state, if gone { Verdict::None } else { verdict }))
    };
    let (mut state, mut verdict) = judged(FileState::of(&stat))?;
    if !matches!(verdict, Verdict::Valid(_) | Verdict::None) {
        // A re-stamp may be half done.
        let held = bucket.lock_key_for_reading(key)?;
        (state, verdict) = judged(FileState::look(&file)?)?;
        drop(held);
    }
    Ok(Some(entry(bucket, key, &state, &verdict)))
}

fn entry(bucket: &Bucket, key: &str, state: &FileState, verdict: &Verdict) -> InventoryEntry {
    let (state_word, crc64) = match verdict {
        Verdict::Valid(record) => (RecordState::Valid, Some(record.crc64)),
        Verdict::Stale(_) => (RecordState::Stale, None),
        Verdict::Unverified(_) => (RecordState::Unverified, None),
        Verdict::None => (RecordState::None, None),
    };
    InventoryEntry {
        key: key.to_owned(),
        size: state.size,
        modified: state.modified,
        etag: verdict.etag(state, bucket.stable_inodes()),
        crc64,
        state: state_word,
    }
}

/// A directory that is an object: its mark is all that is recorded of it, and always true.
fn marked(key: &str, modified: Timestamp) -> InventoryEntry {
    InventoryEntry {
        key: key.to_owned(),
        size: 0,
        modified,
        etag: ETag::EMPTY,
        crc64: Some(Digester::new(&[]).finish().crc64),
        state: RecordState::Valid,
    }
}

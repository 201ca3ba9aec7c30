//! What is known of the entries of one page: size, mtime and the ETag that HEAD would answer.
//!
//! Two calls by name do for most. Where the record is missing, doubtful or unreadable by name, the file is
//! opened and everything is taken from that one descriptor.

use std::sync::Arc;

use std::ffi::CStr;

use rustix::fs::{self, FileType, OFlags, Statx};
use rustix::io::Errno;

use super::fan;
use super::read::{Reader, timestamp};
use super::walk::Found;
use crate::known::Known;
use crate::record::{self, FileState, Verdict, judge};
use crate::root::{Dir, kind, system};
use crate::{Access, Algorithm, Bucket, ChecksumType, ETag, ListEntry, Result, Timestamp};

const RECORD_XATTR: &CStr = c"user.twintree";
/// What is read of a record by name, in bytes: few have optional fields, fewer more than this.
const USUAL_RECORD: usize = 256;

/// What a page shows of a file beside size and mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// As HEAD would answer it.
    pub etag: ETag,
    /// The algorithm and type of its checksum.
    pub checksum: Option<(Algorithm, ChecksumType)>,
}

/// An entry that may be an object.
pub(crate) struct Candidate {
    /// Its key.
    pub key: String,
    /// Where it lies.
    pub place: Place,
    /// The same key in the annex, which counts when there is no file here.
    pub also: Option<Box<Candidate>>,
}

/// Where an entry lies.
pub(crate) enum Place {
    /// A name of an open directory: the key's last component.
    Entry(Arc<Reader>, Arc<Dir>),
    /// What has to be resolved: a link, or a long name of the annex.
    Path(Arc<Reader>),
    /// A directory that is an object since then.
    Marked(Timestamp),
}

/// What a look at an object gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    size: u64,
    modified: Timestamp,
    tagged: Tagged,
}

impl Seen {
    /// The entry of a page.
    pub fn under(self, key: String) -> ListEntry {
        ListEntry {
            key,
            size: self.size,
            modified: self.modified,
            etag: self.tagged.etag,
            checksum: self.tagged.checksum,
        }
    }
}

/// Looks at all objects among these, in their order; `None`: there is no object (any more).
pub(crate) fn describe_all(bucket: &Bucket, found: &[Found]) -> Result<Vec<Option<Seen>>> {
    let candidates: Vec<&Candidate> = found
        .iter()
        .filter_map(|found| match found {
            Found::Object(candidate) => Some(candidate),
            Found::Group(_) => None,
        })
        .collect();
    fan::map(&bucket.store.names.fan, &candidates, |stretch| {
        Look::begin(bucket).at_all(stretch)
    })
}

/// A look at one entry after the other.
struct Look<'a> {
    bucket: &'a Bucket,
    known: &'a Known<Tagged>,
    /// When it began: files that had been quiet for a while then show every change since by their times.
    asked: Timestamp,
    /// Was the last entry known, so that the next is likely to be?
    expects_known: bool,
}

impl<'a> Look<'a> {
    fn begin(bucket: &'a Bucket) -> Self {
        let known = &bucket.store.names.known;
        Self {
            bucket,
            known,
            asked: Timestamp::now(),
            expects_known: true,
        }
    }

    fn at_all(&mut self, candidates: &[&Candidate]) -> Result<Vec<Option<Seen>>> {
        candidates
            .iter()
            .map(|candidate| self.at(candidate))
            .collect()
    }

    fn at(&mut self, candidate: &Candidate) -> Result<Option<Seen>> {
        let key = &candidate.key;
        let here = match &candidate.place {
            Place::Marked(modified) => Some(marked(*modified)),
            Place::Entry(reader, dir) => self.by_name(reader, dir, key)?,
            Place::Path(reader) => self.by_path(reader, key)?,
        };
        match (&candidate.also, here) {
            (Some(also), None) => self.at(also),
            (_, here) => Ok(here),
        }
    }

    /// Looks at a name of an open directory, without opening the file where two calls are enough, or one.
    fn by_name(&mut self, reader: &Reader, dir: &Dir, key: &str) -> Result<Option<Seen>> {
        let name = reader.entry_name(key);
        let mut buffer = [0; USUAL_RECORD];
        // Read before the stat, a missing record is known to be of the file that the stat is of, if that had
        // been quiet. But a file that is known needs no record.
        let early = (!self.expects_known).then(|| dir.xattr(&name, RECORD_XATTR, &mut buffer));
        let Some(stat) = reader.bearable(key, dir.stat(&name))? else {
            return Ok(None);
        };
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
            return Ok(None);
        }
        let state = state(&stat);
        let known = self.known.get(&state);
        self.expects_known = known.is_some();
        if self.bucket.store.changes.in_flux(state.inode()).is_some() {
            return self.by_path(reader, key);
        }
        if let Some(tagged) = known {
            return Ok(Some(seen(&state, tagged)));
        }
        let in_time = early.is_some() && self.had_been_quiet(&state);
        let bytes = match early.unwrap_or_else(|| dir.xattr(&name, RECORD_XATTR, &mut buffer)) {
            Ok(length) => Some(&buffer[..length]),
            Err(Errno::NODATA) => None,
            // Linux: without the right to read a file, its xattrs cannot be read either; HEAD is refused then.
            Err(Errno::ACCESS | Errno::PERM) => None,
            Err(_) => return self.by_path(reader, key),
        };
        let verdict = judge(self.bucket, &state, bytes);
        // Again, and after the record: who opened the file since the first look has not dropped it yet.
        let in_flux = self.bucket.store.changes.in_flux(state.inode()).is_some();
        let sure = match verdict {
            Verdict::Valid(_) => true,
            // Another file may have taken the name between the two calls.
            Verdict::None | Verdict::Stale(_) => in_time || self.stays(reader, dir, key, &state)?,
            Verdict::Unverified(_) => false,
        };
        if !sure || in_flux {
            return self.by_path(reader, key);
        }
        let checksum = match &verdict {
            Verdict::Valid(record) => Some(record.checksum()),
            _ => None,
        };
        let tagged = Tagged {
            etag: verdict.etag(&state, self.bucket.stable_inodes()),
            checksum: checksum.map(|kept| (kept.checksum.algorithm, kept.kind)),
        };
        if self.had_been_quiet(&state) {
            self.known.keep(state, tagged);
        }
        Ok(Some(seen(&state, tagged)))
    }

    /// Had the file been quiet when the look began? Never where another machine's clock stamps it. Its mtime
    /// may say anything.
    fn had_been_quiet(&self, state: &FileState) -> bool {
        !self.bucket.is_remote() && state.had_been_quiet(self.asked)
    }

    fn stays(&self, reader: &Reader, dir: &Dir, key: &str, state: &FileState) -> Result<bool> {
        let again = reader.bearable(key, dir.stat(&reader.entry_name(key)))?;
        Ok(again.is_some_and(|again| self::state(&again) == *state))
    }

    /// Opens the object as HEAD does, and takes everything from the descriptor.
    fn by_path(&self, reader: &Reader, key: &str) -> Result<Option<Seen>> {
        let Some(path) = reader.locate(key) else {
            return Ok(None);
        };
        let opened = reader.tree.open(&path, OFlags::RDONLY, Access::Blocking);
        let Some(file) = reader.bearable_open(key, opened)? else {
            return Ok(None);
        };
        let stat = fs::fstat(&file).map_err(|e| system(key, e))?;
        if kind(&stat) != FileType::RegularFile {
            return Ok(None);
        }
        let info = record::describe(self.bucket, &file, &stat, key, Access::Blocking)?;
        Ok(Some(Seen {
            size: info.size,
            modified: info.modified,
            tagged: Tagged {
                etag: info.etag,
                checksum: info
                    .checksum
                    .map(|kept| (kept.checksum.algorithm, kept.kind)),
            },
        }))
    }
}

/// A directory that is an object.
fn marked(modified: Timestamp) -> Seen {
    let checksum = Some((Algorithm::Crc64Nvme, ChecksumType::FullObject));
    Seen {
        size: 0,
        modified,
        tagged: Tagged {
            etag: ETag::EMPTY,
            checksum,
        },
    }
}

fn seen(state: &FileState, tagged: Tagged) -> Seen {
    Seen {
        size: state.size,
        modified: state.modified,
        tagged,
    }
}

fn state(stat: &Statx) -> FileState {
    FileState {
        device: fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        modified: timestamp(stat.stx_mtime),
        changed: timestamp(stat.stx_ctime),
    }
}

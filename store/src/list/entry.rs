//! What is known of the entries of one page: size, mtime and the ETag that HEAD would answer.
//!
//! Two calls by name do for most. Where the record is missing, doubtful or unreadable by name, the file is
//! opened and everything is taken from that one descriptor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use std::ffi::CStr;

use rustix::fs::{self, FileType, OFlags, Statx};
use rustix::io::Errno;

use super::read::{Reader, timestamp};
use super::walk::Found;
use crate::record::{self, FileState, Verdict, judge};
use crate::root::{Dir, kind, system};
use crate::{Access, Algorithm, Bucket, ChecksumType, ETag, ListEntry, Result, Timestamp};

/// The MD5 of nothing, which is the ETag of a directory that is an object.
const EMPTY_MD5: [u8; 16] = 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128.to_be_bytes();
const RECORD_XATTR: &CStr = c"user.twintree";
/// What is read of a record by name, in bytes: few have optional fields, fewer more than this.
const USUAL_RECORD: usize = 256;
/// From this mean time per entry on, a page's entries are looked at by several threads: a warm one takes a
/// microsecond or two, one on a disk takes hundreds.
const SLOW: Duration = Duration::from_micros(50);
/// Entries after which the mean is taken.
const SAMPLE: usize = 16;
/// Threads for one slow page: measured 20 times faster on cold inodes.
const THREADS: usize = 16;

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
    Entry(Reader, Arc<Dir>),
    /// What has to be resolved: a link, or a long name of the annex.
    Path(Reader),
    /// A directory that is an object since then.
    Marked(Timestamp),
}

/// Looks at all objects among these, in their order; `None`: there is no object (any more).
pub(crate) fn describe_all(bucket: &Bucket, found: &[Found]) -> Result<Vec<Option<ListEntry>>> {
    let candidates: Vec<&Candidate> = found
        .iter()
        .filter_map(|found| match found {
            Found::Object(candidate) => Some(candidate),
            Found::Group(_) => None,
        })
        .collect();
    let mut found = Vec::with_capacity(candidates.len());
    let begun = Instant::now();
    let (sample, rest) = candidates.split_at(candidates.len().min(SAMPLE));
    for candidate in sample {
        found.push(describe(bucket, candidate)?);
    }
    if rest.is_empty() || begun.elapsed() < SLOW * SAMPLE as u32 {
        for candidate in rest {
            found.push(describe(bucket, candidate)?);
        }
        return Ok(found);
    }
    let share = rest.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        let work: Vec<_> = rest
            .chunks(share)
            .map(|chunk| {
                scope.spawn(move || {
                    chunk
                        .iter()
                        .map(|c| describe(bucket, c))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        for thread in work {
            found.extend(thread.join().expect("describing an entry does not panic")?);
        }
        Ok(found)
    })
}

fn describe(bucket: &Bucket, candidate: &Candidate) -> Result<Option<ListEntry>> {
    let key = &candidate.key;
    let here = match &candidate.place {
        Place::Marked(modified) => Some(marked(key, *modified)),
        Place::Entry(reader, dir) => by_name(bucket, reader, dir, key)?,
        Place::Path(reader) => by_path(bucket, reader, key)?,
    };
    match (&candidate.also, here) {
        (Some(also), None) => describe(bucket, also),
        (_, here) => Ok(here),
    }
}

/// A directory that is the object `key`.
fn marked(key: &str, modified: Timestamp) -> ListEntry {
    ListEntry {
        key: key.to_owned(),
        size: 0,
        modified,
        etag: ETag::Md5(EMPTY_MD5),
        checksum: Some((Algorithm::Crc64Nvme, ChecksumType::FullObject)),
    }
}

/// Looks at a name of an open directory, without opening the file where two calls are enough.
fn by_name(bucket: &Bucket, reader: &Reader, dir: &Dir, key: &str) -> Result<Option<ListEntry>> {
    let name = reader.entry_name(key);
    let Some(stat) = reader.bearable(key, dir.stat(&name))? else {
        return Ok(None);
    };
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Ok(None);
    }
    let state = state(&stat);
    let mut buffer = [0; USUAL_RECORD];
    let bytes = match dir.xattr(&name, RECORD_XATTR, &mut buffer) {
        Ok(length) => Some(&buffer[..length]),
        Err(Errno::NODATA) => None,
        // Linux: without the right to read a file, its xattrs cannot be read either; HEAD is refused then.
        Err(Errno::ACCESS | Errno::PERM) => None,
        Err(Errno::NOENT) => return Ok(None),
        Err(_) => return by_path(bucket, reader, key),
    };
    let verdict = judge(bucket, &state, bytes);
    let sure = match verdict {
        Verdict::Valid(_) => true,
        // A record that is missing may be missing from a file that took the name between the two calls.
        Verdict::None => reader
            .bearable(key, dir.stat(&name))?
            .is_some_and(|again| self::state(&again) == state),
        Verdict::Stale(_) | Verdict::Unverified(_) => false,
    };
    if !sure {
        return by_path(bucket, reader, key);
    }
    let checksum = match &verdict {
        Verdict::Valid(record) => Some(record.checksum()),
        _ => None,
    };
    Ok(Some(ListEntry {
        key: key.to_owned(),
        size: state.size,
        modified: state.modified,
        etag: verdict.etag(&state, bucket.stable_inodes()),
        checksum: checksum.map(|kept| (kept.checksum.algorithm, kept.kind)),
    }))
}

/// Opens the object as HEAD does, and takes everything from the descriptor.
fn by_path(bucket: &Bucket, reader: &Reader, key: &str) -> Result<Option<ListEntry>> {
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
    let info = record::describe(bucket, &file, &stat, key, Access::Blocking)?;
    Ok(Some(ListEntry {
        key: key.to_owned(),
        size: info.size,
        modified: info.modified,
        etag: info.etag,
        checksum: info
            .checksum
            .map(|kept| (kept.checksum.algorithm, kept.kind)),
    }))
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

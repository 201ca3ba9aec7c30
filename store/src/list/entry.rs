//! What is known of the entries of one page: size, mtime and the ETag that HEAD would answer.
//!
//! Two calls by name do for most. Where the record is missing, doubtful or unreadable by name, the file is
//! opened and everything is taken from that one descriptor.

use std::borrow::Cow;
use std::ffi::CStr;
use std::sync::Arc;

use rustix::fs::{self, FileType, OFlags, Statx};
use rustix::io::Errno;

use super::fan;
use super::read::{Reader, timestamp};
use super::walk::Run;
use crate::known::Known;
use crate::record::{self, FileState, Verdict, judge};
use crate::root::{Dir, kind, system};
use crate::{Access, Algorithm, Bucket, ChecksumType, ETag, Result, Timestamp};

const RECORD_XATTR: &CStr = c"user.twintree";
/// What is read of a record by name, in bytes: few have optional fields, fewer more than this.
const USUAL_RECORD: usize = 256;
/// Names that are looked at before it is asked what is known of them, at most.
const WINDOW: usize = 32;
/// Unknown files in a row after which the next ones are taken for unknown too; every so many is asked for still.
const SURELY: usize = 8;

/// What a page shows of a file beside size and mtime: as 24 aligned bytes, since a thousand of them are copied to
/// and fro for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tagged {
    halves: [u64; 2],
    parts: u16,
    kind: TagKind,
    /// The algorithm and type of its checksum.
    pub checksum: Option<(Algorithm, ChecksumType)>,
}

/// Which ETag it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TagKind {
    Md5,
    Multipart,
    Derived,
    Opaque,
}

impl Tagged {
    /// What HEAD would answer, and the algorithm and type of the checksum.
    pub fn new(etag: ETag, checksum: Option<(Algorithm, ChecksumType)>) -> Self {
        let kind = match etag {
            ETag::Md5(_) => TagKind::Md5,
            ETag::Multipart(..) => TagKind::Multipart,
            ETag::Derived(..) => TagKind::Derived,
            ETag::Opaque(_) => TagKind::Opaque,
        };
        let (bytes, parts) = etag.shown();
        let both = u128::from_be_bytes(bytes);
        Self {
            halves: [(both >> 64) as u64, both as u64],
            parts: parts.unwrap_or(0),
            kind,
            checksum,
        }
    }

    /// As HEAD would answer it.
    pub fn etag(&self) -> ETag {
        let [first, second] = self.halves;
        let bytes = (u128::from(first) << 64 | u128::from(second)).to_be_bytes();
        match self.kind {
            TagKind::Md5 => ETag::Md5(bytes),
            TagKind::Multipart => ETag::Multipart(bytes, self.parts),
            TagKind::Derived => ETag::Derived(first, second),
            TagKind::Opaque => ETag::Opaque(bytes),
        }
    }
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

/// Who is looked at.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// An entry that was found alone.
    Candidate(&'a Candidate),
    /// A file of a run, by its place among the names.
    Name(&'a Run, usize),
}

/// A name of an open directory.
struct Named<'a> {
    reader: &'a Reader,
    dir: &'a Dir,
    /// What the directory's keys begin with.
    text: &'a str,
    /// The key's last component.
    name: &'a str,
}

/// What a look at an object gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Bytes.
    pub size: u64,
    /// mtime.
    pub modified: Timestamp,
    /// All else.
    pub tagged: Tagged,
}

impl<'a> Asked<'a> {
    fn named(self) -> Option<Named<'a>> {
        match self {
            Self::Candidate(candidate) => candidate.named(),
            Self::Name(run, place) => Some(Named::of(run, place)),
        }
    }
}

impl Candidate {
    fn named(&self) -> Option<Named<'_>> {
        let Place::Entry(reader, dir) = &self.place else {
            return None;
        };
        let (text, name) = self
            .key
            .split_at(self.key.rfind('/').map_or(0, |at| at + 1));
        Some(Named {
            reader,
            dir,
            text,
            name,
        })
    }
}

impl<'a> Named<'a> {
    fn of(run: &'a Run, place: usize) -> Self {
        Self {
            reader: &run.reader,
            dir: &run.dir,
            text: &run.text,
            name: run.name(place),
        }
    }

    fn key(&self) -> String {
        [self.text, self.name].concat()
    }

    fn on_disk(&self) -> Cow<'a, [u8]> {
        self.reader.entry_name(self.name)
    }

    /// What stat shows of the file; `None`: there is none (any more), or it cannot be said.
    #[inline]
    fn state(&self) -> Result<Option<FileState>> {
        match self.dir.stat(&self.on_disk()) {
            Ok(stat) => Ok(state_of_file(&stat)),
            Err(e) => {
                self.reader.bearable::<()>(&self.key(), Err(e))?;
                Ok(None)
            }
        }
    }
}

/// Looks at all of these, in their order; `None`: there is no object (any more).
pub(crate) fn describe_all(bucket: &Bucket, asked: &[Asked]) -> Result<Vec<Option<Seen>>> {
    fan::map(&bucket.store.names.fan, asked, || {
        let mut look = Look::begin(bucket);
        move |stretch: &[Asked], seen: &mut Vec<Option<Seen>>| look.at_all(stretch, seen)
    })
}

/// A look at one entry after the other.
struct Look<'a> {
    bucket: &'a Bucket,
    known: &'a Known<Tagged>,
    /// When it began: files that had been quiet for a while then show every change since by their times.
    asked: Timestamp,
    /// How many of the next are likely to be known, since those before were.
    window: usize,
    /// How many in a row were unknown.
    unknown: usize,
    /// What was found out and is to be kept.
    found: Vec<(FileState, Tagged)>,
}

impl<'a> Look<'a> {
    fn begin(bucket: &'a Bucket) -> Self {
        let known = &bucket.store.names.known;
        Self {
            bucket,
            known,
            asked: Timestamp::now(),
            window: 1,
            unknown: 0,
            found: Vec::new(),
        }
    }

    fn at_all(&mut self, mut asked: &[Asked], seen: &mut Vec<Option<Seen>>) -> Result<()> {
        while let Some(first) = asked.first() {
            let length = self.window.clamp(1, asked.len());
            if self.window > 0 {
                self.at_known(&asked[..length], seen)?;
            } else {
                seen.push(self.at(*first)?);
            }
            asked = &asked[length..];
        }
        self.known.keep_all(self.found.drain(..));
        Ok(())
    }

    /// Looks at those that are likely to be known: one call for each that is, and as [`Look::at`] at the others.
    fn at_known(&mut self, asked: &[Asked], seen: &mut Vec<Option<Seen>>) -> Result<()> {
        let mut states = Vec::with_capacity(asked.len());
        for one in asked {
            states.push(match one.named() {
                Some(named) => named.state()?,
                None => None,
            });
        }
        let known = self.known.get_all(&states);
        self.window = (self.window * 2).min(WINDOW);
        for ((one, state), tagged) in asked.iter().zip(states).zip(known) {
            seen.push(match (state, tagged) {
                (Some(state), Some(tagged)) if !self.is_in_flux(&state) => {
                    Some(shown(&state, tagged))
                }
                (_, tagged) => {
                    let seen = self.at(*one)?;
                    if tagged.is_none() {
                        self.window = 0;
                    }
                    seen
                }
            });
        }
        Ok(())
    }

    fn at(&mut self, asked: Asked) -> Result<Option<Seen>> {
        match asked {
            Asked::Candidate(candidate) => self.at_candidate(candidate),
            Asked::Name(run, place) => self.by_name(&Named::of(run, place)),
        }
    }

    fn at_candidate(&mut self, candidate: &Candidate) -> Result<Option<Seen>> {
        let here = match (candidate.named(), &candidate.place) {
            (Some(named), _) => self.by_name(&named)?,
            (None, Place::Marked(modified)) => Some(marked(*modified)),
            (None, Place::Path(reader) | Place::Entry(reader, _)) => {
                self.by_path(reader, &candidate.key)?
            }
        };
        match (&candidate.also, here) {
            (Some(also), None) => self.at_candidate(also),
            (_, here) => Ok(here),
        }
    }

    /// Looks at a name of an open directory, without opening the file where two calls are enough.
    fn by_name(&mut self, named: &Named) -> Result<Option<Seen>> {
        let mut buffer = [0; USUAL_RECORD];
        // Read before the stat, a missing record is known to be of the file that the stat is of, if that had
        // been quiet.
        let record = named.dir.xattr(&named.on_disk(), RECORD_XATTR, &mut buffer);
        let Some(state) = named.state()? else {
            return Ok(None);
        };
        if self.is_in_flux(&state) {
            return self.by_path(named.reader, &named.key());
        }
        // In a directory that nobody has listed, asking in vain for each would cost as much as it saves elsewhere.
        let asks = self.unknown < SURELY || self.unknown.is_multiple_of(SURELY);
        if asks && let Some(tagged) = self.known.get(&state) {
            (self.window, self.unknown) = (self.window.max(1), 0);
            return Ok(Some(shown(&state, tagged)));
        }
        self.unknown += 1;
        let quiet = self.had_been_quiet(&state);
        let bytes = match record {
            Ok(length) => Some(&buffer[..length]),
            Err(Errno::NODATA) => None,
            // Linux: without the right to read a file, its xattrs cannot be read either; HEAD is refused then.
            Err(Errno::ACCESS | Errno::PERM) => None,
            Err(_) => return self.by_path(named.reader, &named.key()),
        };
        let verdict = judge(self.bucket, &state, bytes);
        let sure = match verdict {
            Verdict::Valid(_) => true,
            // Another file may have taken the name between the two calls.
            Verdict::None | Verdict::Stale(_) => quiet || named.state()? == Some(state),
            Verdict::Unverified(_) => false,
        };
        // Again, and after the record: who opened the file since the first look has not dropped it yet.
        if !sure || self.is_in_flux(&state) {
            return self.by_path(named.reader, &named.key());
        }
        let checksum = match &verdict {
            Verdict::Valid(record) => Some(record.checksum()),
            _ => None,
        };
        let tagged = Tagged::new(
            verdict.etag(&state, self.bucket.stable_inodes()),
            checksum.map(|kept| (kept.checksum.algorithm, kept.kind)),
        );
        if quiet {
            self.found.push((state, tagged));
        }
        Ok(Some(shown(&state, tagged)))
    }

    fn is_in_flux(&self, state: &FileState) -> bool {
        self.bucket.store.changes.in_flux(state.inode()).is_some()
    }

    /// Had the file been quiet when the look began? Never where another machine's clock stamps it. Its mtime
    /// may say anything.
    fn had_been_quiet(&self, state: &FileState) -> bool {
        !self.bucket.is_remote() && state.had_been_quiet(self.asked)
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
        let checksum = info
            .checksum
            .map(|kept| (kept.checksum.algorithm, kept.kind));
        Ok(Some(Seen {
            size: info.size,
            modified: info.modified,
            tagged: Tagged::new(info.etag, checksum),
        }))
    }
}

/// A directory that is an object.
fn marked(modified: Timestamp) -> Seen {
    let checksum = Some((Algorithm::Crc64Nvme, ChecksumType::FullObject));
    Seen {
        size: 0,
        modified,
        tagged: Tagged::new(ETag::EMPTY, checksum),
    }
}

fn shown(state: &FileState, tagged: Tagged) -> Seen {
    Seen {
        size: state.size,
        modified: state.modified,
        tagged,
    }
}

/// `None`: it is no regular file.
#[inline]
fn state_of_file(stat: &Statx) -> Option<FileState> {
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    (kind == FileType::RegularFile).then(|| FileState {
        device: fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        modified: timestamp(stat.stx_mtime),
        changed: timestamp(stat.stx_ctime),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ListQuery;
    use crate::testing::{bucket_of, store};

    #[test]
    fn a_look_comes_back_from_unknown_files_to_known_ones() {
        let root = tempfile::tempdir().expect("a directory");
        let bucket = bucket_of(&store(root.path()));
        let known = &bucket.store.names.known;
        let tagged = Tagged::new(ETag::Opaque([7; 16]), None);
        for number in 0..60 {
            let path = root.path().join(format!("bucket/{number:02}"));
            let file = std::fs::File::create(path).expect("made");
            if number > 3 * SURELY {
                known.keep(FileState::look(&file).expect("stat"), tagged);
            }
        }
        let keys = bucket.keys(&ListQuery::default(), &bucket.store.names);
        let batch = keys.and_then(|mut keys| keys.batch(100)).expect("read");
        let batch = batch.expect("files");
        let (mut look, mut seen) = (Look::begin(&bucket), Vec::new());
        look.at_all(&batch.asked(), &mut seen).expect("looked");
        assert!(look.window > 1, "{}", look.window);
        let etags = seen.iter().map(|seen| seen.map(|seen| seen.tagged.etag()));
        let known = etags.filter(|etag| *etag == Some(tagged.etag())).count();
        assert!(known > 60 - 4 * SURELY - 2, "{known}");
        assert_eq!(seen.len(), 60);
    }

    #[test]
    fn every_etag_comes_back_from_what_is_kept_of_it() {
        let bytes = *b"0123456789abcdef";
        for etag in [
            ETag::Md5(bytes),
            ETag::Multipart(bytes, 10_000),
            ETag::Derived(1, 2),
            ETag::Opaque(bytes),
        ] {
            assert_eq!(Tagged::new(etag, None).etag(), etag);
        }
    }
}

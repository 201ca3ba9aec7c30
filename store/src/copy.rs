//! Copying on the server: by reflink where the filesystem can, else within the kernel, else through us.
//! What the source's valid record knows of the bytes is not computed again.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs;
use rustix::io::Errno;

use crate::open::Found;
use crate::publish::{Content, Finished};
use crate::record::{self, Examined, FileState, Record, Verdict, disk};
use crate::root::kind;
use crate::{
    Access, Algorithm, Bucket, Checksum, ChecksumType, CopyRequest, Digester, ETag, ETagKind, Meta,
    Object, ObjectChecksum, ObjectKey, Published, Result, StoreError,
};

/// Bytes that are copied through us at once.
const CHUNK: usize = 1 << 20;
/// How often a source that changes while it is copied is copied again.
const MAX_ROUNDS: u32 = 4;

impl Bucket {
    /// Copies an open object (of this or another bucket) to `key` by reflink or copy_file_range. Onto
    /// itself it changes the record only. What is copied has an ETag of the bucket's kind, a multipart source too.
    ///
    /// # Errors
    /// As [`Bucket::publish`].
    pub fn copy(
        &self,
        source: &Object,
        key: &ObjectKey,
        request: CopyRequest,
    ) -> Result<Published> {
        self.check_writable()?;
        let meta = copied_meta(source, &request);
        if let Some(published) = self.copy_onto_itself(source, key, &request, &meta)? {
            return Ok(published);
        }
        let keep = request
            .checksum
            .or_else(|| source.info.checksum.as_ref().map(|c| c.checksum.algorithm));
        let (stage, kind) = (self.stage(key, None)?, self.etag_kind());
        let (content, old_json) = match &source.file {
            Some(file) => {
                let content = self.copy_content(source, file, &stage.file, keep)?;
                let record = None::<&Record>;
                let old = if request.replace_meta.is_none() {
                    disk::read_meta(file, record, &self.tree)?
                } else {
                    None
                };
                (content, old)
            }
            None => (hashed(kind, kind.digester(&algorithms(keep)), keep), None),
        };
        self.publish_content(
            key,
            stage,
            &Finished {
                content,
                meta,
                old_json,
                conditions: request.conditions,
            },
        )
    }

    /// Brings the source's bytes into the staged file, and says what they are.
    fn copy_content(
        &self,
        source: &Object,
        from: &Arc<File>,
        to: &File,
        keep: Option<Algorithm>,
    ) -> Result<Content> {
        let kind = self.etag_kind();
        for _ in 0..MAX_ROUNDS {
            let examined = record::examine(self, from, FileState::look(from)?)?;
            let size = examined.state.size;
            let way = copy_bytes(from, to, size)?;
            let known = known_content(&examined, keep, source)
                .and_then(|content| copied_content(content, kind));
            let from_record = known.is_some();
            let content = match known {
                Some(content) => content,
                None => digest(to, keep, kind)?,
            };
            // What the source was at one moment, and its digest: it may have moved since.
            if way == Way::Shared && !from_record {
                return Ok(content);
            }
            let now = record::examine(self, from, FileState::look(from)?)?;
            // What was taken from the record must be what the record still says: a writer in the mount drops it.
            let holds = !from_record || known_content(&now, keep, source).is_some();
            if now.state.same_content(&examined.state) && content.size == size && holds {
                return Ok(content);
            }
        }
        Err(StoreError::Unavailable(
            "the source, which is being changed,".to_owned(),
        ))
    }

    /// A copy of an object onto itself, where the record says all that S3 would find by copying.
    fn copy_onto_itself(
        &self,
        source: &Object,
        key: &ObjectKey,
        request: &CopyRequest,
        meta: &Meta,
    ) -> Result<Option<Published>> {
        let Some(file) = &source.file else {
            return Ok(None);
        };
        let held = self.lock_key(key)?;
        let Ok(Some(Found::File(there, stat))) = self.find(key, Access::Blocking) else {
            return Ok(None);
        };
        let (ours, theirs) = (FileState::look(file)?, FileState::look(&there)?);
        // Another name of the file keeps what it has; a link is replaced by a file of its own.
        let same = (ours.device, ours.inode) == (theirs.device, theirs.inode);
        if !same || stat.st_nlink != 1 || self.is_reached_by_link(key, &stat)? {
            return Ok(None);
        }
        self.check(key, &request.conditions)?;
        let (examined, _) = record::describe_locked(self, &there, key.as_str())?;
        let keep = request
            .checksum
            .or_else(|| source.info.checksum.as_ref().map(|c| c.checksum.algorithm));
        let Some(content) = known_content(&examined, keep, source) else {
            return Ok(None);
        };
        if !stays(content.etag, self.etag_kind()) {
            return Ok(None);
        }
        self.change_meta(&there, meta.clone())?;
        drop(held);
        self.announce_attributes(key, &there);
        self.sync_content(&there)?;
        let finished = Finished {
            content,
            meta: Meta::default(),
            old_json: None,
            conditions: request.conditions.clone(),
        };
        Ok(Some(finished.published(examined.state.modified)))
    }

    /// Is what a key's name stands for another entry than the file that reading it opens?
    fn is_reached_by_link(&self, key: &ObjectKey, stat: &fs::Stat) -> Result<bool> {
        let crate::place::Place::File(place) = self.locate(key, stat.st_size == 0)? else {
            return Ok(true);
        };
        Ok(place.entry.is_none_or(|entry| {
            kind(&entry) != fs::FileType::RegularFile
                || (entry.st_dev, entry.st_ino) != (stat.st_dev, stat.st_ino)
        }))
    }
}

fn copied_meta(source: &Object, request: &CopyRequest) -> Meta {
    let mut meta = request
        .replace_meta
        .clone()
        .unwrap_or_else(|| source.info.meta.clone());
    meta.tags = request
        .replace_tags
        .clone()
        .unwrap_or_else(|| source.info.meta.tags.clone());
    meta
}

/// What a copy of these bytes is. `None`: its ETag has to be computed.
fn copied_content(known: Content, kind: ETagKind) -> Option<Content> {
    let etag = match (kind, known.etag) {
        (ETagKind::Md5, ETag::Md5(_)) => known.etag,
        (ETagKind::Md5, _) => return None,
        (ETagKind::Crc64, _) => ETag::opaque(known.crc64),
    };
    Some(Content { etag, ..known })
}

/// May an object keep this ETag that is copied onto itself? Only what copying would give it, or what is better.
fn stays(etag: ETag, kind: ETagKind) -> bool {
    match etag {
        ETag::Md5(_) => true,
        ETag::Opaque(_) => kind == ETagKind::Crc64,
        ETag::Multipart(..) | ETag::Derived(..) => false,
    }
}

/// What a valid record says of the bytes, if that is all that is asked for.
fn known_content(examined: &Examined, keep: Option<Algorithm>, source: &Object) -> Option<Content> {
    let Verdict::Valid(record) = &examined.verdict else {
        return None;
    };
    let checksum = match keep {
        None | Some(Algorithm::Crc64Nvme) => None,
        Some(algorithm) => {
            let kept = record.checksum();
            let fits =
                kept.checksum.algorithm == algorithm && kept.kind == ChecksumType::FullObject;
            Some(fits.then_some(kept)?)
        }
    };
    // The object was described before: a record that is another one since speaks of other bytes.
    if record.etag != source.info.etag {
        return None;
    }
    Some(Content {
        etag: record.etag,
        size: record.stamp.size,
        crc64: record.crc64,
        checksum,
        parts: Vec::new(),
        upload_id: None,
    })
}

fn algorithms(keep: Option<Algorithm>) -> Vec<Algorithm> {
    keep.into_iter()
        .filter(|algorithm| *algorithm != Algorithm::Crc64Nvme)
        .collect()
}

fn digest(file: &File, keep: Option<Algorithm>, kind: ETagKind) -> Result<Content> {
    let mut digester = kind.digester(&algorithms(keep));
    crate::seal::read_all(file, |bytes| digester.update(bytes))?;
    Ok(hashed(kind, digester, keep))
}

fn hashed(kind: ETagKind, digester: Digester, keep: Option<Algorithm>) -> Content {
    let digests = digester.finish();
    let full = |checksum: Checksum| ObjectChecksum {
        checksum,
        kind: ChecksumType::FullObject,
    };
    let checksum = algorithms(keep)
        .first()
        .and_then(|algorithm| digests.checksum(*algorithm))
        .map(full);
    Content::of_body(kind, &digests, checksum)
}

/// How bytes were brought from one file into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As a reflink: what the source was at one moment, of the size that it had then (`snapshot.rs`).
    Shared,
    /// One after the other.
    Copied,
}

/// Makes `to` the same `size` bytes as `from`, by the cheapest way that both filesystems have.
///
/// # Errors
/// What the disk says; `UnexpectedEof` where the source is shorter.
pub(crate) fn copy_bytes(from: impl AsFd, to: &File, size: u64) -> Result<Way> {
    let failed = |e: io::Error| StoreError::from_io("copying an object", e);
    to.set_len(0).map_err(failed)?;
    if fs::ioctl_ficlone(to, &from).is_ok() {
        return Ok(Way::Shared);
    }
    let mut done = 0;
    while done < size {
        let (mut read_at, mut write_at) = (done, done);
        let length = usize::try_from(size - done)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match fs::copy_file_range(&from, Some(&mut read_at), to, Some(&mut write_at), length) {
            Ok(0) => {
                copy_through(&from, to, done, size).map_err(failed)?;
                break;
            }
            Ok(copied) => done += copied as u64,
            Err(Errno::INTR) => {}
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::PERM
                | Errno::IO,
            ) => {
                copy_through(&from, to, done, size).map_err(failed)?;
                break;
            }
            Err(e) => return Err(failed(e.into())),
        }
    }
    Ok(Way::Copied)
}

/// Copies from an offset on through our own memory.
fn copy_through(from: &impl AsFd, to: &File, mut offset: u64, size: u64) -> io::Result<()> {
    let from = File::from(from.as_fd().try_clone_to_owned()?);
    let mut buffer = vec![0; CHUNK];
    while offset < size {
        let length = CHUNK.min(usize::try_from(size - offset).unwrap_or(CHUNK));
        match from.read_at(&mut buffer[..length], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                to.write_all_at(&buffer[..read], offset)?;
                offset += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

//! One upload's directory, `.twintree/uploads/ID/`: every name in it.
//!
//! All names are fixed or made here from numbers, and resolved in the open directory without following
//! links. The locks on it are `folder/locks.rs`'s; what the bytes mean is `slot.rs`'s and
//! `document.rs`'s; when they change is the callers'.

mod locks;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use rustix::fs::{self, AtFlags, Dir, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::document::Document;
use super::id::UploadId;
use super::slot::{Base, Decoded, Head, MAX_PART, SLOT, Slot, Source, State};
use crate::lock::Kind;
use crate::path::{self, DiskPath};
use crate::root::{open_own_file, system};
use crate::{Bucket, ObjectKey, Result, Stage, StoreError, Timestamp};

pub(super) use locks::Slots;

/// Where uploads lie below `.twintree/`.
pub(super) const UPLOADS: &str = "uploads";
const DOCUMENT: &str = "upload.json";
/// What `upload.json` is called until it is whole.
const UNFINISHED: &str = "upload.json.new";
const PARTS: &str = "parts";
const ASSEMBLY: &str = "assembly";
/// The most that is read of `upload.json`, in bytes: 2 KiB of metadata and ten tags are far below it.
const MAX_DOCUMENT: u64 = 1 << 20;
/// How often bytes are read again that another writer was changing.
const MAX_TORN: u32 = 100;
/// The size of `parts`: sparse, so that no slot ever grows it.
const PARTS_SIZE: u64 = (MAX_PART as u64 + 1) * SLOT as u64;
const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// An open upload directory with its `parts`. Locks belong to this very opening.
pub(super) struct Folder {
    pub id: UploadId,
    pub dir: OwnedFd,
    parts: File,
    json: File,
    pub document: Document,
    bucket: Bucket,
    /// How other processes are kept out; not asked before something is locked, for asking may write.
    locks: OnceLock<Kind>,
}

impl Folder {
    /// Makes the directory of a new upload; it becomes one with `upload.json`, which is written last.
    /// `assembly`, where the target's filesystem is ours, is the file that usual parts go into.
    pub fn create(bucket: &Bucket, id: UploadId, document: Document) -> Result<Self> {
        let uploads = open_uploads(bucket, true)?.ok_or_else(|| gone(&id))?;
        fs::mkdirat(&uploads, id.as_str(), Mode::from_raw_mode(0o700))
            .map_err(|e| system(id.as_str(), e))?;
        let made = Self::fill(bucket, &uploads, id.clone(), document);
        if made.is_err() {
            remove_dir(&uploads, &id);
        }
        made
    }

    fn fill(bucket: &Bucket, uploads: &OwnedFd, id: UploadId, document: Document) -> Result<Self> {
        let dir = open_dir(uploads, id.as_str()).map_err(|e| system(id.as_str(), e))?;
        let parts = create_file(&dir, PARTS, 0o600)?;
        parts
            .set_len(PARTS_SIZE)
            .map_err(|e| StoreError::from_io(PARTS, e))?;
        let json = create_file(&dir, UNFINISHED, 0o600)?;
        let folder = Self {
            id,
            dir,
            parts,
            json,
            document,
            bucket: bucket.clone(),
            locks: OnceLock::from(bucket.lock_kind()?),
        };
        folder.write_head(Head {
            state: State::Open,
            stride: 0,
        })?;
        folder.make_assembly()?;
        (&folder.json)
            .write_all(&folder.document.to_json())
            .map_err(|e| StoreError::from_io(DOCUMENT, e))?;
        fs::renameat(&folder.dir, UNFINISHED, &folder.dir, DOCUMENT)
            .map_err(|e| system(DOCUMENT, e))?;
        bucket.sync_uploads(&[&folder.json, &folder.parts], &[&folder.dir, uploads])?;
        Ok(folder)
    }

    /// Opens an upload; `None`: there is none of this id.
    pub fn open(bucket: &Bucket, id: &UploadId) -> Result<Option<Self>> {
        let Some(dir) = bucket.tree.reserved(&format!("{UPLOADS}/{id}"), false)? else {
            return Ok(None);
        };
        Self::open_in(bucket, id.clone(), dir)
    }

    /// Opens the upload that this directory holds; `None`: it is none (yet, or any more).
    pub fn open_in(bucket: &Bucket, id: UploadId, dir: OwnedFd) -> Result<Option<Self>> {
        let Some(json) = open_file(&dir, DOCUMENT, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let access = if bucket.is_read_only() {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let Some(parts) = open_file(&dir, PARTS, access)? else {
            return Ok(None);
        };
        let length = parts
            .metadata()
            .map_err(|e| StoreError::from_io(PARTS, e))?
            .len();
        if length != PARTS_SIZE {
            tracing::warn!(
                upload = id.as_str(),
                length,
                "the file of the parts is damaged"
            );
            return Ok(None);
        }
        let mut bytes = Vec::new();
        (&json)
            .take(MAX_DOCUMENT)
            .read_to_end(&mut bytes)
            .map_err(|e| StoreError::from_io(DOCUMENT, e))?;
        let Some(document) = Document::from_json(&bytes) else {
            tracing::warn!(
                upload = id.as_str(),
                "upload.json is damaged or of another version"
            );
            return Ok(None);
        };
        Ok(Some(Self {
            id,
            dir,
            parts,
            json,
            document,
            bucket: bucket.clone(),
            locks: OnceLock::new(),
        }))
    }

    /// The bucket it belongs to.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Reads the head without a lock; `None`: it is damaged.
    pub fn head(&self) -> Result<Option<Head>> {
        for _ in 0..MAX_TORN {
            match Head::decode(&self.read_slot(0)?) {
                Decoded::Stored(head) => return Ok(Some(head)),
                Decoded::Empty => return Ok(None),
                // Linux: a read beside a write of the same bytes may see some of each.
                Decoded::Damaged => std::thread::yield_now(),
            }
        }
        tracing::warn!(
            upload = self.id.as_str(),
            "the head of the upload is damaged"
        );
        Ok(None)
    }

    /// All stored parts in order, without a lock.
    pub fn stored(&self) -> Result<Vec<(u16, Slot)>> {
        let mut stored = Vec::new();
        let mut at = 0;
        while let Some((start, end)) = self.next_data(at)? {
            let mut bytes = vec![0; end - start];
            self.parts
                .read_exact_at(&mut bytes, start as u64)
                .map_err(|e| StoreError::from_io(PARTS, e))?;
            let (slots, _) = bytes.as_chunks::<SLOT>();
            // Slot 0 is the head.
            for (number, slot) in (start / SLOT..)
                .zip(slots)
                .filter(|(number, _)| *number > 0)
            {
                let number = u16::try_from(number).expect("the file has no more slots");
                match Slot::decode(number, slot) {
                    Decoded::Stored(slot) => stored.push((number, slot)),
                    Decoded::Empty => {}
                    Decoded::Damaged => {
                        stored.extend(self.slot(number)?.map(|slot| (number, slot)));
                    }
                }
            }
            at = end;
        }
        Ok(stored)
    }

    /// The next run of slots from here on that is not a hole; most of the file is one.
    fn next_data(&self, at: usize) -> Result<Option<(usize, usize)>> {
        let all = PARTS_SIZE as usize;
        if at >= all {
            return Ok(None);
        }
        if self.bucket.is_remote() {
            return Ok(Some((at, all))); // not every server tells holes, or tells them truly
        }
        let start = match fs::seek(&self.parts, SeekFrom::Data(at as u64)) {
            Ok(start) => start as usize / SLOT * SLOT,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, all))),
            Err(e) => return Err(system(PARTS, e)),
        };
        let end =
            fs::seek(&self.parts, SeekFrom::Hole(start as u64)).map_err(|e| system(PARTS, e))?;
        Ok(Some((
            start.max(at),
            (end as usize).next_multiple_of(SLOT).min(all),
        )))
    }

    /// One slot; a damaged one counts as empty.
    fn slot(&self, number: u16) -> Result<Option<Slot>> {
        for _ in 0..MAX_TORN {
            match Slot::decode(number, &self.read_slot(number)?) {
                Decoded::Stored(slot) => return Ok(Some(slot)),
                Decoded::Empty => return Ok(None),
                Decoded::Damaged => std::thread::yield_now(),
            }
        }
        tracing::warn!(
            upload = self.id.as_str(),
            number,
            "the slot of the part is damaged"
        );
        Ok(None)
    }

    /// When a part was stored last (or the upload created).
    pub fn last_touched(&self) -> Result<Timestamp> {
        let stat = fs::fstat(&self.parts).map_err(|e| system(PARTS, e))?;
        Ok(Timestamp::from_parts(
            stat.st_mtime,
            stat.st_mtime_nsec as i64,
        ))
    }

    /// Does the upload still take parts? Not after Abort, and not once its file was renamed away.
    pub fn is_alive(&self, head: Head) -> Result<bool> {
        match head.state {
            State::Open => Ok(true),
            State::Publishing(base) => self.has(&name_of(base)),
            State::Published | State::Aborted => Ok(false),
        }
    }

    fn read_slot(&self, number: u16) -> Result<[u8; SLOT]> {
        let mut bytes = [0; SLOT];
        self.parts
            .read_exact_at(&mut bytes, u64::from(number) * SLOT as u64)
            .map_err(|e| StoreError::from_io(PARTS, e))?;
        Ok(bytes)
    }

    fn write_head(&self, head: Head) -> Result<()> {
        self.parts
            .write_all_at(&head.encode(), 0)
            .map_err(|e| StoreError::from_io(PARTS, e))
    }

    /// Makes the assembly as the target's directory makes files. Without one, because the target is on
    /// another filesystem, parts lie in files of their own, and Complete gathers them there.
    fn make_assembly(&self) -> Result<()> {
        let mut assembly = self.bucket.open_stage(self.native().as_ref())?;
        match assembly.keep_as(&self.dir, ASSEMBLY) {
            // Linux: EXDEV also between projects of XFS, within one mount.
            Err(Errno::XDEV) => Ok(()),
            other => other.map_err(|e| system(ASSEMBLY, e)),
        }
    }

    fn native(&self) -> Option<DiskPath> {
        ObjectKey::parse(&self.document.key)
            .ok()
            .as_ref()
            .and_then(path::native)
    }

    /// Can a file of the upload become the object by a rename?
    pub fn is_movable(&self) -> Result<bool> {
        self.has(ASSEMBLY)
    }

    /// A new file for a part or a gathered object, on the filesystem of this directory.
    pub fn new_file(&self) -> Result<Stage> {
        let path = if self.is_movable()? {
            self.native()
        } else {
            None
        };
        self.bucket.open_stage(path.as_ref())
    }

    /// Gives a new file its name.
    pub fn name_file(&self, new: &mut Stage, base: Base) -> Result<()> {
        match new.keep_as(&self.dir, &name_of(base)) {
            // Aborted or completed meanwhile.
            Err(Errno::NOENT) => Err(gone(&self.id)),
            other => other.map_err(|e| system(&self.document.key, e)),
        }
    }

    /// One of its files, to be published by moving it.
    pub fn staged(&self, file: File, base: Base) -> Result<Stage> {
        let dir = self
            .dir
            .try_clone()
            .map_err(|e| StoreError::from_io(ASSEMBLY, e))?;
        let remote = self.bucket.is_remote();
        Ok(Stage::of_named(
            Arc::new(file),
            remote,
            dir,
            name_of(base).into_bytes(),
        ))
    }

    /// Makes slots and head durable.
    pub fn sync_slots(&self) -> Result<()> {
        self.bucket.sync_uploads(&[&self.parts], &[])
    }

    /// Opens a part's file (or the assembly) once more; `None`: it is not there.
    pub fn open_base(&self, base: Base, access: OFlags) -> Result<Option<File>> {
        open_file(&self.dir, &name_of(base), access)
    }

    /// Is there such a name?
    fn has(&self, name: &str) -> Result<bool> {
        match fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(system(name, e)),
        }
    }

    /// Removes a file that nothing refers to any more; its absence is as good.
    pub fn remove_base(&self, base: Base) {
        if let Err(e) = fs::unlinkat(&self.dir, name_of(base), AtFlags::empty())
            && e != Errno::NOENT
        {
            tracing::warn!(
                upload = self.id.as_str(),
                "a part that is not needed any more stays: {e}"
            );
        }
    }

    /// Removes the whole directory.
    pub fn remove(&self) {
        match open_uploads(&self.bucket, false) {
            Ok(Some(uploads)) => remove_dir(&uploads, &self.id),
            Ok(None) => {}
            Err(e) => tracing::warn!(
                upload = self.id.as_str(),
                "what is left of the upload stays: {e}"
            ),
        }
    }

    /// How many files parts have of their own, to tell a quick removal from a slow one.
    pub fn own_files(&self) -> usize {
        names(&self.dir).map_or(0, |names| names.iter().filter(|n| n.contains('-')).count())
    }
}

/// The name of a part's own file, of a gathered file (number 0) or of the assembly.
fn name_of(base: Base) -> String {
    match base.source {
        Source::Assembly(_) => ASSEMBLY.to_owned(),
        Source::File(nonce) => format!("{}-{nonce:016x}", base.number),
    }
}

/// The directory of all uploads.
pub(super) fn open_uploads(bucket: &Bucket, create: bool) -> Result<Option<OwnedFd>> {
    bucket.tree.reserved(UPLOADS, create)
}

/// The error of an id that names no upload.
pub(super) fn gone(id: &UploadId) -> StoreError {
    StoreError::NoSuchUpload(id.to_string())
}

pub(super) fn open_dir(dir: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    fs::openat(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | FLAGS,
        Mode::empty(),
    )
}

fn open_file(dir: &OwnedFd, name: &str, access: OFlags) -> Result<Option<File>> {
    open_own_file(dir, name, access)
}

fn create_file(dir: &OwnedFd, name: &str, mode: u32) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FLAGS;
    match fs::openat(dir, name, flags, Mode::from_raw_mode(mode)) {
        Ok(file) => Ok(file.into()),
        Err(e) => Err(system(name, e)),
    }
}

/// Did this directory become an upload?
pub(super) fn has_document(dir: &OwnedFd) -> Result<bool> {
    open_file(dir, DOCUMENT, OFlags::RDONLY).map(|file| file.is_some())
}

/// The names in a directory, without `.` and `..`.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(|e| system(UPLOADS, e))? {
        let entry = entry.map_err(|e| system(UPLOADS, e))?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes an upload's directory with all that is in it. What cannot be removed is left to the sweep.
pub(super) fn remove_dir(uploads: &OwnedFd, id: &UploadId) {
    let removed = || -> Result<()> {
        let dir = match open_dir(uploads, id.as_str()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(system(id.as_str(), e)),
        };
        // Without its document it is no upload, whatever comes of the rest.
        let mut names = names(&dir)?;
        names.sort_by_key(|name| name != DOCUMENT);
        for name in names {
            match fs::unlinkat(&dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(system(&name, e)),
            }
        }
        match fs::unlinkat(uploads, id.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(system(id.as_str(), e)),
        }
    };
    if let Err(e) = removed() {
        tracing::warn!(
            upload = id.as_str(),
            "what is left of the upload stays for the sweep: {e}"
        );
    }
}

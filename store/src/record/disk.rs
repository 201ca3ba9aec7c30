//! Where records lie: in xattrs, and where those cannot be had or do not fit, in `.twintree/records/`.
//!
//! `records/HASH` holds optional fields, or a meta JSON, that the filesystem has no room for in an
//! xattr: content-addressed, written before the record that names it. `records/i/INODE` holds record
//! and meta together where the filesystem takes no xattrs at all.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{META_XATTR, RECORD_XATTR, Record, decode_fields, encode_fields, kind};
use crate::root::{Tree, open_own_file, system};
use crate::{Result, StoreError};

/// The largest xattr value that Linux has (xattr(7)).
const XATTR_MAX: usize = 65_536;
/// The largest file of ours that is read whole: the fields of 10,000 parts are below 600 KiB.
const FILE_MAX: u64 = 4 << 20;
/// The length of a SHA-256.
const HASH: usize = 32;
/// Fields that may be told apart from the record, when it does not fit: only asking for parts needs them.
const LARGE: u8 = kind::PARTS;

/// What lies beside a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    /// The bytes of `user.twintree`.
    pub(crate) record: Option<Vec<u8>>,
    /// Where the filesystem has no xattrs: the meta JSON that lay in the same place.
    pub(crate) meta_beside: Option<Vec<u8>>,
    /// Was it found by the inode's number, which may have been another file's?
    pub(crate) by_inode: bool,
    /// Does the filesystem take xattrs? Else nothing of the file shows that its record changed.
    pub(crate) in_xattrs: bool,
}

/// Reads the record of an open file.
///
/// # Errors
/// What the disk says; a missing record is none.
pub(crate) fn read(file: impl AsFd, tree: &Tree) -> Result<Raw> {
    match get_xattr(&file, RECORD_XATTR) {
        Ok(record) => Ok(Raw {
            record,
            in_xattrs: true,
            ..Raw::default()
        }),
        Err(e) if is_unsupported(e) => read_beside(inode(&file)?, tree),
        Err(e) => Err(system("a record", e)),
    }
}

/// Reads the meta JSON of an open file whose record is `record`.
///
/// # Errors
/// What the disk says; a missing one is none.
pub(crate) fn read_meta(
    file: impl AsFd,
    record: Option<&Record>,
    tree: &Tree,
) -> Result<Option<Vec<u8>>> {
    match get_xattr(&file, META_XATTR) {
        Ok(Some(json)) => Ok(Some(json)),
        Ok(None) => match record.and_then(|record| record.field(kind::META_OVERFLOW)) {
            Some(hash) => read_hashed(hash, tree),
            None => Ok(None),
        },
        Err(e) if is_unsupported(e) => Ok(read_beside(inode(&file)?, tree)?.meta_beside),
        Err(e) => Err(system("a record's meta half", e)),
    }
}

/// Fetches the fields that lie in `records/HASH` into the record.
///
/// # Errors
/// What the disk says. A file that is missing or broken leaves the record without those fields.
pub(crate) fn load_overflow(record: &mut Record, tree: &Tree) -> Result<()> {
    let Some(hash) = record.field(kind::OVERFLOW).map(<[u8]>::to_vec) else {
        return Ok(());
    };
    match read_hashed(&hash, tree)?.map(|bytes| decode_fields(&bytes)) {
        Some(Ok(fields)) => record.fields.extend(fields),
        Some(Err(_)) | None => tracing::warn!("the parts of an object are missing in records/"),
    }
    Ok(())
}

/// Does something of what is recorded of a file (opened, not by O_PATH) lie in `records/` of its bucket?
///
/// # Errors
/// What the disk says.
pub(crate) fn lies_beside(file: impl AsFd, tree: &Tree) -> Result<bool> {
    let beside = |record: Record| {
        let mut fields = [kind::OVERFLOW, kind::META_OVERFLOW].into_iter();
        fields.any(|kind| record.field(kind).is_some())
    };
    match get_xattr(&file, RECORD_XATTR) {
        Ok(bytes) => Ok(bytes.is_some_and(|bytes| Record::decode(&bytes).is_ok_and(beside))),
        Err(e) if is_unsupported(e) => Ok(read_beside(inode(&file)?, tree)?.record.is_some()),
        Err(e) => Err(system("a record", e)),
    }
}

/// Does `records/` of a bucket hold anything?
///
/// # Errors
/// What the disk says.
pub(crate) fn is_any_beside(tree: &Tree) -> Result<bool> {
    for what in ["records", "records/i"] {
        let Some(dir) = tree.reserved(what, false)? else {
            continue;
        };
        for entry in fs::Dir::read_from(&dir).map_err(|e| system(what, e))? {
            let entry = entry.map_err(|e| system(what, e))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b".." | b"i") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Writes record and meta of a file that is not yet published (or whose key is locked); meta first,
/// because the record's ctime is the later one. Returns the bytes of the record as they lie there.
///
/// # Errors
/// `NoSpace` and what else the disk says.
pub(crate) fn write(
    file: impl AsFd,
    record: &Record,
    meta: Option<&[u8]>,
    tree: &Tree,
) -> Result<Vec<u8>> {
    let mut record = record.clone();
    record.drop_field(kind::META_OVERFLOW);
    match (set_meta(&file, meta), meta) {
        (Ok(()), _) => {}
        (Err(e), _) if lacks_xattrs(&file, e) => {
            return write_beside(inode(&file)?, &record, meta, tree);
        }
        // Linux: xfs has no room to remove one either, when the disk is full.
        (Err(e), Some(json)) if is_too_large(e) => {
            record.set_field(kind::META_OVERFLOW, write_hashed(json, tree)?);
            // What an earlier meta left in the xattr would hide the new one.
            set_meta(&file, None).map_err(|e| system("a record's meta half", e))?;
        }
        (Err(e), _) => return Err(system("a record's meta half", e)),
    }
    record.has_meta = meta.is_some();
    write_record(file, &record, tree)
}

/// Writes record and meta of a file that never had any, which saves a call where there is no meta.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_first(
    file: impl AsFd,
    record: &Record,
    meta: Option<&[u8]>,
    tree: &Tree,
) -> Result<Vec<u8>> {
    let bytes = record.encode();
    if meta.is_none() && !record.has_meta && set_xattr(&file, RECORD_XATTR, &bytes).is_ok() {
        return Ok(bytes);
    }
    write(file, record, meta, tree)
}

/// Writes the meta half alone, of a file whose record (if any) is left as it is. Where it is too large for an
/// xattr, a file without a record gets one that says where it lies, and nothing of the content.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_meta(
    file: impl AsFd,
    record: Option<&Record>,
    meta: Option<&[u8]>,
    tree: &Tree,
) -> Result<()> {
    match (set_meta(&file, meta), record) {
        (Ok(()), _) => Ok(()),
        (Err(e), Some(record)) if is_too_large(e) || lacks_xattrs(&file, e) => {
            write(file, record, meta, tree).map(|_| ())
        }
        (Err(e), None) if is_too_large(e) => {
            write(file, &Record::of_no_content(), meta, tree).map(|_| ())
        }
        // By inode alone it would soon be said of another file: a record's stamp is what binds it.
        (Err(e), None) if lacks_xattrs(&file, e) => Err(StoreError::InvalidRequest(
            "the filesystem has no extended attributes: what nobody PUT can be given no tags"
                .into(),
        )),
        (Err(e), _) => Err(system("a record's meta half", e)),
    }
}

/// Writes a record whose meta half stays as it is. Returns its bytes as they lie there.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_record(file: impl AsFd, record: &Record, tree: &Tree) -> Result<Vec<u8>> {
    let whole = record.encode();
    match set_xattr(&file, RECORD_XATTR, &whole) {
        Ok(()) => return Ok(whole),
        Err(e) if lacks_xattrs(&file, e) => {
            let inode = inode(&file)?;
            let meta = read_beside(inode, tree)?.meta_beside;
            return write_beside(inode, record, meta.as_deref(), tree);
        }
        Err(e) if is_too_large(e) && record.field(LARGE).is_some() => {}
        Err(e) => return Err(system("a record", e)),
    }
    let mut record = record.clone();
    let (large, small): (Vec<_>, Vec<_>) = record
        .fields
        .drain(..)
        .partition(|(kind, _)| *kind == LARGE);
    record.fields = small;
    record.set_field(kind::OVERFLOW, write_hashed(&encode_fields(&large), tree)?);
    let bytes = record.encode();
    set_xattr(&file, RECORD_XATTR, &bytes).map_err(|e| system("a record", e))?;
    Ok(bytes)
}

/// Does the filesystem (or this file) take no user xattrs?
pub(crate) fn is_unsupported(e: Errno) -> bool {
    matches!(e, Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM)
}

/// Did setting one fail because there are none here? A file that we merely may not write still has
/// those that it has, and a record elsewhere would never be read.
fn lacks_xattrs(file: &impl AsFd, e: Errno) -> bool {
    is_unsupported(e) && get_xattr(file, RECORD_XATTR).is_err_and(is_unsupported)
}

/// Has the filesystem no room for a value of this size? ext4 says ENOSPC for it as for a full disk:
/// then writing the file beside it says so again.
fn is_too_large(e: Errno) -> bool {
    matches!(
        e,
        Errno::TOOBIG | Errno::RANGE | Errno::NOSPC | Errno::MSGSIZE
    )
}

fn get_xattr(file: &impl AsFd, name: &str) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut small = [0; 512];
    match fs::fgetxattr(file, name, &mut small[..]) {
        Ok(length) => return Ok(Some(small[..length].to_vec())),
        Err(Errno::RANGE) => {}
        Err(Errno::NODATA) => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut large = vec![0; XATTR_MAX];
    match fs::fgetxattr(file, name, &mut large[..]) {
        Ok(length) => {
            large.truncate(length);
            Ok(Some(large))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e),
    }
}

fn set_xattr(file: &impl AsFd, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    if value.len() > XATTR_MAX {
        return Err(Errno::TOOBIG);
    }
    fs::fsetxattr(file, name, value, XattrFlags::empty())
}

/// Sets or removes the meta JSON of a file or directory.
pub(crate) fn set_meta(file: &impl AsFd, meta: Option<&[u8]>) -> rustix::io::Result<()> {
    match meta {
        Some(json) => set_xattr(file, META_XATTR, json),
        None => match fs::fremovexattr(file, META_XATTR) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        },
    }
}

fn inode(file: &impl AsFd) -> Result<u64> {
    fs::fstat(file)
        .map(|stat| stat.st_ino)
        .map_err(|e| system("an open file", e))
}

fn read_beside(inode: u64, tree: &Tree) -> Result<Raw> {
    let Some(dir) = tree.reserved("records/i", false)? else {
        return Ok(Raw::default());
    };
    let Some(bytes) = read_file(&dir, &inode.to_string())? else {
        return Ok(Raw::default());
    };
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(Raw::default());
    };
    let Some((record, meta)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
        return Ok(Raw::default());
    };
    let meta_beside = (!meta.is_empty()).then(|| meta.to_vec());
    Ok(Raw {
        record: Some(record.to_vec()),
        meta_beside,
        by_inode: true,
        in_xattrs: false,
    })
}

fn write_beside(inode: u64, record: &Record, meta: Option<&[u8]>, tree: &Tree) -> Result<Vec<u8>> {
    let record = Record {
        has_meta: meta.is_some(),
        ..record.clone()
    }
    .encode();
    let dir = open_records("records/i", tree)?;
    let length = u32::try_from(record.len()).expect("records are far below 4 GiB");
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(&record);
    bytes.extend(meta.unwrap_or_default());
    write_file(&dir, &inode.to_string(), &bytes)?;
    Ok(record)
}

fn read_hashed(hash: &[u8], tree: &Tree) -> Result<Option<Vec<u8>>> {
    if hash.len() != HASH {
        return Ok(None); // nobody's record: a person wrote it
    }
    match tree.reserved("records", false)? {
        Some(dir) => Ok(read_file(&dir, &hex(hash))?.filter(|bytes| sha256(bytes) == hash)),
        None => Ok(None),
    }
}

/// Writes `records/HASH`, synced with its directory, and returns the hash. A file that is there
/// already is made young, so that a sweep under way spares it.
fn write_hashed(bytes: &[u8], tree: &Tree) -> Result<Vec<u8>> {
    let hash = sha256(bytes);
    let name = hex(&hash);
    let dir = open_records("records", tree)?;
    if read_file(&dir, &name)?.is_some_and(|there| there == bytes) && touch(&dir, &name) {
        return Ok(hash);
    }
    write_file(&dir, &name, bytes)?;
    Ok(hash)
}

fn open_records(what: &str, tree: &Tree) -> Result<OwnedFd> {
    tree.reserved(what, true)?
        .ok_or_else(|| StoreError::Unavailable(format!(".twintree/{what}")))
}

fn read_file(dir: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>> {
    let file = match open_own_file(dir, name, OFlags::RDONLY) {
        Ok(Some(file)) => file,
        // What stands in a record's place is no record.
        Ok(None) | Err(StoreError::Unavailable(_)) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| StoreError::from_io("records", e))?;
    Ok(Some(bytes))
}

/// Writes a file whole: under another name, synced, renamed over, its directory synced. In both
/// durabilities: a record must never name what a power cut took.
fn write_file(dir: &OwnedFd, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = format!("{name}.{:016x}", crate::random::number());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(dir, &temporary, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| system("records", e))?;
    let mut file = File::from(file);
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|e| StoreError::from_io("records", e))
        .and_then(|()| fs::renameat(dir, &temporary, dir, name).map_err(|e| system("records", e)));
    if let Err(e) = written {
        // The sweep takes what cannot be removed now.
        let _ = fs::unlinkat(dir, &temporary, AtFlags::empty());
        return Err(e);
    }
    fs::fsync(dir).map_err(|e| system("records", e))
}

fn touch(dir: &OwnedFd, name: &str) -> bool {
    let now = fs::Timespec {
        tv_sec: 0,
        tv_nsec: fs::UTIME_NOW,
    };
    let times = fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .to_vec()
}

/// A hash as the name of its file.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

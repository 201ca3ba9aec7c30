//! A file that somebody writes in the mount, as it is at one moment: the range that is wanted, as a reflink in an
//! unnamed file.
//!
//! Linux: FICLONERANGE writes the source's dirty pages out and shares its blocks under the lock that a write(2)
//! holds from its first byte to its last (xfs, btrfs): the clone has all of a write or nothing of it. A store
//! through a mapping takes no lock, but the pages are write-protected as they are written out, and the next store
//! to one faults and waits for the clone: of each thread's stores the clone has a first part, and none after it.
//! What the mount's kernel has not handed down (a mapping, where the mount is plain) is not in the file yet.
//!
//! Semantics: the file is looked at before the clone and after it. Where nothing moved, the snapshot has the ETag of
//! that moment, and another range under it is of the same; where something did, it has one of its own, and who asks
//! for another range under that, or came with the ETag of the first look, is refused (412), not given bytes that do
//! not fit.
//!
//! A clone costs its file's writer something: he waits while it is made, and the first write to a block that is shared
//! needs a new one, on a disk where he may have counted on his own. So it is bounded: [`LONGEST`], [`MOST`],
//! [`SHARE`]. What goes beyond, and what fails (a disk or a quota without room), is no snapshot; the file is then
//! read as it is. What its writer has left of a quota of his own nobody asks.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use crate::path;
use crate::record::FileState;
use crate::root::system;
use crate::{Bucket, FluxNumber, Inode, Object, ObjectKey, Result, random};

/// The longest range, in bytes: its dirty pages are written and its blocks counted while the writer waits.
const LONGEST: u64 = 1 << 30;
/// Snapshots at once.
const MOST: usize = 64;
/// All at once hold at most one of so many parts of what is free, so that their writers find room for what they
/// write.
const SHARE: u64 = 8;
/// What a clone begins and ends at, in bytes: no filesystem that has reflinks has larger blocks.
const ALIGNMENT: u64 = 64 << 10;
/// How often a range is cloned again of a file whose size moves.
const TRIES: u32 = 4;
/// Filesystems without reflinks that are remembered; beyond it they are tried again.
const MAX_KNOWN: usize = 1000;

/// What came of asking for a snapshot.
#[derive(Debug)]
pub enum Snapshot {
    /// The object as it was at one moment; it does not move any more.
    Taken(Box<Object>),
    /// It is not what was described, and nobody has it open any more: it is to be opened again.
    Closed,
    /// There is none here, or not now.
    None,
}

/// The snapshots of one store.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    held: Mutex<Held>,
    /// Devices that have no reflinks.
    without: Mutex<HashSet<u64>>,
}

#[derive(Debug, Default)]
struct Held {
    count: usize,
    bytes: u64,
}

/// One snapshot's part of what all may hold; given back when it is dropped.
#[derive(Debug)]
struct Share {
    snapshots: Arc<Snapshots>,
    bytes: u64,
}

/// What an [`Object`] keeps of the snapshot that it is.
#[derive(Debug)]
pub(crate) struct Kept {
    range: Range<u64>,
    /// The file and its share, until both are closed.
    open: Option<(Arc<File>, Share)>,
}

impl Bucket {
    /// Takes a snapshot of a range of an object that is in flux. Blocking.
    pub fn snapshot(&self, key: &ObjectKey, object: &Object, wanted: Range<u64>) -> Snapshot {
        let Some(file) = &object.file else {
            return Snapshot::None;
        };
        if object.remote || self.is_read_only() || wanted.is_empty() {
            return Snapshot::None;
        }
        self.take_snapshot(key, object, file, wanted)
            .unwrap_or_else(|e| {
                tracing::debug!(bucket = self.name().as_str(), "no snapshot: {e}");
                Snapshot::None
            })
    }

    fn take_snapshot(
        &self,
        key: &ObjectKey,
        object: &Object,
        file: &File,
        wanted: Range<u64>,
    ) -> Result<Snapshot> {
        let snapshots = &self.store.snapshots;
        let inode = FileState::look(file)?.inode();
        if !snapshots.may_be_on(inode.device) {
            return Ok(Snapshot::None);
        }
        let range = aligned(&wanted, object.info.size);
        let dir = self.snapshot_dir(key)?;
        let bytes = range.end.min(object.info.size.max(wanted.end)) - range.start;
        let Some(share) = Share::of(snapshots, &dir, bytes) else {
            return Ok(Snapshot::None);
        };
        write_out(file, &range);
        for _ in 0..TRIES {
            let before = FileState::look(file)?;
            let to = match unnamed(&dir).and_then(|to| clone(file, to, &range, before.size)) {
                Ok(to) => to,
                Err(e) => {
                    snapshots.failed(inode.device, e);
                    return Err(system(key.as_str(), e));
                }
            };
            let (clone, after) = (FileState::look(&to)?, FileState::look(file)?);
            let reaches_the_end = range.end >= before.size;
            // The size is the clone's, where that has the end; nothing was shared of a file that ended before it.
            if clone.size < range.start || !reaches_the_end && after.size != before.size {
                continue;
            }
            let seen = FileState {
                size: if reaches_the_end {
                    clone.size
                } else {
                    before.size
                },
                ..before
            };
            let Some(mut taken) = self.described(object, inode, &seen, after == before) else {
                return Ok(Snapshot::Closed);
            };
            let to = Arc::new(to);
            taken.file = Some(Arc::clone(&to));
            taken.stamp = (clone.size, clone.modified);
            taken.snapshot = Some(Arc::new(Kept {
                range: range.start..clone.size,
                open: Some((to, share)),
            }));
            return Ok(Snapshot::Taken(Box::new(taken)));
        }
        Ok(Snapshot::None)
    }

    /// Where staged files of the key lie: a clone inherits there what its source did (project, no copy-on-write).
    fn snapshot_dir(&self, key: &ObjectKey) -> Result<OwnedFd> {
        match path::native(key) {
            Some(path) => self.tree.nearest_dir(&path),
            None => self.tree.open_top(),
        }
    }

    /// The object as `seen`; `None` where that is another than was described, and not in flux. What moved between two
    /// looks may hold the bytes of either, and gets an ETag that nothing else has: no other range is taken for one of
    /// the same moment, and no condition that was true of the first look is met.
    fn described(
        &self,
        object: &Object,
        inode: Inode,
        seen: &FileState,
        is_of_one_look: bool,
    ) -> Option<Object> {
        let mut described = object.clone();
        if !is_of_one_look || (seen.size, seen.modified) != object.stamp {
            let open = self.store.changes.in_flux(inode)?;
            let salt = match is_of_one_look {
                true => open,
                false => FluxNumber(random::number()),
            };
            let info = &mut described.info;
            info.etag = seen.derivation(self.stable_inodes()).in_flux(salt);
            (info.size, info.modified) = (seen.size, seen.modified);
        }
        Some(described)
    }
}

impl Object {
    /// Is it a snapshot? Its bytes are on no page yet, and do not move.
    pub fn is_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Has its file these bytes? A snapshot has those that it was taken for.
    pub fn holds(&self, bytes: &Range<u64>) -> bool {
        self.snapshot.as_ref().is_none_or(|kept| {
            bytes.is_empty() || kept.range.start <= bytes.start && bytes.end <= kept.range.end
        })
    }
}

impl Snapshots {
    fn may_be_on(&self, device: u64) -> bool {
        !self.without.lock().contains(&device)
    }

    fn failed(&self, device: u64, e: Errno) {
        // Of unnamed files, and of reflinks.
        let lacking = [Errno::OPNOTSUPP, Errno::NOTTY, Errno::NOSYS, Errno::ISDIR];
        if lacking.contains(&e) {
            let mut without = self.without.lock();
            if without.len() >= MAX_KNOWN {
                without.clear();
            }
            without.insert(device);
        }
    }
}

impl Share {
    /// `None`: it would be too much.
    fn of(snapshots: &Arc<Snapshots>, dir: &OwnedFd, bytes: u64) -> Option<Self> {
        let facts = fs::fstatvfs(dir).ok()?;
        let available = facts.f_bavail.saturating_mul(facts.f_frsize);
        let mut held = snapshots.held.lock();
        let all = held.bytes.saturating_add(bytes);
        if bytes > LONGEST || held.count >= MOST || all > available / SHARE {
            return None;
        }
        (held.count, held.bytes) = (held.count + 1, all);
        Some(Self {
            snapshots: Arc::clone(snapshots),
            bytes,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.snapshots.held.lock();
        held.count -= 1;
        held.bytes -= self.bytes;
    }
}

impl Drop for Kept {
    /// Linux: the last close frees the clone's blocks, which on btrfs waits; this may be a thread that must not.
    fn drop(&mut self) {
        let open = self.open.take();
        let closing = std::thread::Builder::new().name("closing".to_owned());
        if let Err(e) = closing.spawn(move || drop(open)) {
            tracing::debug!("a snapshot was closed on the spot: {e}");
        }
    }
}

/// The range that is cloned for the wanted one of a file of this size; what goes to the end goes on where that moves.
fn aligned(wanted: &Range<u64>, size: u64) -> Range<u64> {
    let start = wanted.start - wanted.start % ALIGNMENT;
    let end = wanted.end.checked_next_multiple_of(ALIGNMENT);
    start..end.filter(|_| wanted.end < size).unwrap_or(u64::MAX)
}

/// A file that nobody can give a name, nor open.
fn unnamed(dir: &OwnedFd) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::EXCL | OFlags::CLOEXEC;
    fs::openat(dir, c".", flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Writes dirty pages of the range to disk: what is left to be written while the writer waits is little then.
fn write_out(file: &File, range: &Range<u64>) {
    let length = (range.end - range.start).try_into().unwrap_or(0); // 0: to the end
    let Ok(offset) = range.start.try_into() else {
        return;
    };
    let flags = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: a system call on a descriptor that is borrowed for its duration; it touches no memory of ours.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) };
    if result != 0 {
        let e = std::io::Error::last_os_error();
        tracing::debug!("nothing was written out ahead of a snapshot: {e}");
    }
}

/// Shares the range's blocks at the same place of an empty file, which is given back; up to the end, wherever
/// that is by then, where the range reached the end that was seen.
fn clone(from: &File, to: File, range: &Range<u64>, size: u64) -> rustix::io::Result<File> {
    let whole = range.end >= size;
    let wanted = libc::file_clone_range {
        src_fd: i64::from(from.as_raw_fd()),
        src_offset: range.start,
        src_length: if whole { 0 } else { range.end - range.start }, // 0: to the end
        dest_offset: range.start,
    };
    // SAFETY: FICLONERANGE reads the structure, which outlives the call, and no other memory of ours (ioctl_ficlone(2)).
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONERANGE, &raw const wanted) };
    if result == 0 {
        return Ok(to);
    }
    let e = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests;

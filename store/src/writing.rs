//! A writable open of the mount, as the records see it: what it changes, no record may go on speaking of.
//!
//! Dropping the content half is one fsetxattr: the record keeps its type, its fields of the object half and
//! its place, and gets a flag that says that nothing is known of the content, and a stamp that no file has.
//! A reader finds it as it was or dropped; nothing between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, FileType, OFlags};

use crate::record::{self, FileState, Record, Verdict, disk};
use crate::root::system;
use crate::{Bucket, FluxNumber, Inode, ObjectKey, Result, StoreError};

/// One writable open, counted until it is finished or dropped.
pub struct Writing {
    bucket: Bucket,
    inode: Inode,
    number: FluxNumber,
    /// What the file showed when it was opened.
    opened: FileState,
    /// Was the content half dropped?
    touched: AtomicBool,
    ended: bool,
}

/// What a change that leaves the content alone may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// ctime alone: chmod, chown, rename, link, setxattr. An mtime that moved as well is somebody's write.
    Ctime,
    /// mtime as well: utimens.
    Mtime,
}

impl Bucket {
    /// Counts a writable open of a file of this bucket; before anything can be written through it.
    ///
    /// # Errors
    /// What fstat says.
    pub fn writing(&self, file: impl AsFd) -> Result<Writing> {
        let inode = FileState::look(&file)?.inode();
        let number = self.store.changes.begin(inode);
        // Looked at once it is counted: what others write now is counted as theirs or as this one's.
        let opened = FileState::look(&file).inspect_err(|_| {
            self.store.changes.end(inode, false);
        })?;
        Ok(Writing {
            number,
            bucket: self.clone(),
            inode,
            opened,
            touched: AtomicBool::new(false),
            ended: false,
        })
    }

    /// Does what moves a file's ctime (or sets its mtime) and leaves its content (chmod, chown, utimens,
    /// rename, link, setxattr), and stamps a valid record again. `file` may be opened with O_PATH. A record
    /// that cannot be stamped is left for the sealer: it never fails the call. `change` runs while the record
    /// is held: it must neither announce nor come back here.
    ///
    /// # Errors
    /// What `change` says.
    pub fn keeping_record<T, E>(
        &self,
        file: impl AsFd,
        moves: Moves,
        change: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.keeping_records(&[file.as_fd()], moves, change)
    }

    /// As [`Bucket::keeping_record`], for what changes several files: a rename that exchanges two.
    ///
    /// # Errors
    /// What `change` says.
    pub fn keeping_records<T, E>(
        &self,
        files: &[BorrowedFd<'_>],
        moves: Moves,
        change: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let files: Vec<(OwnedFd, FileState)> = files
            .iter()
            .filter_map(|file| {
                let file = readable(file).ok().flatten()?;
                let state = FileState::look(&file).ok()?;
                Some((file, state))
            })
            .collect();
        let inodes = files.iter().map(|(_, state)| state.inode());
        let _held = self.store.changes.records(inodes);
        let kept: Vec<Option<Record>> = files
            .iter()
            .map(|(file, _)| self.before_change(file))
            .collect();
        let done = change()?;
        for ((file, state), record) in files.iter().zip(kept) {
            if let Some(record) = record
                && self.store.changes.in_flux(state.inode()).is_none()
            {
                self.after_change(file, record, moves);
            }
        }
        Ok(done)
    }

    /// Does what takes a name in a directory from the file that has it, and keeps the record true of one that has
    /// other names: its ctime moves as well. `there`: what has the name now.
    ///
    /// # Errors
    /// What `change` says.
    pub(crate) fn keeping_other_names<T, E>(
        &self,
        dir: impl AsFd,
        name: &[u8],
        there: Option<&fs::Stat>,
        change: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let is_linked = |stat: &&fs::Stat| {
            crate::root::kind(stat) == FileType::RegularFile && stat.st_nlink > 1
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |_| fs::openat(dir, name, flags, fs::Mode::empty()).ok();
        match there.filter(is_linked).and_then(open) {
            Some(file) => self.keeping_record(file, Moves::Ctime, change),
            None => change(),
        }
    }

    /// Would a file, or a file below a directory, lose something of its record by leaving this bucket? That lies in
    /// `records/` where the filesystem has no room for it in the file. Of a directory, and of a file that we may
    /// not read, only `records/` is looked at.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn keeps_beside(&self, entry: impl AsFd) -> Result<bool> {
        let stat = fs::fstat(&entry).map_err(|e| system("an entry", e))?;
        match (crate::root::kind(&stat), readable(&entry)) {
            (FileType::RegularFile, Ok(Some(file))) => disk::lies_beside(file, &self.tree),
            (FileType::RegularFile | FileType::Directory, _) => disk::is_any_beside(&self.tree),
            _ => Ok(false),
        }
    }

    /// The record that speaks of a file whose record is held.
    fn before_change(&self, file: &OwnedFd) -> Option<Record> {
        let verdict = FileState::look(file)
            .and_then(|state| record::examine(self, file, state))
            .map(|examined| examined.verdict);
        // mtime may be set to what the record says: its content half must be gone by then.
        if matches!(verdict, Ok(Verdict::Stale(_) | Verdict::None))
            && let Err(e) = self.drop_content(file)
        {
            tracing::debug!("a stale record cannot be dropped: {e}");
        }
        match verdict {
            Ok(Verdict::Valid(record)) => Some(record),
            _ => None,
        }
    }

    /// Stamps it again.
    fn after_change(&self, file: &OwnedFd, mut record: Record, moves: Moves) {
        let again = FileState::look(file).and_then(|now| {
            let written = moves == Moves::Ctime && now.modified != record.stamp.modified;
            if now.size != record.stamp.size || written {
                return Ok(false);
            }
            record.stamp.modified = now.modified;
            self.restamp_held(file, &now, record, None)
        });
        if let Err(e) = again {
            tracing::debug!("a record cannot be stamped again: {e}");
        }
    }

    /// Drops what the record of an open file says of its content. The caller holds the record.
    pub(crate) fn drop_content(&self, file: impl AsFd) -> Result<()> {
        let raw = disk::read(&file, &self.tree)?;
        let Some(record) = raw.record.and_then(|b| record::Record::decode(&b).ok()) else {
            return Ok(()); // none, or none that any twintree of this version claims
        };
        if record.dropped {
            return Ok(());
        }
        disk::write_record(&file, &record.without_content(), &self.tree).map(|_| ())
    }

    /// Where the filesystem has no xattrs, the object half lies under the inode's number, and only a stamp
    /// tells that it is still that file's: at the last close it gets one. The caller holds the record.
    fn keep_object_half(&self, file: impl AsFd) -> Result<()> {
        let raw = disk::read(&file, &self.tree)?;
        if !raw.by_inode {
            return Ok(());
        }
        match raw.record.and_then(|b| record::Record::decode(&b).ok()) {
            Some(mut record) if record.dropped => {
                record.stamp = record::Stamp::of(&FileState::look(&file)?);
                disk::write_record(&file, &record, &self.tree).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

impl Writing {
    /// Its number.
    pub fn number(&self) -> FluxNumber {
        self.number
    }

    /// The file.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// The content is about to be changed: drops what the record says of it, once, before it returns.
    ///
    /// # Errors
    /// What the disk says: then the content must not be changed.
    pub fn touched(&self, file: impl AsFd) -> Result<()> {
        if self.touched.load(Ordering::Acquire) {
            return Ok(());
        }
        let file = match readable(&file) {
            // What we may not read, S3 does not answer.
            Err(StoreError::Denied(_)) => None,
            other => other?,
        };
        if let Some(file) = file {
            let _held = self.bucket.store.changes.record(self.inode);
            match self.bucket.drop_content(&file) {
                // A full disk, or a file that may only grow (chattr +a): its times have to tell.
                Err(StoreError::NoSpace(_) | StoreError::Denied(_)) => touch(&file),
                other => other?,
            }
        }
        self.touched.store(true, Ordering::Release);
        Ok(())
    }

    /// At FLUSH: was the content changed since the open? Then what the record says of it is dropped before
    /// this returns. Passthrough writes and stores through mappings show nowhere else.
    ///
    /// # Errors
    /// What the disk says.
    pub fn compare(&self, file: impl AsFd) -> Result<bool> {
        if self.touched.load(Ordering::Acquire) {
            return Ok(true);
        }
        if FileState::look(&file)? == self.opened {
            return Ok(false);
        }
        self.touched(file)?;
        Ok(true)
    }

    /// At RELEASE: compares, ends the count, and has the file sealed in the background where this was the
    /// last open and any of them changed it. `key`: what the file is called now, if it has a name.
    ///
    /// # Errors
    /// What the disk says; the count is ended all the same.
    pub fn finish(mut self, file: impl AsFd, key: Option<&ObjectKey>) -> Result<()> {
        let moved = self.compare(&file);
        if let Ok(true) = moved {
            let _held = self.bucket.store.changes.record(self.inode);
            if let Err(e) = self.bucket.keep_object_half(&file) {
                tracing::debug!("the object half of a closed file is lost: {e}");
            }
        }
        self.ended = true;
        let changes = Arc::clone(&self.bucket.store.changes);
        if let Ok(state) = FileState::look(&file) {
            changes.leaves(state);
        }
        let last = changes.end(self.inode, *moved.as_ref().unwrap_or(&true));
        if let (true, Some(key)) = (last, key) {
            self.bucket
                .store
                .seal_queue
                .push_written(self.bucket.name(), key.as_str());
        }
        moved.map(|_| ())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.ended {
            let changes = &self.bucket.store.changes;
            changes.end(self.inode, self.touched.load(Ordering::Acquire));
        }
    }
}

/// The file, opened in a way that xattrs can be read by; `None` for what is no regular file.
fn readable(file: &impl AsFd) -> Result<Option<OwnedFd>> {
    let failed = |e| system("an open file", e);
    let stat = fs::fstat(file).map_err(failed)?;
    if crate::root::kind(&stat) != FileType::RegularFile {
        return Ok(None);
    }
    if !fs::fcntl_getfl(file)
        .map_err(failed)?
        .contains(OFlags::PATH)
    {
        let again = file.as_fd().try_clone_to_owned();
        return again
            .map(Some)
            .map_err(|e| StoreError::from_io("an open file", e));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    crate::root::reopen(file, &stat, flags)
        .map(Some)
        .map_err(failed)
}

/// Moves mtime and ctime to now; what cannot be moved here is moved by the write.
fn touch(file: &OwnedFd) {
    let now = fs::Timespec {
        tv_sec: 0,
        tv_nsec: fs::UTIME_NOW,
    };
    let times = fs::Timestamps {
        last_access: fs::Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        last_modification: now,
    };
    if let Err(e) = fs::futimens(file, &times) {
        tracing::debug!("a record can be neither dropped nor outdated: {e}");
    }
}

#[cfg(test)]
mod tests;

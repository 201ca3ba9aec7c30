//! The tree as the mount sees it: every system call that POSIX has for what lies below the root, on
//! descriptors. It keeps names back, keeps records true, and knows neither FUSE nor who asks.
//!
//! The top shows the buckets and nothing else; below a bucket everything is the kernel's own answer, but for
//! the names that are kept back and the xattrs that are ours. Errors are the kernel's own numbers.

mod dir;
mod hold;
mod status;
mod xattrs;

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::path::key_text;
use crate::{
    Bucket, BucketName, BucketSettings, Changes, Inode, Moves, ObjectKey, Store, StoreError,
    Writing,
};

pub use dir::Entry;
pub use hold::{Hold, Pinned};
pub use status::Status;

use hold::Mounts;

/// The flags of open(2) that are not passed on: the kernel has dealt with them, or the backing file must not
/// have them (O_APPEND would break offset writes and mappings).
const NOT_PASSED_ON: OFlags = OFlags::APPEND
    .union(OFlags::DIRECT)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOCTTY)
    .union(OFlags::TRUNC);
/// Linux: FMODE_EXEC, which FUSE passes among the flags of an open for execve.
const FOR_EXECUTION: u32 = 0x20;

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Directly under the root: the buckets.
    Top,
    /// In a bucket, at any depth.
    Below,
}

/// The tree of one store, for one mount.
pub struct TreeView {
    store: Arc<Store>,
    mounts: Mounts,
}

/// Times to set; `None`: left as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewTimes {
    /// Access.
    pub accessed: Option<NewTime>,
    /// Modification.
    pub modified: Option<NewTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum NewTime {
    /// Whatever the kernel says now.
    Now,
    /// Seconds and nanoseconds since the epoch.
    At(i64, u32),
}

/// Which bucket an open file lies in, and its key there; no key: its name is gone, or nobody's.
pub struct Place {
    /// The bucket.
    pub bucket: Bucket,
    /// The key.
    pub key: Option<ObjectKey>,
}

impl TreeView {
    /// A view of the whole tree.
    ///
    /// # Errors
    /// Where the root cannot be opened.
    pub fn new(store: Arc<Store>) -> crate::Result<Self> {
        let mounts = Mounts::new(store.open_root()?);
        Ok(Self { store, mounts })
    }

    /// The root's own directory.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.mounts.root()
    }

    /// Who is writing, and who must be told.
    pub fn changes(&self) -> &Arc<Changes> {
        self.store.changes()
    }

    /// May nothing be written?
    pub fn is_read_only(&self) -> bool {
        self.store.options().read_only
    }

    /// Are inodes held by file handle (else by a descriptor each)?
    pub fn holds_by_handle(&self) -> bool {
        self.mounts.has_handles()
    }

    /// Is a name to be seen where it stands?
    pub fn shows(&self, level: Level, name: &[u8]) -> bool {
        !self.store.hide.hides(name) && (level == Level::Below || bucket_name(name).is_some())
    }

    /// Refuses to make a name that is kept back, or no bucket's.
    ///
    /// # Errors
    /// EPERM.
    fn check_new(&self, level: Level, name: &[u8]) -> rustix::io::Result<()> {
        match level {
            Level::Below if !self.store.hide.hides(name) => Ok(()),
            Level::Below | Level::Top => Err(Errno::PERM),
        }
    }

    /// What lies under a name: a link itself.
    ///
    /// # Errors
    /// ENOENT for what is kept back or is no bucket, and the kernel's word.
    pub fn status_at(
        &self,
        level: Level,
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<Status> {
        if !self.shows(level, name) {
            return Err(Errno::NOENT);
        }
        let status = status::at(dir, name)?;
        match level == Level::Top && !status.is_directory() {
            true => Err(Errno::NOENT),
            false => Ok(status),
        }
    }

    /// The status of what a descriptor is of.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn status(&self, file: impl AsFd) -> rustix::io::Result<Status> {
        status::of(file)
    }

    /// Holds what lies under a name and showed `seen`. `None`: something else lies there by now.
    ///
    /// # Errors
    /// EMFILE where inodes are held by descriptors and those run out; the kernel's word.
    pub fn hold_at(
        &self,
        dir: impl AsFd,
        name: &[u8],
        seen: &Status,
    ) -> rustix::io::Result<Option<Hold>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = fs::openat(dir, name, flags, Mode::empty())?;
        if !status::of(&entry)?.is_same_inode(seen) {
            return Ok(None);
        }
        self.mounts.hold(entry).map(Some)
    }

    /// Opens a name (O_PATH) where it still stands for this very inode: its number and its birth.
    pub fn open_entry(
        &self,
        dir: impl AsFd,
        name: &[u8],
        (inode, born): (Inode, (i64, u32)),
    ) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = fs::openat(dir, name, flags, Mode::empty()).ok()?;
        let status = status::of(&entry).ok()?;
        (status.inode == inode && status.born == born).then_some(entry)
    }

    /// Holds what an open descriptor is of.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn hold(&self, file: impl AsFd) -> rustix::io::Result<Hold> {
        self.mounts.hold(reopen(file, OFlags::PATH)?)
    }

    /// Opens what a descriptor is of, with the flags that open(2) was given in the mount; never truncates.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open(&self, file: impl AsFd, flags: u32) -> rustix::io::Result<OwnedFd> {
        reopen(file, passed_on(flags))
    }

    /// Makes a file, or opens the one that is there, without truncating it.
    ///
    /// # Errors
    /// EPERM for names that are kept back, and the kernel's word.
    pub fn create(
        &self,
        level: Level,
        dir: impl AsFd,
        name: &[u8],
        flags: u32,
        mode: u32,
    ) -> rustix::io::Result<OwnedFd> {
        self.check_new(level, name)?;
        let exclusive = OFlags::from_bits_retain(flags) & OFlags::EXCL;
        let flags = passed_on(flags) | exclusive | OFlags::CREATE | OFlags::NOFOLLOW;
        fs::openat(
            dir,
            name,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
        )
    }

    /// Makes a directory; at the top a bucket, which then belongs to `owner`.
    ///
    /// # Errors
    /// EPERM for names that are kept back or no bucket's, and the kernel's word.
    pub fn make_directory(
        &self,
        level: Level,
        dir: impl AsFd,
        name: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> rustix::io::Result<()> {
        if level == Level::Below {
            self.check_new(level, name)?;
            return fs::mkdirat(dir, name, Mode::from_raw_mode(mode));
        }
        let bucket = new_bucket_name(name).ok_or(Errno::PERM)?;
        // The kernel knows, since it asked: to tell it would wait for the lock that it holds.
        self.store
            .create_bucket_unheard(&bucket, BucketSettings::default())
            .map_err(number)?;
        let made = fs::openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        let current = status::of(&made)?;
        if (current.user, current.group) != owner {
            fs::chownat(&made, c"", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
        }
        fs::chmod(proc_path(&made), Mode::from_raw_mode(mode))
    }

    /// Makes a FIFO, socket, device or plain file.
    ///
    /// # Errors
    /// As [`TreeView::create`].
    pub fn make_node(
        &self,
        level: Level,
        dir: impl AsFd,
        name: &[u8],
        mode: u32,
        device: u64,
    ) -> rustix::io::Result<()> {
        self.check_new(level, name)?;
        let kind = fs::FileType::from_raw_mode(mode);
        fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode), device)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`TreeView::create`].
    pub fn make_symlink(
        &self,
        level: Level,
        dir: impl AsFd,
        name: &[u8],
        target: &[u8],
    ) -> rustix::io::Result<()> {
        self.check_new(level, name)?;
        fs::symlinkat(target, dir, name)
    }

    /// Gives what a descriptor is of another name.
    ///
    /// # Errors
    /// As [`TreeView::create`].
    pub fn link(
        &self,
        level: Level,
        file: impl AsFd,
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        self.check_new(level, name)?;
        self.keeping_record(&file, || {
            match fs::linkat(&file, c"", &dir, name, AtFlags::EMPTY_PATH) {
                // Linux: by descriptor only with CAP_DAC_READ_SEARCH.
                Err(Errno::NOENT | Errno::PERM) => fs::linkat(
                    fs::CWD,
                    proc_path(&file),
                    &dir,
                    name,
                    AtFlags::SYMLINK_FOLLOW,
                ),
                other => other,
            }
        })
    }

    /// Renames, with the flags of renameat2(2). A bucket may get another legal name, and nothing else may
    /// come to the top or leave it.
    ///
    /// # Errors
    /// EPERM for names that are kept back and moves from or to the top, and the kernel's word.
    pub fn rename(
        &self,
        from: (Level, BorrowedFd<'_>, &[u8]),
        to: (Level, BorrowedFd<'_>, &[u8]),
        flags: u32,
    ) -> rustix::io::Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        match (from.0, to.0) {
            (Level::Below, Level::Below) => {
                self.check_new(to.0, to.2)?;
                self.check_new(from.0, from.2)?;
            }
            (Level::Top, Level::Top) if self.shows(Level::Top, from.2) => {
                new_bucket_name(to.2)
                    .filter(|_| self.shows(Level::Top, to.2))
                    .ok_or(Errno::PERM)?;
            }
            _ => return Err(Errno::PERM),
        }
        let rename = || fs::renameat_with(from.1, from.2, to.1, to.2, flags);
        let look = |dir, name| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fs::openat(dir, name, flags, Mode::empty()).ok()
        };
        let Some(moved) = look(from.1, from.2) else {
            return rename();
        };
        // Of EXCHANGE both stay; of a replaced file other names may stay: their ctime moves as well.
        let other = look(to.1, to.2);
        let files: Vec<_> = [Some(&moved), other.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        match self.place(&moved) {
            Some(place) => place.bucket.keeping_records(&files, Moves::Ctime, rename),
            None => rename(),
        }
    }

    /// Removes a name that is no directory's.
    ///
    /// # Errors
    /// ENOENT for what is kept back, EPERM at the top, and the kernel's word.
    pub fn remove_file(&self, level: Level, dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
        if !self.shows(level, name) {
            return Err(Errno::NOENT);
        }
        if level == Level::Top {
            return Err(Errno::ISDIR);
        }
        let remove = || fs::unlinkat(&dir, name, AtFlags::empty());
        match status::at(&dir, name) {
            Ok(status) if status.is_file() && status.links > 1 => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let entry = fs::openat(&dir, name, flags, Mode::empty())?;
                self.keeping_record(entry, remove)
            }
            _ => remove(),
        }
    }

    /// Removes an empty directory; at the top a bucket that holds no object.
    ///
    /// # Errors
    /// ENOENT for what is kept back, ENOTEMPTY, and the kernel's word.
    pub fn remove_directory(
        &self,
        level: Level,
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        if !self.shows(level, name) {
            return Err(Errno::NOENT);
        }
        if level == Level::Below {
            return fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        }
        // S3 takes a person's empty directories with the bucket; rmdir(2) does not.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = fs::openat(&dir, name, flags, Mode::empty())?;
        self.entries(Level::Below, top, 0, |entry| match entry.name {
            b"." | b".." => ControlFlow::Continue(()),
            _ => ControlFlow::Break(Err(Errno::NOTEMPTY)),
        })?;
        let bucket = bucket_name(name).ok_or(Errno::NOENT)?;
        self.store.delete_bucket_unheard(&bucket).map_err(number)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn read_link(&self, link: impl AsFd) -> rustix::io::Result<Vec<u8>> {
        fs::readlinkat(link, c"", Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// Changes owner or group.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn set_owner(
        &self,
        file: impl AsFd,
        user: Option<u32>,
        group: Option<u32>,
    ) -> rustix::io::Result<()> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        self.keeping_record(&file, || {
            fs::chownat(&file, c"", user, group, AtFlags::EMPTY_PATH)
        })
    }

    /// Changes the mode.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn set_mode(&self, file: impl AsFd, mode: u32) -> rustix::io::Result<()> {
        self.keeping_record(&file, || {
            fs::chmod(proc_path(&file), Mode::from_raw_mode(mode))
        })
    }

    /// Sets times.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn set_times(&self, file: impl AsFd, times: NewTimes) -> rustix::io::Result<()> {
        let times = Timestamps {
            last_access: timespec(times.accessed),
            last_modification: timespec(times.modified),
        };
        self.keeping_record_that(Moves::Mtime, &file, || {
            fs::utimensat(&file, c"", &times, AtFlags::EMPTY_PATH)
        })
    }

    /// Sets the size of a file that is open for writing.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn truncate_open(&self, file: impl AsFd, size: u64) -> rustix::io::Result<()> {
        fs::ftruncate(file, size)
    }

    /// Sets the size of what a descriptor is of (truncate(2)).
    ///
    /// # Errors
    /// The kernel's word.
    pub fn truncate(&self, file: impl AsFd, size: u64) -> rustix::io::Result<()> {
        let writing = self.writing(&file)?;
        let open = reopen(&file, OFlags::WRONLY | OFlags::NONBLOCK)?;
        if let Some(writing) = &writing {
            writing.touched(&open).map_err(number)?;
        }
        fs::ftruncate(&open, size)?;
        match writing {
            Some(writing) => {
                let key = self.place(&open).and_then(|place| place.key);
                writing.finish(&open, key.as_ref()).map_err(number)
            }
            None => Ok(()),
        }
    }

    /// Counts a writable open. `None`: the file lies in no bucket any more.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn writing(&self, file: impl AsFd) -> rustix::io::Result<Option<Writing>> {
        match self.place(&file) {
            Some(place) => place.bucket.writing(&file).map(Some).map_err(number),
            None => Ok(None),
        }
    }

    /// Where an open file lies now, by the path that the kernel knows of it.
    pub fn place(&self, file: impl AsFd) -> Option<Place> {
        let path = fs::readlink(proc_path(&file), Vec::new())
            .ok()?
            .into_bytes();
        let root = self.store.location().as_os_str().as_bytes();
        let rest = path
            .strip_prefix(root)
            .map(|rest| rest.strip_prefix(b"/").unwrap_or(rest))?;
        let (bucket, key) = match rest.iter().position(|byte| *byte == b'/') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => return None,
        };
        let bucket = self.store.bucket(&bucket_name(bucket)?).ok()?;
        let key = ObjectKey::parse(&key_text(key))
            .ok()
            // Linux: of a file without a name the path ends in " (deleted)".
            .filter(|_| status::of(&file).is_ok_and(|status| status.links > 0));
        Some(Place { bucket, key })
    }

    /// Does what moves a file's ctime and leaves its content, and keeps its record true.
    fn keeping_record<T>(
        &self,
        file: impl AsFd,
        change: impl FnOnce() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        self.keeping_record_that(Moves::Ctime, file, change)
    }

    fn keeping_record_that<T>(
        &self,
        moves: Moves,
        file: impl AsFd,
        change: impl FnOnce() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        if !status::of(&file)?.is_file() {
            return change();
        }
        match self.place(&file) {
            Some(place) => place.bucket.keeping_record(&file, moves, change),
            None => change(),
        }
    }
}

/// The errno of what the store says.
pub fn number(error: StoreError) -> Errno {
    match error {
        StoreError::NoSuchBucket(_) | StoreError::NoSuchKey(_) => Errno::NOENT,
        StoreError::BucketExists(_) => Errno::EXIST,
        StoreError::BucketNotEmpty { .. } => Errno::NOTEMPTY,
        StoreError::NoSpace(_) => Errno::NOSPC,
        StoreError::Denied(_) => Errno::ACCESS,
        StoreError::ReadOnly(_) => Errno::ROFS,
        StoreError::Reserved(_) => Errno::PERM,
        StoreError::InvalidRequest(_) => Errno::INVAL,
        StoreError::Io { source, .. } => source
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error),
        other => {
            tracing::warn!("the mount answers EIO: {other}");
            Errno::IO
        }
    }
}

fn bucket_name(name: &[u8]) -> Option<BucketName> {
    BucketName::parse(std::str::from_utf8(name).ok()?).ok()
}

/// A name that a new bucket may have: S3's rules, stricter than those for what is there already.
fn new_bucket_name(name: &[u8]) -> Option<BucketName> {
    BucketName::parse_new(std::str::from_utf8(name).ok()?).ok()
}

/// The flags that the backing file is opened with.
fn passed_on(flags: u32) -> OFlags {
    (OFlags::from_bits_retain(flags & !FOR_EXECUTION) - NOT_PASSED_ON) | OFlags::CLOEXEC
}

/// Opens what a descriptor is of once more, with these flags.
fn reopen(file: impl AsFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    fs::open(proc_path(&file), flags | OFlags::CLOEXEC, Mode::empty())
}

/// The path by which the calls reach a descriptor that take no descriptor of this kind.
fn proc_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

fn timespec(time: Option<NewTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, fs::UTIME_OMIT),
        Some(NewTime::Now) => (0, fs::UTIME_NOW),
        Some(NewTime::At(seconds, nanoseconds)) => (seconds, nanoseconds.into()),
    };
    Timespec { tv_sec, tv_nsec }
}

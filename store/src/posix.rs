//! The tree as the mount sees it: every system call that POSIX has for what lies below the root, on
//! descriptors. It keeps names back, keeps records true, and knows neither FUSE nor who asks.
//!
//! The top shows the buckets and nothing else; below a bucket everything is the kernel's own answer, but for
//! the names that are kept back, the annex that is shown beside them, and the xattrs that are ours. Errors are
//! the kernel's own numbers.

mod annex;
mod attributes;
mod dir;
mod hold;
mod names;
mod status;
mod xattrs;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use crate::path::key_text;
use crate::rules::Scope;
use crate::{
    Access, Bucket, BucketName, Changes, Inode, Moves, ObjectKey, Store, StoreError, Writing,
};

pub use annex::{KEY_XATTR, key_of};
pub use attributes::{NewTime, NewTimes};
pub use dir::Entry;
pub use hold::{Hold, Pinned};
pub use status::{Role, Status};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Level {
    /// Directly under the root: the buckets.
    Top,
    /// Directly in a bucket: beside what lies there, its annex may be shown.
    Bucket,
    /// Deeper in a bucket.
    Below,
    /// In the annex of a bucket, in the directory at this path of it. Nothing is changed there.
    Annex(Vec<u8>),
}

/// The tree of one store, for one mount.
pub struct TreeView {
    store: Arc<Store>,
    mounts: Mounts,
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

    /// May some buckets not be written, where others may?
    pub fn has_read_only_buckets(&self) -> bool {
        self.store.has_read_only_buckets()
    }

    /// Refuses to change what lies in a bucket that is read-only, or nobody can tell where.
    ///
    /// # Errors
    /// EROFS.
    pub fn check_writable(&self, entry: impl AsFd) -> rustix::io::Result<()> {
        if !self.has_read_only_buckets() {
            return Ok(());
        }
        let read_only = match self.below_bucket(&entry) {
            Some((bucket, _)) => self.store.rules_of(&bucket).read_only,
            None => !status::of(entry)?.is_same_inode(&status::of(self.top())?),
        };
        match read_only {
            true => Err(Errno::ROFS),
            false => Ok(()),
        }
    }

    /// Is a name to be seen where it stands?
    fn shows(&self, level: &Level, dir: impl AsFd, name: &[u8]) -> bool {
        !self.scope(level, dir).hide.hides(name)
            && (*level != Level::Top || bucket_name(name).is_some())
    }

    /// What is kept back among the names of a directory.
    fn scope(&self, level: &Level, dir: impl AsFd) -> &Scope {
        let scopes = &self.store.scopes;
        if *level == Level::Top || scopes.is_one() {
            return scopes.usual();
        }
        let bucket = self.bucket_name_of(dir);
        bucket.map_or(scopes.usual(), |bucket| scopes.of(&bucket))
    }

    /// The directory (O_PATH) of a bucket that lies elsewhere than in the first root, which the top is; `None`: the
    /// name is no such bucket's.
    fn elsewhere(&self, level: &Level, name: &[u8]) -> Option<rustix::io::Result<OwnedFd>> {
        let alone = self.store.mapped.is_empty() && self.store.roots.len() == 1;
        if *level != Level::Top || alone {
            return None;
        }
        let bucket = bucket_name(name)?;
        if let Some(mapped) = self.store.mapped.get(&bucket) {
            let checked = mapped.check(Access::Blocking).map_err(number);
            return Some(checked.and_then(|()| reopen(&mapped.dir, OFlags::PATH)));
        }
        let root = match self.store.root_with(&bucket) {
            Ok(root) => root?,
            Err(e) => return Some(Err(number(e))),
        };
        if std::ptr::eq(root, self.store.first_root()) {
            return None;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Some(fs::openat(&root.dir, name, flags, Mode::empty()))
    }

    /// What lies under a name: a link itself.
    ///
    /// # Errors
    /// ENOENT for what is kept back or is no bucket, and the kernel's word.
    pub fn status_at(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<Status> {
        if let Level::Annex(path) = level {
            return self.status_in_annex(path, dir, name);
        }
        if !self.shows(level, &dir, name) {
            return Err(Errno::NOENT);
        }
        if let Some(bucket) = self.elsewhere(level, name) {
            return status::of(bucket?);
        }
        match status::at(&dir, name) {
            Ok(status) if *level == Level::Top && !status.is_directory() => Err(Errno::NOENT),
            Err(Errno::NOENT) if *level == Level::Bucket => self.status_of_annex(dir, name),
            other => other,
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
    /// EMFILE where inodes are held by descriptors and most of those that we may have are taken; the kernel's
    /// word.
    pub fn hold_at(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
        seen: &Status,
    ) -> rustix::io::Result<Option<Hold>> {
        let entry = match seen.role {
            Role::Annex => annex::open(dir)?,
            Role::Native | Role::Annexed => self.open_name(level, dir, name)?,
        };
        if !status::of(&entry)?.is_same_inode(seen) {
            return Ok(None);
        }
        self.mounts.hold(entry).map(Some)
    }

    /// Are files replaced just now between their lookup and what they were looked up for?
    pub fn is_contested(&self) -> bool {
        self.mounts.is_contested()
    }

    /// Holds a file open for a while, so that it can be used though it loses its last name.
    pub fn hold_open(&self, hold: &Arc<Hold>, entry: OwnedFd) {
        self.mounts.hold_open(hold, entry);
    }

    /// A descriptor (O_PATH) of an open file, which may have no name any more.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn path_only(&self, file: impl AsFd) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        fs::open(proc_path(&file), flags, Mode::empty())
    }

    /// Opens a name (O_PATH) where it still stands for this very inode: its number and its birth.
    pub fn open_entry(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
        (inode, born): (Inode, (i64, u32)),
    ) -> Option<OwnedFd> {
        let entry = self.open_name(level, dir, name).ok()?;
        let status = status::of(&entry).ok()?;
        (status.inode == inode && status.born == born).then_some(entry)
    }

    fn open_name(&self, level: &Level, dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        if let Some(bucket) = self.elsewhere(level, name) {
            return bucket;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(dir, name, flags, Mode::empty())
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

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn read_link(&self, link: impl AsFd) -> rustix::io::Result<Vec<u8>> {
        fs::readlinkat(link, c"", Vec::new()).map(std::ffi::CString::into_bytes)
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
        let (bucket, key) = self.below_bucket(&file)?;
        if key.is_empty() {
            return None;
        }
        let bucket = self.store.bucket(&bucket).ok()?;
        let key = ObjectKey::parse(&key_text(&key))
            .ok()
            // Linux: of a file without a name the path ends in " (deleted)".
            .filter(|_| status::of(&file).is_ok_and(|status| status.links > 0));
        Some(Place { bucket, key })
    }

    /// The bucket in which an open file or directory lies now; of a bucket's own directory, that bucket.
    fn bucket_name_of(&self, entry: impl AsFd) -> Option<BucketName> {
        self.below_bucket(entry).map(|(bucket, _)| bucket)
    }

    /// The bucket of an open file or directory, and its path in that, as the kernel knows it now.
    fn below_bucket(&self, file: impl AsFd) -> Option<(BucketName, Vec<u8>)> {
        let path = fs::readlink(proc_path(&file), Vec::new()).ok()?;
        let below = |top: &std::path::Path| {
            let rest = path.as_bytes().strip_prefix(top.as_os_str().as_bytes())?;
            match rest {
                b"" => Some(rest),
                _ => rest.strip_prefix(b"/"),
            }
        };
        for (name, mapped) in &self.store.mapped {
            if let Some(rest) = below(&mapped.location) {
                return Some((name.clone(), rest.to_vec()));
            }
        }
        let mut roots = self.store.roots.iter();
        let rest = roots.find_map(|root| below(&root.location))?;
        let at = rest.iter().position(|byte| *byte == b'/');
        let (bucket, rest) = rest.split_at(at.unwrap_or(rest.len()));
        let bucket = bucket_name(bucket)?;
        // What a mapped bucket takes the place of is nobody's.
        let shown = !self.store.mapped.contains_key(&bucket);
        shown.then(|| (bucket, rest.strip_prefix(b"/").unwrap_or(rest).to_vec()))
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
        StoreError::Mapped(_) | StoreError::Covers(_) => Errno::BUSY,
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

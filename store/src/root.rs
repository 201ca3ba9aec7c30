//! Every system call that resolves a name. A [`Tree`] holds the descriptor of a bucket's directory (or
//! of its annex), and the kernel resolves beneath it: no name leads out, whatever links lie there.
//!
//! Reads follow links that stay inside the bucket, by a walk of our own that applies the reserved
//! names to every component of every target. Writes never go through a linked directory.

mod dir;
mod own;
mod walk;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags};
use rustix::io::Errno;

use crate::notes::{self, Making};
use crate::path::{DiskPath, HideList, disk_name};
use crate::rules::Scope;
use crate::{Access, ObjectKey, Result, StoreError, Symlinks};

pub(crate) use dir::Dir;
pub(crate) use own::{misplaced, open_own, open_own_file};
pub(crate) use walk::reopen;

/// The longest path that is resolved in one call: below PATH_MAX.
const MAX_PATH: usize = 4000;
/// How often a directory that vanishes while we make its children is made again.
const MAX_RETRIES: u32 = 100;
/// How long the removal of a directory is given before it is looked for again.
const REMOVAL: Duration = Duration::from_micros(200);
/// How a directory is opened that is listed, synced or written into.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A directory that names are resolved beneath.
#[derive(Clone)]
pub(crate) struct Tree {
    dir: Arc<OwnedFd>,
    /// Where the directory lies, for absolute links that point back into it; `None`: such links lead out.
    location: Option<Arc<Vec<u8>>>,
    scope: Scope,
}

/// The directory that a write goes into.
pub(crate) enum Parent {
    /// It is there.
    Dir(OwnedFd),
    /// It, or an ancestor of it, does not exist yet.
    Missing,
    /// An ancestor is no directory; its path, as text.
    Blocked(String),
}

/// What [`Tree::make_parents`] made.
pub(crate) struct Parents {
    /// The directory that holds the last component.
    pub dir: OwnedFd,
    /// The directories that got a new entry, outermost first: each must be synced before the answer.
    pub grown: Vec<OwnedFd>,
}

impl Tree {
    /// A tree over an open directory.
    pub fn new(dir: Arc<OwnedFd>, location: Option<Arc<Vec<u8>>>, scope: Scope) -> Self {
        Self {
            dir,
            location,
            scope,
        }
    }

    /// The directory's descriptor; it may be O_PATH.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The names kept back.
    pub fn hide(&self) -> &Arc<HideList> {
        &self.scope.hide
    }

    /// What is kept back.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Is no symbolic link followed?
    pub fn refuses_links(&self) -> bool {
        self.scope.symlinks == Symlinks::Refuse
    }

    /// Refuses a key with a component that is kept back, wherever the key lives.
    pub fn check_hidden(&self, key: &ObjectKey) -> Result<()> {
        let mut components = key.as_str().split('/');
        match components.find(|component| self.scope.hide.hides(&disk_name(component))) {
            Some(component) => Err(StoreError::Reserved(component.to_owned())),
            None => Ok(()),
        }
    }

    /// The tree's own directory, opened for reading its names and for syncing.
    pub fn open_top(&self) -> Result<OwnedFd> {
        fs::openat(&self.dir, c".", DIRECTORY, Mode::empty()).map_err(|e| system("the bucket", e))
    }

    /// Opens a name for reading, with these flags beside O_CLOEXEC, O_NOCTTY and O_NONBLOCK. Links inside
    /// the bucket are followed. `None`: there is no such entry (or an ancestor is a file).
    ///
    /// # Errors
    /// `WouldBlock` with `Access::Cached`, `OutsideBucket`, `Reserved` behind a link, and the system's word.
    pub fn open(&self, path: &DiskPath, flags: OFlags, access: Access) -> Result<Option<OwnedFd>> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let mut resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        if access == Access::Cached {
            resolve |= ResolveFlags::CACHED;
        }
        match beneath(&self.dir, path, flags, resolve) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(Errno::AGAIN) if access == Access::Cached => Err(StoreError::WouldBlock),
            Err(Errno::LOOP) if self.refuses_links() => Ok(None),
            // A link somewhere, or a kernel without openat2: the walk knows what to do, and may wait.
            Err(Errno::LOOP | Errno::NOSYS) if access == Access::Cached => {
                Err(StoreError::WouldBlock)
            }
            Err(Errno::LOOP | Errno::NOSYS) => self.walk(path, flags),
            // Linux: somebody holds a write lease (a Samba oplock); without O_NONBLOCK the open breaks it.
            Err(Errno::AGAIN) => self.walk(path, flags - OFlags::NONBLOCK),
            Err(e) => Err(named(path, e)),
        }
    }

    /// Opens a name without following a link in its last place or anywhere before it: the entry itself.
    /// `None`: no entry.
    pub fn open_entry(&self, path: &DiskPath) -> Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.parent_for_write(path)? {
            Parent::Dir(dir) => match fs::openat(&dir, path.name(), flags, Mode::empty()) {
                Ok(entry) => Ok(Some(entry)),
                Err(Errno::NOENT) => Ok(None),
                Err(e) => Err(named(path, e)),
            },
            Parent::Missing | Parent::Blocked(_) => Ok(None),
        }
    }

    /// The directory that a write of `path` goes into, never through a link.
    ///
    /// # Errors
    /// `ThroughSymlink`, and the system's word.
    pub fn parent_for_write(&self, path: &DiskPath) -> Result<Parent> {
        let Some(parent) = path.parent() else {
            return self.open_top().map(Parent::Dir);
        };
        match self.open_strict(&parent, DIRECTORY) {
            Ok(dir) => Ok(Parent::Dir(dir)),
            Err(Errno::NOENT) => Ok(Parent::Missing),
            Err(Errno::NOTDIR) => Ok(Parent::Blocked(self.first_file(&parent))),
            Err(Errno::LOOP) => Err(StoreError::ThroughSymlink(text(path))),
            Err(e) => Err(named(&parent, e)),
        }
    }

    /// The nearest existing ancestor directory of `path`, where its bytes are staged. A blocked or linked
    /// ancestor ends the search at the last real directory: publishing decides what becomes of it.
    pub fn nearest_dir(&self, path: &DiskPath) -> Result<OwnedFd> {
        let mut parent = path.parent();
        while let Some(candidate) = parent {
            match self.open_strict(&candidate, DIRECTORY) {
                Ok(dir) => return Ok(dir),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => parent = candidate.parent(),
                Err(e) => return Err(named(&candidate, e)),
            }
        }
        self.open_top()
    }

    /// Makes the missing parents of `path`, noted (unless this is the annex) and marked as ours, and opens the last.
    ///
    /// # Errors
    /// `KeyBlocked` where an ancestor is a file, `ThroughSymlink`, and the system's word.
    pub fn make_parents(
        &self,
        path: &DiskPath,
        mut making: Option<&mut Making<'_>>,
    ) -> Result<Parents> {
        for _ in 0..MAX_RETRIES {
            match self.try_make_parents(path, making.as_deref_mut()) {
                // Linux: somebody prunes a directory between our mkdir and the next, and its name can
                // still be opened until the rmdir is through: once more, a little later.
                Err(StoreError::NoSuchKey(_)) => std::thread::sleep(REMOVAL),
                other => return other,
            }
        }
        Err(StoreError::Io {
            what: text(path),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    fn try_make_parents(
        &self,
        path: &DiskPath,
        mut making: Option<&mut Making<'_>>,
    ) -> Result<Parents> {
        let mut dir = self.open_top()?;
        let mut grown = Vec::new();
        let names: Vec<&[u8]> = path.components().collect();
        let folder = path.parent();
        for (depth, name) in names[..names.len() - 1].iter().enumerate() {
            let next = match open_child(&dir, name) {
                Err(Errno::NOENT) => {
                    if let (Some(making), Some(folder)) = (&mut making, &folder)
                        && grown.is_empty()
                    {
                        making.begin(folder, names.len() - 1 - depth)?;
                    }
                    match notes::make_folder(&dir, name, making.is_some()) {
                        Ok(made) => {
                            grown.push(
                                dir.try_clone()
                                    .map_err(|e| StoreError::from_io(text(path), e))?,
                            );
                            Ok(made)
                        }
                        Err(Errno::EXIST) => open_child(&dir, name),
                        Err(e) => return Err(vanished(path, e)),
                    }
                }
                other => other,
            };
            dir = match next {
                Ok(next) => next,
                Err(Errno::NOTDIR) if is_link(&dir, name) => {
                    return Err(StoreError::ThroughSymlink(text(path)));
                }
                Err(Errno::LOOP) => return Err(StoreError::ThroughSymlink(text(path))),
                Err(Errno::NOTDIR) => {
                    let by = format!("{:?} is a file", String::from_utf8_lossy(name));
                    return Err(StoreError::KeyBlocked {
                        key: text(path),
                        by,
                    });
                }
                Err(e) => return Err(vanished(path, e)),
            };
        }
        Ok(Parents { dir, grown })
    }

    /// Opens a directory below `.twintree/` (several components allowed), making it when asked.
    ///
    /// # Errors
    /// The system's word.
    pub fn reserved(&self, what: &str, create: bool) -> Result<Option<OwnedFd>> {
        reserved_in(&self.dir, what, create)
    }

    /// The tops of filesystems that are mounted inside this tree, as paths from it.
    pub fn mounts_inside(&self) -> Vec<DiskPath> {
        let Some(location) = &self.location else {
            return Vec::new();
        };
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let mut found = Vec::new();
        for line in table.split(|b| *b == b'\n') {
            let Some(point) = line.split(|b| *b == b' ').nth(4).map(unescape_octal) else {
                continue;
            };
            let inside = point
                .strip_prefix(location.as_slice())
                .and_then(|rest| rest.strip_prefix(b"/"));
            found.extend(inside.and_then(DiskPath::from_bytes));
        }
        found
    }

    /// Opens a directory below the `.twintree/` of a filesystem mounted inside this tree, if it is there.
    ///
    /// # Errors
    /// The system's word.
    pub fn reserved_at(&self, top: &DiskPath, what: &str) -> Result<Option<OwnedFd>> {
        match self.open_strict(top, DIRECTORY) {
            Ok(dir) => reserved_in(&dir, what, false),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(named(top, e)),
        }
    }

    /// The `stage/` directory of the filesystem that holds `parent`, which is the directory of `path`: the
    /// bucket's own, or one at the top of a filesystem mounted inside the bucket, so that publishing is a rename.
    ///
    /// # Errors
    /// The system's word.
    pub fn stage_dir(&self, path: &DiskPath, parent: BorrowedFd<'_>) -> Result<OwnedFd> {
        let home = mount_of(parent).map_err(|e| named(path, e))?;
        let missing = || StoreError::Unavailable("the stage directory".to_owned());
        if mount_of(self.dir.as_fd()).map_err(|e| named(path, e))? == home {
            return reserved_in(&self.dir, "stage", true)?.ok_or_else(missing);
        }
        let mut ancestors: Vec<DiskPath> =
            std::iter::successors(path.parent(), DiskPath::parent).collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let dir = self
                .open_strict(&ancestor, DIRECTORY)
                .map_err(|e| named(&ancestor, e))?;
            if mount_of(dir.as_fd()).map_err(|e| named(path, e))? == home {
                return reserved_in(&dir, "stage", true)?.ok_or_else(missing);
            }
        }
        reserved_in(&parent, "stage", true)?.ok_or_else(missing)
    }

    /// openat2 without links; on a kernel without it, the walk.
    fn open_strict(&self, path: &DiskPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        match beneath(&self.dir, path, flags, resolve) {
            Err(Errno::NOSYS) => self.step_by_step(path, flags),
            other => other,
        }
    }

    fn step_by_step(&self, path: &DiskPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let names: Vec<&[u8]> = path.components().collect();
        let mut dir = fs::openat(
            &self.dir,
            c".",
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        for name in &names[..names.len() - 1] {
            dir = fs::openat(
                &dir,
                *name,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
                Mode::empty(),
            )?;
        }
        fs::openat(&dir, path.name(), flags | OFlags::NOFOLLOW, Mode::empty())
    }

    /// The first ancestor that is no directory, as text.
    fn first_file(&self, path: &DiskPath) -> String {
        let chain: Vec<DiskPath> =
            std::iter::successors(Some(path.clone()), DiskPath::parent).collect();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = chain.iter().rev().find(|p| {
            let entry = self.open_strict(p, flags).and_then(fs::fstat);
            entry.is_ok_and(|stat| kind(&stat) != FileType::Directory)
        });
        text(file.unwrap_or(path))
    }
}

/// openat2 of a path of any length: one that the kernel would not take whole (path_resolution(7)) is resolved
/// in pieces, each beneath the one before it. Many empty components make such a path in the annex.
fn beneath(
    top: &impl AsFd,
    path: &DiskPath,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut rest = path.as_bytes();
    let mut dir: Option<OwnedFd> = None;
    while rest.len() > MAX_PATH {
        let slash = rest[..MAX_PATH].iter().rposition(|byte| *byte == b'/');
        let (piece, after) = rest.split_at(slash.ok_or(Errno::NAMETOOLONG)?);
        let here = dir.as_ref().map_or(top.as_fd(), AsFd::as_fd);
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        dir = Some(fs::openat2(here, piece, through, Mode::empty(), resolve)?);
        rest = &after[1..];
    }
    let here = dir.as_ref().map_or(top.as_fd(), AsFd::as_fd);
    fs::openat2(here, rest, flags, Mode::empty(), resolve)
}

/// Opens `.twintree/WHAT` below a directory, making it when asked. `.twintree` and `stage` are 0711, so that
/// mapped users reach their own stages; the rest is 0700.
fn reserved_in(top: &impl AsFd, what: &str, create: bool) -> Result<Option<OwnedFd>> {
    let name = |what: &str| format!("{}/{what}", crate::name::RESERVED);
    let mut dir: Option<OwnedFd> = None;
    for component in
        std::iter::once(crate::name::RESERVED).chain(what.split('/').filter(|c| !c.is_empty()))
    {
        let here = dir.as_ref().map_or_else(|| top.as_fd(), AsFd::as_fd);
        let next = match open_child(&here, component.as_bytes()) {
            Err(Errno::NOENT) if create => {
                let mode = if matches!(component, crate::name::RESERVED | "stage") {
                    0o711
                } else {
                    0o700
                };
                match fs::mkdirat(here, component, Mode::from_raw_mode(mode)) {
                    Ok(()) => sync_entry(&here).map_err(|e| system(&name(what), e))?,
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(system(&name(what), e)),
                }
                let made = open_child(&here, component.as_bytes())
                    .map_err(|e| misplaced(&name(what), e))?;
                // The umask must not make it tighter or wider than the format says.
                fs::fchmod(&made, Mode::from_raw_mode(mode)).map_err(|e| system(&name(what), e))?;
                Ok(made)
            }
            other => other,
        };
        match next {
            Ok(next) => dir = Some(next),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(misplaced(&name(what), e)),
        }
    }
    Ok(dir)
}

/// Makes a new entry of a directory durable; the directory may be open as O_PATH.
fn sync_entry(dir: &BorrowedFd<'_>) -> rustix::io::Result<()> {
    fs::fsync(fs::openat(dir, c".", DIRECTORY, Mode::empty())?)
}

/// Opens a directory's child directory for reading and syncing, never a link.
pub(crate) fn open_child(dir: &impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    fs::openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Blanks and such in mountinfo are `\ooo` (proc_pid_mountinfo(5)).
fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = &after[3..];
            }
            (first, _) => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn is_link(dir: &OwnedFd, name: &[u8]) -> bool {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| kind(&stat) == FileType::Symlink)
}

/// What a stat is of.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Device and mount of a descriptor: files of one pair can be linked and renamed among each other.
pub(crate) fn mount_of(fd: BorrowedFd<'_>) -> rustix::io::Result<(u32, u32, u64)> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = fs::statx(fd, c"", AtFlags::EMPTY_PATH, flags)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_mnt_id))
}

/// The path as a person reads it.
pub(crate) fn text(path: &DiskPath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}

/// A system error about a path.
pub(crate) fn named(path: &DiskPath, e: Errno) -> StoreError {
    match e {
        Errno::NXIO | Errno::NODEV => StoreError::NotAnObject {
            key: text(path),
            kind: "socket or device",
        },
        // A directory that was there a moment ago is a file or a link now.
        Errno::NOTDIR => StoreError::KeyBlocked {
            key: text(path),
            by: "a parent is no directory".to_owned(),
        },
        Errno::LOOP => StoreError::ThroughSymlink(text(path)),
        e => StoreError::from_io(text(path), e.into()),
    }
}

/// A system error about something that has no key.
pub(crate) fn system(what: &str, e: Errno) -> StoreError {
    StoreError::from_io(what, e.into())
}

/// A directory that went away while we made its children.
fn vanished(path: &DiskPath, e: Errno) -> StoreError {
    match e {
        Errno::NOENT => StoreError::NoSuchKey(text(path)),
        e => named(path, e),
    }
}

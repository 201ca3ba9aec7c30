//! A body on its way: an unnamed file in the target's own nearest directory, so that it inherits
//! group, ACL, label, project and filesystem from where it will live; or, where a filesystem has no
//! unnamed files, a named one in `stage/`.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::path::{self, DiskPath};
use crate::place::Folder;
use crate::room::Room;
use crate::root::{Parent, named, system};
use crate::{Bucket, KeyPolicy, ObjectKey, Result, StoreError, fsfacts};

/// What a new file's mode is before the umask (or the directory's default ACL).
const FILE_MODE: u32 = 0o666;

/// A body that is being received: an unnamed file in the target's own nearest directory (or a named
/// one in `stage/`). Dropping it discards it.
pub struct Stage {
    /// Where the body is written, from offset 0. On a local filesystem writes may be done inline.
    pub file: Arc<File>,
    /// Is the file on a filesystem of another machine?
    pub remote: bool,
    /// Room on the disk for an announced length, to be claimed before each write.
    pub room: Room,
    name: Option<StageName>,
}

/// The name of a staged file that has one.
struct StageName {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    /// Does dropping the stage remove it?
    discard: bool,
}

/// How an attempt to give a staged file its final name ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    /// It has it.
    Done,
    /// The name is taken, or the directory went away: look again.
    Again,
    /// The name is on another filesystem: the bytes must be copied there first.
    Elsewhere,
}

impl Bucket {
    /// Begins a write of `key`; `length` is preallocated, ahead of the bytes, where known; a disk without
    /// room for it shows here.
    ///
    /// # Errors
    /// `Reserved`, `KeyBlocked`, `ThroughSymlink`, `ReadOnly`, `NoSpace`, `Denied`.
    pub fn stage(&self, key: &ObjectKey, length: Option<u64>) -> Result<Stage> {
        self.check_writable()?;
        self.tree.check_hidden(key)?;
        let native = path::native(key);
        let near = match &native {
            // Refuses a linked directory now, and not after the last byte.
            Some(path) => match self.tree.parent_for_write(path)? {
                Parent::Dir(dir) => Some(dir),
                Parent::Missing | Parent::Blocked(_) => None,
            },
            None => None,
        };
        if self.store.options.keys == KeyPolicy::PosixOnly {
            // Says now that the key is blocked, and by what.
            self.locate(key, length == Some(0))?;
        }
        let mut stage = match native {
            Some(path) => self.open_stage_near(path, near)?,
            None => self.open_stage(None)?,
        };
        if let Some(length) = length {
            stage.room = Room::begin(&stage.file, 0, length)
                .map_err(|e| StoreError::from_io(key.as_str(), e))?;
        }
        Ok(stage)
    }

    /// Begins a write into a folder that is open, of a key that is not kept back. `None`: [`Bucket::stage`] knows a way
    /// where this one ends.
    ///
    /// # Errors
    /// As [`Bucket::stage`].
    pub(crate) fn stage_in(
        &self,
        folder: &Folder,
        key: &ObjectKey,
        length: u64,
    ) -> Result<Option<Stage>> {
        // What lies on another machine may have no unnamed files, and whatever says so is met there.
        let Ok(file) = open_unnamed(&folder.dir) else {
            return Ok(None);
        };
        let mut stage = Stage::of_unnamed(file, folder.remote);
        stage.room = Room::begin(&stage.file, 0, length)
            .map_err(|e| StoreError::from_io(key.as_str(), e))?;
        Ok(Some(stage))
    }

    /// Opens an empty staged file for a path (`None`: for the annex).
    pub(crate) fn open_stage(&self, path: Option<&DiskPath>) -> Result<Stage> {
        let Some(path) = path else {
            return self.open_stage_in(&self.own_stage_dir()?);
        };
        self.open_stage_near(path.clone(), None)
    }

    /// Opens an empty staged file for a path, whose directory is this one, where it is at hand.
    fn open_stage_near(&self, path: DiskPath, mut dir: Option<OwnedFd>) -> Result<Stage> {
        let target = path.clone();
        let mut near = Some(path);
        while let Some(path) = near {
            let dir = match dir.take() {
                Some(dir) => dir,
                None => self.tree.nearest_dir(&path)?,
            };
            match open_unnamed(&dir) {
                Ok(file) => return Ok(self.staged(file, None)),
                // It is being removed: whatever takes its place inherits from the one above.
                // Linux: ext4 says EPERM for that (ext4_new_inode).
                Err(Errno::NOENT) => {}
                Err(Errno::PERM) if is_removed(&dir) => {}
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                    return self.open_stage_in(&self.tree.stage_dir(&path, dir.as_fd())?);
                }
                Err(e) => return Err(named(&path, e)),
            }
            near = path.parent();
        }
        Err(named(&target, Errno::NOENT))
    }

    fn open_stage_in(&self, dir: &OwnedFd) -> Result<Stage> {
        match open_unnamed(dir) {
            Ok(file) => return Ok(self.staged(file, None)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(e) => return Err(system("stage", e)),
        }
        let name = stage_name();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(dir, &name[..], flags, Mode::from_raw_mode(FILE_MODE))
            .map_err(|e| system("stage", e))?;
        // The sweep leaves a locked file alone. Where there is no flock, its age alone protects it.
        if let Err(e) = fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            tracing::debug!("a staged file cannot be locked: {e}");
        }
        let dir = dir
            .try_clone()
            .map_err(|e| StoreError::from_io("stage", e))?;
        Ok(self.staged(
            file,
            Some(StageName {
                dir: Arc::new(dir),
                name,
                discard: true,
            }),
        ))
    }

    fn staged(&self, file: OwnedFd, name: Option<StageName>) -> Stage {
        let device = fs::fstat(&file).map_or(self.shared.id.0, |stat| stat.st_dev);
        let remote = self.is_remote_on(&file, device);
        let mut stage = Stage::of_unnamed(file, remote);
        stage.name = name;
        stage
    }

    /// Does what lies on this device, as `file` does, lie on another machine?
    pub(crate) fn is_remote_on(&self, file: impl AsFd, device: u64) -> bool {
        if device == self.shared.id.0 {
            self.shared.facts.remote
        } else {
            fsfacts::facts(file).remote
        }
    }

    /// The bucket's own `.twintree/stage/`.
    pub(crate) fn own_stage_dir(&self) -> Result<OwnedFd> {
        let missing = || StoreError::Unavailable(".twintree/stage".to_owned());
        self.tree.reserved("stage", true)?.ok_or_else(missing)
    }
}

impl Stage {
    fn of_unnamed(file: OwnedFd, remote: bool) -> Self {
        Self {
            file: Arc::new(File::from(file)),
            remote,
            room: Room::default(),
            name: None,
        }
    }

    /// A file of ours that lies elsewhere under a name, to be published by moving it. Dropping it leaves
    /// it where it is.
    pub(crate) fn of_named(file: Arc<File>, remote: bool, dir: OwnedFd, name: Vec<u8>) -> Self {
        Self {
            file,
            remote,
            room: Room::default(),
            name: Some(StageName {
                dir: Arc::new(dir),
                name,
                discard: false,
            }),
        }
    }

    /// Gives it a name of ours, outside the users' names; [`Stage::of_named`] publishes it from there.
    ///
    /// # Errors
    /// What the disk says; `XDEV` where it lies on another filesystem (or in another project of XFS).
    pub(crate) fn keep_as(&mut self, dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        match &self.name {
            None => link_unnamed(&self.file, dir, name.as_bytes())?,
            Some(stage) => fs::renameat(&stage.dir, &stage.name[..], dir, name)?,
        }
        self.name = None;
        Ok(())
    }

    /// Was it made in another directory than where it will live?
    pub(crate) fn has_name(&self) -> bool {
        self.name.is_some()
    }

    /// Gives it a name that nothing has.
    ///
    /// # Errors
    /// What the disk says. An ambiguous error of a network filesystem is settled by looking.
    pub(crate) fn link_new(&mut self, dir: &OwnedFd, path: &DiskPath) -> Result<Linked> {
        let result = match &self.name {
            None => link_unnamed(&self.file, dir, path.name()),
            Some(stage) => move_new(stage, dir, path.name()),
        };
        self.settle(result, dir, path)
    }

    /// Gives it a name that a file or link has, in one step; `stage_dir` is on the same filesystem.
    ///
    /// # Errors
    /// As [`Stage::link_new`].
    pub(crate) fn replace(
        &mut self,
        dir: &OwnedFd,
        path: &DiskPath,
        stage_dir: impl FnOnce() -> Result<Arc<OwnedFd>>,
    ) -> Result<Linked> {
        if self.name.is_none() {
            let home = stage_dir()?;
            let name = stage_name();
            match link_unnamed(&self.file, &home, &name) {
                Ok(()) => {}
                Err(Errno::XDEV) => return Ok(Linked::Elsewhere),
                // The directory of stages was removed since it was opened.
                Err(Errno::NOENT) => return Ok(Linked::Again),
                Err(e) => return Err(system("stage", e)),
            }
            self.name = Some(StageName {
                dir: home,
                name,
                discard: true,
            });
        }
        let stage = self
            .name
            .as_ref()
            .expect("it was just named, where it was not");
        let result = fs::renameat(&stage.dir, &stage.name[..], dir, path.name());
        self.settle(result, dir, path)
    }

    fn settle(
        &mut self,
        result: rustix::io::Result<()>,
        dir: &OwnedFd,
        path: &DiskPath,
    ) -> Result<Linked> {
        let outcome = match result {
            Ok(()) => Linked::Done,
            // A server that did it and lost the answer says EEXIST or ENOENT to the second try.
            Err(_) if self.stands_at(dir, path.name()) => Linked::Done,
            Err(Errno::XDEV) => Linked::Elsewhere,
            Err(Errno::EXIST | Errno::NOENT | Errno::ISDIR | Errno::NOTEMPTY | Errno::NOTDIR) => {
                Linked::Again
            }
            Err(e) => return Err(named(path, e)),
        };
        if outcome == Linked::Done {
            self.name = None;
        }
        Ok(outcome)
    }

    fn stands_at(&self, dir: &OwnedFd, name: &[u8]) -> bool {
        let there = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = fs::fstat(&self.file);
        matches!((there, ours), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(StageName {
            dir,
            name,
            discard: true,
        }) = &self.name
        {
            // What cannot be removed now (or is gone) is the sweep's.
            let _ = fs::unlinkat(dir, &name[..], AtFlags::empty());
        }
    }
}

fn open_unnamed(dir: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    fs::openat(dir, c".", flags, Mode::from_raw_mode(FILE_MODE))
}

fn is_removed(dir: &OwnedFd) -> bool {
    fs::fstat(dir).is_ok_and(|stat| stat.st_nlink == 0)
}

fn stage_name() -> Vec<u8> {
    format!("{:016x}", crate::random::number()).into_bytes()
}

fn link_unnamed(file: &File, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    // Linux: needs CAP_DAC_READ_SEARCH before 6.10, and says ENOENT without it (open(2), O_TMPFILE).
    match fs::linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            fs::linkat(fs::CWD, link, dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        other => other,
    }
}

/// Moves a named file to a name that nothing has.
fn move_new(stage: &StageName, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    match fs::renameat_with(
        &stage.dir,
        &stage.name[..],
        dir,
        name,
        RenameFlags::NOREPLACE,
    ) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    // Linux: link() of CephFS stalls when two mounts race for a name; there, and where there are no hard
    // links, the key's lock is what keeps others out between the look and the rename.
    if fsfacts::facts(dir).name != "ceph" {
        match fs::linkat(&stage.dir, &stage.name[..], dir, name, AtFlags::empty()) {
            Ok(()) => {
                // A second name that stays behind is the sweep's, and never the object's.
                let _ = fs::unlinkat(&stage.dir, &stage.name[..], AtFlags::empty());
                return Ok(());
            }
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => {}
            Err(e) => return Err(e),
        }
    }
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => fs::renameat(&stage.dir, &stage.name[..], dir, name),
        Err(e) => Err(e),
    }
}

//! Names in the mount: made, linked, renamed, removed. In an annex none is, and its own name stays.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::{Level, Role, TreeView, annex, bucket_name, number, passed_on, proc_path, status};
use crate::{BucketName, BucketSettings, Moves};

impl TreeView {
    /// Refuses to make a name that is kept back, or no bucket's, or in an annex or a bucket that is read-only.
    ///
    /// # Errors
    /// EPERM, EROFS.
    fn check_new(&self, level: &Level, dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
        match level {
            Level::Annex(_) => Err(Errno::ROFS),
            Level::Bucket | Level::Below if !self.scope(level, &dir).hide.hides(name) => {
                self.check_writable(dir)
            }
            Level::Bucket | Level::Below | Level::Top => Err(Errno::PERM),
        }
    }

    /// Refuses to take away what is kept back, what an annex is or holds, and what a bucket does that is read-only.
    ///
    /// # Errors
    /// ENOENT, EROFS.
    fn check_old(&self, level: &Level, dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
        match level {
            Level::Annex(_) => Err(Errno::ROFS),
            _ if !self.shows(level, &dir, name) => Err(Errno::NOENT),
            Level::Bucket | Level::Below if self.check_writable(&dir).is_err() => Err(Errno::ROFS),
            Level::Bucket if annex::may_be_called(name) => {
                match self.status_at(level, dir, name) {
                    Ok(status) if status.role == Role::Annex => Err(Errno::ROFS),
                    _ => Ok(()), // what is wrong with it, the call itself says
                }
            }
            Level::Top | Level::Bucket | Level::Below => Ok(()),
        }
    }

    /// Refuses another name to a bucket of which something is said, and its name to another: what is hidden under the
    /// one would be shown under the other.
    ///
    /// # Errors
    /// As [`TreeView::check_removable`], and EBUSY.
    fn check_movable(&self, name: &[u8]) -> rustix::io::Result<()> {
        self.check_removable(name)?;
        match bucket_name(name).is_some_and(|bucket| self.store.is_special(&bucket)) {
            true => Err(Errno::BUSY),
            false => Ok(()),
        }
    }

    /// Refuses to take away a bucket that is mapped, or read-only.
    ///
    /// # Errors
    /// EBUSY, as of a mount point; EROFS.
    fn check_removable(&self, name: &[u8]) -> rustix::io::Result<()> {
        let Some(bucket) = bucket_name(name) else {
            return Ok(());
        };
        if self.store.mapped.contains_key(&bucket) {
            return Err(Errno::BUSY);
        }
        match self.store.rules_of(&bucket).read_only {
            true => Err(Errno::ROFS),
            false => Ok(()),
        }
    }

    /// Makes a file. One that is there by now is never opened: nobody has asked yet whether the caller may.
    ///
    /// # Errors
    /// EPERM for names that are kept back, and the kernel's word. ESTALE where somebody made it first and
    /// that was not excluded (O_EXCL): the kernel then looks the name up again, and checks.
    pub fn create(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
        flags: u32,
        mode: u32,
    ) -> rustix::io::Result<OwnedFd> {
        self.check_new(level, &dir, name)?;
        let excluded = OFlags::from_bits_retain(flags).contains(OFlags::EXCL);
        let flags = passed_on(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match fs::openat(dir, name, flags, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) if !excluded => Err(Errno::STALE),
            other => other,
        }
    }

    /// Makes a directory; at the top a bucket, which then belongs to `owner`.
    ///
    /// # Errors
    /// EPERM for names that are kept back or no bucket's, and the kernel's word.
    pub fn make_directory(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> rustix::io::Result<()> {
        if *level != Level::Top {
            self.check_new(level, &dir, name)?;
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
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
        mode: u32,
        device: u64,
    ) -> rustix::io::Result<()> {
        self.check_new(level, &dir, name)?;
        let kind = fs::FileType::from_raw_mode(mode);
        fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode), device)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`TreeView::create`].
    pub fn make_symlink(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
        target: &[u8],
    ) -> rustix::io::Result<()> {
        self.check_new(level, &dir, name)?;
        fs::symlinkat(target, dir, name)
    }

    /// Gives what a descriptor is of another name.
    ///
    /// # Errors
    /// As [`TreeView::create`], and EXDEV for a name in another bucket where the record does not lie in the file.
    pub fn link(
        &self,
        level: &Level,
        file: impl AsFd,
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        self.check_new(level, &dir, name)?;
        self.keeping_record(&file, || {
            self.check_leaves_nothing(&file, &dir)?;
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
    /// EPERM for names that are kept back and moves from or to the top, EROFS for what an annex is or holds, EXDEV
    /// for what would leave something of its record in the bucket that it comes from, and the kernel's word.
    pub fn rename(
        &self,
        from: (&Level, BorrowedFd<'_>, &[u8]),
        to: (&Level, BorrowedFd<'_>, &[u8]),
        flags: u32,
    ) -> rustix::io::Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        match (from.0, to.0) {
            (Level::Annex(_), _) | (_, Level::Annex(_)) => return Err(Errno::ROFS),
            (Level::Top, Level::Top) if self.shows(from.0, from.1, from.2) => {
                new_bucket_name(to.2)
                    .filter(|_| self.shows(to.0, to.1, to.2))
                    .ok_or(Errno::PERM)?;
                for name in [from.2, to.2] {
                    self.check_movable(name)?;
                }
                return self.rename_bucket(from.2, to.2, flags);
            }
            (Level::Top, _) | (_, Level::Top) => return Err(Errno::PERM),
            _ => {
                for (level, dir, name) in [to, from] {
                    self.check_new(level, dir, name)?;
                    self.check_old(level, dir, name)?;
                }
            }
        }
        let exchanges = flags.contains(RenameFlags::EXCHANGE);
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
            // What is said of a file does not change meanwhile.
            Some(place) => place.bucket.keeping_records(&files, Moves::Ctime, || {
                self.check_leaves_nothing(&moved, to.1)?;
                if let Some(other) = other.as_ref().filter(|_| exchanges) {
                    self.check_leaves_nothing(other, from.1)?;
                }
                rename()
            }),
            None => rename(),
        }
    }

    /// Gives a bucket another name in the root where it lies.
    ///
    /// # Errors
    /// EXDEV where another root has a bucket of the new name, EBUSY where one has a directory of the old, and the
    /// kernel's word.
    fn rename_bucket(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> rustix::io::Result<()> {
        let root = |name| match bucket_name(name) {
            Some(bucket) => self.store.root_with(&bucket).map_err(number),
            None => Ok(None),
        };
        let here = root(from)?.ok_or(Errno::NOENT)?;
        if root(to)?.is_some_and(|there| !std::ptr::eq(there, here)) {
            return Err(Errno::XDEV);
        }
        if let Some(old) = bucket_name(from).filter(|_| !flags.contains(RenameFlags::EXCHANGE)) {
            self.store
                .check_covers_nothing(here, &old)
                .map_err(number)?;
        }
        fs::renameat_with(&here.dir, from, &here.dir, to, flags)
    }

    /// Refuses a new name for what would leave something of its record in the bucket where it lies: whoever moves
    /// it copies it then, and its xattrs with it.
    ///
    /// # Errors
    /// EXDEV, and the kernel's word.
    fn check_leaves_nothing(&self, entry: impl AsFd, dir: impl AsFd) -> rustix::io::Result<()> {
        let (Some(from), Some(to)) = (self.bucket_name_of(&entry), self.bucket_name_of(dir)) else {
            return Ok(());
        };
        if from == to {
            return Ok(());
        }
        let bucket = self.store.bucket(&from).map_err(number)?;
        match bucket.keeps_beside(entry).map_err(number)? {
            true => Err(Errno::XDEV),
            false => Ok(()),
        }
    }

    /// Removes a name that is no directory's.
    ///
    /// # Errors
    /// ENOENT for what is kept back, EPERM at the top, EROFS in an annex, and the kernel's word.
    pub fn remove_file(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        self.check_old(level, &dir, name)?;
        if *level == Level::Top {
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
    /// ENOENT for what is kept back, ENOTEMPTY, EROFS for an annex and in it, and the kernel's word.
    pub fn remove_directory(
        &self,
        level: &Level,
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        self.check_old(level, &dir, name)?;
        if *level != Level::Top {
            return fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        }
        self.check_removable(name)?;
        // S3 takes a person's empty directories with the bucket; rmdir(2) does not.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = self.open_name(level, &dir, name)?;
        let top = fs::openat(top, c".", flags, Mode::empty())?;
        self.entries(&Level::Below, top, 0, |entry| match entry.name {
            b"." | b".." => ControlFlow::Continue(()),
            _ => ControlFlow::Break(Err(Errno::NOTEMPTY)),
        })?;
        let bucket = bucket_name(name).ok_or(Errno::NOENT)?;
        self.store.delete_bucket_unheard(&bucket).map_err(number)
    }
}

/// A name that a new bucket may have: S3's rules, stricter than those for what is there already.
fn new_bucket_name(name: &[u8]) -> Option<BucketName> {
    BucketName::parse_new(std::str::from_utf8(name).ok()?).ok()
}

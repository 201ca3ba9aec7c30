//! What the mount does, between the kernel's requests and the store's view: nodes are found, files opened and
//! counted, answers made. Errors are the kernel's own numbers.

mod directory;

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use fuser::BackingId;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{self, FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;
use twintree_store::posix::{self, NewTimes, Role, Status, TreeView};

use crate::creds::{self, Caller};
use crate::handle::{OpenDirectory, OpenFile};
use crate::passthrough::Passthrough;
use crate::tree::{Handles, Node, Nodes};

/// How often a file that another makes first, and somebody takes away, is made or opened again.
const MADE_MEANWHILE: usize = 100;
/// The most that one copy_file_range answers: its reply has 32 bits.
const MAX_COPY: u64 = u32::MAX as u64 & !4095;

/// The xattr that holds a file's access ACL.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One mount.
pub struct Face {
    /// The tree.
    pub view: TreeView,
    /// What the kernel knows of it.
    pub nodes: Nodes,
    /// Open files.
    pub files: Handles<OpenFile>,
    /// Open directories.
    pub directories: Handles<OpenDirectory>,
    /// Who reads and writes.
    pub passthrough: Arc<Passthrough>,
    /// How long the kernel may keep entries and attributes.
    pub ttl: Duration,
    /// Shared by those who change or look up a name, until its node has it: who must know what the kernel is
    /// being told waits for them all.
    pub naming: RwLock<()>,
}

/// A node with a reference for the kernel, and its status.
pub type Found = (Arc<Node>, Status);

/// What a setattr asks for.
#[derive(Clone, Copy, Default)]
pub struct NewAttributes {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub user: Option<u32>,
    /// Group.
    pub group: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Times.
    pub times: NewTimes,
}

/// Answers rustix's numbers.
pub type Answer<T> = rustix::io::Result<T>;

impl Face {
    /// How long the kernel may keep a node's attributes: not at all while it is written, because the kernel
    /// itself may be the writer, unseen.
    pub fn keeps(&self, node: &Node) -> Duration {
        if node.is_written() {
            Duration::ZERO
        } else {
            self.ttl
        }
    }

    /// How long the kernel may keep that a name stands for a node: not at all for an annex, which comes, goes and
    /// is renamed with what lies beside it, whoever changes that.
    pub fn keeps_name(&self, node: &Node) -> Duration {
        match node.role {
            Role::Annex => Duration::ZERO,
            Role::Native | Role::Annexed => self.ttl,
        }
    }

    /// A node that may be changed.
    ///
    /// # Errors
    /// EROFS for an annex and what lies in it, and in a bucket that is read-only; ESTALE.
    fn changeable(&self, id: u64) -> Answer<Arc<Node>> {
        let node = self.nodes.get(id)?;
        match node.role {
            Role::Native => {
                if self.view.has_read_only_buckets() {
                    let file = self.nodes.pin_by_name(&self.view, &node)?;
                    self.view.check_writable(file)?;
                }
                Ok(node)
            }
            Role::Annex | Role::Annexed => Err(Errno::ROFS),
        }
    }

    /// LOOKUP.
    pub fn look_up(&self, parent: u64, name: &[u8]) -> Answer<Found> {
        let parent = self.nodes.get(parent)?;
        let _naming = self.naming.read();
        self.nodes.look_up(&self.view, &parent, name)
    }

    /// The node that a name stands for, where the kernel was told so: it has nothing to forget then, since what
    /// changed is its own doing, or something beside that name.
    pub fn knows(&self, parent: u64, name: &[u8]) -> Option<u64> {
        let parent = self.nodes.get(parent).ok()?;
        let (level, hold) = (self.nodes.level(&parent).ok()?, parent.hold());
        let dir = hold.pin().ok()?;
        let look = || {
            let status = self.view.status_at(&level, &dir, name).ok()?;
            self.nodes.known_as(&status, parent.id, name)
        };
        look().or_else(|| {
            drop(self.naming.write());
            look()
        })
    }

    /// GETATTR, by the open file where there is one.
    pub fn status(&self, id: u64, handle: Option<u64>) -> Answer<(Arc<Node>, Status)> {
        let node = self.nodes.get(id)?;
        let status = match handle.and_then(|handle| self.files.get(handle).ok()) {
            Some(open) => self.view.status(&open.file)?,
            None => self.view.status(node.hold().pin()?)?,
        };
        Ok((node, status))
    }

    /// SETATTR. Owner before mode, or the new owner would take set-id bits away again.
    pub fn change(
        &self,
        id: u64,
        handle: Option<u64>,
        new: NewAttributes,
    ) -> Answer<(Arc<Node>, Status)> {
        let node = self.changeable(id)?;
        let file = self.nodes.pin_by_name(&self.view, &node)?;
        if new.user.is_some() || new.group.is_some() {
            self.view.set_owner(&file, new.user, new.group)?;
        }
        if let Some(mode) = new.mode {
            creds::keeping_set_ids(|| self.view.set_mode(&file, mode))?;
        }
        if let Some(size) = new.size {
            match handle.and_then(|handle| self.files.get(handle).ok()) {
                Some(open) => {
                    touch(&open)?;
                    self.view.truncate_open(&open.file, size)?;
                }
                None => self.view.truncate(&file, size)?,
            }
        }
        if new.times.accessed.is_some() || new.times.modified.is_some() {
            self.view.set_times(&file, new.times)?;
        }
        let status = self.view.status(&file)?;
        Ok((node, status))
    }

    /// READLINK.
    pub fn read_link(&self, id: u64) -> Answer<Vec<u8>> {
        let hold = self.nodes.get(id)?.hold();
        self.view.read_link(hold.pin()?)
    }

    /// MKNOD.
    pub fn make_node(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        device: u32,
    ) -> Answer<Found> {
        self.make(parent, name, |level, dir| {
            creds::as_caller(caller, || {
                self.view.make_node(level, dir, name, mode, device.into())
            })
        })
    }

    /// MKDIR; at the top a bucket, which is made by us and then given to the caller.
    pub fn make_directory(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
    ) -> Answer<Found> {
        self.make(parent, name, |level, dir| {
            let make = |mode| {
                let owner = caller.ids;
                self.view.make_directory(level, dir, name, mode, owner)
            };
            match level {
                posix::Level::Top => make(mode & !caller.umask),
                _ => creds::as_caller(caller, || make(mode)),
            }
        })
    }

    /// SYMLINK.
    pub fn make_symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        target: &[u8],
    ) -> Answer<Found> {
        self.make(parent, name, |level, dir| {
            creds::as_caller(caller, || self.view.make_symlink(level, dir, name, target))
        })
    }

    /// LINK.
    pub fn link(&self, id: u64, parent: u64, name: &[u8]) -> Answer<Found> {
        let node = self.changeable(id)?;
        let file = self.nodes.pin_by_name(&self.view, &node)?;
        self.make(parent, name, |level, dir| {
            self.view.link(level, &file, dir, name)
        })
    }

    fn make(
        &self,
        parent: u64,
        name: &[u8],
        make: impl FnOnce(&posix::Level, BorrowedFd<'_>) -> Answer<()>,
    ) -> Answer<Found> {
        let parent = self.nodes.get(parent)?;
        let hold = parent.hold();
        let dir = hold.pin()?;
        let _naming = self.naming.read();
        make(&self.nodes.level(&parent)?, std::os::fd::AsFd::as_fd(&dir))?;
        self.nodes.look_up(&self.view, &parent, name)
    }

    /// UNLINK.
    pub fn remove_file(&self, parent: u64, name: &[u8]) -> Answer<()> {
        let parent = self.nodes.get(parent)?;
        let (level, hold) = (self.nodes.level(&parent)?, parent.hold());
        self.view.remove_file(&level, hold.pin()?, name)
    }

    /// RMDIR.
    pub fn remove_directory(&self, parent: u64, name: &[u8]) -> Answer<()> {
        let parent = self.nodes.get(parent)?;
        let (level, hold) = (self.nodes.level(&parent)?, parent.hold());
        self.view.remove_directory(&level, hold.pin()?, name)
    }

    /// RENAME.
    pub fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Answer<()> {
        use std::os::fd::AsFd;
        let (parent, target) = (self.nodes.get(from.0)?, self.nodes.get(to.0)?);
        let (level, target_level) = (self.nodes.level(&parent)?, self.nodes.level(&target)?);
        let (hold, target_hold) = (parent.hold(), target.hold());
        let (dir, target_dir) = (hold.pin()?, target_hold.pin()?);
        let _naming = self.naming.read();
        let old = (&level, dir.as_fd(), from.1);
        let new = (&target_level, target_dir.as_fd(), to.1);
        self.view.rename(old, new, flags)?;
        for (id, (level, dir, name)) in [(target.id, new), (parent.id, old)] {
            // Of the old name only with EXCHANGE is there something.
            if let Ok(status) = self.view.status_at(level, dir, name) {
                self.nodes.is_called(&status, id, name);
            }
        }
        Ok(())
    }

    /// OPEN.
    pub fn open(
        &self,
        id: u64,
        flags: u32,
        ask: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> Answer<(u64, Arc<OpenFile>)> {
        let wanted = OFlags::from_bits_retain(flags);
        let truncates = wanted.contains(OFlags::TRUNC);
        let node = match may_write(wanted) || truncates {
            true => self.changeable(id)?,
            false => self.nodes.get(id)?,
        };
        let pinned = match may_write(wanted) || truncates {
            true => self.nodes.pin_by_name(&self.view, &node)?,
            false => node.hold().pin()?.to_owned()?,
        };
        let writing = match may_write(wanted) {
            true => self.view.writing(&pinned)?,
            false => None,
        };
        if let (true, Some(writing)) = (truncates, &writing) {
            writing.touched(&pinned).map_err(posix::number)?;
        }
        let file = self.view.open(&pinned, flags)?;
        match (truncates, may_write(wanted)) {
            (true, true) => self.view.truncate_open(&file, 0)?,
            (true, false) => self.view.truncate(&pinned, 0)?,
            (false, _) => {}
        }
        let backed = self
            .passthrough
            .open((node.id, node.generation()), &pinned, ask);
        Ok(self.opened(&node, file, writing, backed, may_write(wanted)))
    }

    /// CREATE.
    pub fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        (flags, mode): (u32, u32),
        ask: impl Fn(BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> Answer<(u64, Arc<OpenFile>, Found)> {
        let parent = self.nodes.get(parent)?;
        for _ in 0..MADE_MEANWHILE {
            let made = self.create_new(caller, &parent, name, (flags, mode), &ask);
            if !matches!(made, Err(Errno::STALE)) || flags & OFlags::EXCL.bits() != 0 {
                return made;
            }
            let (node, status) = match self.look_up(parent.id, name) {
                // Taken away again: made after all.
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            if !is_his(caller, flags, &status) {
                self.nodes.forget(node.id, 1);
                return made;
            }
            let opened = self
                .open(node.id, flags & !OFlags::CREATE.bits(), &ask)
                .and_then(|(number, open)| {
                    let status = self.view.status(&open.file)?;
                    Ok((number, open, (Arc::clone(&node), status)))
                });
            if opened.is_ok() {
                return opened;
            }
            self.nodes.forget(node.id, 1);
            if !matches!(opened, Err(Errno::STALE)) {
                return opened;
            }
        }
        Err(Errno::STALE)
    }

    fn create_new(
        &self,
        caller: Caller,
        parent: &Node,
        name: &[u8],
        (flags, mode): (u32, u32),
        ask: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> Answer<(u64, Arc<OpenFile>, Found)> {
        let (level, hold) = (self.nodes.level(parent)?, parent.hold());
        let dir = hold.pin()?;
        let wanted = OFlags::from_bits_retain(flags);
        let naming = self.naming.read();
        let file = creds::as_caller(caller, || self.view.create(&level, &dir, name, flags, mode))?;
        let (node, status) = self.nodes.adopt(&self.view, &file)?;
        self.nodes.is_called(&status, parent.id, name);
        drop(naming);
        let opened = self.begin(&node, wanted, file, ask);
        match opened {
            Ok((number, open)) => {
                let status = self.view.status(&open.file)?;
                Ok((number, open, (node, status)))
            }
            Err(e) => {
                self.nodes.forget(node.id, 1);
                Err(e)
            }
        }
    }

    /// Counts a file that was just made.
    fn begin(
        &self,
        node: &Arc<Node>,
        wanted: OFlags,
        file: std::os::fd::OwnedFd,
        ask: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> Answer<(u64, Arc<OpenFile>)> {
        let writing = match may_write(wanted) {
            true => self.view.writing(&file)?,
            false => None,
        };
        let hold = node.hold();
        let pinned = match hold.pin() {
            // It was replaced already: what was made is open, and can be written.
            Err(Errno::STALE) => posix::Pinned::Opened(self.view.path_only(&file)?),
            other => other?,
        };
        let backed = self
            .passthrough
            .open((node.id, node.generation()), pinned, ask);
        Ok(self.opened(node, file, writing, backed, may_write(wanted)))
    }

    fn opened(
        &self,
        node: &Arc<Node>,
        file: std::os::fd::OwnedFd,
        writing: Option<twintree_store::Writing>,
        backed: crate::passthrough::Backed,
        writes: bool,
    ) -> (u64, Arc<OpenFile>) {
        let status = || self.view.status(&file).ok();
        let keeps_pages = backed.id().is_none()
            && status().is_some_and(|status| node.keeps_pages(status.changed));
        let number = self.files.add(OpenFile {
            file,
            writing: Mutex::new(writing),
            writer: writes.then(|| node.writer()),
            backed,
            keeps_pages,
        });
        let open = self.files.get(number).expect("it was just added");
        (number, open)
    }

    /// READ: calls `reply` with the bytes.
    pub fn read<T>(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Answer<&[u8]>) -> T,
    ) -> T {
        let open = match self.files.get(handle) {
            Ok(open) => open,
            Err(e) => return reply(Err(e)),
        };
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            match open.read(&mut buffer[..size as usize], offset) {
                Ok(length) => reply(Ok(&buffer[..length])),
                Err(e) => reply(Err(e)),
            }
        })
    }

    /// WRITE: what is recorded of the content is gone before the first byte.
    pub fn write(&self, handle: u64, offset: u64, bytes: &[u8]) -> Answer<u32> {
        let open = self.files.get(handle)?;
        touch(&open)?;
        rustix::io::pwrite(&open.file, bytes, offset).map(|length| length as u32)
    }

    /// FLUSH, at each close of a descriptor: what the kernel wrote by itself shows now.
    pub fn flush(&self, handle: u64) -> Answer<()> {
        let open = self.files.get(handle)?;
        if let Some(writing) = open.writing.lock().as_ref() {
            writing.compare(&open.file).map_err(posix::number)?;
            // Network filesystems say what went wrong when a descriptor is closed.
            let again = rustix::io::dup(&open.file)?;
            drop(again);
        }
        Ok(())
    }

    /// RELEASE: nobody has the file open by this handle any more.
    pub fn release(&self, handle: u64) {
        let Some(open) = self.files.remove(handle) else {
            return;
        };
        if let Some(writing) = open.writing.lock().take() {
            let key = self.view.place(&open.file).and_then(|place| place.key);
            if let Err(e) = writing.finish(&open.file, key.as_ref()) {
                tracing::warn!("what is recorded of a file that was written may be stale: {e}");
            }
        }
    }

    /// FSYNC.
    pub fn sync(&self, handle: u64, data_only: bool) -> Answer<()> {
        let open = self.files.get(handle)?;
        match data_only {
            true => fs::fdatasync(&open.file),
            false => fs::fsync(&open.file),
        }
    }

    /// STATFS.
    pub fn space(&self, id: u64) -> Answer<fs::StatVfs> {
        let hold = self.nodes.get(id)?.hold();
        fs::fstatvfs(hold.pin()?)
    }

    /// GETXATTR; in an annex of a key as well.
    pub fn get_xattr(&self, id: u64, name: &[u8]) -> Answer<Vec<u8>> {
        let node = self.nodes.get(id)?;
        if name == posix::KEY_XATTR && node.role == Role::Annexed {
            let key = posix::key_of(&self.nodes.annex_path(&node)?);
            return key.map(String::into_bytes).ok_or(Errno::STALE);
        }
        let (hold, named) = (node.hold(), || self.nodes.pin_by_name(&self.view, &node));
        self.view.get_xattr(hold.pin()?, name, named)
    }

    /// LISTXATTR.
    pub fn list_xattrs(&self, id: u64) -> Answer<Vec<u8>> {
        let node = self.nodes.get(id)?;
        let (hold, named) = (node.hold(), || self.nodes.pin_by_name(&self.view, &node));
        self.view.list_xattrs(hold.pin()?, named)
    }

    /// SETXATTR.
    pub fn set_xattr(
        &self,
        caller: Caller,
        id: u64,
        (name, value): (&[u8], &[u8]),
        flags: i32,
    ) -> Answer<()> {
        let file = self.nodes.pin_by_name(&self.view, &*self.changeable(id)?)?;
        let flags = flags.cast_unsigned();
        let set = || self.view.set_xattr(&file, name, value, flags);
        // With an access ACL comes a mode, as by chmod(2): it keeps a set-group-id bit for the group's own.
        match name == ACCESS_ACL && caller.is_in(self.view.status(&file)?.group) {
            true => creds::keeping_set_ids(set),
            false => set(),
        }
    }

    /// REMOVEXATTR.
    pub fn remove_xattr(&self, id: u64, name: &[u8]) -> Answer<()> {
        let file = self.nodes.pin_by_name(&self.view, &*self.changeable(id)?)?;
        self.view.remove_xattr(file, name)
    }

    /// FALLOCATE.
    pub fn allocate(&self, handle: u64, offset: u64, length: u64, mode: i32) -> Answer<()> {
        let open = self.files.get(handle)?;
        touch(&open)?;
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        fs::fallocate(&open.file, mode, offset, length)
    }

    /// LSEEK: only for data and holes; all else the kernel does.
    pub fn seek(&self, handle: u64, offset: i64, whence: i32) -> Answer<u64> {
        let open = self.files.get(handle)?;
        let at = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        match whence {
            libc::SEEK_DATA => fs::seek(&open.file, SeekFrom::Data(at)),
            libc::SEEK_HOLE => fs::seek(&open.file, SeekFrom::Hole(at)),
            _ => Err(Errno::INVAL),
        }
    }

    /// COPY_FILE_RANGE.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Answer<u32> {
        let (source, target) = (self.files.get(from.0)?, self.files.get(to.0)?);
        touch(&target)?;
        let (mut at, mut there) = (from.1, to.1);
        let length = length.min(MAX_COPY) as usize;
        let (at, there) = (Some(&mut at), Some(&mut there));
        fs::copy_file_range(&source.file, at, &target.file, there, length).map(|n| n as u32)
    }
}

/// May the caller open the file, since it is his and its mode says so? Then nothing else is asked: for the owner of
/// a file only his own permissions count, with ACLs, too (acl(5)).
fn is_his(caller: Caller, flags: u32, status: &Status) -> bool {
    let wanted = OFlags::from_bits_retain(flags);
    let read = !wanted.contains(OFlags::WRONLY);
    let write = may_write(wanted) || wanted.contains(OFlags::TRUNC);
    let needed = (u32::from(read) * 0o400) | (u32::from(write) * 0o200);
    let regular = status.role == Role::Native && status.is_file();
    regular && status.user == caller.ids.0 && status.mode & needed == needed
}

fn may_write(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::RDONLY
}

/// The content of an open file is about to change.
fn touch(open: &OpenFile) -> Answer<()> {
    match open.writing.lock().as_ref() {
        Some(writing) => writing.touched(&open.file).map_err(posix::number),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! The kernel's requests: decoded, handed to the face, answered. Nothing is decided here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use twintree_store::posix::NewTimes;

use crate::attr::{attributes, kind, new_time};
use crate::calls::{Call, Calls};
use crate::creds::{Caller, prepare_thread};
use crate::face::{Answer, Face, Found, NewAttributes};
use crate::handle::OpenFile;

/// Bytes of one request, and of readahead.
const LARGEST_REQUEST: u32 = 1 << 20;
/// Requests in the background at once.
const BACKGROUND: u16 = 64;

/// The mount, as fuser calls it.
pub struct Adapter {
    pub face: Arc<Face>,
    /// What is counted of its calls.
    pub calls: Arc<Calls>,
    /// Filesystems below us that are themselves stacked: passthrough needs to know.
    pub stack_depth: u32,
    /// Did the kernel offer passthrough?
    pub offered: Arc<AtomicBool>,
}

fn no(error: rustix::io::Errno) -> Errno {
    if matches!(error, rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) {
        tracing::error!("the mount has no descriptors left: raise the limit of open files");
    }
    Errno::from_i32(error.raw_os_error())
}

impl Adapter {
    fn entry(&self, found: Answer<Found>, reply: ReplyEntry) {
        match found {
            Ok((node, status)) => {
                let (keeps, keeps_name) = (self.face.keeps(&node), self.face.keeps_name(&node));
                let attributes = attributes(node.id, &status);
                let generation = Generation(node.generation());
                reply.entry_with_ttls(&keeps, &keeps_name, &attributes, generation);
            }
            Err(e) => reply.error(no(e)),
        }
    }

    fn empty(done: Answer<()>, reply: ReplyEmpty) {
        match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(no(e)),
        }
    }

    fn xattr(value: Answer<Vec<u8>>, size: u32, reply: ReplyXattr) {
        match value {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(e) => reply.error(no(e)),
        }
    }

    /// A file that is only read has nothing to say at close.
    fn open_flags(open: &OpenFile) -> FopenFlags {
        let mut flags = FopenFlags::empty();
        if open.writer.is_none() {
            flags |= FopenFlags::FOPEN_NOFLUSH;
        }
        if open.keeps_pages {
            flags |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        flags
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_NO_EXPORT_SUPPORT,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_POSIX_ACL,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("the kernel does not know {flag:?}");
            }
        }
        let offered = config.set_max_stack_depth(self.stack_depth).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        self.offered.store(offered, Ordering::Release);
        // Each of the three: a kernel that has less answers what it has, and less is right as well.
        let _ = config.set_max_write(LARGEST_REQUEST);
        if let Err(most) = config.set_max_readahead(LARGEST_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let look = || self.face.look_up(parent.0, name.as_bytes());
        self.entry(self.calls.take(Call::Lookup, look), reply);
    }

    fn forget(&self, _: &Request, node: INodeNo, references: u64) {
        self.face.nodes.forget(node.0, references);
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let ask = || self.face.status(node.0, handle.map(|handle| handle.0));
        match self.calls.take(Call::Getattr, ask) {
            Ok((node, status)) => {
                reply.attr(&self.face.keeps(&node), &attributes(node.id, &status));
            }
            Err(e) => reply.error(no(e)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _flag_changed: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        prepare_thread();
        let new = NewAttributes {
            mode,
            user,
            group,
            size,
            times: NewTimes {
                accessed: accessed.map(new_time),
                modified: modified.map(new_time),
            },
        };
        let change = || self.face.change(node.0, handle.map(|handle| handle.0), new);
        match self.calls.take(Call::Setattr, change) {
            Ok((node, status)) => {
                reply.attr(&self.face.keeps(&node), &attributes(node.id, &status));
            }
            Err(e) => reply.error(no(e)),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let read = || self.face.read_link(node.0);
        match self.calls.take(Call::Readlink, read) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(no(e)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        prepare_thread();
        let name = name.as_bytes();
        let caller = Caller::of(request, umask);
        let make = || self.face.make_node(caller, parent.0, name, mode, device);
        self.entry(self.calls.take(Call::Mknod, make), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        prepare_thread();
        let name = name.as_bytes();
        let caller = Caller::of(request, umask);
        let make = || self.face.make_directory(caller, parent.0, name, mode);
        self.entry(self.calls.take(Call::Mkdir, make), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.face.remove_file(parent.0, name.as_bytes());
        Self::empty(self.calls.take(Call::Unlink, remove), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.face.remove_directory(parent.0, name.as_bytes());
        Self::empty(self.calls.take(Call::Rmdir, remove), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        prepare_thread();
        let target = target.as_os_str().as_bytes();
        let (caller, name) = (Caller::of(request, 0), name.as_bytes());
        let make = || self.face.make_symlink(caller, parent.0, name, target);
        self.entry(self.calls.take(Call::Symlink, make), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (
            (parent.0, name.as_bytes()),
            (new_parent.0, new_name.as_bytes()),
        );
        let rename = || self.face.rename(from, to, flags.bits());
        Self::empty(self.calls.take(Call::Rename, rename), reply);
    }

    fn link(
        &self,
        _: &Request,
        node: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let link = || self.face.link(node.0, new_parent.0, new_name.as_bytes());
        self.entry(self.calls.take(Call::Link, link), reply);
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        prepare_thread();
        let ask = |file: std::os::fd::BorrowedFd<'_>| reply.open_backing(file);
        let open = || self.face.open(node.0, flags.0.cast_unsigned(), ask);
        match self.calls.take(Call::Open, open) {
            Ok((number, open)) => {
                let (number, flags) = (FileHandle(number), Self::open_flags(&open));
                match open.backed.id() {
                    Some(id) => reply.opened_passthrough(number, flags, id),
                    None => reply.opened(number, flags),
                }
            }
            Err(e) => reply.error(no(e)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        prepare_thread();
        let how = (flags.cast_unsigned(), mode);
        let ask = |file: std::os::fd::BorrowedFd<'_>| reply.open_backing(file);
        let (caller, name) = (Caller::of(request, umask), name.as_bytes());
        let create = || self.face.create(caller, parent.0, name, how, ask);
        match self.calls.take(Call::Create, create) {
            Ok((number, open, (node, status))) => {
                let (number, ttl) = (FileHandle(number), self.face.keeps(&node));
                let attributes = attributes(node.id, &status);
                let generation = Generation(node.generation());
                let flags = Self::open_flags(&open);
                match open.backed.id() {
                    Some(id) => {
                        reply.created_passthrough(&ttl, &attributes, generation, number, flags, id);
                    }
                    None => reply.created(&ttl, &attributes, generation, number, flags),
                }
            }
            Err(e) => reply.error(no(e)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let begun = Calls::begin(Call::Read);
        self.face.read(handle.0, offset, size, |bytes| {
            self.calls.end(&begun, bytes.as_ref().err());
            match bytes {
                Ok(bytes) => {
                    self.calls.read(bytes.len());
                    reply.data(bytes);
                }
                Err(e) => reply.error(no(e)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        prepare_thread();
        let write = || self.face.write(handle.0, offset, data);
        match self.calls.take(Call::Write, write) {
            Ok(length) => {
                self.calls.written(length.into());
                reply.written(length);
            }
            Err(e) => reply.error(no(e)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let flush = || self.face.flush(handle.0);
        Self::empty(self.calls.take(Call::Flush, flush), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let release = || {
            self.face.release(handle.0);
            Ok(())
        };
        Self::empty(self.calls.take(Call::Release, release), reply);
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, data: bool, reply: ReplyEmpty) {
        let sync = || self.face.sync(handle.0, data);
        Self::empty(self.calls.take(Call::Fsync, sync), reply);
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let open = || self.face.open_directory(node.0);
        match self.calls.take(Call::Opendir, open) {
            Ok(number) => reply.opened(FileHandle(number), FopenFlags::empty()),
            Err(e) => reply.error(no(e)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let list = || {
            self.face.list(handle.0, offset, |id, entry| {
                let name = OsStr::from_bytes(entry.name);
                reply.add(INodeNo(id), entry.next, kind(entry.kind), name)
            })
        };
        match self.calls.take(Call::Readdir, list) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(no(e)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let begun = Calls::begin(Call::Readdirplus);
        let listed = self.face.list_plus(handle.0, offset, |id, entry, found| {
            let name = OsStr::from_bytes(entry.name);
            match found {
                Some((node, status)) => reply.add(
                    INodeNo(id),
                    entry.next,
                    name,
                    &self.face.keeps(node).min(self.face.keeps_name(node)),
                    &attributes(id, status),
                    Generation(node.generation()),
                ),
                // `.` and `..`: the kernel takes the number and the type, and no reference.
                None => reply.add(
                    INodeNo(id),
                    entry.next,
                    name,
                    &Duration::ZERO,
                    &crate::attr::directory(id),
                    Generation(0),
                ),
            }
        });
        self.calls.end(&begun, listed.as_ref().err());
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(no(e)),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let release = || {
            self.face.directories.remove(handle.0);
            Ok(())
        };
        Self::empty(self.calls.take(Call::Releasedir, release), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = || self.face.sync_directory(handle.0);
        Self::empty(self.calls.take(Call::Fsyncdir, sync), reply);
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        match self.calls.take(Call::Statfs, || self.face.space(node.0)) {
            Ok(space) => reply.statfs(
                space.f_blocks,
                space.f_bfree,
                space.f_bavail,
                space.f_files,
                space.f_ffree,
                space.f_bsize as u32,
                space.f_namemax as u32,
                space.f_frsize as u32,
            ),
            Err(e) => reply.error(no(e)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        prepare_thread();
        let (caller, named) = (Caller::of(request, 0), (name.as_bytes(), value));
        let set = || self.face.set_xattr(caller, node.0, named, flags);
        Self::empty(self.calls.take(Call::Setxattr, set), reply);
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let get = || self.face.get_xattr(node.0, name.as_bytes());
        Self::xattr(self.calls.take(Call::Getxattr, get), size, reply);
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || self.face.list_xattrs(node.0);
        Self::xattr(self.calls.take(Call::Listxattr, list), size, reply);
    }

    fn removexattr(&self, _: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.face.remove_xattr(node.0, name.as_bytes());
        Self::empty(self.calls.take(Call::Removexattr, remove), reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        prepare_thread();
        let allocate = || self.face.allocate(handle.0, offset, length, mode);
        Self::empty(self.calls.take(Call::Fallocate, allocate), reply);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = || self.face.seek(handle.0, offset, whence);
        match self.calls.take(Call::Lseek, seek) {
            Ok(at) => reply.offset(at.cast_signed()),
            Err(e) => reply.error(no(e)),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        source: FileHandle,
        source_offset: u64,
        _: INodeNo,
        target: FileHandle,
        target_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        prepare_thread();
        let (from, to) = ((source.0, source_offset), (target.0, target_offset));
        let copy = || self.face.copy(from, to, length);
        match self.calls.take(Call::CopyFileRange, copy) {
            Ok(copied) => reply.written(copied),
            Err(e) => reply.error(no(e)),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: ReplyIoctl,
    ) {
        let unknown = rustix::io::Errno::NOTTY;
        self.calls.end(&Calls::begin(Call::Ioctl), Some(&unknown));
        reply.error(no(unknown));
    }
}

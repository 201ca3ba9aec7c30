//! A disk for tests that remembers what was asked of it, in order: `twintree-blocklog IMAGE LOG MOUNTPOINT`.
//!
//! MOUNTPOINT shows two files. `disk` is IMAGE: a loop device and a real filesystem sit on it, and each
//! write and each flush that the kernel asks for is appended to LOG before it is answered. `mark` takes
//! lines from the test, which come into the same log, so that it tells what a client had been promised
//! before which write. Replaying LOG to any point onto a copy of IMAGE as it was is a power cut.
//!
//! One thread answers, so that the log has one order; nothing is cached (direct_io), so that it is the
//! kernel's. It ends when MOUNTPOINT is unmounted.
//!
//! A record of LOG, little endian: kind 4 bytes (1 write, 2 flush, 3 mark), length 4, offset 8, then the
//! bytes written.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

const DISK: INodeNo = INodeNo(2);
const MARK: INodeNo = INodeNo(3);
/// How long the kernel may remember names and sizes: they never change.
const LONG: Duration = Duration::from_secs(3600);

/// What a record of the log tells.
#[derive(Clone, Copy)]
enum Kind {
    Write = 1,
    Flush = 2,
    Mark = 3,
}

/// The disk and its log.
struct BlockLog {
    image: File,
    size: u64,
    log: Mutex<File>,
}

impl BlockLog {
    fn open(image: &str, log: &str) -> io::Result<Self> {
        let image = OpenOptions::new().read(true).write(true).open(image)?;
        let log = OpenOptions::new().append(true).create_new(true).open(log)?;
        Ok(Self {
            size: image.metadata()?.len(),
            image,
            log: Mutex::new(log),
        })
    }

    fn append(&self, kind: Kind, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(16 + bytes.len());
        record.extend((kind as u32).to_le_bytes());
        record.extend(length.to_le_bytes());
        record.extend(offset.to_le_bytes());
        record.extend(bytes);
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&record)
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0),
            DISK => (FileType::RegularFile, self.size),
            MARK => (FileType::RegularFile, 0),
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: if ino == INodeNo::ROOT { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for BlockLog {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some("disk") if parent == INodeNo::ROOT => DISK,
            Some("mark") if parent == INodeNo::ROOT => MARK,
            _ => return reply.error(Errno::ENOENT),
        };
        let attributes = self.attributes(ino).expect("both names have attributes");
        reply.entry(&LONG, &attributes, Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&LONG, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The handle is the inode's number: there is nothing else to know of an opening.
        reply.opened(FileHandle(ino.0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino != DISK {
            return reply.data(&[]);
        }
        let left = self.size.saturating_sub(offset).min(size.into());
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(0)];
        match self.image.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(e) => reply.error(e.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = match ino {
            DISK if offset.saturating_add(data.len() as u64) > self.size => {
                return reply.error(Errno::ENOSPC);
            }
            DISK => self
                .append(Kind::Write, offset, data)
                .and_then(|()| self.image.write_all_at(data, offset)),
            _ => self.append(Kind::Mark, 0, data),
        };
        match done {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(e) => reply.error(e.into()),
        }
    }

    // What loop makes of a flush of its queue.
    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if ino != DISK {
            return reply.ok();
        }
        match self.append(Kind::Flush, 0, &[]) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e.into()),
        }
    }

    // A descriptor is closed: no flush of a disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [image, log, mountpoint] = &words[..] else {
        eprintln!("usage: twintree-blocklog IMAGE LOG MOUNTPOINT");
        return ExitCode::from(64);
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("twintree-blocklog".to_owned()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    let served =
        BlockLog::open(image, log).and_then(|disk| fuser::mount(disk, mountpoint, &config));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("twintree-blocklog: {e}");
            ExitCode::FAILURE
        }
    }
}

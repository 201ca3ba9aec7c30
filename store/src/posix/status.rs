//! What statx(2) says of an inode, as far as the mount shows it.

use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};

use crate::Inode;

/// As what an inode is shown: one that had two roles would be two files to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// As what it is.
    Native,
    /// As the directory `.annex/` of a bucket.
    Annex,
    /// As part of an annex.
    Annexed,
}

/// A file's status.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Device and inode.
    pub inode: Inode,
    /// As what it is shown under the name that was looked at.
    pub role: Role,
    /// When it was made; what tells an inode from the next one of its number. Zero where nobody knows.
    pub born: (i64, u32),
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Of a device node: what it stands for.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Preferred block size in bytes.
    pub block_size: u32,
    /// Last access: seconds, nanoseconds.
    pub accessed: (i64, u32),
    /// Last modification.
    pub modified: (i64, u32),
    /// Last change.
    pub changed: (i64, u32),
}

impl Status {
    /// The type.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Is it a directory?
    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Is it a regular file?
    pub fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    /// Is it the very same inode, not a later one of the same number?
    pub fn is_same_inode(&self, other: &Self) -> bool {
        self.inode == other.inode && self.born == other.born
    }
}

/// What lies under a name: a link itself.
pub(super) fn at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Status> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    fs::statx(dir, name, flags, WANTED).map(|stat| status(&stat))
}

/// What an open descriptor is of.
pub(super) fn of(file: impl AsFd) -> rustix::io::Result<Status> {
    fs::statx(file, c"", AtFlags::EMPTY_PATH, WANTED).map(|stat| status(&stat))
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

fn status(stat: &Statx) -> Status {
    let knows_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Status {
        inode: Inode {
            device: fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
        },
        role: Role::Native,
        born: if knows_birth {
            time(stat.stx_btime)
        } else {
            (0, 0)
        },
        mode: stat.stx_mode.into(),
        links: stat.stx_nlink,
        user: stat.stx_uid,
        group: stat.stx_gid,
        device: fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        block_size: stat.stx_blksize,
        accessed: time(stat.stx_atime),
        modified: time(stat.stx_mtime),
        changed: time(stat.stx_ctime),
    }
}

fn time(time: StatxTimestamp) -> (i64, u32) {
    (time.tv_sec, time.tv_nsec)
}

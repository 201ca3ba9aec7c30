//! A file's status in the kernel's shape.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use twintree_store::posix::{NewTime, Status};

/// The attributes of a node.
pub fn attributes(id: u64, status: &Status) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: status.size,
        blocks: status.blocks,
        atime: time(status.accessed),
        mtime: time(status.modified),
        ctime: time(status.changed),
        crtime: time(status.born),
        kind: kind(status.kind()),
        perm: (status.mode & 0o7777) as u16,
        nlink: status.links,
        uid: status.user,
        gid: status.group,
        rdev: status.device as u32,
        blksize: status.block_size,
        flags: 0,
    }
}

/// What is said of `.` and `..`, which the kernel looks up itself: a number and a type.
pub fn directory(id: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The type of an entry; one that the directory does not know is looked up anyway.
pub fn kind(kind: rustix::fs::FileType) -> FileType {
    match kind {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::Unknown => FileType::RegularFile,
    }
}

/// A time that the kernel asks to set.
pub fn new_time(time: TimeOrNow) -> NewTime {
    let TimeOrNow::SpecificTime(time) = time else {
        return NewTime::Now;
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => NewTime::At(since.as_secs() as i64, since.subsec_nanos()),
        // fuser 0.18 takes the nanoseconds of a time before 1970 for ones before it: this takes that back.
        Err(before) => {
            let before = before.duration();
            NewTime::At(-(before.as_secs() as i64), before.subsec_nanos())
        }
    }
}

fn time((seconds, nanoseconds): (i64, u32)) -> SystemTime {
    let nanoseconds = Duration::from_nanos(nanoseconds.into());
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds) + nanoseconds,
        Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + nanoseconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fuser 0.18 decodes what the kernel asks for.
    fn asked((seconds, nanoseconds): (i64, u32)) -> SystemTime {
        match u64::try_from(seconds) {
            Ok(seconds) => UNIX_EPOCH + Duration::new(seconds, nanoseconds),
            Err(_) => UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanoseconds),
        }
    }

    #[test]
    fn times_before_the_epoch_go_there_and_back() {
        for at in [(-5, 0), (-5, 300), (-1, 999_999_999), (0, 0), (7, 1)] {
            let NewTime::At(seconds, nanoseconds) = new_time(TimeOrNow::SpecificTime(asked(at)))
            else {
                panic!("a time was given");
            };
            assert_eq!((seconds, nanoseconds), at);
            let shown = time(at);
            let before = UNIX_EPOCH.duration_since(shown).unwrap_or_default();
            let exact = Duration::from_secs(at.0.min(0).unsigned_abs())
                .saturating_sub(Duration::from_nanos(if at.0 < 0 { at.1.into() } else { 0 }));
            assert_eq!(before, exact, "{at:?}");
        }
    }
}

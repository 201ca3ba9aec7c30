//! Files that twintree keeps for itself below `.twintree/`.
//!
//! Whoever may write into a bucket's directory can put anything in their place: a link out of the bucket, a
//! FIFO that nobody writes to, a directory. Such a thing is an error that names it: it is never followed,
//! never waited for, and never taken for an absent file.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{kind, system};
use crate::{Result, StoreError};

/// How every file of ours is opened, beside the access asked for.
const CAREFULLY: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY)
    .union(OFlags::NONBLOCK);
/// What a file of ours is made with, where `O_CREAT` is asked for.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens a regular file of ours. `None`: there is no such name.
///
/// # Errors
/// `Unavailable` where something else stands there, and the system's word.
pub(crate) fn open_own(dir: impl AsFd, name: &str, access: OFlags) -> Result<Option<OwnedFd>> {
    let flags = access | CAREFULLY;
    // Reading must leave no trace; but only the owner (or root) may ask for that.
    let opened = match fs::openat(&dir, name, flags | OFlags::NOATIME, MODE) {
        Err(Errno::PERM) => fs::openat(&dir, name, flags, MODE),
        other => other,
    };
    let file = match opened {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(misplaced(name, e)),
    };
    let stat = fs::fstat(&file).map_err(|e| system(name, e))?;
    match kind(&stat) {
        FileType::RegularFile => Ok(Some(file)),
        _ => Err(displaced(name)),
    }
}

/// As [`open_own`], to be read as a stream.
///
/// # Errors
/// As [`open_own`].
pub(crate) fn open_own_file(dir: impl AsFd, name: &str, access: OFlags) -> Result<Option<File>> {
    Ok(open_own(dir, name, access)?.map(File::from))
}

/// A system error about something of ours: one that only another kind of entry gives says so.
pub(crate) fn misplaced(name: &str, e: Errno) -> StoreError {
    match e {
        Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO | Errno::NODEV => displaced(name),
        // Linux: somebody holds a lease on it (fcntl(2), F_SETLEASE); nothing of ours ever does.
        Errno::AGAIN => StoreError::Unavailable(format!("{name}, which somebody has leased,")),
        e => system(name, e),
    }
}

fn displaced(name: &str) -> StoreError {
    StoreError::Unavailable(format!("{name}, in whose place something else stands,"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let room = tempfile::tempdir().expect("a directory");
        let dir = fs::open(
            room.path(),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .expect("opened");
        fs::mknodat(&dir, "fifo", FileType::Fifo, MODE, 0).expect("a FIFO");
        std::fs::create_dir(room.path().join("dir")).expect("a directory");
        symlink("/etc/hostname", room.path().join("link")).expect("a link");
        let socket = room.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(socket).expect("a socket");
        std::fs::write(room.path().join("file"), b"x").expect("a file");
        for access in [OFlags::RDONLY, OFlags::RDWR, OFlags::RDWR | OFlags::CREATE] {
            for name in ["fifo", "dir", "link", "socket"] {
                let opened = open_own(&dir, name, access);
                assert!(
                    matches!(opened, Err(StoreError::Unavailable(_))),
                    "{name}: {opened:?}"
                );
            }
            assert!(matches!(open_own(&dir, "file", access), Ok(Some(_))));
        }
        assert!(matches!(open_own(&dir, "none", OFlags::RDONLY), Ok(None)));
    }
}

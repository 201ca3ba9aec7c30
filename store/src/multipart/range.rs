//! Locks on ranges of a file that belong to an open file description: they exclude every other
//! description, of this process and of others, and end with the last descriptor of theirs, however its
//! process ends (fcntl(2), "Open file description locks").

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes an exclusive lock on `length` bytes (0: to the end, wherever that will be) if nobody else holds any
/// of them; `false`: somebody does.
pub(super) fn try_lock(file: &File, start: u64, length: u64) -> io::Result<bool> {
    match set(file, libc::F_WRLCK, start, length) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives the range free.
pub(super) fn unlock(file: &File, start: u64, length: u64) -> io::Result<()> {
    set(file, libc::F_UNLCK, start, length)
}

fn set(file: &File, kind: i32, start: u64, length: u64) -> io::Result<()> {
    let range = |value: u64| libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
    let request = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range(start)?,
        l_len: range(length)?,
        l_pid: 0, // must be 0 for these locks
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the structure is initialised
    // and outlives the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) };
    if answer == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

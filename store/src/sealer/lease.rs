//! Proof that nobody writes a file: a read lease where the kernel keeps it, else time.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use super::settle::{Busy, rest};
use crate::record::FileState;
use crate::{Bucket, Result};

/// How long a file must have been left alone where a lease proves nothing.
const QUIET: i64 = 2_000_000_000;
/// F_SETSIG of fcntl(2), which the libc crate lacks on this target.
const F_SETSIG: libc::c_int = 10;
/// Filesystems on which a read lease proves that no writer has the file open.
pub(super) const LEASES: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];

/// Proof that nobody writes: a read lease, or that the file was left alone for a while.
pub(super) struct Lease<'a> {
    pub(super) file: Option<&'a OwnedFd>,
}

impl<'a> Lease<'a> {
    pub(super) fn take(bucket: &Bucket, file: &'a OwnedFd) -> Result<Result<Self, Busy>> {
        if LEASES.contains(&bucket.shared.facts.name) {
            // Linux: a broken lease sends SIGIO, which ends a process that does not expect it; SIGURG is
            // ignored by default (fcntl(2), F_SETSIG).
            let raw = file.as_fd().as_raw_fd();
            // SAFETY: two fcntl calls on a borrowed descriptor with plain integers.
            let taken = unsafe {
                libc::fcntl(raw, F_SETSIG, libc::SIGURG) == 0
                    && libc::fcntl(raw, libc::F_SETLEASE, libc::F_RDLCK) == 0
            };
            if taken {
                return Ok(Ok(Self { file: Some(file) }));
            }
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EAGAIN) {
                return Ok(Err(Busy::Open));
            }
            // Not the owner, or leases are off: the quiet time has to do.
        }
        Ok(match rest(&FileState::look(file)?) > QUIET {
            true => Ok(Self { file: None }),
            false => Err(Busy::Young(Duration::ZERO)),
        })
    }

    /// Has nobody asked to write since?
    pub(super) fn holds(&self, file: &OwnedFd) -> bool {
        if self.file.is_none() {
            return true;
        }
        // SAFETY: fcntl on a borrowed descriptor without an argument.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file {
            // SAFETY: fcntl on a descriptor that outlives the lease, with a plain integer.
            if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) } != 0 {
                // Closing the descriptor releases it as well.
                tracing::debug!(
                    "a lease cannot be given back: {}",
                    std::io::Error::last_os_error()
                );
            }
        }
    }
}

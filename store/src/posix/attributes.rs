//! What the mount changes of a file that is there: owner, mode, times, size.

use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{TreeView, number, proc_path, reopen};
use crate::Moves;
use crate::root::kind;

/// Times to set; `None`: left as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewTimes {
    /// Access.
    pub accessed: Option<NewTime>,
    /// Modification.
    pub modified: Option<NewTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum NewTime {
    /// Whatever the kernel says now.
    Now,
    /// Seconds and nanoseconds since the epoch.
    At(i64, u32),
}

impl TreeView {
    /// Changes owner or group.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn set_owner(
        &self,
        file: impl AsFd,
        user: Option<u32>,
        group: Option<u32>,
    ) -> rustix::io::Result<()> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        self.keeping_record(&file, || {
            fs::chownat(&file, c"", user, group, AtFlags::EMPTY_PATH)
        })
    }

    /// Changes the mode.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn set_mode(&self, file: impl AsFd, mode: u32) -> rustix::io::Result<()> {
        self.keeping_record(&file, || {
            fs::chmod(proc_path(&file), Mode::from_raw_mode(mode))
        })
    }

    /// Sets times.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn set_times(&self, file: impl AsFd, times: NewTimes) -> rustix::io::Result<()> {
        let times = Timestamps {
            last_access: timespec(times.accessed),
            last_modification: timespec(times.modified),
        };
        self.keeping_record_that(Moves::Mtime, &file, || {
            fs::utimensat(&file, c"", &times, AtFlags::EMPTY_PATH)
        })
    }

    /// Sets the size of a file that is open for writing.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn truncate_open(&self, file: impl AsFd, size: u64) -> rustix::io::Result<()> {
        fs::ftruncate(file, size)
    }

    /// Sets the size of what a descriptor is of (truncate(2)).
    ///
    /// # Errors
    /// The kernel's word.
    pub fn truncate(&self, file: impl AsFd, size: u64) -> rustix::io::Result<()> {
        let writing = self.writing(&file)?;
        // A FIFO would be waited for without end; a lease (the sealer's, or a Samba oplock) is given back when we wait.
        let open = match reopen(&file, OFlags::WRONLY | OFlags::NONBLOCK) {
            Err(Errno::AGAIN) if kind(&fs::fstat(&file)?) == FileType::RegularFile => {
                reopen(&file, OFlags::WRONLY)?
            }
            opened => opened?,
        };
        if let Some(writing) = &writing {
            writing.touched(&open).map_err(number)?;
        }
        fs::ftruncate(&open, size)?;
        match writing {
            Some(writing) => {
                let key = self.place(&open).and_then(|place| place.key);
                writing.finish(&open, key.as_ref()).map_err(number)
            }
            None => Ok(()),
        }
    }
}

fn timespec(time: Option<NewTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, fs::UTIME_OMIT),
        Some(NewTime::Now) => (0, fs::UTIME_NOW),
        Some(NewTime::At(seconds, nanoseconds)) => (seconds, nanoseconds.into()),
    };
    Timespec { tv_sec, tv_nsec }
}

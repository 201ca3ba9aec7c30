//! What is counted of the kernel's calls: how each of them ended, how long it took, and how many bytes went by.
//!
//! Arrays of a fixed length and relaxed additions, as in the gateway's meter. What the kernel does by itself is not
//! seen: names and attributes that it keeps, pages of its cache, reads and writes in passthrough.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::face::Answer;

/// A call of the kernel that is answered; the names are those of fuse(4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Release,
    Fsync,
    Opendir,
    Readdir,
    Readdirplus,
    Releasedir,
    Fsyncdir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    Lseek,
    CopyFileRange,
    Ioctl,
}

/// The names of all calls, in their order.
const NAMES: [&str; Call::Ioctl as usize + 1] = [
    "lookup",
    "getattr",
    "setattr",
    "readlink",
    "mknod",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "rename",
    "link",
    "open",
    "create",
    "read",
    "write",
    "flush",
    "release",
    "fsync",
    "opendir",
    "readdir",
    "readdirplus",
    "releasedir",
    "fsyncdir",
    "statfs",
    "setxattr",
    "getxattr",
    "listxattr",
    "removexattr",
    "fallocate",
    "lseek",
    "copy_file_range",
    "ioctl",
];
/// The errors that have a cell of their own; behind them all others, and before them success.
const ERRORS: [(&str, Errno); 19] = [
    ("ENOENT", Errno::NOENT),
    ("EEXIST", Errno::EXIST),
    ("ENODATA", Errno::NODATA),
    ("EACCES", Errno::ACCESS),
    ("EPERM", Errno::PERM),
    ("ENOTEMPTY", Errno::NOTEMPTY),
    ("ENOTDIR", Errno::NOTDIR),
    ("EISDIR", Errno::ISDIR),
    ("EINVAL", Errno::INVAL),
    ("EXDEV", Errno::XDEV),
    ("ESTALE", Errno::STALE),
    ("ENOTSUP", Errno::OPNOTSUPP),
    ("ENOTTY", Errno::NOTTY),
    ("EROFS", Errno::ROFS),
    ("ENOSPC", Errno::NOSPC),
    ("EDQUOT", Errno::DQUOT),
    ("EMFILE", Errno::MFILE),
    ("ENAMETOOLONG", Errno::NAMETOOLONG),
    ("EIO", Errno::IO),
];
const OUTCOMES: usize = ERRORS.len() + 2;
/// The upper ends of the classes of duration, in microseconds; one without an end is behind them.
const DURATIONS: [u64; 12] = [
    10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000, 1_000_000, 10_000_000,
];

/// The counters of one mount.
#[derive(Default)]
pub(crate) struct Calls {
    rows: [Row; NAMES.len()],
    read: AtomicU64,
    written: AtomicU64,
}

/// What is counted of one call; aligned, so that no two share a cache line.
#[derive(Default)]
#[repr(align(128))]
struct Row {
    nanos: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES],
    durations: [AtomicU64; DURATIONS.len() + 1],
}

/// A call that has begun; it counts when it is said how it ended.
pub(crate) struct Begun {
    call: Call,
    at: Instant,
}

/// What a mount's calls came to.
#[derive(Clone, Debug, PartialEq)]
pub struct CallTallies {
    /// Each call that was ever made, by its name in fuse(4).
    pub calls: Vec<CallTally>,
    /// Bytes that programs read through the daemon.
    pub read: u64,
    /// Bytes that programs wrote through the daemon.
    pub written: u64,
}

/// What one call came to.
#[derive(Clone, Debug, PartialEq)]
pub struct CallTally {
    /// Its name in fuse(4).
    pub name: &'static str,
    /// How many ended in which way, `ok` or an error's name; only those that occurred.
    pub outcomes: Vec<(&'static str, u64)>,
    /// How many took how long, by [`CallTally::ends`].
    pub durations: Vec<u64>,
    /// Seconds that all of them took.
    pub seconds: f64,
}

impl CallTally {
    /// The upper ends of the classes of duration, in seconds; the last class has none.
    pub fn ends() -> impl Iterator<Item = f64> {
        DURATIONS.iter().map(|end| *end as f64 / 1e6)
    }
}

impl Calls {
    /// Does what a call asks for, and counts it.
    pub fn take<T>(&self, call: Call, work: impl FnOnce() -> Answer<T>) -> Answer<T> {
        let begun = Self::begin(call);
        let answer = work();
        self.end(&begun, answer.as_ref().err());
        answer
    }

    /// Begins to measure one.
    pub fn begin(call: Call) -> Begun {
        let at = Instant::now();
        Begun { call, at }
    }

    /// Counts it, with the error that it ended with.
    pub fn end(&self, begun: &Begun, error: Option<&Errno>) {
        self.count(begun.call, error, begun.at.elapsed());
    }

    /// Counts bytes that a program got.
    pub fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts bytes that a program gave.
    pub fn written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Relaxed);
    }

    fn count(&self, call: Call, error: Option<&Errno>, took: Duration) {
        let row = &self.rows[call as usize];
        let outcome = error.map_or(0, |error| {
            let known = ERRORS.iter().position(|(_, one)| one == error);
            1 + known.unwrap_or(ERRORS.len())
        });
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let class = DURATIONS.partition_point(|end| end * 1000 < nanos);
        row.outcomes[outcome].fetch_add(1, Relaxed);
        row.durations[class].fetch_add(1, Relaxed);
        row.nanos.fetch_add(nanos, Relaxed);
    }

    /// What they came to so far.
    pub fn tallies(&self) -> CallTallies {
        let calls = NAMES.iter().zip(&self.rows).filter_map(|(name, row)| {
            let labels = std::iter::once("ok").chain(ERRORS.iter().map(|(name, _)| *name));
            let outcomes = labels.chain(["other"]).zip(&row.outcomes);
            let tally = CallTally {
                name,
                outcomes: outcomes
                    .map(|(outcome, count)| (outcome, count.load(Relaxed)))
                    .filter(|(_, count)| *count > 0)
                    .collect(),
                durations: row.durations.iter().map(|one| one.load(Relaxed)).collect(),
                seconds: row.nanos.load(Relaxed) as f64 / 1e9,
            };
            (!tally.outcomes.is_empty()).then_some(tally)
        });
        CallTallies {
            calls: calls.collect(),
            read: self.read.load(Relaxed),
            written: self.written.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_the_name_of_its_place() {
        assert_eq!(NAMES[Call::Lookup as usize], "lookup");
        assert_eq!(NAMES[Call::Release as usize], "release");
        assert_eq!(NAMES[Call::Statfs as usize], "statfs");
        assert_eq!(NAMES[Call::CopyFileRange as usize], "copy_file_range");
    }

    #[test]
    fn outcomes_and_durations_are_counted_in_their_classes() {
        let calls = Calls::default();
        assert_eq!(calls.tallies().calls, []);
        calls.count(Call::Open, None, Duration::from_micros(10));
        calls.count(
            Call::Open,
            Some(&Errno::NOENT),
            Duration::from_nanos(10_001),
        );
        calls.count(Call::Open, Some(&Errno::LOOP), Duration::from_secs(60));
        let tallies = calls.tallies();
        let [open] = tallies.calls.as_slice() else {
            panic!("one call only: {tallies:?}")
        };
        assert_eq!(open.outcomes, [("ok", 1), ("ENOENT", 1), ("other", 1)]);
        assert_eq!(open.durations, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(open.durations.len(), CallTally::ends().count() + 1);
        assert!((open.seconds - 60.000_020).abs() < 1e-5);
    }

    #[test]
    fn what_is_done_is_answered_as_it_was() {
        let calls = Calls::default();
        assert_eq!(calls.take(Call::Flush, || Ok(7)), Ok(7));
        let failed: Answer<()> = calls.take(Call::Flush, || Err(Errno::IO));
        assert_eq!(failed, Err(Errno::IO));
        assert_eq!(calls.tallies().calls[0].outcomes, [("ok", 1), ("EIO", 1)]);
    }
}

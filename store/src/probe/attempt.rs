//! What has to be tried, in a directory of the probe's own.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::{Grade, Report};
use crate::lock;

/// Tries all of it; the order is that of the report.
pub(super) fn all(room: &OwnedFd, top: &OwnedFd, report: &mut Report) -> io::Result<()> {
    xattrs(room, report)?;
    unnamed_files(room, report);
    renames(room, report)?;
    locks(room, report)?;
    times(room, report)?;
    copies(room, report)?;
    names(room, report)?;
    match fs::fsync(room) {
        Ok(()) => report.add(
            "syncing directories",
            Grade::Good,
            "a new name is on disk before 200",
        ),
        Err(e) => report.add(
            "syncing directories",
            Grade::Bad,
            format!("{e}: durability cannot be promised"),
        ),
    }
    let same = crate::root::mount_of(room.as_fd())? == crate::root::mount_of(top.as_fd())?;
    if !same {
        report.add(
            "mounts",
            Grade::Weak,
            "a new directory lies on another filesystem",
        );
    }
    Ok(())
}

/// The sync of a whole filesystem, by which many writers share one: it flushes everybody's pages, so a person
/// asks for it (doctor), and the daemon never.
pub(super) fn whole_sync(room: &OwnedFd, report: &mut Report) {
    match fs::syncfs(room) {
        Ok(()) => report.add(
            "shared syncs",
            Grade::Good,
            "many writers at once share one",
        ),
        Err(e) => report.add(
            "shared syncs",
            Grade::Bad,
            format!("{e}: durability cannot be promised"),
        ),
    }
}

fn make(room: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(File::from(fs::openat(
        room,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?))
}

fn xattrs(room: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let file = make(room, "xattr")?;
    let fits =
        |bytes: usize| fs::fsetxattr(&file, "user.twintree", &vec![7; bytes], XattrFlags::empty());
    match fits(64) {
        Ok(()) => {}
        Err(e) => {
            let meaning =
                format!("none ({e}): records are kept in .twintree/records instead, by inode");
            report.add("extended attributes", Grade::Weak, meaning);
            return Ok(());
        }
    }
    let (mut low, mut high) = (64, 65_536);
    if fits(high).is_ok() {
        low = high;
    }
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if fits(middle).is_ok() {
            low = middle
        } else {
            high = middle
        }
    }
    let grade = if low < 4000 { Grade::Weak } else { Grade::Good };
    report.add(
        "extended attributes",
        grade,
        format!("up to {low} bytes; what is larger goes to .twintree/records"),
    );
    Ok(())
}

fn unnamed_files(room: &OwnedFd, report: &mut Report) {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match fs::openat(room, ".", flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => {
            let proc = format!("/proc/self/fd/{}", file.as_raw_fd());
            match fs::linkat(fs::CWD, proc, room, "linked", AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => report.add(
                    "unnamed files",
                    Grade::Good,
                    "a write that stops half-way leaves nothing",
                ),
                Err(e) => report.add(
                    "unnamed files",
                    Grade::Weak,
                    format!("cannot be linked ({e}): named stages instead"),
                ),
            }
        }
        Err(e) => report.add(
            "unnamed files",
            Grade::Weak,
            format!("none ({e}): named stages, swept after a day"),
        ),
    }
}

fn renames(room: &OwnedFd, report: &mut Report) -> io::Result<()> {
    drop(make(room, "from")?);
    // Only an absent target shows whether the flag is known: a present one is refused before it is looked at.
    match fs::renameat_with(room, "from", room, "to", RenameFlags::NOREPLACE) {
        Ok(()) => report.add(
            "exclusive rename",
            Grade::Good,
            "If-None-Match is decided by the filesystem",
        ),
        Err(Errno::INVAL | Errno::NOSYS) => {
            let meaning = "not known: If-None-Match is decided by link, or under the key's lock";
            report.add("exclusive rename", Grade::Weak, meaning);
        }
        Err(e) => report.add("exclusive rename", Grade::Bad, e.to_string()),
    }
    Ok(())
}

fn locks(room: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let kind = lock::probe(room).map_err(io::Error::other)?;
    let grade = if kind == "ofd" {
        Grade::Good
    } else {
        Grade::Weak
    };
    report.add(
        "locks",
        grade,
        format!("{kind}: gateways on one tree keep out of each other's way"),
    );
    Ok(())
}

fn times(room: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let mut file = make(room, "times")?;
    let wanted = fs::Timespec {
        tv_sec: 1_700_000_000,
        tv_nsec: 123_456_789,
    };
    fs::futimens(
        &file,
        &fs::Timestamps {
            last_access: wanted,
            last_modification: wanted,
        },
    )?;
    let kept = fs::fstat(&file)?.st_mtime_nsec;
    let (grade, meaning) = match kept {
        123_456_789 => (Grade::Good, "nanoseconds"),
        123_456_700 => (Grade::Good, "100 nanoseconds"),
        0 => (
            Grade::Weak,
            "whole seconds: a record counts only once its file has been quiet for two of them",
        ),
        _ => (Grade::Weak, "coarser than a microsecond"),
    };
    report.add("times", grade, meaning);
    file.write_all(b"1")?;
    let first = fs::fstat(&file)?;
    file.write_all(b"2")?;
    let second = fs::fstat(&file)?;
    let moved = (first.st_ctime, first.st_ctime_nsec) != (second.st_ctime, second.st_ctime_nsec);
    let (grade, meaning) = if moved {
        (Grade::Good, "each change shows at once")
    } else {
        (
            Grade::Weak,
            "two changes within one tick look alike: our own fine mtime tells them apart",
        )
    };
    report.add("change times", grade, meaning);
    Ok(())
}

fn copies(room: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let mut source = make(room, "source")?;
    source.write_all(&[7; 65_536])?;
    let target = make(room, "target")?;
    match fs::ioctl_ficlone(&target, &source) {
        Ok(()) => report.add(
            "reflink",
            Grade::Good,
            "a copy shares its blocks and costs no time, and S3 reads what is being written in the mount as it is at one moment",
        ),
        Err(_) => report.add(
            "reflink",
            Grade::Weak,
            "none: a copy is made by the kernel, byte by byte, and a GET of what is being written is cut when that moves",
        ),
    }
    Ok(())
}

fn names(room: &OwnedFd, report: &mut Report) -> io::Result<()> {
    drop(make(room, "Case")?);
    drop(make(room, "e\u{301}")?);
    let there = |name: &str| fs::statat(room, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    let (grade, meaning) = match (there("cASE"), there("\u{e9}")) {
        (false, false) => (Grade::Good, "kept byte for byte"),
        (true, _) => (
            Grade::Bad,
            "letter case is folded: keys that differ in it only are one file",
        ),
        (false, true) => (
            Grade::Bad,
            "Unicode is normalised: keys that differ in it only are one file",
        ),
    };
    report.add("names", grade, meaning);
    let odd = fs::openat(
        room,
        &b"odd\xff"[..],
        OFlags::WRONLY | OFlags::CREATE,
        Mode::from_raw_mode(0o600),
    );
    match odd {
        Ok(_) => report.add(
            "names outside UTF-8",
            Grade::Good,
            "allowed; shown with a reversible escape",
        ),
        Err(e) => report.add(
            "names outside UTF-8",
            Grade::Good,
            format!("refused by the filesystem ({e})"),
        ),
    }
    Ok(())
}

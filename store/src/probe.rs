//! What a filesystem can do, found by trying, in a directory of its own that is removed again; and what
//! that means, in sentences that a person understands. Each weakness has a fallback, and none is silent.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use crate::{fsfacts, lock};

/// How long the tree is looked at: doctor answers a person who waits.
const CENSUS_TIME: Duration = Duration::from_secs(5);

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Works, by a fallback.
    Weak,
    /// Something that S3 promises cannot be kept.
    Bad,
    /// Not tried.
    Unknown,
}

impl Grade {
    /// As shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Weak => "weak",
            Self::Bad => "bad",
            Self::Unknown => "?",
        }
    }
}

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it went.
    pub grade: Grade,
    /// What it means for what is served.
    pub meaning: String,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order tried.
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, what: &'static str, grade: Grade, meaning: impl Into<String>) {
        self.findings.push(Finding {
            what,
            grade,
            meaning: meaning.into(),
        });
    }

    /// One sentence on the whole.
    pub fn summary(&self) -> String {
        let count = |grade| self.findings.iter().filter(|f| f.grade == grade).count();
        match (count(Grade::Bad), count(Grade::Weak)) {
            (0, 0) => "Everything works as it should.".to_owned(),
            (0, weak) => format!("Everything works; {weak} finding(s) use a fallback."),
            (bad, _) => format!("{bad} finding(s) limit what can be served from here."),
        }
    }
}

/// Examines a directory. With `read_only` nothing is made, and what would have to be tried stays unknown.
///
/// # Errors
/// The directory cannot be opened.
pub fn examine(dir: &Path, read_only: bool) -> io::Result<Report> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = fs::open(dir, flags, Mode::empty())?;
    let mut report = Report::default();
    look(&top, &mut report)?;
    skipped_buckets(&top, &mut report)?;
    census(dir, &mut report);
    if read_only {
        report.add("writing", Grade::Unknown, "not tried, as asked");
        return Ok(report);
    }
    let name = format!(".twintree-doctor-{:016x}", crate::random::number());
    match fs::mkdirat(&top, &name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(e) => {
            report.add(
                "writing",
                Grade::Bad,
                format!("nothing can be made here ({e}): S3 reads work, writes are refused"),
            );
            return Ok(report);
        }
    }
    let tried = fs::openat(&top, &name, flags, Mode::empty()).map_err(io::Error::from);
    let result = tried.and_then(|room| attempt(&room, &top, &mut report));
    remove(&top, &name)?;
    result.map(|()| report)
}

/// What can be known without writing.
fn look(top: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let facts = fsfacts::facts(top);
    let meaning = if facts.remote {
        "another machine or process serves it: every disk call goes through the blocking pool"
    } else {
        "local: small reads are answered without a thread hop"
    };
    report.add(
        "filesystem",
        if facts.remote {
            Grade::Weak
        } else {
            Grade::Good
        },
        format!("{}: {meaning}", facts.name),
    );
    match fs::openat2(
        top,
        ".",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH,
    ) {
        Ok(_) => report.add(
            "openat2",
            Grade::Good,
            "the kernel keeps every name inside its bucket",
        ),
        Err(_) => report.add(
            "openat2",
            Grade::Weak,
            "no openat2: names are resolved one component at a time",
        ),
    }
    let stat = fs::fstatvfs(top)?;
    let read_only = stat.f_flag.contains(fs::StatVfsMountFlags::RDONLY);
    if read_only {
        report.add(
            "mount",
            Grade::Bad,
            "mounted read-only: S3 reads work, writes are refused",
        );
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
    report.add(
        "free space",
        if free < 1024 {
            Grade::Weak
        } else {
            Grade::Good
        },
        format!("{free} MiB"),
    );
    limits(report);
    Ok(())
}

fn limits(report: &mut Report) {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    let grade = if files < 4096 {
        Grade::Weak
    } else {
        Grade::Good
    };
    report.add(
        "open files",
        grade,
        format!("{files} per process; each connection and each body takes one (ulimit -n)"),
    );
    let watches = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let watches = watches
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match watches {
        Some(n) => report.add(
            "inotify watches",
            Grade::Good,
            format!("{n} (fs.inotify.max_user_watches)"),
        ),
        None => report.add(
            "inotify watches",
            Grade::Weak,
            "none: listings are checked by directory times",
        ),
    }
}

/// Entries that will not be buckets, so that nobody wonders.
fn skipped_buckets(top: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let mut skipped = Vec::new();
    let mut served = 0_usize;
    for entry in fs::Dir::read_from(top)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..")
            || name.starts_with(b".")
            || !crate::bucket::is_directory(top, name)
        {
            continue;
        }
        match entry
            .file_name()
            .to_str()
            .ok()
            .map(crate::BucketName::parse)
        {
            Some(Ok(_)) => served += 1,
            _ => skipped.push(crate::path::key_text(name).into_owned()),
        }
    }
    report.add(
        "buckets",
        Grade::Good,
        format!("{served} directories would be buckets under this root"),
    );
    if !skipped.is_empty() {
        let shown = skipped
            .iter()
            .take(5)
            .map(|n| format!("{n:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let rest = skipped.len().saturating_sub(5);
        let more = if rest > 0 {
            format!(" and {rest} more")
        } else {
            String::new()
        };
        report.add(
            "bucket names",
            Grade::Weak,
            format!("not served, S3 clients refuse these names: {shown}{more}"),
        );
    }
    Ok(())
}

/// What lies there, as far as a bounded look tells: entries that S3 shows otherwise than a person expects.
fn census(dir: &Path, report: &mut Report) {
    let (mut files, mut links, mut special, mut odd, mut linked, mut unreadable) =
        (0_u64, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    let start = Instant::now();
    let hidden = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().as_encoded_bytes();
        name.eq_ignore_ascii_case(crate::name::RESERVED.as_bytes())
    };
    let mut walk = walkdir::WalkDir::new(dir)
        .min_depth(2)
        .into_iter()
        .filter_entry(|entry| !hidden(entry));
    let complete = loop {
        let Some(entry) = walk.next() else {
            break true;
        };
        if start.elapsed() > CENSUS_TIME {
            break false;
        }
        let Ok(entry) = entry else {
            unreadable += 1;
            continue;
        };
        odd += u64::from(entry.file_name().to_str().is_none());
        match entry.file_type() {
            kind if kind.is_dir() => {}
            kind if kind.is_symlink() => links += 1,
            kind if kind.is_file() => {
                files += 1;
                linked += u64::from(entry.metadata().is_ok_and(|m| m.nlink() > 1));
            }
            _ => special += 1,
        }
    };
    let least = if complete { "" } else { "at least " };
    report.add(
        "files",
        Grade::Good,
        format!("{least}{files} would be objects"),
    );
    let notes = [
        (
            links,
            "symbolic links",
            "shown where they lead to a file inside their bucket; never followed out",
        ),
        (
            linked,
            "hard-linked files",
            "a PUT over one leaves its other names alone",
        ),
        (
            special,
            "FIFOs, sockets or devices",
            "not shown, and refused by name",
        ),
        (odd, "names outside UTF-8", "shown with a reversible escape"),
        (
            unreadable,
            "unreadable entries",
            "left out of listings; give the daemon's user permission to serve them",
        ),
    ];
    for (count, what, meaning) in notes {
        if count > 0 {
            let grade = if what.starts_with("unreadable") {
                Grade::Weak
            } else {
                Grade::Good
            };
            report.add(what, grade, format!("{least}{count}: {meaning}"));
        }
    }
}

/// What has to be tried.
fn attempt(room: &OwnedFd, top: &OwnedFd, report: &mut Report) -> io::Result<()> {
    xattrs(room, report)?;
    unnamed_files(room, report);
    renames(room, report)?;
    locks(room, report)?;
    times(room, report)?;
    copies(room, report)?;
    names(room, report)?;
    let synced = fs::fsync(room).and_then(|()| fs::syncfs(room));
    match synced {
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
            "a copy shares its blocks and costs no time",
        ),
        Err(_) => report.add(
            "reflink",
            Grade::Weak,
            "none: a copy is made by the kernel, byte by byte",
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

/// Removes the probe's directory, which holds plain files only.
fn remove(top: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let room = fs::openat(top, name, flags, Mode::empty())?;
    for entry in fs::Dir::read_from(&room)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            fs::unlinkat(&room, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_leaves_nothing_behind_and_finds_every_thing() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("with space")).expect("a directory");
        std::fs::write(dir.path().join("with space/file"), b"x").expect("a file");
        std::os::unix::fs::symlink("file", dir.path().join("with space/link")).expect("a link");
        let report = examine(dir.path(), false).expect("a report");
        let found: Vec<_> = report.findings.iter().map(|f| f.what).collect();
        for what in [
            "extended attributes",
            "locks",
            "times",
            "names",
            "reflink",
            "bucket names",
        ] {
            assert!(found.contains(&what), "{what} in {found:?}");
        }
        let counted = |what: &str| {
            let finding = report.findings.iter().find(|f| f.what == what);
            finding.map(|f| {
                f.meaning
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>()
            })
        };
        assert_eq!(counted("files").as_deref(), Some("1"));
        assert_eq!(counted("symbolic links").as_deref(), Some("1"));
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a listing").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_read_only_probe_makes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let before = std::fs::metadata(dir.path())
            .expect("stat")
            .modified()
            .expect("mtime");
        examine(dir.path(), true).expect("a report");
        assert_eq!(
            std::fs::metadata(dir.path())
                .expect("stat")
                .modified()
                .expect("mtime"),
            before
        );
    }
}

//! What can be known of a filesystem and a tree without writing.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};

use super::{Grade, Report};
use crate::fsfacts;
use crate::path::HideList;
use crate::root::Tree;
use crate::rules::Scope;

/// How long the tree is looked at: doctor answers a person who waits.
const CENSUS_TIME: Duration = Duration::from_secs(5);

/// The filesystem, its mount and the limits of this process.
pub(super) fn filesystem(top: &OwnedFd, dir: &Path, report: &mut Report) -> io::Result<()> {
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
    // Linux: ramfs and some FUSE filesystems count no blocks at all.
    let (grade, meaning) = match stat.f_blocks {
        0 => (Grade::Unknown, "the filesystem does not say".to_owned()),
        _ if free < 1024 => (Grade::Weak, format!("{free} MiB")),
        _ => (Grade::Good, format!("{free} MiB")),
    };
    report.add("free space", grade, meaning);
    birth(top, report)?;
    mounts(top, dir, report)?;
    limits(report);
    Ok(())
}

fn birth(top: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let stat = fs::statx(top, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
    match StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) {
        true => report.add(
            "birth times",
            Grade::Good,
            "a bucket made by mkdir shows when",
        ),
        false => report.add(
            "birth times",
            Grade::Weak,
            "none: a bucket made by mkdir shows its last change for its creation",
        ),
    }
    Ok(())
}

/// Filesystems inside the tree: what is written there is staged there.
fn mounts(top: &OwnedFd, dir: &Path, report: &mut Report) -> io::Result<()> {
    let location = dir.canonicalize()?.as_os_str().as_bytes().to_vec();
    let scope = Scope::of_hide(Arc::new(HideList::new(&[])));
    let tree = Tree::new(Arc::new(top.try_clone()?), Some(Arc::new(location)), scope);
    let inside = tree.mounts_inside().len();
    if inside > 0 {
        let meaning = "each is served; a bucket with one in it cannot be removed through S3";
        report.add("mounts inside", Grade::Good, format!("{inside}: {meaning}"));
    }
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
            format!("{n} (fs.inotify.max_user_watches): direct changes are heard of at once in half as many directories"),
        ),
        None => report.add(
            "inotify watches",
            Grade::Weak,
            "none: listings are checked by directory times",
        ),
    }
}

/// Entries that will not be buckets, so that nobody wonders.
pub(super) fn buckets(top: &OwnedFd, report: &mut Report) -> io::Result<()> {
    let mut skipped = Vec::new();
    let mut served = 0_usize;
    for entry in fs::Dir::read_from(top)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..")
            || name.starts_with(b".")
            || HideList::new(&[]).hides(name)
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
pub(super) fn census(dir: &Path, report: &mut Report) {
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

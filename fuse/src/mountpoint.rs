//! Where a mount may stand, and what a daemon that was killed left there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use thiserror::Error;

/// The name in the first column of the mount table.
pub const SOURCE: &str = "twintree";

/// Why nothing is mounted.
#[derive(Debug, Error)]
pub enum Refused {
    /// Nothing is there.
    #[error("the mount point {} does not exist: mkdir -p it first", .0.display())]
    Missing(PathBuf),
    /// Something is there that is no directory.
    #[error("the mount point {} is not a directory", .0.display())]
    NoDirectory(PathBuf),
    /// It holds something that the mount would hide.
    #[error("the mount point {} is not empty: its content would be hidden; choose an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// It lies in what is served.
    #[error("the mount point {} lies inside the served directory {}: choose one outside", .0.display(), .1.display())]
    InsideRoot(PathBuf, PathBuf),
    /// What is served lies below it.
    #[error("the served directory {} lies inside the mount point {}, which would hide it", .1.display(), .0.display())]
    RootInside(PathBuf, PathBuf),
    /// Something else is mounted there.
    #[error("something is mounted on {} already: umount it, or choose another directory", .0.display())]
    Mounted(PathBuf),
    /// A dead mount that cannot be taken away.
    #[error("a dead mount on {} cannot be removed: {}", .0.display(), .1)]
    Stale(PathBuf, io::Error),
    /// The system's word.
    #[error("the mount point {} cannot be looked at: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

/// Takes away what a killed daemon left, and gives the mount point's path without links.
///
/// # Errors
/// Where nothing may be mounted there.
pub fn prepare(point: &Path, served: &[&Path]) -> Result<PathBuf, Refused> {
    let failed = |e| Refused::Io(point.to_owned(), e);
    if is_dead(point) {
        let place = beside_links(point).map_err(failed)?;
        take_away_dead(&place)?;
    }
    let place = match fs::canonicalize(point) {
        Ok(place) => place,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Refused::Missing(point.to_owned()));
        }
        Err(e) => return Err(failed(e)),
    };
    if !place.is_dir() {
        return Err(Refused::NoDirectory(place));
    }
    for dir in served.iter().copied() {
        if place.starts_with(dir) {
            return Err(Refused::InsideRoot(place, dir.to_owned()));
        }
        if dir.starts_with(&place) {
            return Err(Refused::RootInside(place, dir.to_owned()));
        }
    }
    if mounted_source(&place).is_some() {
        return Err(Refused::Mounted(place));
    }
    if fs::read_dir(&place).map_err(failed)?.next().is_some() {
        return Err(Refused::NotEmpty(place));
    }
    Ok(place)
}

/// Unmounts; lazily: whoever has something open there keeps it until he closes it.
///
/// # Errors
/// The system's word; EBUSY where it is not lazy.
pub fn take_off(place: &Path, lazily: bool) -> io::Result<()> {
    let flags = match lazily {
        true => UnmountFlags::DETACH,
        false => UnmountFlags::empty(),
    };
    match unmount(place, flags | UnmountFlags::NOFOLLOW) {
        // An ordinary user: the set-uid helper that mounted it.
        Err(Errno::PERM) => {
            let how = if lazily { "-uz" } else { "-u" };
            let done = Command::new("fusermount3").arg(how).arg(place).output()?;
            match done.status.success() {
                true => Ok(()),
                false => Err(io::Error::other(
                    String::from_utf8_lossy(&done.stderr).trim().to_owned(),
                )),
            }
        }
        other => other.map_err(io::Error::from),
    }
}

/// Is it a mount whose daemon is gone?
fn is_dead(point: &Path) -> bool {
    fs::metadata(point).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
}

fn take_away_dead(place: &Path) -> Result<(), Refused> {
    let stale = |e| Refused::Stale(place.to_owned(), e);
    if mounted_source(place).as_deref() != Some(SOURCE) {
        let other = "it is not one of twintree's; umount it yourself";
        return Err(stale(io::Error::other(other)));
    }
    tracing::info!(
        "removing the mount that an earlier daemon left on {}",
        place.display()
    );
    take_off(place, true).map_err(stale)
}

/// The path without links, but for the last component, which cannot be looked at.
fn beside_links(point: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(point)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => Ok(absolute),
    }
}

/// What is mounted on a path, topmost.
fn mounted_source(place: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut source = None;
    for line in table.lines() {
        let mut words = line.split(' ');
        if let (Some(from), Some(on)) = (words.next(), words.next())
            && Path::new(&unescape(on)) == place
        {
            source = Some(from.to_owned());
        }
    }
    source
}

/// Is what is mounted there, topmost, one of twintree's?
pub fn is_ours(place: &Path) -> bool {
    mounted_source(place).as_deref() == Some(SOURCE)
}

/// Blanks and the like stand in the table as `\040`.
fn unescape(text: &str) -> String {
    let (mut plain, bytes, mut at) = (Vec::new(), text.as_bytes(), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_that_would_hide_something_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().canonicalize().expect("a path");
        let (root, full, file) = (base.join("root"), base.join("full"), base.join("file"));
        for made in [&root, &root.join("inside"), &full, &full.join("entry")] {
            fs::create_dir_all(made).expect("made");
        }
        fs::write(&file, b"x").expect("written");
        let refused = |point: &Path| {
            prepare(point, &[&base.join("other"), &root])
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(&base.join("none")).contains("does not exist"));
        assert!(refused(&file).contains("is not a directory"));
        assert!(refused(&full).contains("is not empty"));
        assert!(refused(&root.join("inside")).contains("inside the served directory"));
        assert!(refused(&root).contains("inside the served directory"));
        assert!(refused(&base).contains("would hide it"));
        assert!(refused(Path::new("/proc")).contains("mounted on"));
    }

    #[test]
    fn blanks_in_the_table_are_read() {
        assert_eq!(unescape(r"/a\040b\011c\134"), "/a b\tc\\");
    }
}

//! Leaving: what we put into a tree is counted, and taken out of it again: our xattrs and reserved directories.
//!
//! No file's bytes, name, owner, mode or mtime changes. No link is followed. A `.twintree` is ours at the top of what
//! is stripped, of a directory in it (a bucket), and of a filesystem that is mounted inside; any other is somebody's.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::everything::{At, MAX_DEPTH, Visitor, open_child, open_top, walk};
use crate::lifecycle::{entries, remove_tree};
use crate::name::RESERVED;
use crate::path::HideList;
use crate::record::{META_XATTR, RECORD_XATTR, Record};
use crate::{Result, dirmark};

/// The longest list of an entry's xattrs (xattr(7)).
const LIST_MAX: usize = 65_536;
/// What all our xattrs begin with.
const OURS: &[u8] = b"user.twintree";

/// What lies in a tree that we put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belongings {
    /// Files and directories that were looked at.
    pub looked_at: u64,
    /// Records: ETag, checksum and parts of a file.
    pub records: u64,
    /// Files and directories with metadata or tags of their own.
    pub metadata: u64,
    /// Directories that are objects `dir/`, or that we made.
    pub folders: u64,
    /// Reserved directories.
    pub reserved: u64,
    /// Objects that no path can hold, and their bytes.
    pub annexed: u64,
    /// Bytes of those.
    pub annexed_bytes: u64,
    /// Uploads that nobody completed.
    pub uploads: u64,
    /// Versions of objects that are not the current one.
    pub versions: u64,
    /// What could not be looked at or taken out.
    pub left: u64,
}

/// What is told while it happens.
pub type Told<'a> = dyn FnMut(Telling<'_>) + 'a;

/// One thing that is told.
#[derive(Debug)]
pub enum Telling<'a> {
    /// So many entries were looked at since the last time.
    Progress(u64),
    /// Something was left as it is: its path and why.
    Left(&'a [u8], String),
}

/// Counts what is ours in the tree at `dir`; with `remove`, takes it out. Blocking.
///
/// # Errors
/// `dir` cannot be opened. What fails below it is told and counted.
pub fn strip(dir: &Path, remove: bool, told: &mut Told<'_>) -> Result<Belongings> {
    let shown = dir.display().to_string();
    let top = open_top(dir)?;
    let mut strip = Strip {
        remove,
        told,
        found: Belongings::default(),
        system: HideList::new(&[]),
    };
    let path = shown.into_bytes();
    strip.attributes(&top, b".", &path, true);
    walk(&top, path, &mut strip);
    Ok(strip.found)
}

struct Strip<'a, 'b> {
    remove: bool,
    told: &'a mut Told<'b>,
    found: Belongings,
    /// What filesystems keep for themselves: snapshots cannot be changed, and are nobody's loss.
    system: HideList,
}

impl Visitor for Strip<'_, '_> {
    fn directory(&mut self, _path: &[u8], names: &[(Vec<u8>, bool)]) {
        (self.told)(Telling::Progress(names.len() as u64));
    }

    fn entry(&mut self, at: &At<'_>) -> bool {
        if at.is_directory && at.name == RESERVED.as_bytes() {
            self.reserved(at);
            return false;
        }
        if self.system.hides(at.name) && !at.name.eq_ignore_ascii_case(RESERVED.as_bytes()) {
            return false;
        }
        self.found.looked_at += 1;
        self.attributes(at.dir, at.name, at.path, at.is_directory);
        true
    }

    fn left(&mut self, path: &[u8], why: &str) {
        self.found.left += 1;
        (self.told)(Telling::Left(path, why.to_owned()));
    }
}

impl Strip<'_, '_> {
    /// The xattrs of one entry, by its name, so that what cannot be opened is stripped too.
    fn attributes(&mut self, dir: &OwnedFd, name: &[u8], shown: &[u8], is_directory: bool) {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend(name);
        let mut list = [0; 1024];
        let mut large = Vec::new();
        let listed = match fs::llistxattr(&path[..], &mut list[..]) {
            Err(Errno::RANGE) => {
                large.resize(LIST_MAX, 0);
                fs::llistxattr(&path[..], &mut large[..]).map(|length| &large[..length])
            }
            other => other.map(|length| &list[..length]),
        };
        let listed = match listed {
            Ok(listed) => listed,
            Err(Errno::NOENT | Errno::OPNOTSUPP) => return,
            Err(e) => return self.left(shown, &e.to_string()),
        };
        let names = listed.split(|byte| *byte == 0);
        let ours: Vec<&[u8]> = names.filter(|name| is_ours(name)).collect();
        self.count(&path, &ours, is_directory);
        for name in ours.into_iter().filter(|_| self.remove) {
            match fs::lremovexattr(&path[..], name) {
                Ok(()) | Err(Errno::NODATA | Errno::NOENT) => {}
                Err(e) => return self.left(shown, &e.to_string()),
            }
        }
    }

    fn count(&mut self, path: &[u8], ours: &[&[u8]], is_directory: bool) {
        let has = |name: &str| ours.contains(&name.as_bytes());
        let mut value = [0; LIST_MAX];
        let record = fs::lgetxattr(path, RECORD_XATTR, &mut value[..])
            .ok()
            .and_then(|length| Record::decode(&value[..length]).ok());
        self.found.records += u64::from(has(RECORD_XATTR));
        self.found.folders += u64::from(is_directory && has(dirmark::NAME));
        let has_meta = record.is_some_and(|record| record.has_meta);
        self.found.metadata += u64::from(has(META_XATTR) || has_meta);
    }

    fn reserved(&mut self, at: &At<'_>) {
        if !at.is_at_a_top {
            return self.left(at.path, "no gateway makes one there");
        }
        self.found.reserved += 1;
        match open_child(at.dir, RESERVED.as_bytes()) {
            Ok(ours) => self.count_reserved(&ours),
            Err(e) => return self.left(at.path, &e.to_string()),
        }
        if self.remove
            && let Err(why) = remove_reserved(at.dir)
        {
            self.left(at.path, &why);
        }
    }

    fn count_reserved(&mut self, ours: &OwnedFd) {
        let (mut annexed, mut bytes) = (0, 0);
        each_file(ours, b"annex", &mut |dir, name| {
            annexed += 1;
            bytes += fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        });
        self.found.annexed += annexed;
        self.found.annexed_bytes += bytes;
        let mut versions = 0;
        each_file(ours, b"versions", &mut |_, _| versions += 1);
        self.found.versions += versions;
        // Records of a filesystem without xattrs.
        if let Some(records) = open(ours, b"records") {
            let mut beside = 0;
            each_file(&records, b"i", &mut |_, _| beside += 1);
            self.found.records += beside;
        }
        if let Some(uploads) = open(ours, b"uploads") {
            self.found.uploads += entries(&uploads).map_or(0, |names| names.len() as u64);
        }
    }
}

/// Takes the reserved directory out of one, whose mtime stays. Else why not.
fn remove_reserved(dir: &OwnedFd) -> std::result::Result<(), String> {
    let before = fs::fstat(dir).map_err(|e| e.to_string())?;
    remove_tree(dir, RESERVED.as_bytes(), 0).map_err(|e| e.to_string())?;
    if fs::statat(dir, RESERVED, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err("something came into it meanwhile: is a gateway still running?".to_owned());
    }
    keep_mtime(dir, &before).map_err(|e| format!("its directory's mtime cannot be put back: {e}"))
}

fn is_ours(name: &[u8]) -> bool {
    name.strip_prefix(OURS)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
}

fn open(dir: impl AsFd, name: &[u8]) -> Option<OwnedFd> {
    open_child(dir, name).ok()
}

/// Every file below a directory, as far as it can be read.
fn each_file(dir: &impl AsFd, name: &[u8], each: &mut dyn FnMut(&OwnedFd, &[u8])) {
    let mut waiting: Vec<(OwnedFd, usize)> =
        open(dir, name).map(|dir| (dir, 0)).into_iter().collect();
    while let Some((dir, depth)) = waiting.pop() {
        for (name, is_directory) in entries(&dir).unwrap_or_default() {
            if !is_directory {
                each(&dir, &name);
            } else if depth < MAX_DEPTH
                && let Some(child) = open(&dir, &name)
            {
                waiting.push((child, depth + 1));
            }
        }
    }
}

/// Gives a directory the mtime that it had.
fn keep_mtime(dir: &OwnedFd, before: &fs::Stat) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: before.st_mtime,
            tv_nsec: before.st_mtime_nsec as _,
        },
    };
    fs::futimens(dir, &times)
}

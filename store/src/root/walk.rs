//! Following links that stay inside a tree: a walk of our own, component by component, that applies the
//! reserved names to every component of every target, and that no rename beside it can lead out.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Tree, kind, named, text};
use crate::path::DiskPath;
use crate::{Result, StoreError};

/// Symbolic links followed for one name at most, as Linux does (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Directories that one walk stands in at most, by depth: as many as a key has components.
const MAX_DIRS: usize = 512;

impl Tree {
    /// Resolves component by component, following links that stay inside.
    pub(super) fn walk(&self, path: &DiskPath, flags: OFlags) -> Result<Option<OwnedFd>> {
        let mut walk = Walk {
            tree: self,
            dirs: Vec::new(),
            links: 0,
            path,
        };
        let mut pending: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        while let Some(name) = pending.pop_front() {
            match walk.step(&name, &mut pending, flags) {
                Ok(Step::Into) => {}
                Ok(Step::Open(file)) => return Ok(Some(file)),
                Err(StoreError::NoSuchKey(_)) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        // Every component was a directory, `.` or `..`: what is asked for is the directory we stand in.
        match fs::openat(walk.here(), c".", flags, Mode::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) => Err(named(path, e)),
        }
    }
}

enum Step {
    Into,
    Open(OwnedFd),
}

/// A walk that is under way: the directories between the bucket and here.
struct Walk<'a> {
    tree: &'a Tree,
    dirs: Vec<OwnedFd>,
    links: u32,
    path: &'a DiskPath,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.dirs
            .last()
            .map_or_else(|| self.tree.dir.as_fd(), AsFd::as_fd)
    }

    fn outside(&self) -> StoreError {
        StoreError::OutsideBucket(text(self.path))
    }

    fn step(
        &mut self,
        name: &[u8],
        pending: &mut VecDeque<Vec<u8>>,
        flags: OFlags,
    ) -> Result<Step> {
        match name {
            b"" | b"." => return Ok(Step::Into),
            b".." => {
                return self
                    .dirs
                    .pop()
                    .map(|_| Step::Into)
                    .ok_or_else(|| self.outside());
            }
            _ if self.tree.hide().hides(name) => {
                return Err(StoreError::Reserved(
                    String::from_utf8_lossy(name).into_owned(),
                ));
            }
            _ => {}
        }
        let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = match fs::openat(self.here(), name, look, Mode::empty()) {
            Ok(entry) => entry,
            // A link may name what no filesystem holds: nothing is there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {
                return Err(StoreError::NoSuchKey(text(self.path)));
            }
            Err(e) => return Err(named(self.path, e)),
        };
        let stat = fs::fstat(&entry).map_err(|e| named(self.path, e))?;
        match kind(&stat) {
            FileType::Symlink if self.tree.refuses_links() => {
                Err(StoreError::NoSuchKey(text(self.path)))
            }
            FileType::Symlink => self.follow(&entry, pending),
            // Links could lead as deep as they like, and each level holds a descriptor.
            FileType::Directory if self.dirs.len() >= MAX_DIRS => {
                Err(StoreError::NoSuchKey(text(self.path)))
            }
            FileType::Directory => {
                self.dirs.push(entry);
                Ok(Step::Into)
            }
            _ if pending.iter().any(|n| n != b"." && !n.is_empty()) => {
                Err(StoreError::NoSuchKey(text(self.path)))
            }
            // Somebody may have put a FIFO there since: only what is found regular is let wait for (a lease).
            _ => match fs::openat(
                self.here(),
                name,
                flags | OFlags::NOFOLLOW | OFlags::NONBLOCK,
                Mode::empty(),
            ) {
                Err(Errno::AGAIN) if !flags.contains(OFlags::NONBLOCK) => {
                    reopen(&entry, &stat, flags)
                        .map(Step::Open)
                        .map_err(|e| named(self.path, e))
                }
                Ok(file) => Ok(Step::Open(file)),
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                    Err(StoreError::NoSuchKey(text(self.path)))
                }
                Err(e) => Err(named(self.path, e)),
            },
        }
    }

    fn follow(&mut self, link: &OwnedFd, pending: &mut VecDeque<Vec<u8>>) -> Result<Step> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.outside());
        }
        let target = fs::readlinkat(link, c"", Vec::new())
            .map_err(|e| named(self.path, e))?
            .into_bytes();
        let rest = if target.starts_with(b"/") {
            let inside = self
                .tree
                .location
                .as_ref()
                .and_then(|top| target.strip_prefix(top.as_slice()));
            let rest = inside
                .filter(|r| r.is_empty() || r.starts_with(b"/"))
                .ok_or_else(|| self.outside())?;
            self.dirs.clear();
            rest
        } else {
            &target[..]
        };
        for name in rest.split(|b| *b == b'/').rev() {
            pending.push_front(name.to_vec());
        }
        Ok(Step::Into)
    }
}

/// Opens what an O_PATH descriptor stands for, and nothing that took its name since.
pub(crate) fn reopen(entry: impl AsFd, stat: &Stat, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    if kind(stat) != FileType::RegularFile {
        return Err(Errno::NXIO);
    }
    let name = format!("/proc/self/fd/{}", entry.as_fd().as_raw_fd());
    fs::open(name, flags, Mode::empty())
}

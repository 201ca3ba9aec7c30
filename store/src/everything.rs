//! A walk over all of a tree as it lies on disk, whatever S3 shows of it: through no link, and to a bounded depth.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use crate::lifecycle::entries;
use crate::root::mount_of;
use crate::{Result, StoreError};

/// Directories within one another that are looked into; those below are told of and left.
pub(crate) const MAX_DEPTH: usize = 512;

/// One entry that the walk came to.
pub(crate) struct At<'a> {
    /// The directory that it is in.
    pub(crate) dir: &'a OwnedFd,
    /// Its name there.
    pub(crate) name: &'a [u8],
    /// Its path, beginning with that of the top.
    pub(crate) path: &'a [u8],
    /// Is it a directory (and no link to one)?
    pub(crate) is_directory: bool,
    /// Directories between the top and it.
    pub(crate) depth: usize,
    /// Is its directory the top, one in it (a bucket), or the top of another filesystem?
    pub(crate) is_at_a_top: bool,
}

/// Who is shown what the walk comes to.
pub(crate) trait Visitor {
    /// A directory, with the names in it and which of them are directories.
    fn directory(&mut self, path: &[u8], names: &[(Vec<u8>, bool)]);

    /// One entry. `true`: if it is a directory, what is in it too.
    fn entry(&mut self, at: &At<'_>) -> bool;

    /// What the walk could not look into, and why.
    fn left(&mut self, path: &[u8], why: &str);
}

/// Opens a directory by its name in another, through no link.
pub(crate) fn open_child(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty())
}

/// Opens the directory to walk over.
///
/// # Errors
/// What the system says.
pub(crate) fn open_top(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(dir, flags, Mode::empty())
        .map_err(|e| StoreError::from_io(dir.display().to_string(), e.into()))
}

/// Shows all that lies below a directory, whose path is given for what is told.
pub(crate) fn walk(top: &OwnedFd, path: Vec<u8>, visitor: &mut impl Visitor) {
    Walk { path, visitor }.directory(top, 0, true);
}

struct Walk<'a, V> {
    path: Vec<u8>,
    visitor: &'a mut V,
}

impl<V: Visitor> Walk<'_, V> {
    fn directory(&mut self, dir: &OwnedFd, depth: usize, is_a_top: bool) {
        let names = match entries(dir) {
            Ok(names) => names,
            Err(e) => return self.visitor.left(&self.path, &e.to_string()),
        };
        self.visitor.directory(&self.path, &names);
        let mount = mount_of(dir.as_fd()).ok();
        for (name, is_directory) in names {
            let above = self.path.len();
            self.path.push(b'/');
            self.path.extend(&name);
            let at = At {
                dir,
                name: &name,
                path: &self.path,
                is_directory,
                depth,
                is_at_a_top: is_a_top,
            };
            if self.visitor.entry(&at) && is_directory {
                self.child(dir, &name, depth, mount);
            }
            self.path.truncate(above);
        }
    }

    fn child(&mut self, dir: &OwnedFd, name: &[u8], depth: usize, mount: Option<(u32, u32, u64)>) {
        if depth >= MAX_DEPTH {
            return self.visitor.left(&self.path, "it lies too deep");
        }
        match open_child(dir, name) {
            Ok(child) => {
                let is_a_top = depth == 0 || mount_of(child.as_fd()).ok() != mount;
                self.directory(&child, depth + 1, is_a_top);
            }
            // Gone, or another thing, since its name was read.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => self.visitor.left(&self.path, &e.to_string()),
        }
    }
}

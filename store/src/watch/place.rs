//! Where a watched directory lies.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::path::DiskPath;
use crate::{Bucket, BucketName, Result};

/// The entries of an open directory. Reading leaves no trace in its atime, where the owner (or root) may ask for that:
/// somebody may have set it just now.
pub(super) fn entries(dir: impl AsFd) -> rustix::io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |flags| fs::openat(&dir, c".", flags, Mode::empty());
    let again = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }?;
    Dir::new(again)
}

/// A directory of a bucket; `path` is `None` for its top.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub bucket: BucketName,
    pub path: Option<DiskPath>,
}

impl Place {
    /// Opens it; `None`: it is not there any more.
    pub fn open(&self, bucket: &Bucket) -> Result<Option<OwnedFd>> {
        match &self.path {
            None => bucket.tree.open_top().map(Some),
            Some(path) => bucket.directory(path),
        }
    }

    /// An entry of it.
    pub fn child(&self, name: &[u8]) -> Option<DiskPath> {
        match &self.path {
            None => DiskPath::from_bytes(name),
            Some(path) => DiskPath::from_bytes(&[path.as_bytes(), b"/", name].concat()),
        }
    }
}

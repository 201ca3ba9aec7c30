//! Where a watched directory lies.

use std::os::fd::OwnedFd;

use crate::path::DiskPath;
use crate::{Bucket, BucketName, Result};

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

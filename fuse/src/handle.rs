//! What is open: a file with its descriptor and, where it may be written, the count that says so; a directory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use twintree_store::Writing;

use crate::passthrough::Backed;
use crate::tree::{Node, WriterOf};

/// An open file.
pub struct OpenFile {
    /// The backing file, opened as the mount was asked, but for what the kernel does itself.
    pub file: OwnedFd,
    /// Taken at RELEASE.
    pub writing: Mutex<Option<Writing>>,
    /// Keeps its attributes from being kept.
    pub writer: Option<WriterOf>,
    /// How its bytes travel.
    pub backed: Backed,
    /// May the kernel answer from pages that it read before this open?
    pub keeps_pages: bool,
}

/// An open directory.
pub struct OpenDirectory {
    /// The directory, for reading names; one reader at a time, because its position is one.
    pub dir: Mutex<OwnedFd>,
    /// Which it is.
    pub node: Arc<Node>,
}

//! What is open: a file with its descriptor and, where it may be written, the count that says so; a directory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use twintree_store::Writing;

use crate::face::Answer;
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

impl OpenFile {
    /// Reads from an offset on until the bytes are full or the file ends; answers how many there are.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> Answer<usize> {
        fill(bytes, |rest, at| {
            rustix::io::pread(&self.file, rest, offset + at)
        })
    }
}

/// Reads until the bytes are full or the file ends; `read` may give fewer than it was asked for, as network
/// filesystems do. The kernel takes a short answer for the end of the file, and cuts it there for its readers.
fn fill(bytes: &mut [u8], mut read: impl FnMut(&mut [u8], u64) -> Answer<usize>) -> Answer<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match read(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_goes_on_until_it_has_all_or_the_file_ends() {
        let file: Vec<u8> = (0..100).collect();
        let at_most = |most: usize| {
            let file = &file;
            move |into: &mut [u8], at: u64| {
                let rest = &file[usize::try_from(at).expect("short")..];
                let length = into.len().min(rest.len()).min(most);
                into[..length].copy_from_slice(&rest[..length]);
                Ok(length)
            }
        };
        let mut bytes = [0; 80];
        assert_eq!(fill(&mut bytes, at_most(7)), Ok(80));
        assert_eq!(bytes, file[..80]);
        let mut bytes = [0; 200];
        assert_eq!(fill(&mut bytes, at_most(64)), Ok(100));
        assert_eq!(bytes[..100], file);
        let mut interrupted = false;
        let answer = fill(&mut [0; 10], |into, at| {
            if !std::mem::replace(&mut interrupted, true) {
                return Err(Errno::INTR);
            }
            at_most(9)(into, at)
        });
        assert_eq!(answer, Ok(10));
        let fails = |_: &mut [u8], at: u64| if at > 0 { Err(Errno::IO) } else { Ok(5) };
        assert_eq!(
            fill(&mut [0; 10], fails),
            Err(Errno::IO),
            "never a file that ends early"
        );
    }
}

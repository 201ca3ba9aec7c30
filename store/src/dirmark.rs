//! `user.twintree.dir` on a directory: whether we made it, and whether it is the object `dir/`.
//!
//! Without xattrs nothing is marked, so nothing is ever pruned, and no directory is an object.

use std::os::fd::AsFd;

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use crate::Timestamp;
use crate::record::disk::is_unsupported;

pub(crate) const NAME: &str = "user.twintree.dir";
const VERSION: u8 = 1;
const CREATED: u8 = 1;
const OBJECT: u8 = 2;

/// A directory's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirMark {
    /// We made it; it goes when its last child goes.
    pub created: bool,
    /// When it is the object `dir/`: its Last-Modified.
    pub object: Option<Timestamp>,
}

/// Reads the mark; a directory without one (or with one that we do not know) is a person's.
pub(crate) fn read(dir: impl AsFd) -> DirMark {
    let mut bytes = [0u8; 10];
    let none = DirMark {
        created: false,
        object: None,
    };
    match fs::fgetxattr(dir, NAME, &mut bytes[..]) {
        Ok(10) if bytes[0] == VERSION => decode(bytes),
        _ => none,
    }
}

/// Does a directory carry a mark, of whatever version? What cannot be told counts as one.
pub(crate) fn has_any(dir: impl AsFd) -> bool {
    match fs::fgetxattr(dir, NAME, &mut [0u8; 10][..]) {
        Err(e) => e != Errno::NODATA && !is_unsupported(e),
        Ok(_) => true,
    }
}

/// Can directories be marked on the filesystem of this one?
pub(crate) fn is_possible(dir: impl AsFd) -> bool {
    !matches!(
        fs::fgetxattr(dir, NAME, &mut [0u8; 10][..]),
        Err(Errno::OPNOTSUPP)
    )
}

fn decode(bytes: [u8; 10]) -> DirMark {
    let modified = i64::from_le_bytes(bytes[2..10].try_into().expect("eight bytes"));
    DirMark {
        created: bytes[1] & CREATED != 0,
        object: (bytes[1] & OBJECT != 0).then_some(Timestamp(modified)),
    }
}

fn encode(mark: DirMark) -> [u8; 10] {
    let mut bytes = [0u8; 10];
    bytes[0] = VERSION;
    bytes[1] =
        if mark.created { CREATED } else { 0 } | if mark.object.is_some() { OBJECT } else { 0 };
    bytes[2..10].copy_from_slice(&mark.object.unwrap_or_default().0.to_le_bytes());
    bytes
}

/// Writes the mark.
///
/// # Errors
/// What the filesystem says; EOPNOTSUPP where it has no user xattrs.
pub(crate) fn write(dir: impl AsFd, mark: DirMark) -> Result<(), Errno> {
    fs::fsetxattr(dir, NAME, &encode(mark), XattrFlags::empty())
}

/// Marks a directory that we just made, unless somebody made it an object since: that mark must stay. Where
/// there are no xattrs nothing is marked, and it is never pruned.
///
/// # Errors
/// What else the filesystem says.
pub(crate) fn mark_created(dir: impl AsFd) -> Result<(), Errno> {
    let mark = DirMark {
        created: true,
        object: None,
    };
    match fs::fsetxattr(dir, NAME, &encode(mark), XattrFlags::CREATE) {
        Err(e) if e == Errno::EXIST || is_unsupported(e) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_that_became_an_object_meanwhile_stays_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = std::fs::File::open(dir.path()).expect("open");
        let object = DirMark {
            created: false,
            object: Some(Timestamp(7)),
        };
        // The test runs where nothing can be marked, too: then nothing is an object.
        let marked = write(&made, object).is_ok();
        mark_created(&made).expect("marked, or nothing can be");
        assert_eq!(read(&made).object.is_some(), marked);
    }

    #[test]
    fn the_mark_has_the_bytes_of_the_format() {
        let mark = DirMark {
            created: true,
            object: Some(Timestamp(0x0102_0304_0506_0708)),
        };
        assert_eq!(encode(mark), [1, 3, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(decode(encode(mark)), mark);
    }
}

//! A bucket's annex in the mount: a directory at the bucket's top that shows what a listing shows of the keys that
//! no path can hold, under the names that FORMATS (*Annex*) gives them, and nothing else of the reserved directory.
//!
//! It is called `.annex`, or where an entry of that name exists `.annex~1`, `.annex~2` and so on, and is there
//! while it shows anything. A name of ours leads to one key and every key to one name, so that each can be
//! told from the other; the key is also an xattr. Who may look into it, its mode on disk says, as everywhere.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Level, Role, Status, TreeView, reopen, status};
use crate::name::RESERVED;
use crate::path::{self, AnnexKind, HideList};

/// An xattr of everything in an annex, never listed (no tool must copy it): the key, or of a directory what all keys
/// in it begin with.
pub const KEY_XATTR: &[u8] = b"user.twintree.key";
/// The annex's name.
const NAME: &str = ".annex";
/// How many names are tried.
const MAX_NAMES: usize = 1000;

/// Could this be what an annex is called?
pub(super) fn may_be_called(name: &[u8]) -> bool {
    name.starts_with(NAME.as_bytes())
}

/// Opens the annex of a bucket's directory (O_PATH), never through a link.
///
/// # Errors
/// ENOENT where there is none, and the kernel's word.
pub(super) fn open(bucket: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reserved = fs::openat(bucket, RESERVED, flags, Mode::empty())?;
    fs::openat(reserved, "annex", flags, Mode::empty())
}

/// The key of a body at this path of an annex; of a directory, what all keys in it begin with.
pub fn key_of(path: &[u8]) -> Option<String> {
    path::annex_text(path).map(|(text, _)| text)
}

impl TreeView {
    /// What is shown under this name as a bucket's annex.
    pub(super) fn status_of_annex(
        &self,
        bucket: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<Status> {
        if !may_be_called(name) {
            return Err(Errno::NOENT);
        }
        match self.shown_annex(bucket)? {
            Some((shown, status)) if shown.as_bytes() == name => Ok(status),
            Some(_) | None => Err(Errno::NOENT),
        }
    }

    /// What a bucket's annex is called now, and its status; `None`: it shows nothing.
    pub(super) fn shown_annex(
        &self,
        bucket: impl AsFd,
    ) -> rustix::io::Result<Option<(String, Status)>> {
        let annex = match open(&bucket).and_then(|annex| Ok((self.is_empty(&annex)?, annex))) {
            Ok((false, annex)) => annex,
            // Something else stands in its place, or it is not ours to read: a bucket is listed all the same.
            Ok((true, _))
            | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::PERM) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let hide = &self.scope(&Level::Bucket, &bucket).hide;
        let names = std::iter::once(NAME.to_owned())
            .chain((1..MAX_NAMES).map(|number| format!("{NAME}~{number}")))
            .filter(|name| !hide.hides(name.as_bytes()));
        for name in names {
            match fs::statat(&bucket, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let role = Role::Annex;
                    let status = status::of(&annex)?;
                    return Ok(Some((name, Status { role, ..status })));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// What lies in an annex, in the directory at `path` of it.
    pub(super) fn status_in_annex(
        &self,
        path: &[u8],
        dir: impl AsFd,
        name: &[u8],
    ) -> rustix::io::Result<Status> {
        let hide = &self.scope(&Level::Annex(Vec::new()), &dir).hide;
        let kind = kind_in_annex(hide, path, name).ok_or(Errno::NOENT)?;
        let status = status::at(dir, name)?;
        let role = Role::Annexed;
        match status.kind() == kind {
            true => Ok(Status { role, ..status }),
            false => Err(Errno::NOENT),
        }
    }

    /// Does an annex show nothing?
    fn is_empty(&self, annex: impl AsFd) -> rustix::io::Result<bool> {
        let dir = reopen(annex, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut empty = true;
        self.entries(&Level::Annex(Vec::new()), dir, 0, |entry| {
            match entry.name {
                b"." | b".." => ControlFlow::Continue(()),
                _ => {
                    empty = false;
                    ControlFlow::Break(Ok(()))
                }
            }
        })
        .map_err(|e: Errno| e)?;
        Ok(empty)
    }
}

/// What a name in an annex's directory must be to be shown; `None`: no key leads there, or one that is hidden.
pub(super) fn kind_in_annex(hide: &HideList, path: &[u8], name: &[u8]) -> Option<FileType> {
    let whole = match path.is_empty() {
        true => name.to_vec(),
        false => [path, b"/", name].concat(),
    };
    let (text, kind) = path::annex_text(&whole)?;
    let component = match kind {
        AnnexKind::Continued => return Some(FileType::Directory),
        AnnexKind::Directory => text.strip_suffix('/')?,
        AnnexKind::Body => &text,
    };
    let component = component.rsplit('/').next()?;
    (!hide.hides(component.as_bytes())).then_some(match kind {
        AnnexKind::Body => FileType::RegularFile,
        AnnexKind::Continued | AnnexKind::Directory => FileType::Directory,
    })
}

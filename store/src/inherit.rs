//! What a file that replaces another hands on: mode, owner, ACL and foreign xattrs, as far as permitted.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use crate::place::FilePlace;
use crate::root::kind;

const ACL: &CStr = c"system.posix_acl_access";
/// Names outside `user.` that belong to the file and not to its bytes (`security.capability` and
/// `security.ima` do): ACLs, the SELinux label, Samba's Windows ACL.
const HANDED_ON: [&CStr; 4] = [
    ACL,
    c"system.nfs4_acl",
    c"security.selinux",
    c"security.NTACL",
];
/// The largest list of names and the largest value (xattr(7)).
const XATTR_MAX: usize = 65_536;

/// What the replaced file has that its successor is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inheritance {
    /// Nothing is replaced (or a symbolic link is): the new file is as its directory makes it.
    Fresh,
    /// A regular file is replaced.
    Replaced {
        /// Permission bits, without set-id bits, which a write would have cleared.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Names and values, in the order of the names.
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    },
}

impl Inheritance {
    /// What a place's present file hands on.
    pub(crate) fn of(place: &FilePlace) -> Self {
        match (&place.parent, &place.entry) {
            (Some(parent), Some(stat)) if kind(stat) == FileType::RegularFile => {
                Self::of_file(parent, place.path.name(), stat)
            }
            _ => Self::Fresh,
        }
    }

    fn of_file(parent: &OwnedFd, name: &[u8], stat: &Stat) -> Self {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let xattrs = match fs::openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => fs::openat(parent, name, flags, Mode::empty()),
            other => other,
        }
        // A file that we may not read keeps its mode and owner; its xattrs we cannot see.
        .map(foreign_xattrs)
        .unwrap_or_default();
        Self::Replaced {
            mode: stat.st_mode & 0o777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            xattrs,
        }
    }

    /// Gives mode, ACL and xattrs to a staged file. What is not permitted is left as it was made.
    pub(crate) fn apply(&self, file: impl AsFd) {
        let Self::Replaced { mode, xattrs, .. } = self else {
            return;
        };
        if let Err(e) = fs::fchmod(&file, Mode::from_raw_mode(*mode)) {
            tracing::debug!("a replaced file's mode cannot be handed on: {e}");
        }
        // What the directory's default ACL gave, and the replaced file has not. Without ACL: ENODATA.
        if !xattrs.iter().any(|(name, _)| name == ACL.to_bytes())
            && let Err(e) = fs::fremovexattr(&file, ACL)
            && !matches!(e, Errno::NODATA | Errno::OPNOTSUPP)
        {
            tracing::debug!("an inherited ACL cannot be removed: {e}");
        }
        for (name, value) in xattrs {
            if let Err(e) = fs::fsetxattr(&file, &name[..], value, XattrFlags::empty()) {
                tracing::debug!(
                    "xattr {} cannot be handed on: {e}",
                    String::from_utf8_lossy(name)
                );
            }
        }
    }

    /// Gives the owner, as the last change: whoever may only chown can change nothing afterwards.
    pub(crate) fn give(&self, file: impl AsFd) {
        let Self::Replaced { uid, gid, .. } = self else {
            return;
        };
        let Ok(now) = fs::fstat(&file) else { return };
        if now.st_uid == *uid && now.st_gid == *gid {
            return;
        }
        let group = Some(Gid::from_raw(*gid));
        let both = fs::fchown(&file, Some(Uid::from_raw(*uid)), group);
        if both.is_err() && fs::fchown(&file, None, group).is_err() {
            tracing::debug!("a replaced file's owner {uid}:{gid} cannot be handed on");
        }
    }
}

/// The xattrs that are neither ours nor the content's.
fn foreign_xattrs(file: OwnedFd) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut small = [0; 1024];
    let names = match fs::flistxattr(&file, &mut small[..]) {
        Ok(length) => small[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_MAX];
            let length = fs::flistxattr(&file, &mut large[..]).unwrap_or(0);
            large.truncate(length);
            large
        }
        Err(_) => Vec::new(),
    };
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = names
        .split(|byte| *byte == 0)
        .filter(|name| is_foreign(name))
        .filter_map(|name| Some((name.to_vec(), value(&file, name)?)))
        .collect();
    found.sort();
    found
}

fn is_foreign(name: &[u8]) -> bool {
    let ours = name == b"user.twintree" || name.starts_with(b"user.twintree.");
    (name.starts_with(b"user.") && !ours) || HANDED_ON.iter().any(|known| known.to_bytes() == name)
}

fn value(file: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
    let mut small = [0; 256];
    match fs::fgetxattr(file, name, &mut small[..]) {
        Ok(length) => Some(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_MAX];
            let length = fs::fgetxattr(file, name, &mut large[..]).ok()?;
            large.truncate(length);
            Some(large)
        }
        Err(_) => None,
    }
}

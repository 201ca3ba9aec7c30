//! A directory that is being listed: its names in bulk, and the metadata of what lies under one of them.
//!
//! Names that come in here are single entries of this directory and are never followed: what a link leads
//! to is asked of [`Tree::open`].

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};
use rustix::io::Errno;

use super::{DIRECTORY, Tree};
use crate::path::DiskPath;

/// Bytes asked of getdents64 at once: measured alike from 32 KiB to 1 MiB.
const BUFFER: usize = 32 << 10;
/// The same where the first names are likely enough: the kernel takes a quarter of a microsecond for each that it gives.
const FEW: usize = 1 << 10;

/// An open directory.
pub(crate) struct Dir {
    fd: OwnedFd,
}

impl Tree {
    /// Opens the directory at `path` (`None`: the tree's own) for reading its names, never through a link.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR or ELOOP where there is no such directory, EACCES, and whatever else the system says.
    pub fn open_dir(&self, path: Option<&DiskPath>) -> rustix::io::Result<Dir> {
        let open = |flags| match path {
            Some(path) => self.open_strict(path, flags),
            None => fs::openat(&self.dir, c".", flags, Mode::empty()),
        };
        // Reading must leave no trace; but only the owner (or root) may ask for that.
        let fd = match open(DIRECTORY | OFlags::NOATIME) {
            Err(Errno::PERM) => open(DIRECTORY),
            other => other,
        }?;
        Ok(Dir { fd })
    }
}

impl Dir {
    /// Identity and times of the directory itself.
    pub fn status(&self) -> rustix::io::Result<Statx> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        fs::statx(&self.fd, c"", AtFlags::EMPTY_PATH, wanted)
    }

    /// Calls `each` with every name but `.` and `..`, in the directory's own order, until it breaks. Once only.
    ///
    /// # Errors
    /// What getdents64 says.
    pub fn names<B>(
        &self,
        each: impl FnMut(&[u8], FileType) -> ControlFlow<B>,
    ) -> rustix::io::Result<Option<B>> {
        self.read::<BUFFER, B>(each)
    }

    /// As [`Dir::names`], where `each` is likely to break at one of the first.
    ///
    /// # Errors
    /// What getdents64 says.
    pub fn first_names<B>(
        &self,
        each: impl FnMut(&[u8], FileType) -> ControlFlow<B>,
    ) -> rustix::io::Result<Option<B>> {
        self.read::<FEW, B>(each)
    }

    fn read<const BYTES: usize, B>(
        &self,
        mut each: impl FnMut(&[u8], FileType) -> ControlFlow<B>,
    ) -> rustix::io::Result<Option<B>> {
        let mut buffer = [MaybeUninit::uninit(); BYTES];
        let mut entries = RawDir::new(&self.fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // Linux: the directory was removed under us.
                Err(Errno::NOENT) => break,
                Err(e) => return Err(e),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match self.stat(name) {
                    Ok(stat) => FileType::from_raw_mode(stat.stx_mode.into()),
                    Err(_) => continue,
                },
                known => known,
            };
            if let ControlFlow::Break(found) = each(name, kind) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Opens a directory in this one, never through a link.
    ///
    /// # Errors
    /// As [`Tree::open_dir`].
    pub fn child(&self, name: &[u8]) -> rustix::io::Result<Self> {
        let fd = fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Self { fd })
    }

    /// What lies under a name: a link itself, not its target.
    pub fn stat(&self, name: &[u8]) -> rustix::io::Result<Statx> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        fs::statx(&self.fd, name, flags, StatxFlags::BASIC_STATS)
    }

    /// Reads an xattr of what lies under a name, without opening it where the kernel can: the length that
    /// was put into `value`.
    ///
    /// # Errors
    /// ENODATA where it has none, ERANGE where `value` is too short, and whatever else the system says.
    pub fn xattr(
        &self,
        name: &[u8],
        attribute: &CStr,
        value: &mut [u8],
    ) -> rustix::io::Result<usize> {
        match getxattrat(self.fd.as_fd(), name, attribute, value) {
            Err(Errno::NOSYS) => {
                let flags = OFlags::RDONLY
                    | OFlags::NOFOLLOW
                    | OFlags::NONBLOCK
                    | OFlags::NOCTTY
                    | OFlags::CLOEXEC;
                let file = fs::openat(&self.fd, name, flags, Mode::empty())?;
                fs::fgetxattr(&file, attribute, value)
            }
            other => other,
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The system call's number: one for all architectures that came after 2019 or follow the common table.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
const GETXATTRAT: Option<libc::c_long> = Some(464);
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
const GETXATTRAT: Option<libc::c_long> = None;

/// `struct xattr_args` of linux/xattr.h.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// getxattrat(2) without following a link; ENOSYS where the kernel (before 6.13) has it not.
fn getxattrat(
    dir: BorrowedFd<'_>,
    name: &[u8],
    attribute: &CStr,
    value: &mut [u8],
) -> rustix::io::Result<usize> {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    static MISSING: AtomicBool = AtomicBool::new(false);

    let Some(number) = GETXATTRAT.filter(|_| !MISSING.load(Ordering::Relaxed)) else {
        return Err(Errno::NOSYS);
    };
    // A name of a directory entry has at most 255 bytes.
    let mut path = [0u8; 256];
    if name.len() >= path.len() {
        return Err(Errno::NAMETOOLONG);
    }
    path[..name.len()].copy_from_slice(name);
    let args = XattrArgs {
        value: value.as_mut_ptr() as u64,
        size: u32::try_from(value.len()).map_err(|_| Errno::RANGE)?,
        flags: 0,
    };
    // SAFETY: `path` and `attribute` end in NUL; `args` says where `value` lies and how long it is; all live
    // until the call returns, and the kernel writes into `value` only.
    let result = unsafe {
        libc::syscall(
            number,
            dir.as_raw_fd(),
            path.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    };
    if let Ok(length) = usize::try_from(result) {
        return Ok(length);
    }
    let error = std::io::Error::last_os_error();
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    if errno == Errno::NOSYS {
        MISSING.store(true, Ordering::Relaxed);
    }
    Err(errno)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::path::HideList;
    use crate::rules::Scope;

    fn tree(path: &std::path::Path) -> Tree {
        let dir =
            fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("a directory");
        Tree::new(
            Arc::new(dir),
            None,
            Scope::of_hide(Arc::new(HideList::new(&[]))),
        )
    }

    #[test]
    fn xattrs_are_read_by_name_and_never_through_a_link() {
        let temp = tempfile::tempdir().expect("a directory");
        let file = temp.path().join("file");
        std::fs::write(&file, b"x").expect("written");
        std::os::unix::fs::symlink("file", temp.path().join("link")).expect("linked");
        if let Err(e) = xattr::set(&file, "user.test", b"value") {
            assert_eq!(e.raw_os_error(), Some(libc::EOPNOTSUPP), "{e}");
            return;
        }
        let dir = tree(temp.path()).open_dir(None).expect("opened");
        let mut value = [0; 16];
        assert_eq!(dir.xattr(b"file", c"user.test", &mut value), Ok(5));
        assert_eq!(&value[..5], b"value");
        assert_eq!(
            dir.xattr(b"file", c"user.other", &mut value),
            Err(Errno::NODATA)
        );
        assert_eq!(
            dir.xattr(b"file", c"user.test", &mut value[..2]),
            Err(Errno::RANGE)
        );
        assert!(dir.xattr(b"link", c"user.test", &mut value).is_err());
        assert_eq!(
            dir.xattr(b"none", c"user.test", &mut value),
            Err(Errno::NOENT)
        );
    }

    #[test]
    fn names_come_with_their_kinds() {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::write(temp.path().join("file"), b"x").expect("written");
        std::fs::create_dir(temp.path().join("dir")).expect("made");
        std::os::unix::fs::symlink("dir", temp.path().join("link")).expect("linked");
        let dir = tree(temp.path()).open_dir(None).expect("opened");
        let mut found = Vec::new();
        let stopped = dir.names(|name, kind| {
            found.push((String::from_utf8_lossy(name).into_owned(), kind));
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(stopped, Ok(None));
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("dir", FileType::Directory),
            ("file", FileType::RegularFile),
            ("link", FileType::Symlink),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }
}

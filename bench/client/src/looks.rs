//! Looks at files of a directory by their names, as each page of a listing has to: the least that one takes.

use std::ffi::{CString, c_char, c_int, c_long, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::files::{Done, name, timed};

/// Linux: the number of getxattrat(2), since 6.13, on all architectures.
const GETXATTRAT: c_long = 464;
/// What a listing asks statx for, and how: type, size, mtime, ctime, the inode; no link is followed, nothing mounted.
const MASK: c_uint = 0x7ff;
const NOFOLLOW: c_int = 0x100;
const NO_AUTOMOUNT: c_int = 0x800;
const ENODATA: i32 = 61;

/// Looks at `count` files below `dir`, from number `first` on: statx, and `with_xattr` before it an xattr that none of
/// them has.
///
/// # Errors
/// What the filesystem says; an xattr that is there.
pub fn run(dir: &Path, first: usize, count: usize, with_xattr: bool) -> io::Result<Done> {
    let names = (first..first + count).map(|number| CString::new(name(number)));
    let names: Vec<CString> = names.collect::<Result<_, _>>()?;
    let dir = File::open(dir)?;
    timed(count, || {
        for name in &names {
            if with_xattr {
                lacks_record(&dir, name)?;
            }
            look(&dir, name)?;
        }
        Ok(())
    })
}

fn look(dir: &File, name: &CString) -> io::Result<()> {
    let mut found = Found([0; 256]);
    let flags = NOFOLLOW | NO_AUTOMOUNT;
    // SAFETY: the name ends with a zero byte, and the buffer is as large as a struct statx.
    match unsafe { statx(dir.as_raw_fd(), name.as_ptr(), flags, MASK, &raw mut found) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn lacks_record(dir: &File, name: &CString) -> io::Result<()> {
    let mut value = [0_u8; 256];
    let mut arguments = Arguments {
        value: (&raw mut value) as u64,
        size: value.len() as u32,
        flags: 0,
    };
    // SAFETY: name and attribute end with a zero byte; the arguments say where the buffer lies and how large it is.
    let length = unsafe {
        syscall(
            GETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            NOFOLLOW,
            c"user.twintree".as_ptr(),
            &raw mut arguments,
            size_of::<Arguments>(),
        )
    };
    let error = io::Error::last_os_error();
    match (length, error.raw_os_error()) {
        (-1, Some(ENODATA)) => Ok(()),
        (-1, _) => Err(error),
        _ => Err(io::Error::other("a file that somebody has PUT")),
    }
}

/// Room for a struct statx, which nobody looks into.
#[repr(C, align(16))]
struct Found([u8; 256]);

/// struct xattr_args.
#[repr(C)]
struct Arguments {
    value: u64,
    size: u32,
    flags: u32,
}

unsafe extern "C" {
    fn statx(
        dir: c_int,
        path: *const c_char,
        flags: c_int,
        mask: c_uint,
        found: *mut Found,
    ) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

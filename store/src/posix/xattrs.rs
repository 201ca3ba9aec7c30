//! The xattrs that the mount shows: all but ours, of which `user.twintree.meta` is seen and may be set, so
//! that what was said of an object travels with `cp -a`; what was recorded of its content does not.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{TreeView, number, proc_path, reopen, status};
use crate::record::{META_XATTR, RECORD_XATTR, disk};
use crate::{Bucket, Meta};

/// Bytes that are asked for first.
const SMALL: usize = 512;
/// XATTR_SIZE_MAX and XATTR_LIST_MAX of xattr(7).
const LARGEST: usize = 65_536;

impl TreeView {
    /// An xattr's value. `named` gives a descriptor of the file that knows its path, which few need.
    ///
    /// # Errors
    /// ENODATA for ours, and the kernel's word.
    pub fn get_xattr(
        &self,
        file: impl AsFd,
        name: &[u8],
        named: impl FnOnce() -> rustix::io::Result<OwnedFd>,
    ) -> rustix::io::Result<Vec<u8>> {
        if is_ours(name) && name != META_XATTR.as_bytes() {
            return Err(Errno::NODATA);
        }
        let path = proc_path(&file);
        // Nearly all are small, and `ls -l` asks for some of every file.
        let mut small = [0; SMALL];
        match fs::getxattr(&path, name, &mut small[..]) {
            Ok(length) => Ok(small[..length].to_vec()),
            Err(Errno::RANGE) => {
                let mut value = vec![0; LARGEST];
                let length = fs::getxattr(&path, name, &mut value[..])?;
                value.truncate(length);
                Ok(value)
            }
            // Too large for the filesystem: it lies elsewhere.
            Err(Errno::NODATA) if name == META_XATTR.as_bytes() => self.meta_elsewhere(named()?),
            // Linux: FUSE would hand the error to whoever asks for permission.
            Err(Errno::OPNOTSUPP) if name.starts_with(b"system.posix_acl_") => Err(Errno::NODATA),
            Err(e) => Err(e),
        }
    }

    /// The names of all that are shown, each ended by a zero byte. `named` as in [`TreeView::get_xattr`].
    ///
    /// # Errors
    /// The kernel's word.
    pub fn list_xattrs(
        &self,
        file: impl AsFd,
        named: impl FnOnce() -> rustix::io::Result<OwnedFd>,
    ) -> rustix::io::Result<Vec<u8>> {
        let mut names = vec![0; LARGEST];
        let length = fs::listxattr(proc_path(&file), &mut names[..])?;
        let (mut shown, mut has_record, mut has_meta) = (Vec::new(), false, false);
        for name in names[..length].split_inclusive(|byte| *byte == 0) {
            let bare = name.strip_suffix(&[0]).unwrap_or(name);
            has_record |= bare == RECORD_XATTR.as_bytes();
            has_meta |= bare == META_XATTR.as_bytes();
            if !is_ours(bare) || bare == META_XATTR.as_bytes() {
                shown.extend_from_slice(name);
            }
        }
        let meta = || named().and_then(|file| self.meta_elsewhere(file));
        if has_record && !has_meta && meta().is_ok() {
            shown.extend_from_slice(META_XATTR.as_bytes());
            shown.push(0);
        }
        Ok(shown)
    }

    /// Sets an xattr.
    ///
    /// # Errors
    /// EPERM for ours, EINVAL for what is no `user.twintree.meta`, and the kernel's word.
    pub fn set_xattr(
        &self,
        file: impl AsFd,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> rustix::io::Result<()> {
        if name == META_XATTR.as_bytes() {
            if !Meta::is_sound(value) {
                return Err(Errno::INVAL);
            }
            let there = self.meta(&file).is_ok();
            return match XattrFlags::from_bits_retain(flags) {
                XattrFlags::CREATE if there => Err(Errno::EXIST),
                XattrFlags::REPLACE if !there => Err(Errno::NODATA),
                _ => self.change_meta(file, Some(value)),
            };
        }
        if is_ours(name) {
            return Err(Errno::PERM);
        }
        let flags = XattrFlags::from_bits_retain(flags);
        self.keeping_record(&file, || fs::setxattr(proc_path(&file), name, value, flags))
    }

    /// Removes an xattr.
    ///
    /// # Errors
    /// EPERM for ours, and the kernel's word.
    pub fn remove_xattr(&self, file: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
        if name == META_XATTR.as_bytes() {
            self.meta(&file)?;
            return self.change_meta(file, None);
        }
        if is_ours(name) {
            return Err(Errno::PERM);
        }
        self.keeping_record(&file, || fs::removexattr(proc_path(&file), name))
    }

    /// Of a file whose descriptor knows its path.
    fn meta(&self, file: impl AsFd) -> rustix::io::Result<Vec<u8>> {
        let again = || rustix::io::fcntl_dupfd_cloexec(&file, 0);
        self.get_xattr(&file, META_XATTR.as_bytes(), again)
    }

    fn meta_elsewhere(&self, file: impl AsFd) -> rustix::io::Result<Vec<u8>> {
        let (bucket, file) = self.object(file)?;
        bucket
            .posix_meta(&file)
            .map_err(number)?
            .ok_or(Errno::NODATA)
    }

    fn change_meta(&self, file: impl AsFd, json: Option<&[u8]>) -> rustix::io::Result<()> {
        if status::of(&file)?.is_directory() {
            let dir = reopen(&file, OFlags::RDONLY | OFlags::DIRECTORY)?;
            return disk::set_meta(&dir, json);
        }
        let (bucket, file) = self.object(file)?;
        bucket.set_posix_meta(&file, json).map_err(number)
    }

    /// The bucket of a regular file, and the file, readable.
    fn object(&self, file: impl AsFd) -> rustix::io::Result<(Bucket, OwnedFd)> {
        if !status::of(&file)?.is_file() {
            return Err(Errno::NODATA);
        }
        let place = self.place(&file).ok_or(Errno::NODATA)?;
        Ok((place.bucket, reopen(&file, OFlags::RDONLY)?))
    }
}

fn is_ours(name: &[u8]) -> bool {
    name.strip_prefix(RECORD_XATTR.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
}

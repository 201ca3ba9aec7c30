//! Reading a directory in the mount: the backing directory's own offsets, which stay right while names come
//! and go.

use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use rustix::fs::{self, FileType, RawDir, SeekFrom};

use super::{Level, TreeView, status};

/// Bytes asked of getdents64 at once: about what one answer to the kernel holds.
const BUFFER: usize = 8 << 10;

/// One name.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name; `.` and `..` come as well.
    pub name: &'a [u8],
    /// Inode number.
    pub inode: u64,
    /// Type.
    pub kind: FileType,
    /// Where reading goes on behind it.
    pub next: u64,
}

impl TreeView {
    /// Calls `each` with the names from an offset on, until it breaks or there are no more.
    ///
    /// # Errors
    /// The kernel's word, or what `each` breaks with.
    pub fn entries<E: From<rustix::io::Errno>>(
        &self,
        level: Level,
        dir: impl AsFd,
        offset: u64,
        mut each: impl FnMut(Entry<'_>) -> ControlFlow<Result<(), E>>,
    ) -> Result<(), E> {
        fs::seek(&dir, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut names = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = names.next() {
            let entry = match entry {
                // Linux: the directory was removed under us.
                Err(rustix::io::Errno::NOENT) => return Ok(()),
                other => other?,
            };
            let name = entry.file_name().to_bytes();
            let dots = name == b"." || name == b"..";
            let kind = entry.file_type();
            if !dots && !self.shows(level, name)
                || level == Level::Top && !self.is_directory(&dir, name, kind)
            {
                continue;
            }
            let entry = Entry {
                name,
                inode: entry.ino(),
                kind,
                next: entry.next_entry_cookie(),
            };
            if let ControlFlow::Break(outcome) = each(entry) {
                return outcome;
            }
        }
        Ok(())
    }

    fn is_directory(&self, dir: impl AsFd, name: &[u8], kind: FileType) -> bool {
        match kind {
            FileType::Unknown => status::at(dir, name).is_ok_and(|status| status.is_directory()),
            kind => kind == FileType::Directory,
        }
    }
}

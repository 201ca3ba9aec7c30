//! Reading a directory in the mount: the backing directory's own offsets, which stay right while names come
//! and go.

use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use rustix::fs::{self, FileType, RawDir, SeekFrom};

use super::annex::kind_in_annex;
use super::{Level, Role, TreeView, bucket_name, status};
use crate::rules::Scope;

/// Bytes asked of getdents64 at once: about what one answer to the kernel holds.
const BUFFER: usize = 8 << 10;
/// The offset behind an annex, which comes last: no filesystem's own (ext4 ends with the number above it).
const BEHIND_ANNEX: u64 = i64::MAX as u64 - 1;
/// The offset of the first mapped bucket at the top: no filesystem's own either (the 32 bits above are those of the
/// end on ext4, which no name there has).
const MAPPED: u64 = i64::MAX as u64 - (1 << 31);

/// One name.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name; `.` and `..` come as well.
    pub name: &'a [u8],
    /// Inode number.
    pub inode: u64,
    /// The device of a mapped bucket; `None`: the directory's own.
    pub device: Option<u64>,
    /// As what it is shown.
    pub role: Role,
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
        level: &Level,
        dir: impl AsFd,
        offset: u64,
        mut each: impl FnMut(Entry<'_>) -> ControlFlow<Result<(), E>>,
    ) -> Result<(), E> {
        if offset == BEHIND_ANNEX {
            return Ok(());
        }
        if let (Level::Top, Some(index)) = (level, offset.checked_sub(MAPPED)) {
            return self.mapped_entries(index, each);
        }
        let scope = self.scope(level, &dir);
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
            if !dots && !self.lists((level, scope), &dir, name, kind) {
                continue;
            }
            let entry = Entry {
                name,
                inode: entry.ino(),
                device: None,
                role: match level {
                    Level::Annex(_) => Role::Annexed,
                    Level::Top | Level::Bucket | Level::Below => Role::Native,
                },
                kind,
                next: entry.next_entry_cookie(),
            };
            if let ControlFlow::Break(outcome) = each(entry) {
                return outcome;
            }
        }
        if *level == Level::Top {
            return self.mapped_entries(0, each);
        }
        let annex = match level {
            Level::Bucket => self.shown_annex(&dir)?,
            Level::Top | Level::Below | Level::Annex(_) => None,
        };
        if let Some((name, status)) = annex {
            let entry = Entry {
                name: name.as_bytes(),
                inode: status.inode.inode,
                device: None,
                role: status.role,
                kind: FileType::Directory,
                next: BEHIND_ANNEX,
            };
            if let ControlFlow::Break(outcome) = each(entry) {
                return outcome;
            }
        }
        Ok(())
    }

    /// The buckets that are mapped, from one on: they come last. Which there are does not change while we serve.
    fn mapped_entries<E>(
        &self,
        from: u64,
        mut each: impl FnMut(Entry<'_>) -> ControlFlow<Result<(), E>>,
    ) -> Result<(), E> {
        for (index, (name, mapped)) in (0..).zip(&self.store.mapped) {
            if index < from || self.store.hide.hides(name.as_str().as_bytes()) {
                continue;
            }
            let (device, inode) = mapped.inode();
            let entry = Entry {
                name: name.as_str().as_bytes(),
                inode,
                device: Some(device),
                role: Role::Native,
                kind: FileType::Directory,
                next: MAPPED + index + 1,
            };
            if let ControlFlow::Break(outcome) = each(entry) {
                return outcome;
            }
        }
        Ok(())
    }

    fn lists(
        &self,
        (level, scope): (&Level, &Scope),
        dir: impl AsFd,
        name: &[u8],
        kind: FileType,
    ) -> bool {
        let kind = || match kind {
            FileType::Unknown => status::at(&dir, name).map_or(kind, |status| status.kind()),
            known => known,
        };
        match level {
            Level::Top => {
                let bucket = bucket_name(name).filter(|_| !scope.hide.hides(name));
                bucket.is_some_and(|bucket| !self.store.mapped.contains_key(&bucket))
                    && kind() == FileType::Directory
            }
            Level::Bucket | Level::Below => !scope.hide.hides(name),
            Level::Annex(path) => {
                kind_in_annex(&scope.hide, path, name).is_some_and(|wanted| kind() == wanted)
            }
        }
    }
}

//! Reading a directory in the mount: the backing directory's own offsets, which stay right while names come
//! and go.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use rustix::fs::{self, FileType, RawDir, SeekFrom};

use super::annex::kind_in_annex;
use super::{Level, Role, TreeView, bucket_name, number, status};
use crate::bucket::names_in;
use crate::rules::Scope;
use crate::{BucketName, Inode};

/// Bytes asked of getdents64 at once: about what one answer to the kernel holds.
const BUFFER: usize = 8 << 10;
/// The offset behind an annex, which comes last: no filesystem's own (ext4 ends with the number above it).
const BEHIND_ANNEX: u64 = i64::MAX as u64 - 1;
/// Where the offsets begin, at the top, of the buckets that lie elsewhere: no filesystem's own either (the upper 32 bits are
/// those of the end on ext4, which no name there has).
const ELSEWHERE: u64 = i64::MAX as u64 - (1 << 31);

/// One name.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name; `.` and `..` come as well.
    pub name: &'a [u8],
    /// Inode number.
    pub inode: u64,
    /// The device of a bucket that lies elsewhere; `None`: the directory's own.
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
        if let (Level::Top, Some(place)) = (level, offset.checked_sub(ELSEWHERE)) {
            return self.entries_elsewhere(place, each);
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
            return self.entries_elsewhere(0, each);
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

    /// The buckets that lie elsewhere than in the first root, from a place on: they come last, in the order of places that
    /// only their names decide, so that they stay while others come and go.
    fn entries_elsewhere<E: From<rustix::io::Errno>>(
        &self,
        from: u64,
        mut each: impl FnMut(Entry<'_>) -> ControlFlow<Result<(), E>>,
    ) -> Result<(), E> {
        let shown = |name: &BucketName| !self.store.hide.hides(name.as_str().as_bytes());
        let mut all = BTreeMap::new();
        for (name, mapped) in self.store.mapped.iter().filter(|(name, _)| shown(name)) {
            all.insert((place_of(name), name.clone()), mapped.inode());
        }
        for root in &self.store.roots[1..] {
            for name in names_in(root).map_err(number)? {
                let key = (place_of(&name), name);
                if !shown(&key.1) || all.contains_key(&key) {
                    continue;
                }
                // Neither what a root before has, nor what is no directory.
                let has = self.store.root_with(&key.1).map_err(number)?;
                if has.is_some_and(|has| std::ptr::eq(has, root))
                    && let Ok(status) = status::at(&root.dir, key.1.as_str().as_bytes())
                {
                    let Inode { device, inode } = status.inode;
                    all.insert(key, (device, inode));
                }
            }
        }
        for ((place, name), (device, inode)) in all {
            if place < from {
                continue;
            }
            let entry = Entry {
                name: name.as_str().as_bytes(),
                inode,
                device: Some(device),
                role: Role::Native,
                kind: FileType::Directory,
                next: ELSEWHERE + place + 1,
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

/// The place of a bucket among those that lie elsewhere: 30 bits of its name (FNV-1a).
fn place_of(name: &BucketName) -> u64 {
    let bytes = name.as_str().bytes();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash >> 34
}

//! Reading directories: sorted from the cache or the disk, and the quick look whether one holds any object.
//!
//! What cannot be read is skipped, because one bad entry must not break a listing; but an error that speaks
//! of the disk or of this process as a whole is passed on: a listing that silently lacks half of the tree
//! would make a `sync --delete` empty the other side.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::cache::{DirId, DirTimes, NameCache};
use super::names::{Kind, Names};
use crate::path::{self, AnnexKind, DiskPath, key_text};
use crate::root::{Dir, Tree, system};
use crate::{BucketName, ObjectKey, Result, StoreError, Timestamp};

/// Which of a bucket's two trees is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The bucket's own: names are keys.
    Native,
    /// `.twintree/annex/`: names are encoded keys.
    Annex,
}

/// One tree, with what is needed to read its directories.
#[derive(Clone)]
pub(crate) struct Reader {
    /// The bucket's directory or its annex.
    pub tree: Tree,
    /// Which it is.
    pub side: Side,
    /// Where sorted directories are kept.
    pub cache: Arc<NameCache>,
    /// The bucket, for the log.
    pub bucket: BucketName,
}

/// A directory that was opened and read.
pub(crate) struct Listed {
    /// Open, for the metadata of its entries.
    pub dir: Arc<Dir>,
    /// Its names, in key order.
    pub names: Arc<Names>,
}

impl Reader {
    /// The path of the directory whose keys begin with `text`, which is empty or ends in `/`.
    /// `Err(())`: no path can hold it.
    fn path(&self, text: &str) -> Result<Option<DiskPath>, ()> {
        if text.is_empty() {
            return Ok(None);
        }
        let key = ObjectKey::parse(text).map_err(|_| ())?;
        match self.side {
            Side::Native => path::native(&key).map(Some).ok_or(()),
            Side::Annex => Ok(path::annex(&key).parent()),
        }
    }

    /// Opens the directory whose keys begin with `text`. `None`: there is none, or none that is shown.
    pub fn open(&self, text: &str) -> Result<Option<Arc<Dir>>> {
        let Ok(path) = self.path(text) else {
            return Ok(None);
        };
        if self.is_hidden(text) {
            return Ok(None);
        }
        let dir = self.tree.open_dir(path.as_ref());
        Ok(self.bearable(text, dir)?.map(Arc::new))
    }

    /// The path of a key that a walk of this tree came by.
    pub fn locate(&self, key: &str) -> Option<DiskPath> {
        let key = ObjectKey::parse(key).ok()?;
        match self.side {
            Side::Native => path::native(&key),
            Side::Annex => Some(path::annex(&key)),
        }
    }

    /// The disk name of a key's last component, where it is one name.
    pub fn entry_name<'a>(&self, component: &'a str) -> Cow<'a, [u8]> {
        match self.side {
            Side::Native => path::disk_name(component),
            Side::Annex => Cow::Owned(path::annex_body(component)),
        }
    }

    /// Opens and reads the directory whose keys begin with `text`; as [`Reader::open`].
    pub fn list(&self, text: &str) -> Result<Option<Listed>> {
        let Some(dir) = self.open(text)? else {
            return Ok(None);
        };
        let Some(names) = self.names(&dir, text)? else {
            return Ok(None);
        };
        Ok(Some(Listed { dir, names }))
    }

    fn names(&self, dir: &Dir, text: &str) -> Result<Option<Arc<Names>>> {
        let asked = Timestamp::now();
        let Some(before) = self.bearable(text, dir.status())? else {
            return Ok(None);
        };
        let (id, times) = (identity(&before), times(&before));
        if let Some(names) = self.cache.get(id, times) {
            return Ok(Some(names));
        }
        let mut names = Names::default();
        let whole = match self.side {
            Side::Native => self.read_native(dir, &mut names),
            Side::Annex => self.read_annex(dir, text, "", &mut names),
        };
        let Some(whole) = self.bearable(text, whole?)? else {
            return Ok(None);
        };
        names.sort();
        let names = Arc::new(names);
        if whole && times.settled(asked) {
            self.cache.keep(id, times, Arc::clone(&names));
        }
        Ok(Some(names))
    }

    fn read_native(&self, dir: &Dir, names: &mut Names) -> Result<rustix::io::Result<bool>> {
        let hide = self.tree.hide();
        let full = dir.names(|name, kind| {
            let Some(kind) = shown(kind) else {
                return ControlFlow::Continue(());
            };
            if hide.hides(name) {
                return ControlFlow::Continue(());
            }
            match names.push(&key_text(name), kind) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e),
            }
        });
        match full {
            Ok(Some(full)) => Err(full),
            Ok(None) => Ok(Ok(true)),
            Err(e) => Ok(Err(e)),
        }
    }

    /// Reads a directory of the annex, with those in which its long names go on; `head` is what the names began
    /// with. `false`: several directories were read, so that the times of one say nothing of all.
    fn read_annex(
        &self,
        dir: &Dir,
        text: &str,
        head: &str,
        names: &mut Names,
    ) -> Result<rustix::io::Result<bool>> {
        let mut continued = Vec::new();
        let full = dir.names(|name, _| {
            let Some((piece, kind)) = path::annex_piece(name) else {
                return ControlFlow::Continue(());
            };
            let component = format!("{head}{piece}");
            let kind = match kind {
                AnnexKind::Body => Kind::File,
                AnnexKind::Directory => Kind::Dir,
                AnnexKind::Continued => {
                    // No key is longer; a deeper tree, or one of short pieces, is not ours.
                    if component.len() <= crate::name::MAX_KEY && path::is_full_piece(name) {
                        continued.push((name.to_vec(), component));
                    }
                    return ControlFlow::Continue(());
                }
            };
            if self.tree.hide().hides(component.as_bytes())
                || !is_canonical(text, &component, kind, name)
            {
                return ControlFlow::Continue(());
            }
            match names.push(&component, kind) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e),
            }
        });
        match full {
            Ok(Some(full)) => return Err(full),
            Ok(None) => {}
            Err(e) => return Ok(Err(e)),
        }
        let whole = continued.is_empty();
        for (name, component) in continued {
            let Some(inner) = self.bearable(text, dir.child(&name))? else {
                continue;
            };
            self.bearable(text, self.read_annex(&inner, text, &component, names)?)?;
        }
        Ok(Ok(whole))
    }

    /// Does a component of this directory's text stand on the hide list? (A prefix may lead there directly.)
    fn is_hidden(&self, text: &str) -> bool {
        let hide = self.tree.hide();
        text.split('/').any(|component| match self.side {
            Side::Native => hide.hides(&path::disk_name(component)),
            Side::Annex => hide.hides(component.as_bytes()),
        })
    }

    /// Is the directory whose keys begin with `text` the object of that key?
    pub fn mark(&self, dir: &Dir) -> Option<Timestamp> {
        match self.side {
            Side::Native => crate::dirmark::read(dir).object,
            Side::Annex => None,
        }
    }

    /// Takes what may be wrong with one entry as its absence; passes on what is wrong with more.
    pub fn bearable<T>(&self, text: &str, result: rustix::io::Result<T>) -> Result<Option<T>> {
        let top = text.is_empty() && self.side == Side::Native;
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if top => Err(system(self.bucket.as_str(), e)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e @ (Errno::ACCESS | Errno::PERM | Errno::NAMETOOLONG)) => {
                self.cache.warn_once(&self.bucket, text, &e);
                Ok(None)
            }
            Err(e) if self.cache.is_complete() => {
                self.cache.warn_once(&self.bucket, text, &e);
                Ok(None)
            }
            Err(e) => Err(system(&format!("{}/{text}", self.bucket), e)),
        }
    }

    /// As above, for what goes through [`Tree::open`].
    pub fn bearable_open<T>(&self, key: &str, result: Result<Option<T>>) -> Result<Option<T>> {
        match result {
            Err(
                StoreError::OutsideBucket(_)
                | StoreError::Reserved(_)
                | StoreError::NotAnObject { .. },
            ) => Ok(None),
            Err(e @ StoreError::Denied(_)) => {
                self.cache.warn_once(&self.bucket, key, &e);
                Ok(None)
            }
            Err(e) if self.cache.is_complete() => {
                self.cache.warn_once(&self.bucket, key, &e);
                Ok(None)
            }
            other => other,
        }
    }

    /// Is there a file among the first names that the directory gives? Reads no further than to the first.
    pub fn begins_with_file(&self, dir: &Dir, text: &str) -> Result<bool> {
        let hide = self.tree.hide();
        let found = dir.first_names(|name, kind| {
            let file = match self.side {
                Side::Native => kind == FileType::RegularFile && !hide.hides(name),
                Side::Annex => matches!(path::annex_piece(name), Some((piece, AnnexKind::Body))
                    if !hide.hides(piece.as_bytes()) && is_canonical(text, &piece, Kind::File, name)),
            };
            if file { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        Ok(self.bearable(text, found)?.flatten().is_some())
    }
}

/// What we show of what lies in a directory: no FIFO, socket or device.
fn shown(kind: FileType) -> Option<Kind> {
    match kind {
        FileType::RegularFile => Some(Kind::File),
        FileType::Symlink => Some(Kind::Link),
        FileType::Directory => Some(Kind::Dir),
        _ => None,
    }
}

/// Would we have written this component of the annex so? If not, no request could reach it.
pub(crate) fn is_canonical(text: &str, component: &str, kind: Kind, name: &[u8]) -> bool {
    let slash = if kind == Kind::Dir { "/" } else { "" };
    let Ok(key) = ObjectKey::parse(&format!("{text}{component}{slash}")) else {
        return false;
    };
    let path = path::annex(&key);
    match kind {
        Kind::Dir => path.parent().is_some_and(|path| path.name() == name),
        Kind::File | Kind::Link => path.name() == name,
    }
}

fn identity(stat: &Statx) -> DirId {
    let born = if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) {
        timestamp(stat.stx_btime)
    } else {
        Timestamp::default()
    };
    DirId {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        born,
    }
}

fn times(stat: &Statx) -> DirTimes {
    DirTimes {
        modified: timestamp(stat.stx_mtime),
        changed: timestamp(stat.stx_ctime),
    }
}

pub(crate) fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp::from_parts(time.tv_sec, time.tv_nsec.into())
}

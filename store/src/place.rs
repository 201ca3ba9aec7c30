//! Where a write of a key goes: its own path, the annex, or a directory that becomes the object `dir/`.
//!
//! A key stays where it lives until it is deleted; a native file wins over an annex entry. A new key
//! goes to the annex only where its path is blocked now.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::path::{self, DiskPath};
use crate::root::{Parent, Tree, kind, named, text};
use crate::{Bucket, KeyPolicy, ObjectKey, Result, StoreError, dirmark};

/// Where a write goes.
pub(crate) enum Place {
    /// A file, there or not yet.
    File(FilePlace),
    /// The object `dir/`: a directory, there or not yet.
    Directory(DiskPath),
}

/// How much a look at a place asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Not the annex: another look will follow, under the key's lock.
    Ahead,
    /// All, under the key's lock.
    Whole,
    /// Not the name, which was free when it was looked at ahead: it is linked under the key's lock, and not replaced.
    OfFree,
}

/// A name that a file has or gets.
pub(crate) struct FilePlace {
    /// What the path is resolved beneath: the bucket, or its annex.
    pub(crate) tree: Tree,
    /// The path.
    pub(crate) path: DiskPath,
    /// The directory that holds it; `None` where it does not exist yet.
    pub(crate) parent: Option<Arc<OwnedFd>>,
    /// What stands there now: a regular file or a symbolic link.
    pub(crate) entry: Option<Box<Stat>>,
    /// A directory that is the object `dir/`, which a body in the annex is to replace.
    pub(crate) shadow: Option<OwnedFd>,
    /// Is it in the annex?
    pub(crate) in_annex: bool,
    /// Those of its folder, where others of a batch go there as well.
    pub(crate) stages: Option<Stages>,
}

/// A folder, open, and what is asked of it again and again.
#[derive(Clone)]
pub(crate) struct Folder {
    pub(crate) dir: Arc<OwnedFd>,
    /// Device and inode.
    pub(crate) id: (u64, u64),
    /// Does it lie on a filesystem of another machine?
    pub(crate) remote: bool,
    stages: Stages,
}

/// The directory of stages on a folder's filesystem, once it was asked for.
#[derive(Clone, Default)]
pub(crate) struct Stages(Arc<OnceLock<Arc<OwnedFd>>>);

/// The folders that one phase of several writes at once goes into, each opened once. All those writes had begun before
/// the first was opened: for each of them, whoever moves a folder or puts another in its place meanwhile could as well
/// have been a moment faster, or slower.
#[derive(Default)]
pub(crate) struct Folders<'a> {
    open: HashMap<(&'a [u8], i32), (BorrowedFd<'a>, Folder)>,
}

/// What a name says to a write.
enum Name {
    Free(Option<Arc<OwnedFd>>),
    Taken(Arc<OwnedFd>, Box<Stat>),
    /// No file can be there; why, in words.
    Blocked(String),
}

impl Stages {
    /// The directory, found now if it was not before.
    pub(crate) fn dir(&self, find: impl FnOnce() -> Result<OwnedFd>) -> Result<Arc<OwnedFd>> {
        let dir = match self.0.get() {
            Some(dir) => dir,
            None => {
                let dir = Arc::new(find()?);
                self.0.get_or_init(|| dir)
            }
        };
        Ok(Arc::clone(dir))
    }
}

impl<'a> Folders<'a> {
    /// The folder of a path. `None`: there is none, or a file stands in the way.
    ///
    /// # Errors
    /// `ThroughSymlink`, and the system's word.
    pub(crate) fn of(&mut self, bucket: &'a Bucket, path: &'a DiskPath) -> Result<Option<Folder>> {
        let above = &path.as_bytes()[..path.as_bytes().len() - path.name().len()];
        // The number stands for the bucket's directory as long as that is open, which the borrow says it is.
        let top = bucket.tree.dir();
        let key = (above, top.as_raw_fd());
        if let Some((_, folder)) = self.open.get(&key) {
            return Ok(Some(folder.clone()));
        }
        let Parent::Dir(dir) = bucket.tree.parent_for_write(path)? else {
            return Ok(None);
        };
        let stat = fs::fstat(&dir).map_err(|e| named(path, e))?;
        let folder = Folder {
            id: (stat.st_dev, stat.st_ino),
            remote: bucket.is_remote_on(&dir, stat.st_dev),
            stages: Stages::default(),
            dir: Arc::new(dir),
        };
        self.open.insert(key, (top, folder.clone()));
        Ok(Some(folder))
    }
}

impl Bucket {
    /// Finds where a write of a key goes now whose path leads into this open folder: its own path. `None`: anywhere
    /// else that [`Bucket::locate`] knows.
    ///
    /// # Errors
    /// As [`Bucket::locate`].
    pub(crate) fn locate_in(
        &self,
        folder: &Folder,
        key: &ObjectKey,
        path: &DiskPath,
        asked: Look,
    ) -> Result<Option<FilePlace>> {
        let dir = Arc::clone(&folder.dir);
        let name = match asked {
            Look::OfFree => Name::Free(Some(dir)),
            Look::Ahead | Look::Whole => look_in(&self.tree, path, dir)?,
        };
        let (parent, entry) = match name {
            Name::Taken(dir, stat) => (Some(dir), Some(stat)),
            Name::Free(_) if asked != Look::Ahead && self.annexed(key)?.is_some() => {
                return Ok(None);
            }
            Name::Free(dir) => (dir, None),
            Name::Blocked(_) => return Ok(None),
        };
        Ok(Some(FilePlace {
            stages: Some(folder.stages.clone()),
            ..self.own_place(path.clone(), parent, entry)
        }))
    }

    /// Finds where a write of `key` goes now. `empty`: its body has no bytes.
    ///
    /// # Errors
    /// `Reserved`, `KeyBlocked` with `posix-only`, `ThroughSymlink`, `NotAnObject`, what the disk says.
    pub(crate) fn locate(&self, key: &ObjectKey, empty: bool) -> Result<Place> {
        self.tree.check_hidden(key)?;
        let Some(path) = path::native(key) else {
            let why = "a component is empty, \".\", \"..\" or longer than 255 bytes";
            return self.in_annex(key, why.to_owned(), None).map(Place::File);
        };
        if path.trailing_slash {
            return self.locate_directory(key, path, empty);
        }
        let (parent, entry) = match look(&self.tree, &path)? {
            Name::Taken(dir, stat) => (Some(dir), Some(stat)),
            Name::Free(parent) => match self.annexed(key)? {
                Some(place) => return Ok(Place::File(place)),
                None => (parent, None),
            },
            Name::Blocked(by) => return self.in_annex(key, by, None).map(Place::File),
        };
        Ok(Place::File(self.own_place(path, parent, entry)))
    }

    fn own_place(
        &self,
        path: DiskPath,
        parent: Option<Arc<OwnedFd>>,
        entry: Option<Box<Stat>>,
    ) -> FilePlace {
        FilePlace {
            tree: self.tree.clone(),
            path,
            parent,
            entry,
            shadow: None,
            in_annex: false,
            stages: None,
        }
    }

    fn locate_directory(&self, key: &ObjectKey, path: DiskPath, empty: bool) -> Result<Place> {
        let dir = self.directory(&path)?;
        let is_object = dir
            .as_ref()
            .is_some_and(|dir| dirmark::read(dir).object.is_some());
        if !empty {
            let why = "a directory holds no body".to_owned();
            return self
                .in_annex(key, why, dir.filter(|_| is_object))
                .map(Place::File);
        }
        if is_object {
            return Ok(Place::Directory(path));
        }
        if let Some(place) = self.annexed(key)? {
            return Ok(Place::File(place));
        }
        if dir.is_some() {
            return Ok(Place::Directory(path));
        }
        match look(&self.tree, &path)? {
            Name::Free(_) => Ok(Place::Directory(path)),
            Name::Taken(..) => {
                let by = format!("{:?} is a file", text(&path));
                self.in_annex(key, by, None).map(Place::File)
            }
            Name::Blocked(by) => self.in_annex(key, by, None).map(Place::File),
        }
    }

    /// The key's own directory, if it is one (and no link to one).
    pub(crate) fn directory(&self, path: &DiskPath) -> Result<Option<OwnedFd>> {
        let Parent::Dir(parent) = self.tree.parent_for_write(path)? else {
            return Ok(None);
        };
        open_directory(&parent, path.name()).map_err(|e| named(path, e))
    }

    /// The tree of the annex; `None`: there is none, and it was not to be made.
    pub(crate) fn annex_tree(&self, create: bool) -> Result<Option<Tree>> {
        let dir = self.tree.reserved("annex", create)?;
        Ok(dir.map(|dir| Tree::new(Arc::new(dir), None, self.tree.scope().clone())))
    }

    /// The key's place in the annex, if it lives there.
    pub(crate) fn annexed(&self, key: &ObjectKey) -> Result<Option<FilePlace>> {
        // One call in the usual case, where there is no annex at all.
        if self
            .tree
            .open_entry(&path::annex_from_bucket(key))?
            .is_none()
        {
            return Ok(None);
        }
        let Some(tree) = self.annex_tree(false)? else {
            return Ok(None);
        };
        let path = path::annex(key);
        match look(&tree, &path)? {
            Name::Taken(dir, stat) => Ok(Some(FilePlace {
                tree,
                path,
                parent: Some(dir),
                entry: Some(stat),
                shadow: None,
                in_annex: true,
                stages: None,
            })),
            Name::Free(_) | Name::Blocked(_) => Ok(None),
        }
    }

    fn in_annex(&self, key: &ObjectKey, by: String, shadow: Option<OwnedFd>) -> Result<FilePlace> {
        let blocked = |by| StoreError::KeyBlocked {
            key: key.to_string(),
            by,
        };
        if self.store.options.keys == KeyPolicy::PosixOnly {
            return Err(blocked(by));
        }
        let missing = || StoreError::Unavailable(".twintree/annex".to_owned());
        let tree = self.annex_tree(true)?.ok_or_else(missing)?;
        let path = path::annex(key);
        let (parent, entry) = match look(&tree, &path)? {
            Name::Taken(dir, stat) => (Some(dir), Some(stat)),
            Name::Free(parent) => (parent, None),
            Name::Blocked(by) => return Err(blocked(format!("in the annex, {by}"))),
        };
        Ok(FilePlace {
            tree,
            path,
            parent,
            entry,
            shadow,
            in_annex: true,
            stages: None,
        })
    }
}

/// What stands at a path, seen through no link.
fn look(tree: &Tree, path: &DiskPath) -> Result<Name> {
    match tree.parent_for_write(path)? {
        Parent::Dir(dir) => look_in(tree, path, Arc::new(dir)),
        Parent::Missing => Ok(Name::Free(None)),
        Parent::Blocked(by) => Ok(Name::Blocked(format!("{by:?} is a file"))),
    }
}

/// What stands at a path whose folder is open.
fn look_in(tree: &Tree, path: &DiskPath, dir: Arc<OwnedFd>) -> Result<Name> {
    match fs::statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Name::Free(Some(dir))),
        Err(e) => Err(named(path, e)),
        Ok(stat) => match kind(&stat) {
            // Nobody sees it in S3, so that nobody replaces or removes it there.
            FileType::Symlink if tree.refuses_links() => {
                Err(StoreError::ThroughSymlink(text(path)))
            }
            FileType::RegularFile | FileType::Symlink => Ok(Name::Taken(dir, Box::new(stat))),
            FileType::Directory => Ok(Name::Blocked(format!("{:?} is a directory", text(path)))),
            other => Err(StoreError::NotAnObject {
                key: text(path),
                kind: crate::open::kind_name(other),
            }),
        },
    }
}

/// Opens a directory by its name in another, never through a link; `None`: there is no such directory.
pub(crate) fn open_directory(
    parent: impl AsFd,
    name: &[u8],
) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(parent, name, flags, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(e),
    }
}

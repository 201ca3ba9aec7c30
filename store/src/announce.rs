//! What the store's own paths announce: which names stand for something else since. Looked up only where
//! somebody listens, and told only where nobody of this thread holds a key, a record or a bucket's settings.

use std::os::fd::AsFd;

use crate::change::{Announcement, Change, ChangeKind};
use crate::path::DiskPath;
use crate::place::{FilePlace, Place};
use crate::record::FileState;
use crate::root::{Parent, Tree};
use crate::{Bucket, BucketName, Inode, ObjectKey, Store};

impl Bucket {
    /// Begins an announcement; what is added to it is waited for at its end.
    pub(crate) fn announcement(&self) -> Announcement<'_> {
        self.store.changes.announcement()
    }

    /// A change of a name in an open directory; `None` where nobody listens.
    pub(crate) fn change(
        &self,
        parent: impl AsFd,
        name: &[u8],
        old: Option<Inode>,
        kind: ChangeKind,
    ) -> Option<Change> {
        change(&self.store, self.name(), parent, name, old, kind)
    }

    /// A file was published at a place, and parents were made for it, or not.
    pub(crate) fn published_at(&self, place: &FilePlace, made_parents: bool) -> Vec<Change> {
        let changes = &self.store.changes;
        let (true, Some(parent)) = (changes.is_heard(), &place.parent) else {
            return Vec::new();
        };
        let old = place.entry.as_ref().map(|stat| FileState::of(stat).inode());
        let mut all = match made_parents {
            true => self.parents_of(&place.tree, &place.path),
            false => Vec::new(),
        };
        all.extend(self.change(parent, place.path.name(), old, ChangeKind::Published));
        // A directory that was the object `dir/` until a body in the annex took its place.
        if let Some(dir) = &place.shadow {
            all.extend(self.attributes_of(dir));
        }
        all
    }

    /// All directories on the way to a path, outermost first: one of them was made.
    pub(crate) fn parents_of(&self, tree: &Tree, path: &DiskPath) -> Vec<Change> {
        if !self.store.changes.is_heard() {
            return Vec::new();
        }
        let mut all: Vec<Change> = std::iter::successors(path.parent(), DiskPath::parent)
            .filter_map(|path| match tree.parent_for_write(&path) {
                Ok(Parent::Dir(above)) => {
                    self.change(above, path.name(), None, ChangeKind::DirectoryMade)
                }
                // Gone again, or a person's link by now: whoever did that tells.
                Ok(Parent::Missing | Parent::Blocked(_)) | Err(_) => None,
            })
            .collect();
        all.reverse();
        all
    }

    /// What is said of a file or directory changed: its inode is known, and its name need not be.
    pub(crate) fn attributes_of(&self, file: impl AsFd) -> Option<Change> {
        if !self.store.changes.is_heard() {
            return None;
        }
        let inode = FileState::look(file).ok()?.inode();
        self.change(self.tree.dir(), b"", Some(inode), ChangeKind::Attributes)
    }

    /// Announces that what is said of a key's file changed, by its name where it has one, and waits.
    pub(crate) fn announce_attributes(&self, key: &ObjectKey, file: impl AsFd) {
        let Some(mut change) = self.attributes_of(file) else {
            return self.announcement().wait();
        };
        if let Ok(Place::File(FilePlace {
            parent: Some(parent),
            path,
            ..
        })) = self.locate(key, false)
            && let Ok(parent) = FileState::look(&parent)
        {
            change.parent = parent.inode();
            change.name = path.name().to_vec();
        }
        let mut announcement = self.announcement();
        announcement.add([change]);
        announcement.wait();
    }
}

impl Store {
    /// Announces a bucket that was made or removed, and waits.
    pub(crate) fn announce_bucket(&self, name: &BucketName, old: Option<Inode>, kind: ChangeKind) {
        let mut announcement = self.changes.announcement();
        let text = name.as_str().as_bytes();
        announcement.add(change(self, name, &self.first_root().dir, text, old, kind));
        announcement.wait();
    }
}

fn change(
    store: &Store,
    bucket: &BucketName,
    parent: impl AsFd,
    name: &[u8],
    old: Option<Inode>,
    kind: ChangeKind,
) -> Option<Change> {
    if !store.changes.is_heard() {
        return None;
    }
    Some(Change {
        bucket: bucket.clone(),
        parent: FileState::look(parent).ok()?.inode(),
        name: name.to_vec(),
        old,
        kind,
    })
}

//! Making and removing buckets. Removing takes a person's *empty* directories with it; anything else is named and
//! stays, and what is hidden as well: who removes a bucket cannot see that.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::bucket::{is_directory, open_beneath};
use crate::change::ChangeKind;
use crate::name::RESERVED;
use crate::path::{HideList, annex_piece, key_text};
use crate::record::FileState;
use crate::root::{mount_of, system};
use crate::served::Served;
use crate::{BucketName, BucketSettings, Inode, Result, Store, StoreError, Timestamp};

/// Directories below a bucket that one removal descends into at most at once, by depth: as many as a key has
/// components. Twice as many are more than a thread's stack of 2 MiB.
const MAX_DEPTH: usize = 512;
/// What is never removed, empty or not: a person put it there, and rmdir could not take it away.
const MOUNTED: &str = "a mounted filesystem";
/// What stands beside a name in the way that no listing shows.
const HIDDEN: &str = "a hidden name";
const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Store {
    /// Makes a bucket. Blocking.
    ///
    /// # Errors
    /// `BucketExists`, `Reserved` for a name on the hide list, and what the disk says.
    pub fn create_bucket(
        self: &Arc<Self>,
        name: &BucketName,
        settings: BucketSettings,
    ) -> Result<()> {
        let created = self.create_bucket_unheard(name, settings);
        self.announce_bucket(name, None, ChangeKind::BucketMade);
        created
    }

    /// As [`Store::create_bucket`], and tells nobody: for the mount, whose kernel knows.
    pub(crate) fn create_bucket_unheard(
        self: &Arc<Self>,
        name: &BucketName,
        settings: BucketSettings,
    ) -> Result<()> {
        self.check_writable()?;
        self.check_roots()?;
        if self.hide.hides(name.as_str().as_bytes()) {
            return Err(StoreError::Reserved(name.to_string()));
        }
        if self.mapped.contains_key(name) {
            return Err(StoreError::BucketExists(name.to_string()));
        }
        if self.rules_of(name).read_only {
            return Err(StoreError::ReadOnly(format!("bucket {name:?}")));
        }
        // Another root may have one.
        if self.root_with(name)?.is_some() {
            return Err(StoreError::BucketExists(name.to_string()));
        }
        let root = self.first_root();
        match fs::mkdirat(&root.dir, name.as_str(), Mode::from_raw_mode(0o777)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(StoreError::BucketExists(name.to_string())),
            Err(e) => return Err(system(name.as_str(), e)),
        }
        let bucket = self.bucket(name)?;
        // A filesystem without room for our directory still has its bucket: its settings are the defaults.
        if let Err(e) = bucket.change_settings(|new| {
            *new = BucketSettings {
                created: Some(Timestamp::now()),
                ..settings
            }
        }) {
            tracing::warn!(
                bucket = name.as_str(),
                "the new bucket's settings are not kept: {e}"
            );
        }
        self.sync_root(root, name)
    }

    /// Removes a bucket that holds no object; a person's empty directories go with it. Blocking.
    ///
    /// # Errors
    /// `NoSuchBucket`, `BucketNotEmpty`, `Covers`, and what the disk says.
    pub fn delete_bucket(self: &Arc<Self>, name: &BucketName) -> Result<()> {
        self.remove_bucket(name, |old, kind| self.announce_bucket(name, old, kind))
    }

    /// As [`Store::delete_bucket`], and tells nobody: for the mount, whose kernel knows.
    pub(crate) fn delete_bucket_unheard(self: &Arc<Self>, name: &BucketName) -> Result<()> {
        self.remove_bucket(name, |_, _| {})
    }

    fn remove_bucket(
        self: &Arc<Self>,
        name: &BucketName,
        tell: impl FnOnce(Option<Inode>, ChangeKind),
    ) -> Result<()> {
        if self.mapped.contains_key(name) {
            return Err(StoreError::Mapped(name.to_string()));
        }
        let bucket = self.bucket(name)?;
        let missing = || StoreError::NoSuchBucket(name.to_string());
        let root = self.root_with(name)?.ok_or_else(missing)?;
        bucket.check_writable()?;
        self.check_covers_nothing(root, name)?;
        let top = bucket.tree.open_top()?;
        let old = FileState::look(&top).ok().map(|state| state.inode());
        let not_empty = |found: String| StoreError::BucketNotEmpty {
            bucket: name.to_string(),
            found,
        };
        if mount_of(top.as_fd())
            .map_err(|e| system(name.as_str(), e))?
            .2
            != root.mount()
        {
            return Err(not_empty(MOUNTED.to_owned()));
        }
        let removal = Removal {
            mount: root.mount(),
            hide: bucket.tree.hide(),
        };
        if let Some(found) = removal.content(&top, String::new(), 0)? {
            return Err(not_empty(found));
        }
        let annex = bucket.tree.reserved("annex", false)?;
        if let Some(found) = annex
            .as_ref()
            .map_or(Ok(None), |annex| annex_content(annex, String::new(), 0))?
        {
            return Err(not_empty(found));
        }
        let removed = self.remove_emptied((root, name), &removal, &top, annex.as_ref(), &not_empty);
        let kind = match &removed {
            Ok(()) => ChangeKind::BucketRemoved,
            // Some of a person's empty directories may be gone all the same.
            Err(_) => ChangeKind::Anything,
        };
        tell(old, kind);
        removed?;
        self.sync_root(root, name)
    }

    /// Removes a bucket that was found without content.
    fn remove_emptied(
        &self,
        (root, name): (&Served, &BucketName),
        removal: &Removal,
        top: &OwnedFd,
        annex: Option<&OwnedFd>,
        not_empty: &impl Fn(String) -> StoreError,
    ) -> Result<()> {
        // From here on rmdir is the judge: an object that arrives meanwhile keeps its directory.
        removal.remove_empty(top, 0)?;
        if let Some(annex) = annex {
            remove_directories(annex, 0)?;
        }
        if let Some(found) = removal.content(top, String::new(), 0)? {
            return Err(not_empty(found));
        }
        remove_tree(top, RESERVED.as_bytes(), 0)?;
        match fs::unlinkat(&root.dir, name.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let left = entries(top)?.into_iter().next();
                let gone = || "an entry that just arrived".to_owned();
                return Err(not_empty(
                    left.map_or_else(gone, |(name, _)| key_text(&name).into_owned()),
                ));
            }
            Err(Errno::NOENT) => return Err(StoreError::NoSuchBucket(name.to_string())),
            Err(e) => return Err(system(name.as_str(), e)),
        }
        self.buckets.forget(name.as_str());
        Ok(())
    }

    /// Puts on disk that a bucket came or went, where its writes are.
    fn sync_root(&self, root: &Served, name: &BucketName) -> Result<()> {
        if self.rules_of(name).durability == crate::Durability::Relaxed {
            return Ok(());
        }
        fs::fsync(root.open_top()?).map_err(|e| system("the root", e))
    }
}

/// A removal that is under way.
struct Removal<'a> {
    /// The root's: nothing of another is descended into.
    mount: u64,
    hide: &'a HideList,
}

impl Removal<'_> {
    /// The first entry that is neither an empty directory nor ours.
    fn content(&self, dir: &OwnedFd, path: String, depth: usize) -> Result<Option<String>> {
        for (name, directory) in entries(dir)? {
            let shown = format!("{path}{}", key_text(&name));
            if name.eq_ignore_ascii_case(RESERVED.as_bytes()) {
                if depth > 0 && !is_ours(dir, &name)? {
                    return Ok(Some(format!("{shown}, {HIDDEN}")));
                }
                continue;
            }
            if self.hide.hides(&name) {
                return Ok(Some(format!("{shown}, {HIDDEN}")));
            }
            if !directory || depth >= MAX_DEPTH {
                return Ok(Some(shown));
            }
            let Some(child) = child(dir, &name)? else {
                continue;
            };
            if crate::dirmark::read(&child).object.is_some() {
                return Ok(Some(format!("{shown}/")));
            }
            let mount = mount_of(child.as_fd()).map_err(|e| system(&shown, e))?.2;
            if mount != self.mount {
                return Ok(Some(format!("{shown}/, {MOUNTED}")));
            }
            if let Some(found) = self.content(&child, format!("{shown}/"), depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Removes empty directories, innermost first.
    fn remove_empty(&self, dir: &OwnedFd, depth: usize) -> Result<()> {
        for (name, directory) in entries(dir)? {
            if name.eq_ignore_ascii_case(RESERVED.as_bytes()) {
                if depth > 0 {
                    remove_tree(dir, &name, 0)?;
                }
            } else if directory && depth < MAX_DEPTH && !self.hide.hides(&name) {
                let Some(child) = child(dir, &name)? else {
                    continue;
                };
                self.remove_empty(&child, depth + 1)?;
                remove(dir, &name, AtFlags::REMOVEDIR)?;
            }
        }
        Ok(())
    }
}

/// Is a reserved name below a bucket's top ours alone? That of a bucket which somebody moved in here may hold bodies.
fn is_ours(dir: &OwnedFd, name: &[u8]) -> Result<bool> {
    if name != RESERVED.as_bytes() {
        return Ok(false);
    }
    let Some(own) = child(dir, name)? else {
        return Ok(true);
    };
    match child(&own, b"annex")? {
        Some(annex) => Ok(annex_content(&annex, String::new(), 0)?.is_none()),
        None => Ok(true),
    }
}

/// The key of the first body in the annex.
fn annex_content(dir: &OwnedFd, key: String, depth: usize) -> Result<Option<String>> {
    for (name, directory) in entries(dir)? {
        let piece = annex_piece(&name);
        if !directory || depth >= MAX_DEPTH {
            return Ok(Some(piece.map_or_else(
                || key_text(&name).into_owned(),
                |(text, _)| key + &text,
            )));
        }
        let Some(child) = child(dir, &name)? else {
            continue;
        };
        let slash = matches!(piece, Some((_, crate::path::AnnexKind::Directory)));
        let inner = format!(
            "{key}{}{}",
            piece.map_or_else(String::new, |(text, _)| text),
            if slash { "/" } else { "" }
        );
        if let Some(found) = annex_content(&child, inner, depth + 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Removes directories only: a body that arrived meanwhile keeps its own.
fn remove_directories(dir: &OwnedFd, depth: usize) -> Result<()> {
    for (name, directory) in entries(dir)? {
        if directory && depth < MAX_DEPTH {
            let Some(child) = child(dir, &name)? else {
                continue;
            };
            remove_directories(&child, depth + 1)?;
            remove(dir, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Removes an entry with everything below it, never through a link and never into another filesystem's name.
pub(crate) fn remove_tree(dir: &OwnedFd, name: &[u8], depth: usize) -> Result<()> {
    if !is_directory(dir, name) {
        return remove(dir, name, AtFlags::empty());
    }
    if depth < MAX_DEPTH
        && let Some(child) = child(dir, name)?
    {
        for (inner, _) in entries(&child)? {
            remove_tree(&child, &inner, depth + 1)?;
        }
    }
    remove(dir, name, AtFlags::REMOVEDIR)
}

fn remove(dir: &OwnedFd, name: &[u8], flags: AtFlags) -> Result<()> {
    match fs::unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(()),
        Err(e) => Err(system(&String::from_utf8_lossy(name), e)),
    }
}

fn child(dir: &OwnedFd, name: &[u8]) -> Result<Option<OwnedFd>> {
    match fs::openat(dir, name, LIST, Mode::empty()) {
        Ok(child) => Ok(Some(child)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(system(&String::from_utf8_lossy(name), e)),
    }
}

/// Names of a directory and whether each is a directory itself.
pub(crate) fn entries(dir: &impl AsFd) -> Result<Vec<(Vec<u8>, bool)>> {
    let again = open_beneath(dir, ".", LIST, crate::Access::Blocking)
        .map_err(|e| system("a directory", e))?;
    let mut found = Vec::new();
    for entry in Dir::new(again).map_err(|e| system("a directory", e))? {
        let entry = entry.map_err(|e| system("a directory", e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let directory = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => is_directory(dir, name),
                _ => false,
            };
            found.push((name.to_vec(), directory));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, KeyPolicy, StoreOptions};

    fn store(root: &std::path::Path, hide: &[&str]) -> Arc<Store> {
        Store::open(StoreOptions {
            root: root.to_owned(),
            durability: Durability::Relaxed,
            keys: KeyPolicy::Any,
            read_only: false,
            hide: hide.iter().map(|name| (*name).to_owned()).collect(),
            verify_mtime_only: false,
            etags: Default::default(),
            buckets: Default::default(),
            more_roots: Vec::new(),
        })
        .expect("a store")
    }

    #[test]
    fn a_hidden_name_becomes_no_bucket_and_leaves_no_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path(), &["tmp*"]);
        let name = BucketName::parse("tmp-files").expect("a name");
        let made = store.create_bucket(&name, BucketSettings::default());
        assert!(matches!(made, Err(StoreError::Reserved(_))), "{made:?}");
        assert!(!dir.path().join("tmp-files").exists());
    }

    // The process died of its stack where a listing gives a deep directory first, as xfs does.
    #[test]
    fn a_bucket_of_any_depth_is_refused_on_a_small_stack() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path(), &[]);
        let name = BucketName::parse("deep").expect("a name");
        let mut here: OwnedFd = std::fs::File::open(dir.path()).expect("open").into();
        fs::mkdirat(&here, "deep", Mode::RWXU).expect("made");
        for level in 0..1500 {
            here = child(&here, if level == 0 { b"deep" } else { b"d" })
                .expect("opened")
                .expect("there");
            fs::mkdirat(&here, "d", Mode::RWXU).expect("made");
        }
        let removal = std::thread::Builder::new().stack_size(2 << 20);
        let removed = removal.spawn(move || store.delete_bucket(&name));
        let removed = removed.expect("a thread").join().expect("no panic");
        assert!(matches!(removed, Err(StoreError::BucketNotEmpty { .. })));
        // TempDir removes by recursion, which would not end well either.
        let mut rm = std::process::Command::new("rm");
        let done = rm.arg("-rf").arg(dir.path()).status();
        assert!(done.expect("rm runs").success());
    }

    #[test]
    fn what_is_left_in_a_bucket_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("old/.fuse_hidden01")).expect("a directory");
        let store = store(dir.path(), &[]);
        let name = BucketName::parse("old").expect("a name");
        match store.delete_bucket(&name) {
            Err(StoreError::BucketNotEmpty { found, .. }) => {
                assert_eq!(found, ".fuse_hidden01, a hidden name");
            }
            other => panic!("{other:?}"),
        }
    }

    // A bucket of nothing but hidden names went with all of them.
    #[test]
    fn what_is_hidden_keeps_its_bucket_and_all_around_it() {
        for hidden in [
            "private/doc",
            "empty/deep/private/doc",
            "deep/.DS_Store",
            "moved/.twintree/annex/a=d/%=d/b=f",
            "moved/.TwinTree/doc",
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let (file, empty) = (dir.path().join("b").join(hidden), dir.path().join("b/e/e"));
            for made in [file.parent().expect("a parent"), &empty] {
                std::fs::create_dir_all(made).expect("a directory");
            }
            std::fs::write(&file, "x").expect("a file");
            let store = store(dir.path(), &["private", ".DS_Store"]);
            let name = BucketName::parse("b").expect("a name");
            match store.delete_bucket(&name) {
                Err(StoreError::BucketNotEmpty { found, .. }) => {
                    let named = found.strip_suffix(", a hidden name").expect("it says so");
                    assert!(hidden.starts_with(named), "{found}");
                }
                other => panic!("{other:?}"),
            }
            assert!(file.exists() && empty.exists(), "{hidden}");
        }
    }
}

//! Records that no file names any more: `records/HASH` of an object that was deleted or replaced, and
//! `records/i/INODE` of a file that is gone.
//!
//! They go by mark and age: all files of the bucket are asked what they name, and only then, and only
//! what is old, is removed. Nothing is searched where nothing is old.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::record::disk::{self, hex};
use crate::record::{FileState, Record, kind};
use crate::root::{Tree, system};
use crate::{Bucket, Result, Timestamp};

/// Directories below a bucket that the search for records descends into at most, by depth.
const MAX_DEPTH: usize = 1024;
/// What a record is called while it is being judged for the last time.
const DOOMED: &str = ".doomed";

impl Bucket {
    /// Removes records that are older than `age` and that no file of the bucket names; returns how
    /// many. Blocking.
    ///
    /// # Errors
    /// What the disk says, and a record of a later version: then nothing is an orphan for sure.
    pub(crate) fn sweep_records(&self, age: Duration) -> Result<usize> {
        let old = |what: &str| -> Result<Option<(OwnedFd, Vec<Vec<u8>>)>> {
            let Some(dir) = self.tree.reserved(what, false)? else {
                return Ok(None);
            };
            let names: Vec<_> = files(&dir)?
                .into_iter()
                .filter(|(_, stat)| is_older(stat, age))
                .map(|(name, _)| name)
                .collect();
            Ok((!names.is_empty()).then_some((dir, names)))
        };
        let candidates = [old("records")?, old("records/i")?];
        if candidates.iter().all(Option::is_none) {
            return Ok(0);
        }
        let mut marked = HashSet::new();
        mark(&self.tree, &self.tree.open_top()?, 0, &mut marked)?;
        let mut removed = 0;
        for (dir, names) in candidates.into_iter().flatten() {
            for name in names {
                if !marked.contains(&name) && remove_record(&dir, &name, age)? {
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// Collects the names of records that files below a directory name, in the annex and in uploads too.
fn mark(tree: &Tree, dir: &OwnedFd, depth: usize, marked: &mut HashSet<Vec<u8>>) -> Result<()> {
    for (name, stat) in entries(dir)? {
        match crate::root::kind(&stat) {
            FileType::Directory if depth < MAX_DEPTH => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match fs::openat(dir, &name[..], flags, Mode::empty()) {
                    Ok(child) => mark(tree, &child, depth + 1, marked)?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    // What we cannot see may name any record: nothing is orphaned for sure.
                    Err(e) => return Err(system("a directory", e)),
                }
            }
            FileType::RegularFile => mark_file(tree, dir, &name, marked)?,
            _ => {}
        }
    }
    Ok(())
}

fn mark_file(tree: &Tree, dir: &OwnedFd, name: &[u8], marked: &mut HashSet<Vec<u8>>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
        Err(e) => return Err(system("a file", e)),
    };
    let raw = disk::read(&file, tree)?;
    if raw.by_inode {
        marked.insert(FileState::look(&file)?.inode.to_string().into_bytes());
    }
    match raw.record.as_deref().map(Record::decode) {
        Some(Ok(record)) => {
            let hashes =
                [kind::OVERFLOW, kind::META_OVERFLOW].map(|kind| record.field(kind).map(hex));
            marked.extend(hashes.into_iter().flatten().map(String::into_bytes));
            Ok(())
        }
        // A record of a later version may name what we cannot read.
        Some(Err(e)) => Err(crate::StoreError::InvalidRequest(format!(
            "records are kept: {e}"
        ))),
        None => Ok(()),
    }
}

/// Removes a record, unless somebody began to use it since: it is renamed away first, so that a writer
/// who comes now makes it anew, and looked at once more.
fn remove_record(dir: &OwnedFd, name: &[u8], age: Duration) -> Result<bool> {
    let doomed = [name, DOOMED.as_bytes()].concat();
    match fs::renameat(dir, name, dir, &doomed[..]) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(e) => return Err(system("records", e)),
    }
    let stat = fs::statat(dir, &doomed[..], AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| system("records", e))?;
    if !is_older(&stat, age) {
        return match fs::renameat_with(dir, &doomed[..], dir, name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(false),
            Err(Errno::EXIST) => unlink(dir, &doomed).map(|_| false),
            Err(Errno::INVAL | Errno::NOSYS) => fs::renameat(dir, &doomed[..], dir, name)
                .map_err(|e| system("records", e))
                .map(|()| false),
            Err(e) => Err(system("records", e)),
        };
    }
    unlink(dir, &doomed)
}

/// By mtime, which writing and reusing a record move, and which renaming it away does not.
fn is_older(stat: &Stat, age: Duration) -> bool {
    let since = Timestamp::now()
        .0
        .saturating_sub(FileState::of(stat).modified.0);
    u64::try_from(since).is_ok_and(|since| Duration::from_nanos(since) >= age)
}

fn unlink(dir: &OwnedFd, name: &[u8]) -> Result<bool> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(system(&String::from_utf8_lossy(name), e)),
    }
}

/// The regular files of a directory.
fn files(dir: &OwnedFd) -> Result<Vec<(Vec<u8>, Stat)>> {
    let all = entries(dir)?.into_iter();
    Ok(all
        .filter(|(_, stat)| crate::root::kind(stat) == FileType::RegularFile)
        .collect())
}

fn entries(dir: &impl AsFd) -> Result<Vec<(Vec<u8>, Stat)>> {
    let failed = |e| system("a directory", e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let again = fs::openat(dir, c".", flags, Mode::empty()).map_err(failed)?;
    let mut found = Vec::new();
    for entry in Dir::new(again).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push((name.to_vec(), stat)),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{Access, Meta, ObjectKey, testing};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    struct Place {
        dir: tempfile::TempDir,
        bucket: Bucket,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let bucket = testing::bucket(dir.path());
            Self { dir, bucket }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("bucket").join(name)
        }

        /// Puts an object whose meta ext4 has no room for.
        fn put_large_meta(&self, key: &str) -> Meta {
            let key = ObjectKey::parse(key).expect("a key");
            let user = vec![(key.to_string(), vec![b'v'; 60_000])];
            let meta = Meta {
                user,
                ..Meta::default()
            };
            testing::put(&self.bucket, &key, b"", meta.clone());
            meta
        }

        /// Makes every record two days old.
        fn age_records(&self) {
            for entry in std::fs::read_dir(self.path(".twintree/records")).expect("there") {
                let file = std::fs::File::open(entry.expect("an entry").path()).expect("opened");
                let then = std::time::SystemTime::now() - 2 * DAY;
                file.set_modified(then).expect("set");
            }
        }

        fn records(&self) -> usize {
            std::fs::read_dir(self.path(".twintree/records")).map_or(0, Iterator::count)
        }
    }

    #[test]
    fn records_go_when_no_file_names_them_any_more() {
        let place = Place::new();
        let kept = place.put_large_meta("dir/kept");
        place.put_large_meta("x//annexed");
        place.put_large_meta("gone");
        if place.records() == 0 {
            return; // a filesystem with room for such an xattr has nothing to sweep
        }
        assert_eq!(place.records(), 3);
        std::fs::remove_file(place.path("gone")).expect("removed");
        assert_eq!(
            place.bucket.sweep_records(DAY).expect("swept"),
            0,
            "too young"
        );
        place.age_records();
        place.put_large_meta("dir/kept");
        assert_eq!(place.bucket.sweep_records(DAY).expect("swept"), 1);
        assert_eq!(place.records(), 2);
        for key in ["dir/kept", "x//annexed"] {
            let key = ObjectKey::parse(key).expect("a key");
            let info = place
                .bucket
                .open(&key, Access::Blocking)
                .expect("there")
                .info;
            assert_eq!(info.meta.user.len(), 1);
            assert!(key.as_str() != "dir/kept" || info.meta == kept);
        }
    }

    #[test]
    fn records_stay_while_a_later_version_may_name_them() {
        let place = Place::new();
        place.put_large_meta("gone");
        place.put_large_meta("later");
        if place.records() == 0 {
            return;
        }
        std::fs::remove_file(place.path("gone")).expect("removed");
        xattr::set(place.path("later"), "user.twintree", &[9; 80]).expect("set");
        assert!(place.bucket.sweep_records(Duration::ZERO).is_err());
        assert_eq!(place.records(), 2);
    }
}

//! The directories that are served: the roots, whose directories are buckets, and those that single buckets are mapped
//! to. Each is held open and compared with what it was when we started, so that a missing disk is never taken for an
//! empty one.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::bucket::identity;
use crate::fsfacts::{self, FsFacts};
use crate::root::system;
use crate::{Access, BucketName, Result, StoreError, StoreOptions, Timestamp};

/// A directory that is served, held open.
pub(crate) struct Served {
    /// Its absolute path, without links.
    pub location: PathBuf,
    /// What it lies on.
    pub facts: FsFacts,
    /// Its mtime when we started: all that can be said of it when it is gone.
    pub known_since: Timestamp,
    pub dir: Arc<OwnedFd>,
    /// The path again, for system calls.
    pub path: Arc<CString>,
    /// And as bytes, for links that point back into it.
    pub bytes: Arc<Vec<u8>>,
    /// Device, mount, inode.
    pub id: (u32, u32, u64, u64),
}

impl Served {
    fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let location = path
            .canonicalize()
            .map_err(|e| StoreError::from_io(&shown, e))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::open(&location, flags, Mode::empty()).map_err(|e| system(&shown, e))?;
        let stat = fs::fstat(&dir).map_err(|e| system(&shown, e))?;
        Ok(Self {
            path: CString::new(location.as_os_str().as_bytes())
                .map(Arc::new)
                .map_err(|_| system(&shown, Errno::INVAL))?,
            bytes: Arc::new(location.as_os_str().as_bytes().to_vec()),
            location,
            facts: fsfacts::facts(&dir),
            known_since: Timestamp::from_parts(stat.st_mtime, stat.st_mtime_nsec as i64),
            id: identity(&dir, AtFlags::EMPTY_PATH).map_err(|e| system(&shown, e))?,
            dir: Arc::new(dir),
        })
    }

    /// Device and inode.
    pub fn inode(&self) -> (u64, u64) {
        (fs::makedev(self.id.0, self.id.1), self.id.3)
    }

    /// The device.
    pub fn device(&self) -> u64 {
        self.inode().0
    }

    /// The mount.
    pub fn mount(&self) -> u64 {
        self.id.2
    }

    /// Does its path still lead to the directory that we opened, on the same mount?
    pub fn is_there(&self, access: Access) -> bool {
        let asking = match access {
            Access::Cached => AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT,
            Access::Blocking => AtFlags::empty(),
        };
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let now = fs::statx(fs::CWD, self.path.as_c_str(), asking, wanted);
        now.is_ok_and(|s| (s.stx_dev_major, s.stx_dev_minor, s.stx_mnt_id, s.stx_ino) == self.id)
    }

    /// As [`Served::is_there`].
    ///
    /// # Errors
    /// `Unavailable` where it is not.
    pub fn check(&self, access: Access) -> Result<()> {
        match self.is_there(access) {
            true => Ok(()),
            false => Err(StoreError::Unavailable(format!(
                "the directory {}",
                self.location.display()
            ))),
        }
    }

    /// The directory, opened for reading and syncing.
    ///
    /// # Errors
    /// The system's word.
    pub fn open_top(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat(&self.dir, c".", flags, Mode::empty()).map_err(|e| system("the root", e))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.location.starts_with(&other.location)
            || other.location.starts_with(&self.location)
            || self.inode() == other.inode()
    }
}

/// Opens the roots, the first of them first.
///
/// # Errors
/// As [`open_mapped`].
pub(crate) fn open_roots(options: &StoreOptions) -> Result<Vec<Served>> {
    let mut roots: Vec<Served> = Vec::new();
    for path in std::iter::once(&options.root).chain(&options.more_roots) {
        let root = Served::open(path)?;
        if let Some(before) = roots.iter().find(|before| root.overlaps(before)) {
            return Err(StoreError::InvalidRequest(format!(
                "root: {} and {} hold the same files: name directories of which none lies in another",
                path.display(),
                before.location.display(),
            )));
        }
        roots.push(root);
    }
    Ok(roots)
}

/// Opens all directories that buckets are mapped to.
///
/// # Errors
/// What the system says of one, and `InvalidRequest` for one that lies inside a root or another, or has them inside:
/// one file would be in two buckets, whose locks and records know nothing of each other.
pub(crate) fn open_mapped(
    options: &StoreOptions,
    roots: &[Served],
) -> Result<BTreeMap<BucketName, Served>> {
    let mut all: BTreeMap<BucketName, Served> = BTreeMap::new();
    for (name, said) in &options.buckets {
        let Some(path) = &said.path else { continue };
        let mapped = Served::open(path)?;
        let roots = roots.iter().map(|root| (root, "the root".to_owned()));
        let others = all
            .iter()
            .map(|(name, other)| (other, format!("bucket {:?}", name.as_str())));
        if let Some((other, what)) = roots
            .chain(others)
            .find(|(other, _)| mapped.overlaps(other))
        {
            return Err(StoreError::InvalidRequest(format!(
                "buckets.{name}.path: {} and {} ({what}) hold the same files: give each bucket a directory of its own",
                path.display(),
                other.location.display(),
            )));
        }
        all.insert(name.clone(), mapped);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketOptions, Store, testing};

    fn options(root: &Path, mapped: &[(&str, &Path)]) -> StoreOptions {
        let said = |path: &Path| BucketOptions {
            path: Some(path.to_owned()),
            ..BucketOptions::default()
        };
        let name = |text: &str| BucketName::parse(text).expect("a name");
        let buckets = mapped.iter().map(|(text, path)| (name(text), said(path)));
        StoreOptions {
            buckets: buckets.collect(),
            ..testing::options(root)
        }
    }

    fn names(store: &Arc<Store>) -> Vec<String> {
        let buckets = store.buckets().expect("buckets");
        buckets.iter().map(|info| info.name.to_string()).collect()
    }

    #[test]
    fn a_mapped_bucket_stands_in_its_place_and_is_unavailable_while_it_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, away) = (dir.path().join("root"), dir.path().join("away"));
        for made in [root.join("a"), root.join("m"), root.join("z"), away.clone()] {
            std::fs::create_dir_all(made).expect("a directory");
        }
        let store = Store::open(options(&root, &[("m", &away)])).expect("a store");
        let name = BucketName::parse("m").expect("a name");
        assert_eq!(names(&store), ["a", "m", "z"]);
        let path = |path: &Path| path.canonicalize().expect("a path");
        assert_eq!(store.shadowed(), [(path(&root).join("m"), path(&away))]);
        assert!(store.bucket_cached(&name).is_ok());
        assert!(matches!(
            store.delete_bucket(&name),
            Err(StoreError::Mapped(_))
        ));
        std::fs::rename(&away, dir.path().join("aside")).expect("moved");
        for access in [Access::Cached, Access::Blocking] {
            let found = match access {
                Access::Cached => store.bucket_cached(&name),
                Access::Blocking => store.bucket(&name),
            };
            assert!(matches!(found, Err(StoreError::Unavailable(_))));
        }
        assert_eq!(
            names(&store),
            ["a", "m", "z"],
            "nobody takes it for removed"
        );
        assert!(store.troubles().len() == 1, "{:?}", store.troubles());
    }

    #[test]
    fn directories_that_share_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("root/in")).expect("a directory");
        std::fs::create_dir_all(at("out/deep")).expect("a directory");
        std::fs::create_dir_all(at("rooted")).expect("a directory");
        let opened = |mapped: &[(&str, &Path)]| Store::open(options(&at("root"), mapped));
        let (inside, out, deep, rooted) = (at("root/in"), at("out"), at("out/deep"), at("rooted"));
        for mapped in [
            &[("a", inside.as_path())][..],
            &[("a", dir.path())],
            &[("a", &out), ("b", &deep)],
            &[("a", &deep), ("b", &out)],
        ] {
            let refused = opened(mapped).err().expect("refused");
            assert!(
                matches!(&refused, StoreError::InvalidRequest(why) if why.contains("a directory of its own")),
                "{refused}"
            );
        }
        let beside = [("a", out.as_path()), ("b", &rooted)];
        assert_eq!(names(&opened(&beside).expect("a store")), ["a", "b", "in"]);
    }

    #[test]
    fn of_several_roots_the_first_has_a_name_and_gets_what_is_new() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for made in ["one/both", "two/both", "two/late", "two/own"] {
            std::fs::create_dir_all(dir.path().join(made)).expect("a directory");
        }
        let opened = |more: &Path| {
            Store::open(StoreOptions {
                more_roots: vec![more.to_owned()],
                ..testing::options(&one)
            })
        };
        let store = opened(&two).expect("a store");
        let name = |text: &str| BucketName::parse(text).expect("a name");
        let lies_in = |text: &str| {
            let bucket = store.bucket(&name(text)).expect("a bucket");
            let id = fs::fstat(bucket.tree.dir()).expect("a status").st_ino;
            let is_it = |root: &&PathBuf| {
                let found = std::fs::metadata(root.join(text));
                found.is_ok_and(|found| std::os::unix::fs::MetadataExt::ino(&found) == id)
            };
            let found = [&one, &two].into_iter().find(is_it);
            found
                .expect("it lies in one")
                .file_name()
                .expect("a name")
                .to_owned()
        };
        assert_eq!(names(&store), ["both", "late", "own"]);
        for (bucket, root) in [
            ("both", "one"),
            ("own", "two"),
            ("late", "two"),
            ("late", "two"),
        ] {
            assert_eq!(lies_in(bucket), root, "{bucket}");
        }
        store
            .create_bucket(&name("new"), Default::default())
            .expect("made");
        let made = store.create_bucket(&name("own"), Default::default());
        assert!(matches!(made, Err(StoreError::BucketExists(_))));
        std::fs::create_dir(one.join("late")).expect("made by another");
        assert_eq!(
            (lies_in("new"), lies_in("late")),
            ("one".into(), "one".into())
        );
        store.delete_bucket(&name("own")).expect("removed");
        assert!(!two.join("own").exists());
        std::fs::rename(&two, dir.path().join("aside")).expect("moved");
        assert!(store.bucket(&name("new")).is_ok());
        let unknown = store.bucket(&name("unknown")).err();
        assert!(matches!(unknown, Some(StoreError::Unavailable(_))));
        assert!(store.buckets().is_err() && store.troubles().len() == 1);
        let inside = opened(&one.join("new")).err();
        assert!(matches!(inside, Some(StoreError::InvalidRequest(_))));
    }
}

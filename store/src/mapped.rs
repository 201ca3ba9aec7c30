//! Buckets that lie outside the root, each at a path of its own. As the root, such a directory is compared with what
//! it was when we started, so that a missing disk is never taken for an empty bucket.

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

/// A bucket's directory outside the root, held open.
pub(crate) struct Mapped {
    /// Its absolute path, without links.
    pub location: PathBuf,
    /// What it lies on.
    pub facts: FsFacts,
    /// Its mtime when we started: all that can be said of it when it is gone.
    pub known_since: Timestamp,
    pub dir: Arc<OwnedFd>,
    path: CString,
    id: (u32, u32, u64, u64),
}

impl Mapped {
    fn open(name: &BucketName, path: &Path) -> Result<Self> {
        let shown = format!("{} (bucket {:?})", path.display(), name.as_str());
        let location = path
            .canonicalize()
            .map_err(|e| StoreError::from_io(&shown, e))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::open(&location, flags, Mode::empty()).map_err(|e| system(&shown, e))?;
        let stat = fs::fstat(&dir).map_err(|e| system(&shown, e))?;
        Ok(Self {
            path: CString::new(location.as_os_str().as_bytes())
                .map_err(|_| system(&shown, Errno::INVAL))?,
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

    /// Does its path still lead to the directory that we opened, on the same mount?
    ///
    /// # Errors
    /// `Unavailable` where it does not.
    pub fn check(&self, access: Access) -> Result<()> {
        let asking = match access {
            Access::Cached => AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT,
            Access::Blocking => AtFlags::empty(),
        };
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let now = fs::statx(fs::CWD, self.path.as_c_str(), asking, wanted);
        if now.is_ok_and(|s| (s.stx_dev_major, s.stx_dev_minor, s.stx_mnt_id, s.stx_ino) == self.id)
        {
            return Ok(());
        }
        Err(StoreError::Unavailable(format!(
            "the directory {}",
            self.location.display()
        )))
    }
}

/// Opens all directories that buckets are mapped to.
///
/// # Errors
/// What the system says of one, and `InvalidRequest` for one that lies inside the root or another, or has them inside:
/// one file would be in two buckets, whose locks and records know nothing of each other.
pub(crate) fn open_all(
    options: &StoreOptions,
    root: &Path,
) -> Result<BTreeMap<BucketName, Mapped>> {
    let mut all: BTreeMap<BucketName, Mapped> = BTreeMap::new();
    for (name, said) in &options.buckets {
        let Some(path) = &said.path else { continue };
        let mapped = Mapped::open(name, path)?;
        let overlaps = |other: &Path| {
            mapped.location.starts_with(other) || other.starts_with(&mapped.location)
        };
        let refused = |other: &Path, what: &str| {
            StoreError::InvalidRequest(format!(
                "buckets.{name}.path: {} and {} ({what}) hold the same files: give each bucket a directory of its own",
                path.display(),
                other.display(),
            ))
        };
        if overlaps(root) {
            return Err(refused(root, "the root"));
        }
        for (other, before) in &all {
            if overlaps(&before.location) || before.inode() == mapped.inode() {
                return Err(refused(&before.location, &format!("bucket {other:?}")));
            }
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
        assert_eq!(
            store.shadowed(),
            [root.canonicalize().expect("a path").join("m")]
        );
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
}

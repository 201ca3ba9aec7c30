//! The roots and their buckets, and those that are mapped: which directories are served, and by which rules.
//!
//! A bucket is resolved anew for every request, so that one renamed, removed or replaced directly shows
//! at once; and the roots are compared with what it was when we started, so that a missing disk is never
//! taken for an empty one.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::list::cache::NameCache;
use crate::path::HideList;
use crate::probe::daemon::Probes;
use crate::record::Judge;
use crate::root::{Tree, kind, system};
use crate::rules::{AllRules, Rules, Scopes};
use crate::served::{self, Served};
use crate::shared::{BucketShared, Buckets, Held};
use crate::snapshot::Snapshots;
use crate::sync::Syncers;
use crate::tallies::SealCounts;
use crate::{
    Access, BucketName, BucketOptions, Changes, Durability, ETagKinds, KeyPolicy, Result,
    StoreError, Timestamp, fsfacts, relaxed, seal,
};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory whose directories are buckets, and in which new ones are made.
    pub root: PathBuf,
    /// More such directories. Where a name is in several, the first has it.
    pub more_roots: Vec<PathBuf>,
    /// What is on disk before a write is answered.
    pub durability: Durability,
    /// Which keys are taken.
    pub keys: KeyPolicy,
    /// Refuse every write, and write nothing ourselves.
    pub read_only: bool,
    /// Names hidden and refused at every depth, beside those that filesystems reserve; `*` matches any text.
    pub hide: Vec<String>,
    /// Take equal size and mtime for valid.
    pub verify_mtime_only: bool,
    /// Which ETags objects get.
    pub etags: ETagKinds,
    /// What is said of single buckets.
    pub buckets: BTreeMap<BucketName, BucketOptions>,
}

impl StoreOptions {
    /// The defaults, for a root.
    pub fn of(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            more_roots: Vec::new(),
            durability: Durability::Strict,
            keys: KeyPolicy::Any,
            read_only: false,
            hide: Vec::new(),
            verify_mtime_only: false,
            etags: ETagKinds::default(),
            buckets: BTreeMap::new(),
        }
    }

    /// Looks whether it could be opened, and gives what [`Store::shadowed`] would.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn shadowed(self) -> Result<Vec<(PathBuf, PathBuf)>> {
        Ok(Store::open(self)?.shadowed())
    }
}

/// A bucket in a list.
#[derive(Clone, Debug)]
pub struct BucketInfo {
    /// Its name.
    pub name: BucketName,
    /// From `bucket.json`, else the directory's btime, else its mtime.
    pub created: Timestamp,
    /// The location constraint it was created with; `None` for us-east-1.
    pub location: Option<String>,
}

/// The tree under the roots, and what is mapped beside them.
pub struct Store {
    pub(crate) options: StoreOptions,
    /// Of all buckets.
    pub(crate) hide: Arc<HideList>,
    /// What is kept back, bucket by bucket.
    pub(crate) scopes: Scopes,
    /// Buckets that lie elsewhere than under the root.
    pub(crate) mapped: BTreeMap<BucketName, Served>,
    rules: RwLock<AllRules>,
    /// Which ETags objects get from now on.
    etags: RwLock<Arc<ETagKinds>>,
    pub(crate) buckets: Buckets,
    /// Group commit, by device.
    pub(crate) syncers: Syncers,
    /// Which records are true, and what this process remembers of them.
    pub(crate) judge: Judge,
    /// Files that wait to be verified.
    pub(crate) seal_queue: seal::Queue,
    /// What became of those.
    pub(crate) sealing: SealCounts,
    /// Buckets that were written to without a sync.
    pub(crate) unsynced: relaxed::Unsynced,
    /// Sorted directories, kept between pages of listings.
    pub(crate) names: Arc<NameCache>,
    /// What filesystems were probed.
    pub(crate) probes: Probes,
    /// Who is writing, and who must be told.
    pub(crate) changes: Arc<Changes>,
    /// Snapshots of files that are being written.
    pub(crate) snapshots: Arc<Snapshots>,
    /// At least one.
    pub(crate) roots: Vec<Served>,
}

/// One bucket, resolved for one request: holds its directory's descriptor.
#[derive(Clone)]
pub struct Bucket {
    name: BucketName,
    pub(crate) store: Arc<Store>,
    pub(crate) tree: Tree,
    pub(crate) shared: Arc<BucketShared>,
    pub(crate) rules: Rules,
}

impl Store {
    /// Opens the root; writes nothing.
    ///
    /// # Errors
    /// `Io`, `Denied` or `Unavailable` where the root is no directory that we may enter.
    pub fn open(options: StoreOptions) -> Result<Arc<Self>> {
        let roots = served::open_roots(&options)?;
        let scopes = Scopes::new(&options);
        let mapped = served::open_mapped(&options, &roots)?;
        let judge = Judge::new(options.verify_mtime_only);
        Ok(Arc::new(Self {
            etags: RwLock::new(Arc::new(options.etags.clone())),
            rules: RwLock::new(AllRules::new(&options, &options.buckets)),
            hide: Arc::clone(&scopes.usual().hide),
            options,
            scopes,
            mapped,
            buckets: Buckets::default(),
            syncers: Syncers::default(),
            judge,
            seal_queue: seal::Queue::default(),
            sealing: SealCounts::default(),
            unsynced: relaxed::Unsynced::default(),
            names: Arc::default(),
            probes: Probes::default(),
            changes: Arc::default(),
            snapshots: Arc::default(),
            roots,
        }))
    }

    /// Gives what listings keep (sorted names of directories, ETags) so many bytes from now on; 172 MiB before it is called.
    pub fn set_list_cache(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.names.set_budget(bytes);
    }

    /// The options it was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Which ETags objects get now.
    pub(crate) fn etags(&self) -> Arc<ETagKinds> {
        Arc::clone(&self.etags.read())
    }

    /// Gives objects these ETags from now on; what is written just now may still get one of before.
    pub fn set_etags(&self, etags: ETagKinds) {
        *self.etags.write() = Arc::new(etags);
    }

    /// Lets what is said of single buckets count from now on, as far as it can while they are served: read-only and
    /// durability. Answers of which something else is said than they are served as; that counts when the store is opened
    /// anew, and until then nothing of them is allowed that was not.
    pub fn set_bucket_rules(&self, said: &BTreeMap<BucketName, BucketOptions>) -> Vec<BucketName> {
        let usual = BucketOptions::default();
        let fixed = |all: &BTreeMap<BucketName, BucketOptions>, name: &BucketName| {
            let BucketOptions {
                path,
                hide,
                symlinks,
                ..
            } = all.get(name).unwrap_or(&usual).clone();
            (path, hide, symlinks)
        };
        let before = &self.options.buckets;
        let names: std::collections::BTreeSet<_> = before.keys().chain(said.keys()).collect();
        let differs = |name: &&BucketName| fixed(before, name) != fixed(said, name);
        let waiting: Vec<BucketName> = names.into_iter().filter(differs).cloned().collect();
        self.rules.write().change(&self.options, said, &waiting);
        waiting
    }

    /// What a write to a bucket is now.
    pub(crate) fn rules_of(&self, name: &BucketName) -> Rules {
        self.rules.read().of(name)
    }

    /// Is something said of it by its name that is not said of all: what of it is kept back, or what a write to it is?
    pub(crate) fn is_special(&self, name: &BucketName) -> bool {
        self.scopes.has(name) || self.rules.read().has(name)
    }

    /// Is there a bucket that may not be written, where others may?
    pub(crate) fn has_read_only_buckets(&self) -> bool {
        self.rules.read().any_is_read_only()
    }

    /// Directories of roots that nobody sees, each with the one that is served in its place: a bucket of its name is
    /// mapped, or lies in a root before.
    pub fn shadowed(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut taken: BTreeMap<BucketName, PathBuf> = BTreeMap::new();
        for (name, mapped) in &self.mapped {
            taken.insert(name.clone(), mapped.location.clone());
        }
        let mut shadowed = Vec::new();
        for root in &self.roots {
            // What cannot be read serves nobody.
            let Ok(names) = names_in(root) else { continue };
            for name in names {
                let here = root.location.join(name.as_str());
                match taken.get(&name) {
                    Some(_) if !is_directory(&root.dir, name.as_str().as_bytes()) => {}
                    Some(served) => shadowed.push((here, served.clone())),
                    None => drop(taken.insert(name, here)),
                }
            }
        }
        shadowed
    }

    /// The absolute paths, without links, of all that is served: the roots', and those of mapped buckets.
    pub fn locations(&self) -> impl Iterator<Item = &Path> {
        let all = self.roots.iter().chain(self.mapped.values());
        all.map(|served| served.location.as_path())
    }

    /// Who is writing, and who must be told of changes.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// All buckets in name order. Blocking.
    ///
    /// # Errors
    /// `Unavailable` when the root is gone: never an empty list for a missing disk.
    pub fn buckets(self: &Arc<Self>) -> Result<Vec<BucketInfo>> {
        self.check_roots()?;
        let mut names = BTreeMap::new();
        for root in &self.roots {
            for name in names_in(root)? {
                if !self.mapped.contains_key(&name) {
                    names.entry(name).or_insert(root);
                }
            }
        }
        let mut found = Vec::new();
        for (name, root) in names {
            // One directory that we may not enter, or that vanishes meanwhile, never breaks the list.
            match self.bucket(&name).and_then(|bucket| bucket.info_at_least()) {
                Ok(info) => found.push(info),
                // A bucket whose own disk is gone is still one: a client that mirrors must not take it for deleted.
                Err(StoreError::Unavailable(_)) => {
                    self.check_roots()?;
                    found.extend(bare_mount_point(root, &name));
                }
                Err(StoreError::NoSuchBucket(_) | StoreError::Denied(_)) => {}
                Err(e) => return Err(e),
            }
        }
        for (name, mapped) in &self.mapped {
            match self.bucket(name).and_then(|bucket| bucket.info_at_least()) {
                Ok(info) => found.push(info),
                Err(StoreError::Unavailable(_)) => found.push(BucketInfo {
                    name: name.clone(),
                    created: mapped.known_since,
                    location: None,
                }),
                Err(StoreError::NoSuchBucket(_) | StoreError::Denied(_)) => {}
                Err(e) => return Err(e),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The first root's directory, opened for reading and syncing.
    pub(crate) fn open_root(&self) -> Result<OwnedFd> {
        self.first_root().open_top()
    }

    /// The root in which new buckets are made.
    pub(crate) fn first_root(&self) -> &Served {
        &self.roots[0]
    }

    /// Does a root, or a mapped bucket, lie on a filesystem that is itself stacked on another?
    pub fn is_stacked(&self) -> bool {
        let mut all = self.roots.iter().chain(self.mapped.values());
        all.any(|served| served.facts.name == "overlay")
    }

    /// The first root's absolute path, without links.
    pub fn location(&self) -> &Path {
        &self.first_root().location
    }

    /// The root that has a directory of this name; none: no bucket is called so, but those that are mapped.
    ///
    /// # Errors
    /// `Unavailable` where a root before it is gone: nobody knows what is in that.
    pub(crate) fn root_with(&self, name: &BucketName) -> Result<Option<&Served>> {
        for root in &self.roots {
            check_root(root, Access::Blocking)?;
            if is_directory(&root.dir, name.as_str().as_bytes()) {
                return Ok(Some(root));
            }
        }
        Ok(None)
    }

    /// Refuses to let the name of a bucket go while a root behind its own has a directory of that name: that would be
    /// served next, and its content taken for the bucket's.
    ///
    /// # Errors
    /// `Covers`; `Unavailable` where a root behind it is gone: nobody knows what is in that.
    pub(crate) fn check_covers_nothing(&self, root: &Served, name: &BucketName) -> Result<()> {
        let before = |other: &&Served| !std::ptr::eq(*other, root);
        for behind in self.roots.iter().skip_while(before).skip(1) {
            check_root(behind, Access::Blocking)?;
            if is_directory(&behind.dir, name.as_str().as_bytes()) {
                let location = behind.location.join(name.as_str());
                tracing::warn!(
                    bucket = name.as_str(),
                    "the bucket stays: {} would be served in its place",
                    location.display()
                );
                return Err(StoreError::Covers(name.to_string()));
            }
        }
        Ok(())
    }

    /// Resolves a bucket now; a bucket removed or replaced directly shows at once. May wait for the disk.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Unavailable`, `Denied`.
    pub fn bucket(self: &Arc<Self>, name: &BucketName) -> Result<Bucket> {
        self.resolve(name, Access::Blocking)
    }

    /// Resolves a bucket as [`Store::bucket`] does, from the kernel's caches alone: for an async thread.
    ///
    /// # Errors
    /// `WouldBlock` where the disk or another machine would be asked; else as [`Store::bucket`].
    pub fn bucket_cached(self: &Arc<Self>, name: &BucketName) -> Result<Bucket> {
        self.resolve(name, Access::Cached)
    }

    fn resolve(self: &Arc<Self>, name: &BucketName, access: Access) -> Result<Bucket> {
        let missing = || StoreError::NoSuchBucket(name.to_string());
        let hidden = self.hide.hides(name.as_str().as_bytes());
        if !hidden && let Some(mapped) = self.mapped.get(name) {
            return self.resolve_mapped(name, mapped, access);
        }
        if access == Access::Cached && self.roots.iter().any(|root| root.facts.remote) {
            return Err(StoreError::WouldBlock);
        }
        if !hidden && let Some(held) = self.still_held(name) {
            let (tree, shared) = (held.tree.clone(), Arc::clone(&held.shared));
            return Ok(self.bucket_of(name, tree, shared));
        }
        let mut found = None;
        for (at, root) in self.roots.iter().enumerate() {
            check_root(root, access)?;
            if hidden {
                continue;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match open_beneath(&root.dir, name.as_str(), flags, access) {
                Ok(dir) => {
                    found = Some((at, root, dir));
                    break;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(Errno::AGAIN) if access == Access::Cached => {
                    return Err(StoreError::WouldBlock);
                }
                Err(e) => return Err(system(name.as_str(), e)),
            }
        }
        let (at, root, dir) = found.ok_or_else(missing)?;
        // Linux: without asking, a network filesystem answers from what it knows (statx(2)); which inode an
        // open directory is does not change.
        let asking = match access {
            Access::Cached => AtFlags::STATX_DONT_SYNC,
            Access::Blocking => AtFlags::empty(),
        };
        let stat = fs::statx(&dir, c"", AtFlags::EMPTY_PATH | asking, StatxFlags::INO)
            .map_err(|e| system(name.as_str(), e))?;
        let device = fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        let root_device = root.device();
        if !self
            .buckets
            .still_mounted(name.as_str(), device, root_device)
        {
            return Err(StoreError::Unavailable(format!(
                "the disk of bucket {name:?}"
            )));
        }
        let id = (device, stat.stx_ino);
        let shared = match self.buckets.known(id) {
            Some(shared) => shared,
            None if device == root_device => self.buckets.add(id, root.facts),
            // What a filesystem of its own is has to be asked of it.
            None if access == Access::Cached => return Err(StoreError::WouldBlock),
            None => self.buckets.add(id, fsfacts::facts(&dir)),
        };
        let location = root
            .location
            .join(name.as_str())
            .as_os_str()
            .as_bytes()
            .to_vec();
        let tree = Tree::new(
            Arc::new(dir),
            Some(Arc::new(location.clone())),
            self.scopes.of(name).clone(),
        );
        if device == root_device
            && let Ok(path) = CString::new(location)
        {
            let held = Held {
                tree: tree.clone(),
                shared: Arc::clone(&shared),
                path: Arc::new(path),
                root: at,
            };
            self.buckets.hold(name.as_str(), Arc::new(held));
        }
        Ok(self.bucket_of(name, tree, shared))
    }

    /// A mapped bucket: its directory is held open for as long as we serve, as the root is.
    fn resolve_mapped(
        self: &Arc<Self>,
        name: &BucketName,
        mapped: &Served,
        access: Access,
    ) -> Result<Bucket> {
        if access == Access::Cached && mapped.facts.remote {
            return Err(StoreError::WouldBlock);
        }
        mapped.check(access)?;
        let Held { tree, shared, .. } = self.hold_mapped(name, mapped);
        Ok(self.bucket_of(name, tree, shared))
    }

    /// What is held of a mapped bucket: its directory is, whether or not its path still leads there.
    pub(crate) fn hold_mapped(&self, name: &BucketName, mapped: &Served) -> Held {
        let id = mapped.inode();
        let shared = self.buckets.known(id);
        let location = Some(Arc::clone(&mapped.bytes));
        let scope = self.scopes.of(name).clone();
        Held {
            tree: Tree::new(Arc::clone(&mapped.dir), location, scope),
            shared: shared.unwrap_or_else(|| self.buckets.add(id, mapped.facts)),
            path: Arc::clone(&mapped.path),
            root: 0,
        }
    }

    fn bucket_of(
        self: &Arc<Self>,
        name: &BucketName,
        tree: Tree,
        shared: Arc<BucketShared>,
    ) -> Bucket {
        Bucket {
            name: name.clone(),
            store: Arc::clone(self),
            tree,
            shared,
            rules: self.rules_of(name),
        }
    }

    /// The bucket's directory that is held open, if it is still what the root's own path and the name lead to, on
    /// the root's own mount: where the root is gone or another, they lead nowhere or elsewhere. The kernel has all of
    /// them at hand, so that asking does not wait for the disk.
    fn still_held(&self, name: &BucketName) -> Option<Arc<Held>> {
        let held = self.buckets.held(name.as_str())?;
        let asking = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let now = fs::statx(fs::CWD, held.path.as_c_str(), asking, wanted).ok()?;
        let on = (now.stx_dev_major, now.stx_dev_minor, now.stx_mnt_id);
        let (before, root) = (&self.roots[..held.root], &self.roots[held.root]);
        // Somebody may have made one of its name in a root before it, which has it then.
        if before
            .iter()
            .any(|root| is_directory(&root.dir, name.as_str().as_bytes()))
        {
            return None;
        }
        let (major, minor, mount, _) = root.id;
        let id = (fs::makedev(major, minor), now.stx_ino);
        (on == (major, minor, mount) && held.shared.id == id).then_some(held)
    }

    /// Refuses writes of a read-only store.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(StoreError::ReadOnly("the store".to_owned()));
        }
        Ok(())
    }

    /// Are the roots still the directories that we opened?
    pub(crate) fn check_roots(&self) -> Result<()> {
        let mut roots = self.roots.iter();
        roots.try_for_each(|root| check_root(root, Access::Blocking))
    }
}

/// Is a root still the directory that we opened?
fn check_root(root: &Served, access: Access) -> Result<()> {
    match root.is_there(access) {
        true => Ok(()),
        false => Err(StoreError::Unavailable(format!(
            "the root {}",
            root.location.display()
        ))),
    }
}

/// The names in a root that may be buckets.
pub(crate) fn names_in(root: &Served) -> Result<Vec<BucketName>> {
    let mut names = Vec::new();
    for entry in Dir::new(root.open_top()?).map_err(|e| system("the root", e))? {
        let entry = entry.map_err(|e| system("the root", e))?;
        let name = entry.file_name().to_str().ok();
        let name = name.and_then(|name| BucketName::parse(name).ok());
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            names.extend(name);
        }
    }
    Ok(names)
}

/// What can be said of a bucket whose disk is gone: its name, and the mount point's own time.
fn bare_mount_point(root: &Served, name: &BucketName) -> Option<BucketInfo> {
    let stat = fs::statat(&root.dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(BucketInfo {
        name: name.clone(),
        created: Timestamp::from_parts(stat.st_mtime, stat.st_mtime_nsec as i64),
        location: None,
    })
}

impl Bucket {
    /// The device number of its filesystem.
    pub fn device(&self) -> u64 {
        self.shared.id.0
    }

    /// Its name.
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// Name, creation, location. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn info(&self) -> Result<BucketInfo> {
        let settings = self.settings()?;
        let created = match settings.created {
            Some(created) => created,
            None => self.born().map_err(|e| system(self.name.as_str(), e))?,
        };
        Ok(BucketInfo {
            name: self.name.clone(),
            created,
            location: settings.location,
        })
    }

    /// As [`Bucket::info`]; settings that somebody damaged hide no bucket.
    fn info_at_least(&self) -> Result<BucketInfo> {
        self.info().or_else(|e| {
            if matches!(e, StoreError::Denied(_)) {
                return Err(e);
            }
            tracing::warn!(
                bucket = self.name.as_str(),
                "the bucket is listed without its settings: {e}"
            );
            let created = self.born().map_err(|e| system(self.name.as_str(), e))?;
            Ok(BucketInfo {
                name: self.name.clone(),
                created,
                location: None,
            })
        })
    }

    /// Is nothing written to it?
    pub fn is_read_only(&self) -> bool {
        self.rules.read_only
    }

    /// Refuses writes of a read-only bucket.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.store.check_writable()?;
        if self.rules.read_only {
            return Err(StoreError::ReadOnly(format!("bucket {:?}", self.name)));
        }
        Ok(())
    }

    /// Is the bucket on a filesystem of another machine?
    pub fn is_remote(&self) -> bool {
        self.shared.facts.remote
    }

    fn born(&self) -> rustix::io::Result<Timestamp> {
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = fs::statx(self.tree.dir(), c"", AtFlags::EMPTY_PATH, flags)?;
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let time = if known {
            stat.stx_btime
        } else {
            stat.stx_mtime
        };
        Ok(Timestamp::from_parts(time.tv_sec, i64::from(time.tv_nsec)))
    }
}

/// Opens a name beneath a directory without following links; falls back where there is no openat2.
pub(crate) fn open_beneath(
    dir: impl AsFd,
    name: &str,
    flags: OFlags,
    access: Access,
) -> rustix::io::Result<OwnedFd> {
    let mut resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    if access == Access::Cached {
        resolve |= ResolveFlags::CACHED;
    }
    match fs::openat2(&dir, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) if access == Access::Cached => Err(Errno::AGAIN),
        Err(Errno::NOSYS) => fs::openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty()),
        other => other,
    }
}

pub(crate) fn identity(dir: impl AsFd, flags: AtFlags) -> rustix::io::Result<(u32, u32, u64, u64)> {
    let stat = fs::statx(
        dir,
        c"",
        flags,
        StatxFlags::BASIC_STATS | StatxFlags::MNT_ID,
    )?;
    Ok((
        stat.stx_dev_major,
        stat.stx_dev_minor,
        stat.stx_mnt_id,
        stat.stx_ino,
    ))
}

/// Is the entry of this name a directory (not a link to one)?
pub(crate) fn is_directory(dir: impl AsFd, name: &[u8]) -> bool {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| kind(&stat) == FileType::Directory)
}

//! What the daemon does with the probe. It looks at the root when it starts, without writing; and when a
//! filesystem is first written it tries the rest there, inside the reserved directory, and says in the log
//! what has a fallback or cannot be kept. What was tried is remembered in the state directory by filesystem
//! and kernel, so that the next start only says it again.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::{self, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Grade, Report, attempt, look, remove};
use crate::root::system;
use crate::served::Served;
use crate::{Bucket, Result, Store, StoreError};

/// How the probe's own directory in `.twintree/` begins; the sweep knows it.
pub(crate) const ROOM: &str = "probe.";
/// Where findings are kept in the state directory, and the most that is read of it, in bytes.
const FILE: &str = "filesystems.json";
const MAX_BYTES: u64 = 1 << 20;
/// Filesystems that are remembered at most.
const MAX_KNOWN: usize = 1000;

/// What this process has probed, and where it remembers it. Without a state directory nothing is probed.
#[derive(Default)]
pub(crate) struct Probes {
    state: OnceLock<PathBuf>,
    seen: Mutex<HashSet<u64>>,
}

/// One finding that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remark {
    what: String,
    bad: bool,
    meaning: String,
}

/// Remarks by filesystem.
type Known = BTreeMap<String, Vec<Remark>>;

impl Store {
    /// Looks at the root's filesystem and says in the log what limits it; from now on each filesystem that
    /// is written is tried once, and what is found is remembered in `state_dir`. Without one nothing is tried.
    /// Writes nothing itself.
    pub fn report_filesystems(&self, state_dir: Option<&Path>) {
        for (at, root) in self.roots.iter().enumerate() {
            match at {
                0 => look_at("the root", root),
                _ => look_at(&format!("the root {}", root.location.display()), root),
            }
        }
        for (name, mapped) in &self.mapped {
            look_at(name.as_str(), mapped);
        }
        if let Some(dir) = state_dir
            && self.probes.state.set(dir.to_owned()).is_err()
        {
            // The first call wins: a daemon makes one.
            tracing::debug!("filesystems are reported already");
        }
    }
}

/// Says what limits a directory's filesystem, as far as can be seen.
fn look_at(of: &str, served: &Served) {
    let mut report = Report::default();
    let looked = served.open_top().and_then(|top| {
        look::filesystem(&top, &served.location, &mut report)
            .map_err(|e| StoreError::from_io(of, e))
    });
    if let Err(e) = looked {
        tracing::warn!(of, "its filesystem cannot be looked at: {e}");
    }
    say(of, &remarks(&report));
}

impl Bucket {
    /// Tries the bucket's filesystem, the first time that this process writes to it. What fails here is
    /// logged: the write itself has its fallbacks and goes on.
    pub(crate) fn probe_once(&self) {
        let Some(state) = self.store.probes.state.get() else {
            return;
        };
        if !self.store.probes.seen.lock().insert(self.shared.id.0) {
            return;
        }
        let file = state.join(FILE);
        let mut known = read(&file);
        let found = self.filesystem_key().and_then(|key| match known.get(&key) {
            Some(remarks) => Ok(remarks.clone()),
            None => {
                let remarks = self.try_filesystem()?;
                if known.len() < MAX_KNOWN {
                    known.insert(key, remarks.clone());
                    write(&file, &known);
                }
                Ok(remarks)
            }
        });
        match found {
            Ok(remarks) => say(self.name().as_str(), &remarks),
            Err(e) => tracing::warn!(
                bucket = self.name().as_str(),
                "its filesystem cannot be probed: {e}"
            ),
        }
    }

    /// The filesystem by its own id, its kind, and the kernel that serves it.
    fn filesystem_key(&self) -> Result<String> {
        let id = fs::fstatvfs(self.tree.open_top()?)
            .map_err(|e| system("the bucket", e))?
            .f_fsid;
        let kernel = rustix::system::uname();
        Ok(format!(
            "{id:016x} {} {}",
            self.shared.facts.name,
            kernel.release().to_string_lossy()
        ))
    }

    fn try_filesystem(&self) -> Result<Vec<Remark>> {
        let missing = || StoreError::Unavailable(crate::name::RESERVED.to_owned());
        let ours = self.tree.reserved("", true)?.ok_or_else(missing)?;
        let name = format!("{ROOM}{:016x}", crate::random::number());
        fs::mkdirat(&ours, &name, Mode::from_raw_mode(0o700)).map_err(|e| system(&name, e))?;
        let mut report = Report::default();
        let tried =
            open_room(&ours, &name).and_then(|room| attempt::all(&room, &ours, &mut report));
        remove(&ours, &name)
            .and(tried)
            .map_err(|e| StoreError::from_io(&name, e))?;
        Ok(remarks(&report))
    }
}

fn open_room(ours: &OwnedFd, name: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(fs::openat(ours, name, flags, Mode::empty())?)
}

fn remarks(report: &Report) -> Vec<Remark> {
    let worth = report
        .findings
        .iter()
        .filter(|f| matches!(f.grade, Grade::Weak | Grade::Bad));
    worth
        .map(|f| Remark {
            what: f.what.to_owned(),
            bad: f.grade == Grade::Bad,
            meaning: f.meaning.clone(),
        })
        .collect()
}

fn say(of: &str, remarks: &[Remark]) {
    for Remark { what, bad, meaning } in remarks {
        if *bad {
            tracing::warn!(of, what, "{meaning}");
        } else {
            tracing::info!(of, what, "{meaning}");
        }
    }
}

/// What is remembered; nothing where the file is missing or damaged: then it is found again.
fn read(file: &Path) -> Known {
    let small = std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.len() <= MAX_BYTES);
    let bytes = if small {
        std::fs::read(file).unwrap_or_default()
    } else {
        Vec::new()
    };
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Remembers. Two daemons at once may forget each other's news; it is found again.
fn write(file: &Path, known: &Known) {
    let temporary = file.with_extension(format!("{:016x}", crate::random::number()));
    let written = serde_json::to_vec(known)
        .map_err(std::io::Error::from)
        .and_then(|json| {
            if let Some(dir) = file.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::File::create_new(&temporary)?.write_all(&json)?;
            std::fs::rename(&temporary, file)
        });
    if let Err(e) = written {
        tracing::info!(
            "what filesystems can do is not remembered in {}: {e}",
            file.display()
        );
        // It may never have been made.
        let _ = std::fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BucketName, BucketSettings, Durability, KeyPolicy, ObjectKey, StoreOptions, WriteConditions,
    };

    fn bucket(root: &Path, state: &Path) -> Bucket {
        let store = Store::open(StoreOptions {
            root: root.to_owned(),
            durability: Durability::Strict,
            keys: KeyPolicy::Any,
            read_only: false,
            hide: Vec::new(),
            verify_mtime_only: false,
            etags: Default::default(),
            buckets: Default::default(),
            more_roots: Vec::new(),
        })
        .expect("a store");
        store.report_filesystems(Some(state));
        let name = BucketName::parse("bucket").expect("a name");
        if store.bucket(&name).is_err() {
            store
                .create_bucket(&name, BucketSettings::default())
                .expect("a bucket");
        }
        store.bucket(&name).expect("the bucket")
    }

    /// Any write; deleting what is not there takes the key's lock.
    fn write_once(bucket: &Bucket) {
        let key = ObjectKey::parse("k").expect("a key");
        bucket
            .delete(&key, &WriteConditions::default())
            .expect("deleted");
    }

    #[test]
    fn the_first_write_tries_the_filesystem_once_and_leaves_nothing() {
        let (root, state) = (
            tempfile::tempdir().expect("a root"),
            tempfile::tempdir().expect("a state"),
        );
        let first = bucket(root.path(), state.path());
        assert!(!state.path().join(FILE).exists(), "starting writes nothing");
        first.probe_once();
        let file = state.path().join(FILE);
        let known = read(&file);
        let key = first.filesystem_key().expect("a key");
        assert_eq!(known.keys().collect::<Vec<_>>(), [&key]);
        let ours = std::fs::read_dir(root.path().join("bucket/.twintree")).expect("ours");
        let left = ours
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| n.starts_with(ROOM));
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn what_is_remembered_is_not_tried_again() {
        let (root, state) = (
            tempfile::tempdir().expect("a root"),
            tempfile::tempdir().expect("a state"),
        );
        let first = bucket(root.path(), state.path());
        let told = vec![Remark {
            what: "told".into(),
            bad: true,
            meaning: "before".into(),
        }];
        let known = Known::from([(first.filesystem_key().expect("a key"), told)]);
        write(&state.path().join(FILE), &known);
        first.probe_once();
        assert_eq!(read(&state.path().join(FILE)), known);
    }

    #[test]
    fn a_key_s_lock_is_a_first_write_and_a_damaged_memory_is_made_anew() {
        let (root, state) = (
            tempfile::tempdir().expect("a root"),
            tempfile::tempdir().expect("a state"),
        );
        std::fs::write(state.path().join(FILE), b"{ damaged").expect("written");
        write_once(&bucket(root.path(), state.path()));
        assert_eq!(read(&state.path().join(FILE)).len(), 1);
    }
}

//! The key's lock: an in-process stripe, and on top of it one that the filesystem carries to other
//! processes and machines. Every publish and delete of a key takes both, so that If-Match is a true
//! compare-and-swap among all gateways on the tree.
//!
//! The kind is chosen once per bucket by a self-test and stands in `.twintree/locks/mode`; who cannot use
//! that kind refuses to write.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::change::held::Held;
use crate::root::{open_own, open_own_file, system};
use crate::{Bucket, ObjectKey, Result, StoreError};

/// Stripes, in every process and on disk.
const STRIPES: usize = 1024;
/// A lease file that its holder has not removed for so long belongs to a process that died.
const LEASE_AGE: Duration = Duration::from_secs(60);
/// How long a lease is waited for.
const LEASE_WAIT: Duration = Duration::from_secs(120);
/// How long a lock is waited for: far longer than a publish takes, and not for ever, because whoever may
/// write into the bucket's directory can hold one.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Pauses between two tries for a lock that another process holds: from a publish without a sync up.
const PAUSES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(2));
const FILE_FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::CREATE)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// How other processes are kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A byte of `locks/keys`, by F_OFD_SETLKW.
    Ofd,
    /// flock(2) of `locks/NNNN`.
    Flock,
    /// `locks/NNNN.lease`, made with O_EXCL.
    Lease,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ofd => "ofd",
            Self::Flock => "flock",
            Self::Lease => "lease",
        }
    }
}

/// How often locks that were taken away meanwhile are opened again.
const MAX_ROUNDS: usize = 16;

/// The locks of one bucket in this process.
pub(crate) struct Locks {
    stripes: Vec<Mutex<()>>,
    shared: RwLock<Option<Arc<Shared>>>,
}

struct Shared {
    kind: Kind,
    dir: OwnedFd,
    keys: OwnedFd,
}

/// A key's lock; dropping it releases it.
pub(crate) struct KeyGuard<'a> {
    _held: Held,
    release: Release,
    // Declared last, so that the other processes' lock is released before this process's own.
    _stripe: MutexGuard<'a, ()>,
}

/// A reader's share of a key's lock; closing the descriptor releases it.
pub(crate) struct ReadGuard<'a> {
    _held: Held,
    _locked: Option<OwnedFd>,
    _stripe: MutexGuard<'a, ()>,
}

enum Release {
    Byte(Arc<Shared>, usize),
    File { _locked: OwnedFd },
    Lease(Arc<Shared>, String),
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            shared: RwLock::default(),
        }
    }
}

impl Bucket {
    /// Takes the key's lock in this process and among all. Blocking.
    ///
    /// # Errors
    /// `Unavailable` where the bucket's kind of lock cannot be had here, and what the disk says.
    pub(crate) fn lock_key(&self, key: &ObjectKey) -> Result<KeyGuard<'_>> {
        let stripe = stripe_of(key.as_str());
        let held = self.stripe(stripe)?;
        let mut known = self.known_locks();
        for _ in 0..MAX_ROUNDS {
            let shared = match known.take() {
                Some(known) => known,
                None => self.shared_locks()?,
            };
            let release = shared.take(stripe)?;
            // Taken away while we waited for it: what we hold keeps nobody out.
            if shared.is_there() {
                return Ok(KeyGuard {
                    _held: Held::one(),
                    release,
                    _stripe: held,
                });
            }
        }
        Err(StoreError::Unavailable(
            "the lock directory, which is being changed,".to_owned(),
        ))
    }

    /// Takes the key's lock in this process and among all, unless somebody has it (`None`).
    ///
    /// # Errors
    /// As [`Bucket::lock_key`].
    pub(crate) fn try_lock_key(&self, key: &ObjectKey) -> Result<Option<KeyGuard<'_>>> {
        let stripe = stripe_of(key.as_str());
        let Some(held) = self.shared.locks.stripes[stripe].try_lock() else {
            return Ok(None);
        };
        let shared = match self.known_locks() {
            Some(known) => known,
            None => self.shared_locks()?,
        };
        let Some(release) = shared.try_take(stripe)? else {
            return Ok(None);
        };
        let guard = KeyGuard {
            _held: Held::one(),
            release,
            _stripe: held,
        };
        // Taken away meanwhile, it keeps nobody out: who may wait looks for the new one.
        Ok(shared.is_there().then_some(guard))
    }

    /// Locks on disk that are open and cost nothing to try: whoever took one looks whether they are still there.
    /// Those of other kinds are made anew for each key, which fails where they were taken away.
    fn known_locks(&self) -> Option<Arc<Shared>> {
        let known = self.shared.locks.shared.read().as_ref().map(Arc::clone);
        known.filter(|shared| shared.kind == Kind::Ofd)
    }

    /// Waits until nobody is half-way through a change of the key's record, and keeps others from
    /// beginning one. Unlike [`Bucket::lock_key`] it writes nothing, not even in a bucket that no
    /// gateway ever wrote to. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn lock_key_for_reading(&self, key: &str) -> Result<ReadGuard<'_>> {
        let stripe = stripe_of(key);
        let held = self.stripe(stripe)?;
        let locked = match self.share(stripe) {
            // A reader who may not enter, or does not know the kind, still reads: it only looks
            // again without having waited.
            Err(StoreError::Denied(_) | StoreError::Unavailable(_)) => None,
            other => other?,
        };
        Ok(ReadGuard {
            _held: Held::one(),
            _locked: locked,
            _stripe: held,
        })
    }

    /// The stripe in this process: whoever holds it may be waiting for another process.
    fn stripe(&self, stripe: usize) -> Result<MutexGuard<'_, ()>> {
        let held = self.shared.locks.stripes[stripe].try_lock_for(LOCK_WAIT);
        held.ok_or_else(|| busy("the key", LOCK_WAIT))
    }

    /// A shared lock of a stripe among all processes; `None`: nobody can hold it exclusively.
    fn share(&self, stripe: usize) -> Result<Option<OwnedFd>> {
        let Some(dir) = self.tree.reserved("locks", false)? else {
            return Ok(None);
        };
        let kind = read_mode(&dir)?;
        let name = match kind {
            Some(Kind::Ofd) => "keys".to_owned(),
            Some(Kind::Flock) => format!("{stripe:04}"),
            // A lease cannot be shared; its holder is waited for by looking again.
            Some(Kind::Lease) | None => return Ok(None),
        };
        let Some(file) = open_own(&dir, &name, OFlags::RDONLY)? else {
            return Ok(None);
        };
        if kind == Some(Kind::Ofd) {
            patiently("locks/keys", LOCK_WAIT, || {
                byte_lock(&file, stripe, libc::F_RDLCK)
            })?;
        } else {
            let operation = FlockOperation::NonBlockingLockShared;
            patiently("locks", LOCK_WAIT, || try_flock(&file, operation))?;
        }
        Ok(Some(file))
    }

    /// The kind of lock that this bucket's filesystem carries to other processes.
    ///
    /// # Errors
    /// As [`Bucket::lock_key`].
    pub(crate) fn lock_kind(&self) -> Result<Kind> {
        self.shared_locks().map(|shared| shared.kind)
    }

    /// The locks on disk, opened once, and again where somebody took them away: whoever removed
    /// `.twintree` or the whole bucket and made it again would else leave us locking a file that no other
    /// process sees.
    fn shared_locks(&self) -> Result<Arc<Shared>> {
        if let Some(shared) = self.shared.locks.shared.read().as_ref()
            && shared.is_there()
        {
            return Ok(Arc::clone(shared));
        }
        let missing = || StoreError::Unavailable("the lock directory".to_owned());
        let dir = self.tree.reserved("locks", true)?.ok_or_else(missing)?;
        let kind = match read_mode(&dir)? {
            Some(kind) => kind,
            None => write_mode(&dir, self_test(&dir)?)?,
        };
        if !works(&dir, kind)? {
            return Err(StoreError::Unavailable(format!(
                "{} locks, which this bucket uses,",
                kind.name()
            )));
        }
        let keys = open_lock(&dir, "keys")?;
        self.probe_once();
        let shared = Arc::new(Shared { kind, dir, keys });
        *self.shared.locks.shared.write() = Some(Arc::clone(&shared));
        Ok(shared)
    }
}

impl Shared {
    /// Keeps other processes out of a stripe.
    fn take(self: &Arc<Self>, stripe: usize) -> Result<Release> {
        Ok(match self.kind {
            Kind::Ofd => {
                patiently("locks/keys", LOCK_WAIT, || {
                    byte_lock(&self.keys, stripe, libc::F_WRLCK)
                })?;
                Release::Byte(Arc::clone(self), stripe)
            }
            Kind::Flock => Release::File {
                _locked: flock_file(&self.dir, stripe)?,
            },
            Kind::Lease => {
                let name = format!("{stripe:04}.lease");
                take_lease(&self.dir, &name)?;
                Release::Lease(Arc::clone(self), name)
            }
        })
    }

    /// Keeps other processes out of a stripe, unless one is in it (`None`).
    fn try_take(self: &Arc<Self>, stripe: usize) -> Result<Option<Release>> {
        let failed = |e| StoreError::from_io("locks", e);
        Ok(match self.kind {
            Kind::Ofd => byte_lock(&self.keys, stripe, libc::F_WRLCK)
                .map_err(failed)?
                .then(|| Release::Byte(Arc::clone(self), stripe)),
            Kind::Flock => {
                let file = open_lock(&self.dir, &format!("{stripe:04}"))?;
                let operation = FlockOperation::NonBlockingLockExclusive;
                try_flock(&file, operation)
                    .map_err(failed)?
                    .then_some(Release::File { _locked: file })
            }
            Kind::Lease => {
                let name = format!("{stripe:04}.lease");
                try_lease(&self.dir, &name)?.then(|| Release::Lease(Arc::clone(self), name))
            }
        })
    }

    /// Has the file of bytes still its name?
    fn is_there(&self) -> bool {
        fs::fstat(&self.keys).is_ok_and(|stat| stat.st_nlink > 0)
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        match &self.release {
            Release::Byte(shared, stripe) => {
                if let Err(e) = byte_lock(&shared.keys, *stripe, libc::F_UNLCK) {
                    tracing::error!("a key's lock cannot be released: {e}");
                }
            }
            // Closing the descriptor releases it.
            Release::File { .. } => {}
            Release::Lease(shared, name) => release_lease(&shared.dir, name),
        }
    }
}

/// The stripe of a key: the same in every process and version, since all must meet there.
fn stripe_of(key: &str) -> usize {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, key.as_bytes());
    (sum % STRIPES as u64) as usize
}

/// Tries for a lock until it is had or the time is over.
///
/// # Errors
/// `Unavailable` when the time is over, and the system's word.
pub(crate) fn patiently(
    what: &str,
    time: Duration,
    mut attempt: impl FnMut() -> std::io::Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + time;
    let (mut pause, longest) = PAUSES;
    while !attempt().map_err(|e| StoreError::from_io(what, e))? {
        if Instant::now() >= deadline {
            return Err(busy(what, time));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
    Ok(())
}

fn busy(what: &str, time: Duration) -> StoreError {
    StoreError::Unavailable(format!(
        "{what}, which somebody has kept locked for {} s,",
        time.as_secs()
    ))
}

/// Takes or changes a flock(2) without waiting; `false`: somebody else holds it.
pub(crate) fn try_flock(file: &impl AsFd, operation: FlockOperation) -> std::io::Result<bool> {
    loop {
        match fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Locks or unlocks one byte for an open file description; `false`: somebody else holds it.
pub(crate) fn byte_lock(file: &impl AsFd, byte: usize, kind: libc::c_int) -> std::io::Result<bool> {
    // SAFETY: flock is plain data, for which all zeros is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = byte as libc::off_t;
    range.l_len = 1;
    loop {
        let descriptor = file.as_fd().as_raw_fd();
        // SAFETY: fcntl reads the struct that outlives the call; the descriptor is borrowed for the call.
        if unsafe { libc::fcntl(descriptor, libc::F_OFD_SETLK, &raw mut range) } == 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => return Ok(false),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

fn open_lock(dir: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let missing = || StoreError::Unavailable(name.to_owned());
    open_own(dir, name, OFlags::RDWR | OFlags::CREATE)?.ok_or_else(missing)
}

fn flock_file(dir: &OwnedFd, stripe: usize) -> Result<OwnedFd> {
    let file = open_lock(dir, &format!("{stripe:04}"))?;
    let operation = FlockOperation::NonBlockingLockExclusive;
    patiently("locks", LOCK_WAIT, || try_flock(&file, operation))?;
    Ok(file)
}

/// Takes the lease of this name in a directory of ours.
///
/// # Errors
/// `Unavailable` when it cannot be had in time, and what the disk says.
pub(crate) fn take_lease(dir: &OwnedFd, name: &str) -> Result<()> {
    let deadline = Instant::now() + LEASE_WAIT;
    while Instant::now() < deadline {
        if try_lease(dir, name)? {
            return Ok(());
        }
        if lease_age(dir, name)? > LEASE_AGE {
            tracing::warn!("the lease {name} is older than {LEASE_AGE:?}: its holder died");
            // Somebody else may have removed it first: then the next round finds a fresh one or none.
            let _ = fs::unlinkat(dir, name, AtFlags::empty());
            continue;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(StoreError::Unavailable(format!("the lease {name}")))
}

/// Takes a lease that nobody has; `false`: somebody has it, or had it and died.
fn try_lease(dir: &OwnedFd, name: &str) -> Result<bool> {
    let mode = Mode::from_raw_mode(0o600);
    match fs::openat(dir, name, FILE_FLAGS | OFlags::EXCL, mode) {
        Ok(_) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(system(name, e)),
    }
}

/// Gives a lease back; one that went with its directory is given back too.
pub(crate) fn release_lease(dir: &OwnedFd, name: &str) {
    if let Err(e) = fs::unlinkat(dir, name, AtFlags::empty())
        && e != Errno::NOENT
    {
        tracing::error!("the lease {name} cannot be removed: {e}");
    }
}

/// A lease's age by the filesystem's own clock, which all machines share.
fn lease_age(dir: &OwnedFd, name: &str) -> Result<Duration> {
    let clock = open_lock(dir, "clock")?;
    fs::futimens(&clock, &now()).map_err(|e| system("locks/clock", e))?;
    let now = fs::fstat(&clock)
        .map_err(|e| system("locks/clock", e))?
        .st_mtime;
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Duration::from_secs(
            u64::try_from(now - stat.st_mtime).unwrap_or(0),
        )),
        Err(Errno::NOENT) => Ok(Duration::ZERO),
        Err(e) => Err(system(name, e)),
    }
}

fn now() -> fs::Timestamps {
    let stamp = fs::Timespec {
        tv_sec: 0,
        tv_nsec: fs::UTIME_NOW,
    };
    fs::Timestamps {
        last_access: stamp,
        last_modification: stamp,
    }
}

/// The first kind that works here.
fn self_test(dir: &OwnedFd) -> Result<Kind> {
    for kind in [Kind::Ofd, Kind::Flock] {
        if works(dir, kind)? {
            return Ok(kind);
        }
    }
    tracing::warn!("this filesystem carries no locks: keys are guarded by lease files");
    Ok(Kind::Lease)
}

/// Does a lock through one descriptor keep another descriptor out?
fn works(dir: &OwnedFd, kind: Kind) -> Result<bool> {
    let name = format!("test.{:016x}", crate::random::number());
    let (first, second) = (open_lock(dir, &name)?, open_lock(dir, &name)?);
    let works = match kind {
        Kind::Ofd => {
            matches!(byte_lock(&first, 0, libc::F_WRLCK), Ok(true))
                && !matches!(byte_lock(&second, 0, libc::F_WRLCK), Ok(true))
        }
        Kind::Flock => {
            let operation = FlockOperation::NonBlockingLockExclusive;
            fs::flock(&first, operation).is_ok() && fs::flock(&second, operation).is_err()
        }
        Kind::Lease => fs::openat(
            dir,
            &name,
            FILE_FLAGS | OFlags::EXCL,
            Mode::from_raw_mode(0o600),
        )
        .is_err(),
    };
    fs::unlinkat(dir, &name, AtFlags::empty()).map_err(|e| system("locks", e))?;
    Ok(works)
}

fn read_mode(dir: &OwnedFd) -> Result<Option<Kind>> {
    let Some(file) = open_own_file(dir, "mode", OFlags::RDONLY)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(4096)
        .read_to_end(&mut bytes)
        .map_err(|e| StoreError::from_io("locks/mode", e))?;
    let mode: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    let ours = mode.filter(|m| m["version"] == 1 && m["stripes"] == STRIPES);
    let kind = ours.and_then(|m| {
        [Kind::Ofd, Kind::Flock, Kind::Lease]
            .into_iter()
            .find(|k| m["kind"] == k.name())
    });
    kind.map(Some)
        .ok_or_else(|| StoreError::Unavailable("the kind of lock that locks/mode names".to_owned()))
}

/// Writes the mode whole, or takes the one that another process wrote first.
fn write_mode(dir: &OwnedFd, kind: Kind) -> Result<Kind> {
    let temporary = format!("mode.{:016x}", crate::random::number());
    let text = format!(
        "{{\"version\":1,\"kind\":\"{}\",\"stripes\":{STRIPES}}}\n",
        kind.name()
    );
    let failed = |e| StoreError::from_io("locks/mode", e);
    let mut file = File::from(open_lock(dir, &temporary)?);
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    let published = match fs::renameat_with(dir, &temporary, dir, "mode", RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::linkat(dir, &temporary, dir, "mode", AtFlags::empty())
        }
        other => other,
    };
    // The rename took the name away; a link or a lost race left it.
    let _ = fs::unlinkat(dir, &temporary, AtFlags::empty());
    match published {
        Ok(()) => fs::fsync(dir)
            .map_err(|e| system("locks/mode", e))
            .map(|()| kind),
        Err(Errno::EXIST) => {
            read_mode(dir)?.ok_or_else(|| StoreError::Unavailable("locks/mode".to_owned()))
        }
        Err(e) => Err(system("locks/mode", e)),
    }
}

/// The kind of lock that works in a directory, by name.
pub(crate) fn probe(dir: &OwnedFd) -> Result<&'static str> {
    self_test(dir).map(Kind::name)
}

#[cfg(test)]
mod tests {
    use super::*;
    // Another gateway's bucket on the same tree.
    use crate::testing::bucket as gateway;

    fn excludes(held_by: &Bucket, other: &Bucket, key: &ObjectKey) -> bool {
        let _held = held_by.lock_key(key).expect("locked");
        let theirs = other.shared_locks().expect("locks");
        let stripe = stripe_of(key.as_str());
        !byte_lock(&theirs.keys, stripe, libc::F_WRLCK).expect("tried")
    }

    #[test]
    fn gateways_keep_each_other_out_also_after_a_person_removed_our_directory() {
        let root = tempfile::tempdir().expect("a root");
        let (one, two) = (gateway(root.path()), gateway(root.path()));
        let key = ObjectKey::parse("k").expect("a key");
        assert!(excludes(&one, &two, &key));
        std::fs::remove_dir_all(root.path().join("bucket/.twintree")).expect("removed");
        // Who comes now knows only the new file; the two that were there must meet it at it.
        let new = gateway(root.path());
        drop(new.lock_key(&key).expect("locked"));
        for old in [&one, &two] {
            assert!(excludes(old, &new, &key));
            assert!(excludes(&new, old, &key));
        }
    }
}

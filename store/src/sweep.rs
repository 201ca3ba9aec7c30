//! Upkeep: one thread that brings relaxed writes to disk, and takes away what crashes left behind: staged
//! files, half-written settings and abandoned uploads. It removes only what lies in `.twintree/`, only what
//! is old, and nothing that somebody has locked. It makes nothing. Records that no file names are
//! `orphans.rs`'s.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::change::ChangeKind;
use crate::probe::{self, daemon::ROOM};
use crate::root::system;
use crate::{Bucket, Result, Store, StoreError, Timestamp};

/// How often relaxed writes are brought to disk (FORMATS, *Unsynced*).
const SYNC_EVERY: Duration = Duration::from_secs(30);
/// How long after the start, and how often, we sweep.
const FIRST_SWEEP: Duration = Duration::from_secs(60);
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// How old a staged file must be (FORMATS, *Reserved directory*).
const STAGE_AGE: Duration = Duration::from_secs(24 * 3600);
/// How old a note must be: longer than a write takes from there to its end. One that is taken before is missed only
/// where its write dies too.
const NOTE_AGE: Duration = Duration::from_secs(5);
/// How deep the annex is swept: more levels than a key has bytes.
const ANNEX_DEPTH: usize = 1100;
/// Where temporary files lie below `.twintree/`, and how their names begin there.
const PLACES: [(&str, &str); 5] = [
    ("stage", ""),
    ("synced", "new."),
    ("", "bucket.json."),
    ("locks", "test."),
    ("locks", "mode."),
];

/// What is old enough to go.
#[derive(Clone, Copy, Debug)]
pub struct SweepAges {
    /// Staged files.
    pub stage: Duration,
    /// Notes of folders that may be empty.
    pub notes: Duration,
    /// Uploads that nobody touched.
    pub uploads: Duration,
}

impl SweepAges {
    /// Staged files after a day, notes after seconds, uploads after this time.
    pub fn with_uploads(uploads: Duration) -> Self {
        Self {
            stage: STAGE_AGE,
            notes: NOTE_AGE,
            uploads,
        }
    }
}

/// The running upkeep; dropping it syncs once more and ends it.
pub struct Upkeep {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts the upkeep's thread.
    ///
    /// # Errors
    /// `Io` where no thread can be had.
    pub fn start_upkeep(self: &Arc<Self>, ages: SweepAges) -> Result<Upkeep> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (store, stopping) = (Arc::clone(self), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("upkeep".to_owned())
            .spawn(move || run(&store, ages, &stopping))
            .map_err(|e| StoreError::from_io("the upkeep's thread", e))?;
        Ok(Upkeep {
            stop,
            thread: Some(thread),
        })
    }

    /// Sweeps every bucket once; what cannot be swept is logged and met again. Blocking.
    pub fn sweep(self: &Arc<Self>, ages: SweepAges) {
        self.sweep_each(|bucket| {
            bucket.sweep_notes(ages.notes)?;
            bucket.sweep_temporary(ages.stage)?;
            bucket.sweep_uploads(ages.uploads)?;
            bucket.sweep_annex(ages.stage)?;
            bucket.sweep_records(ages.stage).map(|_| ())
        });
    }

    /// Takes away the folders that a crash left empty. Blocking.
    fn sweep_notes(self: &Arc<Self>, age: Duration) {
        self.sweep_each(|bucket| bucket.sweep_notes(age));
    }

    fn sweep_each(self: &Arc<Self>, sweep: impl Fn(&Bucket) -> Result<()>) {
        let buckets = match self.buckets() {
            Ok(buckets) => buckets,
            Err(e) => return tracing::warn!("nothing is swept: {e}"),
        };
        for info in buckets {
            let swept = self.bucket(&info.name).and_then(|bucket| {
                if bucket.is_read_only() {
                    return Ok(());
                }
                sweep(&bucket)
            });
            if let Err(e) = swept {
                tracing::warn!(bucket = info.name.as_str(), "not swept: {e}");
            }
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the upkeep's thread panicked");
        }
    }
}

fn run(store: &Arc<Store>, ages: SweepAges, (stop, woken): &(Mutex<bool>, Condvar)) {
    let mut sweep_at = Instant::now() + FIRST_SWEEP;
    // Every note from before the start has its age by then: what the last crash left empty goes at once.
    let mut notes = Some(ages.notes);
    let mut stopped = stop.lock();
    while !*stopped {
        woken.wait_for(&mut stopped, notes.unwrap_or(SYNC_EVERY));
        let ending = *stopped;
        drop(stopped);
        if let (Some(age), false) = (notes.take(), ending) {
            store.sweep_notes(age);
        }
        store.sync_unsynced();
        if !ending && Instant::now() >= sweep_at {
            store.sweep(ages);
            sweep_at = Instant::now() + SWEEP_EVERY;
        }
        stopped = stop.lock();
    }
}

impl Bucket {
    /// Removes old temporary files that nobody has locked. Blocking.
    ///
    /// # Errors
    /// What the disk says of the directories that hold them.
    fn sweep_temporary(&self, age: Duration) -> Result<()> {
        for (place, prefix) in PLACES {
            if let Some(dir) = self.tree.reserved(place, false)? {
                sweep_dir(&dir, prefix, age)?;
            }
        }
        if let Some(ours) = self.tree.reserved("", false)? {
            sweep_rooms(&ours, age)?;
        }
        // A filesystem mounted inside the bucket has a stage of its own.
        for mount in self.tree.mounts_inside() {
            if let Some(dir) = self.tree.reserved_at(&mount, "stage")? {
                sweep_dir(&dir, "", age)?;
            }
        }
        Ok(())
    }

    /// Removes the annex's old empty directories. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    fn sweep_annex(&self, age: Duration) -> Result<()> {
        match self.tree.reserved("annex", false)? {
            Some(annex) => {
                let mut announcement = self.announcement();
                let swept = sweep_empty(&annex, oldest(age), |above, name| {
                    let kind = ChangeKind::DirectoryRemoved;
                    announcement.add(self.change(above, name, None, kind));
                });
                announcement.wait();
                swept
            }
            None => Ok(()),
        }
    }
}

/// A directory whose children are being swept.
struct Level {
    dir: OwnedFd,
    name: CString,
    is_old: bool,
    /// Those that are still to be looked at.
    children: Vec<CString>,
}

impl Level {
    fn of(dir: OwnedFd, name: CString, oldest: Timestamp) -> Result<Self> {
        let failed = |e| system("the annex", e);
        // Before what is below it goes, which makes it young.
        let stat = fs::fstat(&dir).map_err(failed)?;
        let mut children = Vec::new();
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                children.push(entry.file_name().to_owned());
            }
        }
        Ok(Self {
            dir,
            name,
            is_old: Timestamp::from_parts(stat.st_mtime, stat.st_mtime_nsec as i64) < oldest,
            children,
        })
    }
}

/// Removes old directories that are empty: who made them, or emptied them, died before it went on. `gone` is told
/// the directory that held each, and its name. By a stack of its own, since a key has more levels than a thread's
/// stack has room for.
fn sweep_empty(
    top: &OwnedFd,
    oldest: Timestamp,
    mut gone: impl FnMut(&OwnedFd, &[u8]),
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = top
        .try_clone()
        .map_err(|e| StoreError::from_io("the annex", e))?;
    let mut chain = vec![Level::of(top, CString::default(), oldest)?];
    while let Some(level) = chain.last_mut() {
        if let Some(name) = level.children.pop() {
            // A body, or gone.
            if let Ok(child) = fs::openat(&level.dir, &name, flags, Mode::empty())
                && chain.len() < ANNEX_DEPTH
            {
                chain.push(Level::of(child, name, oldest)?);
            }
        } else if let Some(swept) = chain.pop()
            && swept.is_old
            && let Some(above) = chain.last()
        {
            // rmdir is the judge of what is empty; what is not stays, and so does what cannot be removed.
            if fs::unlinkat(&above.dir, &swept.name, AtFlags::REMOVEDIR).is_ok() {
                gone(&above.dir, swept.name.to_bytes());
            }
        }
    }
    Ok(())
}

/// Removes what a probe left that was cut off: directories of plain files.
fn sweep_rooms(ours: &OwnedFd, age: Duration) -> Result<()> {
    let oldest = oldest(age);
    for entry in Dir::read_from(ours).map_err(|e| system("a probe's directory", e))? {
        let entry = entry.map_err(|e| system("a probe's directory", e))?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let old = name.starts_with(ROOM)
            && fs::statat(ours, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                    && Timestamp::from_parts(stat.st_ctime, stat.st_ctime_nsec as i64) < oldest
            });
        if old && let Err(e) = probe::remove(ours, name) {
            tracing::debug!("an old probe's directory stays: {e}");
        }
    }
    Ok(())
}

/// The moment that is so long ago.
pub(crate) fn oldest(age: Duration) -> Timestamp {
    let nanos = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
    Timestamp(Timestamp::now().0.saturating_sub(nanos))
}

fn sweep_dir(dir: &OwnedFd, prefix: &str, age: Duration) -> Result<()> {
    let oldest = oldest(age);
    for entry in Dir::read_from(dir).map_err(|e| system("stage", e))? {
        let entry = entry.map_err(|e| system("stage", e))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || !name.starts_with(prefix.as_bytes()) {
            continue;
        }
        match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                let touched = Timestamp::from_parts(stat.st_ctime, stat.st_ctime_nsec as i64);
                if touched < oldest && !is_locked(dir, name) {
                    remove(dir, name);
                }
            }
            // Directories of mapped users lie there too, and what vanished is gone.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(e) => return Err(system("stage", e)),
        }
    }
    Ok(())
}

fn is_locked(dir: impl AsFd, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = fs::openat(dir, name, flags, Mode::empty()) else {
        return false;
    };
    matches!(
        fs::flock(&file, FlockOperation::NonBlockingLockExclusive),
        Err(Errno::WOULDBLOCK)
    )
}

fn remove(dir: impl AsFd, name: &[u8]) {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => tracing::info!(
            "removed an old temporary file, {}",
            String::from_utf8_lossy(name)
        ),
        Err(e) => tracing::debug!("an old temporary file stays: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_of(path: &std::path::Path) -> OwnedFd {
        fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("a directory")
    }

    #[test]
    fn what_a_probe_left_goes_when_it_is_old() {
        let room = tempfile::tempdir().expect("a directory");
        for name in ["probe.0123", "other"] {
            std::fs::create_dir(room.path().join(name)).expect("a directory");
            std::fs::write(room.path().join(name).join("xattr"), b"x").expect("a file");
        }
        let left = |name: &str| room.path().join(name).exists();
        sweep_rooms(&dir_of(room.path()), Duration::from_secs(3600)).expect("swept");
        assert!(left("probe.0123"), "an hour has not passed");
        sweep_rooms(&dir_of(room.path()), Duration::ZERO).expect("swept");
        assert_eq!((left("probe.0123"), left("other")), (false, true));
    }

    #[test]
    fn old_empty_directories_of_the_annex_go_and_bodies_stay() {
        let room = tempfile::tempdir().expect("a directory");
        for path in ["a=d/b=d/c=d", "a=d/kept=d"] {
            std::fs::create_dir_all(room.path().join(path)).expect("a directory");
        }
        std::fs::write(room.path().join("a=d/kept=d/k=f"), b"x").expect("a file");
        let left = |name: &str| room.path().join(name).exists();
        let sweep = |age| {
            let mut gone = Vec::new();
            let told = |_: &OwnedFd, name: &[u8]| gone.push(name.to_vec());
            sweep_empty(&dir_of(room.path()), oldest(age), told).expect("swept");
            gone
        };
        assert!(sweep(Duration::from_secs(3600)).is_empty());
        assert!(left("a=d/b=d/c=d"), "an hour has not passed");
        assert_eq!(sweep(Duration::ZERO), [&b"c=d"[..], b"b=d"]);
        assert_eq!((left("a=d/b=d"), left("a=d/kept=d/k=f")), (false, true));
    }

    // By recursion the process died of its stack: anybody with a key could have made such an annex.
    #[test]
    fn a_deep_annex_is_swept_on_a_small_stack() {
        let room = tempfile::tempdir().expect("a directory");
        let mut here = dir_of(room.path());
        for _ in 0..600 {
            fs::mkdirat(&here, "%=d", Mode::RWXU).expect("made");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            here = fs::openat(&here, "%=d", flags, Mode::empty()).expect("opened");
        }
        let top = dir_of(room.path());
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let swept = thread.spawn(move || sweep_empty(&top, oldest(Duration::ZERO), |_, _| ()));
        swept
            .expect("a thread")
            .join()
            .expect("no panic")
            .expect("swept");
        assert!(!room.path().join("%=d").exists());
    }

    #[test]
    fn old_files_go_but_locked_and_young_and_foreign_ones_stay() {
        let room = tempfile::tempdir().expect("a directory");
        let dir = dir_of(room.path());
        for name in ["t.old", "t.locked", "other"] {
            std::fs::write(room.path().join(name), b"x").expect("a file");
        }
        let locked = std::fs::File::open(room.path().join("t.locked")).expect("open");
        fs::flock(&locked, FlockOperation::LockExclusive).expect("locked");
        sweep_dir(&dir, "t.", Duration::from_secs(3600)).expect("swept");
        assert!(room.path().join("t.old").exists(), "an hour has not passed");
        sweep_dir(&dir, "t.", Duration::ZERO).expect("swept");
        let left = |name: &str| room.path().join(name).exists();
        assert_eq!(
            (left("t.old"), left("t.locked"), left("other")),
            (false, true, true)
        );
    }
}

//! Notes of folders that may be left empty. Before a folder is made for an object that is not there yet, and before
//! the last object of a folder of ours goes, a link in `.twintree/prune/` names the folder; it goes when the object is
//! there, or the folder is pruned. What a process that died left behind is so found without a search: the sweep reads
//! the notes, takes the folders away that are empty and of our own making, and then the notes.
//!
//! A note is `MADE.RANDOM`, a symbolic link that nobody follows: its target is the folder's path from the bucket, of
//! which the last MADE components were being made. One call makes it, whole. All who work on one folder share one.
//!
//! A folder that a process makes wears the sticky bit until it is marked: one that is unmarked, empty, sticky and
//! owned by us, and that a note says was being made, is ours.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use crate::path::DiskPath;
use crate::root::{Tree, kind, system};
use crate::{Bucket, Result, StoreError, Timestamp, dirmark, fsfacts};

/// Where notes lie below `.twintree/`.
const PLACE: &str = "prune";
/// A new folder's mode before the umask (or the parent's default ACL).
const MODE: u32 = 0o777;

/// The notes of one bucket that this process holds.
#[derive(Default)]
pub(crate) struct Notes {
    by_folder: Mutex<HashMap<Folder, Slot>>,
}

/// A folder's path, and how many of its last components are being made.
type Folder = (usize, Vec<u8>);

/// Who works on a folder, and its note once there is one.
#[derive(Default)]
struct Slot {
    holders: usize,
    link: Arc<Mutex<Option<Link>>>,
}

/// A note on disk.
struct Link {
    dir: OwnedFd,
    name: String,
}

/// Somebody works on a folder; when the last one has ended, its note goes.
pub(crate) struct Note<'a> {
    notes: &'a Notes,
    folder: Folder,
    link: Arc<Mutex<Option<Link>>>,
    others: bool,
}

/// The folders that a write makes on its way, noted until it drops this.
pub(crate) struct Making<'a> {
    notes: &'a Notes,
    tree: &'a Tree,
    held: Vec<Note<'a>>,
}

impl Notes {
    /// Comes to work on a folder.
    pub(crate) fn enter(&self, path: &DiskPath, made: usize) -> Note<'_> {
        let folder = (made, path.as_bytes().to_vec());
        let mut by_folder = self.by_folder.lock();
        let slot = by_folder.entry(folder.clone()).or_default();
        slot.holders += 1;
        Note {
            notes: self,
            folder,
            link: Arc::clone(&slot.link),
            others: slot.holders > 1,
        }
    }
}

impl Note<'_> {
    /// Did somebody work on the folder already, when this one came?
    pub(crate) fn has_others(&self) -> bool {
        self.others
    }

    /// Puts the note on disk, unless it is there. Where the filesystem has no symbolic links there are no notes.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn write(&self, tree: &Tree) -> Result<()> {
        let mut link = self.link.lock();
        if link.is_some() {
            return Ok(());
        }
        let missing = || StoreError::Unavailable(format!(".twintree/{PLACE}"));
        let dir = tree.reserved(PLACE, true)?.ok_or_else(missing)?;
        let (made, path) = &self.folder;
        let name = format!("{made}.{:016x}", crate::random::number());
        match fs::symlinkat(&path[..], &dir, &name) {
            Ok(()) => *link = Some(Link { dir, name }),
            Err(e @ (Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                tracing::debug!("a folder cannot be noted: {e}");
            }
            Err(e) => return Err(system(PLACE, e)),
        }
        Ok(())
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        let mut by_folder = self.notes.by_folder.lock();
        if let Some(slot) = by_folder.get_mut(&self.folder) {
            slot.holders -= 1;
            if slot.holders > 0 {
                return;
            }
            by_folder.remove(&self.folder);
        }
        drop(by_folder);
        if let Some(Link { dir, name }) = self.link.lock().take()
            && let Err(e) = fs::unlinkat(dir, name, AtFlags::empty())
        {
            tracing::debug!("a folder's note is left to the sweep: {e}");
        }
    }
}

impl<'a> Making<'a> {
    /// Nothing is made yet.
    pub(crate) fn of(bucket: &'a Bucket) -> Self {
        Self {
            notes: &bucket.shared.notes,
            tree: &bucket.tree,
            held: Vec::new(),
        }
    }

    /// Notes that the last components of a folder's path are about to be made.
    ///
    /// # Errors
    /// As [`Note::write`].
    pub(crate) fn begin(&mut self, folder: &DiskPath, made: usize) -> Result<()> {
        let same = |note: &Note<'_>| note.folder.0 == made && note.folder.1 == folder.as_bytes();
        if self.held.iter().any(same) {
            return Ok(());
        }
        let note = self.notes.enter(folder, made);
        note.write(self.tree)?;
        self.held.push(note);
        Ok(())
    }
}

/// Once a folder could not be made the ordinary one without losing something, none begins sticky any more.
static PLAIN: AtomicBool = AtomicBool::new(false);

/// Makes a folder, `noted` or not, marks it as ours and opens it. Where that fails it goes again, for without its
/// mark nobody would ever prune it.
///
/// # Errors
/// `EXIST`, and what else the disk says.
pub(crate) fn make_folder(
    above: &OwnedFd,
    name: &[u8],
    noted: bool,
) -> rustix::io::Result<OwnedFd> {
    // Linux: another machine may know better who owns what we make, and its ACLs may not survive a chmod.
    let veiled = noted && !PLAIN.load(Ordering::Relaxed) && !fsfacts::facts(above).remote;
    let sticky = if veiled { libc::S_ISVTX } else { 0 };
    fs::mkdirat(above, name, Mode::from_raw_mode(MODE | sticky))?;
    let finished = crate::root::open_child(above, name).and_then(|made| {
        dirmark::mark_created(&made)?;
        if veiled {
            unveil(&made)?;
        }
        Ok(made)
    });
    let Err(e) = finished else { return finished };
    if fs::unlinkat(above, name, AtFlags::REMOVEDIR).is_err() {
        tracing::debug!("a directory that cannot be marked is left behind");
        return Err(e);
    }
    if e == Errno::PERM && veiled {
        PLAIN.store(true, Ordering::Relaxed);
        return make_folder(above, name, noted);
    }
    Err(e)
}

/// Takes the sticky bit from a folder of ours that is marked.
///
/// # Errors
/// `PERM` where that is not allowed or takes the set-group-id bit along, which the folder has from its parent.
pub(crate) fn unveil(made: &OwnedFd) -> rustix::io::Result<()> {
    let mode = fs::fstat(made)?.st_mode & 0o7777;
    if mode & libc::S_ISVTX == 0 {
        return Ok(());
    }
    fs::fchmod(made, Mode::from_raw_mode(mode & !libc::S_ISVTX))?;
    // Linux: chmod drops it for who is not of the group (setattr_prepare), and seccomp may forbid to give it.
    if mode & libc::S_ISGID != 0 && fs::fstat(made)?.st_mode & libc::S_ISGID == 0 {
        return Err(Errno::PERM);
    }
    Ok(())
}

/// Is it a folder that one of us had made and not marked yet? For those that a note says were being made.
pub(crate) fn is_half_made(dir: &OwnedFd) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    !dirmark::has_any(dir)
        && fs::fstat(dir).is_ok_and(|s| s.st_mode & libc::S_ISVTX != 0 && s.st_uid == ours)
}

/// Is there nothing in a directory but this name? What cannot be read counts as empty. Reads it from where it is.
pub(crate) fn holds_only(dir: &OwnedFd, only: &[u8]) -> bool {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
    let mut entries = fs::RawDir::new(dir, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        if name != only && !matches!(name, b"." | b"..") {
            return false;
        }
    }
    true
}

impl Bucket {
    /// Takes away the empty folders of our own making that notes of at least this age name, and those notes. Blocking.
    ///
    /// # Errors
    /// What the disk says; then the notes that are left will be met again.
    pub(crate) fn sweep_notes(&self, age: Duration) -> Result<()> {
        let Some(dir) = self.tree.reserved(PLACE, false)? else {
            return Ok(());
        };
        let failed = |e| system(PLACE, e);
        let oldest = crate::sweep::oldest(age);
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(made) = made_of(name.to_bytes()) else {
                continue;
            };
            let target = match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if kind(&stat) == FileType::Symlink => {
                    let noted = Timestamp::from_parts(stat.st_mtime, stat.st_mtime_nsec as i64);
                    if noted > oldest {
                        continue;
                    }
                    fs::readlinkat(&dir, name, Vec::new())
                }
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(e) => return Err(failed(e)),
            };
            match target {
                Ok(path) => {
                    if let Some(path) = DiskPath::from_bytes(path.to_bytes()) {
                        self.prune_noted(&path, made)?;
                    }
                }
                // Its write has ended.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(failed(e)),
            }
            match fs::unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(())
    }
}

/// How many components a note of this name says are being made; `None`: it is no note.
fn made_of(name: &[u8]) -> Option<usize> {
    let (made, _) = std::str::from_utf8(name).ok()?.split_once('.')?;
    made.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{Meta, ObjectKey, testing};

    struct Room {
        dir: tempfile::TempDir,
        bucket: Bucket,
    }

    impl Room {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let bucket = testing::bucket(dir.path());
            std::fs::create_dir_all(dir.path().join("bucket/.twintree/prune")).expect("made");
            Self { dir, bucket }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("bucket").join(name)
        }

        fn put(&self, key: &str) {
            let key = ObjectKey::parse(key).expect("a key");
            testing::put(&self.bucket, &key, b"", Meta::default());
        }

        /// A note as one leaves it that dies.
        fn note(&self, name: &str, folder: &str) {
            symlink(folder, self.path(".twintree/prune").join(name)).expect("noted");
        }

        fn notes(&self) -> usize {
            std::fs::read_dir(self.path(".twintree/prune")).map_or(0, Iterator::count)
        }

        fn make(&self, folder: &str, mode: u32) {
            std::fs::create_dir_all(self.path(folder)).expect("made");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(self.path(folder), mode).expect("its mode");
        }

        fn mark(&self, folder: &str) -> bool {
            let dir = std::fs::File::open(self.path(folder)).expect("opened");
            dirmark::mark_created(&dir).expect("marked, or nothing can be");
            dirmark::read(&dir).created
        }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("there").permissions().mode() & 0o7777
    }

    fn folder(path: &str) -> DiskPath {
        DiskPath::from_bytes(path.as_bytes()).expect("a path")
    }

    #[test]
    fn all_who_work_on_a_folder_share_one_note_that_goes_with_the_last() {
        let room = Room::new();
        let (notes, tree) = (&room.bucket.shared.notes, &room.bucket.tree);
        let one = notes.enter(&folder("a/b"), 2);
        let two = notes.enter(&folder("a/b"), 2);
        assert!(!one.has_others() && two.has_others());
        for note in [&one, &two] {
            note.write(tree).expect("written");
        }
        assert_eq!(room.notes(), 1);
        drop(one);
        assert_eq!(room.notes(), 1, "somebody still works on it");
        drop(two);
        assert_eq!(room.notes(), 0);
        assert!(notes.by_folder.lock().is_empty());
    }

    #[test]
    fn a_write_leaves_no_note_and_a_folder_like_any_other() {
        let room = Room::new();
        room.make("plain", 0o755);
        room.make("group", 0o2775);
        for key in ["plain/one/two/k", "group/one/two/k", "group/dir/"] {
            room.put(key);
            assert_eq!(room.notes(), 0, "{key}");
        }
        std::fs::create_dir(room.path("group/persons")).expect("made");
        let wanted = mode(&room.path("group/persons"));
        for made in ["group/one", "group/one/two"] {
            assert_eq!(mode(&room.path(made)), wanted, "{made}");
        }
        let group = std::fs::File::open(room.path("group")).expect("opened");
        match dirmark::is_possible(group) {
            true => assert_eq!(mode(&room.path("group/dir")), wanted),
            // Where nothing can be marked, the object `dir/` lives in the annex.
            false => assert!(!room.path("group/dir").exists()),
        }
        assert_eq!(mode(&room.path("plain/one/two")), wanted & 0o777);
    }

    // Two deletions see each other's object, and neither would note the folder that both empty.
    #[test]
    fn deletions_at_once_are_noted_until_the_last_has_ended() {
        let room = Room::new();
        room.put("d/1");
        room.put("d/2");
        if !room.mark("d") {
            return; // nothing is pruned where nothing can be marked
        }
        let open = || OwnedFd::from(std::fs::File::open(room.path("d")).expect("opened"));
        let one = room.bucket.note_emptying(&open(), &folder("d"), b"1");
        assert_eq!(room.notes(), 0, "it is not the last");
        let two = room.bucket.note_emptying(&open(), &folder("d"), b"2");
        assert_eq!(room.notes(), 1);
        drop(two);
        assert_eq!(room.notes(), 1, "the first may still unlink");
        drop(one);
        assert_eq!(room.notes(), 0);
    }

    #[test]
    fn the_sweep_takes_what_notes_name_and_is_empty_and_ours() {
        let room = Room::new();
        room.make("made/half", 0o1755);
        room.make("persons/own", 0o755);
        room.make("sticky", 0o1777);
        room.make("full", 0o1755);
        room.make("emptied/too", 0o755);
        let marked = ["made", "full", "emptied", "emptied/too"].map(|name| room.mark(name));
        std::fs::write(room.path("full/k"), b"x").expect("a file");
        for (name, folder) in [
            ("2.1", "made/half"),
            ("1.2", "persons/own"),
            ("0.3", "sticky"),
            ("1.4", "full"),
            ("0.5", "emptied/too"),
            ("1.6", "not/there"),
            ("1.7", "../bucket/sticky"),
            ("1.8", "/"),
        ] {
            room.note(name, folder);
        }
        std::fs::write(room.path(".twintree/prune/other"), b"x").expect("a file");
        let day = Duration::from_secs(24 * 3600);
        room.bucket.sweep_notes(day).expect("swept");
        assert_eq!(room.notes(), 9, "a day has not passed");
        room.bucket.sweep_notes(Duration::ZERO).expect("swept");
        assert_eq!(room.notes(), 1, "the one that is no note");
        assert!(room.path("persons/own").exists() && room.path("sticky").exists());
        assert_eq!(mode(&room.path("sticky")), 0o1777, "a person's");
        assert!(room.path("full/k").exists());
        assert!(!room.path("made/half").exists());
        if marked == [true; 4] {
            assert!(!room.path("made").exists() && !room.path("emptied").exists());
            assert_eq!(mode(&room.path("full")), 0o755);
        }
    }
}

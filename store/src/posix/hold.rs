//! How an inode is held while the kernel may ask for it: by its file handle where the filesystem and our
//! capabilities allow (no descriptor is open then), else by an O_PATH descriptor. Never by a path.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::status;

/// MAX_HANDLE_SZ of name_to_handle_at(2).
const LARGEST: usize = 128;
/// How often a file's number is asked for that another file just takes: 10 ms at least.
const BEING_MADE: u32 = 100;
/// How long after a file was gone the next ones are held open from their lookup on.
const CONTEST: Duration = Duration::from_secs(1);
/// Files that are held open so at once.
const HELD: usize = 64;

/// An inode, held.
pub struct Hold {
    how: How,
    /// A descriptor (O_PATH) beside the handle, for a while: the file may lose its last name before it is opened.
    beside: Mutex<Option<OwnedFd>>,
    contest: Arc<Contest>,
}

/// Are files replaced between their lookup and what they were looked up for? Linux: after ESTALE a name is looked
/// up once more, and another ESTALE is the caller's. So for a while everything is held open from its lookup on.
#[derive(Default)]
struct Contest {
    /// Was there one since the last look? Most lookups ask no more than this.
    any: AtomicBool,
    /// When a file was gone last.
    last: Mutex<Option<Instant>>,
    /// What is held open, the youngest last.
    held: Mutex<VecDeque<Weak<Hold>>>,
}

enum How {
    Handle(Arc<OwnedFd>, Handle),
    Descriptor { fd: OwnedFd, _counted: Counted },
}

/// A place in the count of descriptors that stay open, given back with them.
struct Counted(Arc<AtomicU64>);

/// A held inode's descriptor (O_PATH), for a few calls.
pub enum Pinned<'a> {
    /// Opened for these calls.
    Opened(OwnedFd),
    /// Always open.
    Borrowed(BorrowedFd<'a>),
}

/// The filesystems that inodes are held of: for each a descriptor to open handles by; `None`: it has none.
pub(super) struct Mounts {
    root: OwnedFd,
    root_mount: Option<i32>,
    known: Mutex<HashMap<i32, Option<Arc<OwnedFd>>>>,
    /// Descriptors that hold an inode each.
    descriptors: Arc<AtomicU64>,
    most: u64,
    contest: Arc<Contest>,
}

/// struct file_handle, and whose mount it is of.
#[repr(C)]
struct Raw {
    bytes: u32,
    kind: i32,
    value: [u8; LARGEST],
}

struct Handle {
    kind: i32,
    value: Box<[u8]>,
}

impl Hold {
    /// Its descriptor.
    ///
    /// # Errors
    /// ESTALE where the inode is gone, and the kernel's word.
    pub fn pin(&self) -> rustix::io::Result<Pinned<'_>> {
        let (mount, handle) = match &self.how {
            How::Descriptor { fd, .. } => return Ok(Pinned::Borrowed(fd.as_fd())),
            How::Handle(mount, handle) => (mount, handle),
        };
        let opened = handle.open(mount, OFlags::PATH | OFlags::NOFOLLOW);
        if !matches!(opened, Err(Errno::STALE)) {
            return opened.map(Pinned::Opened);
        }
        if let Some(fd) = &*self.beside.lock() {
            return rustix::io::fcntl_dupfd_cloexec(fd, 0).map(Pinned::Opened);
        }
        self.contest.begins();
        Err(Errno::STALE)
    }
}

impl Contest {
    fn begins(&self) {
        *self.last.lock() = Some(Instant::now());
        self.any.store(true, Ordering::Release);
    }

    /// When it is over, everything is let go: a file without a name would keep its room on the disk.
    fn is_on(&self) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let last = self.last.lock();
        if last.is_some_and(|last| last.elapsed() < CONTEST) {
            return true;
        }
        self.any.store(false, Ordering::Release);
        drop(last);
        let held = std::mem::take(&mut *self.held.lock());
        for hold in held.iter().filter_map(Weak::upgrade) {
            hold.beside.lock().take();
        }
        false
    }

    /// Holds a file open for as long as it is among the last that were.
    fn hold_open(&self, hold: &Arc<Hold>, entry: OwnedFd) {
        if matches!(hold.how, How::Descriptor { .. }) || hold.beside.lock().replace(entry).is_some()
        {
            return;
        }
        let mut held = self.held.lock();
        held.push_back(Arc::downgrade(hold));
        if held.len() > HELD
            && let Some(eldest) = held.pop_front().and_then(|hold| hold.upgrade())
        {
            drop(held);
            eldest.beside.lock().take();
        }
    }
}

impl Pinned<'_> {
    /// A descriptor of its own.
    ///
    /// # Errors
    /// EMFILE.
    pub fn to_owned(self) -> rustix::io::Result<OwnedFd> {
        match self {
            Self::Opened(fd) => Ok(fd),
            Self::Borrowed(fd) => rustix::io::fcntl_dupfd_cloexec(fd, 0),
        }
    }
}

impl AsFd for Pinned<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Opened(fd) => fd.as_fd(),
            Self::Borrowed(fd) => *fd,
        }
    }
}

impl Mounts {
    /// `root`: the root's directory, opened for reading.
    pub fn new(root: OwnedFd) -> Self {
        let mut mounts = Self {
            root,
            root_mount: None,
            known: Mutex::default(),
            descriptors: Arc::default(),
            most: most_descriptors(),
            contest: Arc::default(),
        };
        if let Ok((handle, mount)) = Handle::of(&mounts.root)
            && mounts.find(mount, &mounts.root, &handle).is_some()
        {
            mounts.root_mount = Some(mount);
        }
        mounts
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn has_handles(&self) -> bool {
        self.root_mount.is_some()
    }

    /// Holds what an O_PATH descriptor is of.
    pub fn hold(&self, entry: OwnedFd) -> rustix::io::Result<Hold> {
        // Where nobody knows when an inode was made, its number may be another's tomorrow: then it is pinned.
        if self.has_handles()
            && status::of(&entry)?.born != (0, 0)
            && let Ok((handle, mount)) = Handle::of(&entry)
            && let Some(mount) = self.find(mount, &entry, &handle)
        {
            return Ok(self.held(How::Handle(mount, handle)));
        }
        let _counted = Counted(Arc::clone(&self.descriptors));
        match _counted.0.fetch_add(1, Ordering::Relaxed) < self.most {
            true => Ok(self.held(How::Descriptor {
                fd: entry,
                _counted,
            })),
            false => Err(Errno::MFILE),
        }
    }

    fn held(&self, how: How) -> Hold {
        Hold {
            how,
            beside: Mutex::default(),
            contest: Arc::clone(&self.contest),
        }
    }

    /// Was a file gone a moment ago when it was to be opened? Then others should be held open from their lookup on.
    pub fn is_contested(&self) -> bool {
        self.contest.is_on()
    }

    /// Holds a file open beside its handle, for a while.
    pub fn hold_open(&self, hold: &Arc<Hold>, entry: OwnedFd) {
        self.contest.hold_open(hold, entry);
    }

    /// The descriptor by which handles of a mount are opened, tried with the first of them.
    fn find(&self, mount: i32, entry: impl AsFd, handle: &Handle) -> Option<Arc<OwnedFd>> {
        if let Some(known) = self.known.lock().get(&mount) {
            return known.clone();
        }
        let status = status::of(&entry).ok()?;
        if !status.is_directory() {
            return None; // the first that is held of a mount is a directory: its top
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let through = fs::openat(&entry, c".", flags, Mode::empty()).map(Arc::new);
        let works = through.ok().filter(|through| {
            handle
                .open(through, OFlags::PATH | OFlags::NOFOLLOW)
                .is_ok_and(|again| {
                    status::of(again).is_ok_and(|again| again.is_same_inode(&status))
                })
        });
        self.known.lock().insert(mount, works.clone());
        works
    }
}

impl Handle {
    /// The handle of what a descriptor is of, and the mount that it was found through.
    fn of(file: impl AsFd) -> rustix::io::Result<(Self, i32)> {
        let mut raw = Raw {
            bytes: LARGEST as u32,
            kind: 0,
            value: [0; LARGEST],
        };
        let mut mount = 0_i32;
        // SAFETY: `raw` has room for the bytes that it says, and lives as long as the call, as `mount` does;
        // the name is an empty C string.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if done < 0 {
            return Err(last());
        }
        let value = raw.value[..(raw.bytes as usize).min(LARGEST)].into();
        Ok((
            Self {
                kind: raw.kind,
                value,
            },
            mount,
        ))
    }

    /// While a file is being made under the number of the one that is asked for, ext4 says ENOMEM (`iget_locked` has
    /// no other word for it): asked again, it says ESTALE.
    fn open(&self, mount: impl AsFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        for _ in 0..BEING_MADE {
            match self.open_once(&mount, flags) {
                Err(Errno::NOMEM) => std::thread::sleep(Duration::from_micros(100)),
                opened => return opened,
            }
        }
        self.open_once(mount, flags)
    }

    fn open_once(&self, mount: impl AsFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut raw = Raw {
            bytes: self.value.len() as u32,
            kind: self.kind,
            value: [0; LARGEST],
        };
        raw.value[..self.value.len()].copy_from_slice(&self.value);
        // SAFETY: `raw` is a handle of the length that it says and lives as long as the call.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_fd().as_raw_fd(),
                &raw mut raw,
                (flags | OFlags::CLOEXEC).bits(),
            )
        };
        match i32::try_from(opened) {
            // SAFETY: the kernel just made this descriptor for us.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(last()),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As many as may hold an inode each: what a walk through the mount makes the kernel remember must leave some to
/// open files with, and to S3.
fn most_descriptors() -> u64 {
    getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |limit| limit / 4 * 3)
}

fn last() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_a_new_file_just_takes_is_stale_and_never_out_of_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let root = std::fs::File::open(dir.path()).expect("opened");
        if !Mounts::new(root.try_clone().expect("cloned").into()).has_handles() {
            return; // No filesystem or no user of handles: files are held open there.
        }
        let mut found = (0, 0);
        std::thread::scope(|scope| {
            let racer = scope.spawn(|| {
                for _ in 0..30_000 {
                    std::fs::write(&path, b"").expect("written");
                    std::fs::remove_file(&path).ok();
                }
            });
            while !racer.is_finished() {
                let Ok(file) = std::fs::File::open(&path) else {
                    continue;
                };
                let (handle, _) = Handle::of(&file).expect("a handle");
                drop(file);
                for _ in 0..20 {
                    match handle.open(&root, OFlags::PATH) {
                        Ok(_) => found.0 += 1,
                        Err(Errno::STALE) => found.1 += 1,
                        Err(e) => panic!("{e}: {found:?}"),
                    }
                }
            }
        });
        assert!(found.1 > 0, "{found:?}");
    }
}

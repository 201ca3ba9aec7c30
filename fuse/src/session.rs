//! A mount's life: stood up, said in the log, taken down.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use fuser::{BackingId, Config, MountOption, Session, SessionACL, SessionUnmounter};
use parking_lot::RwLock;
use rustix::fs::MemfdFlags;
use thiserror::Error;
use twintree_store::Store;
use twintree_store::posix::TreeView;

use crate::calls::{CallTallies, Calls};
use crate::face::Face;
use crate::filesystem::Adapter;
use crate::invalidate::Invalidation;
use crate::mountpoint::{self, Refused, SOURCE};
use crate::passthrough::Passthrough;
use crate::tree::{Handles, Nodes};

/// Threads that answer the kernel: one slow fsync must not stop everybody.
const THREADS: usize = 8;
/// How long a mount that is in use is waited for before it is taken off lazily.
const GRACE: Duration = Duration::from_secs(2);
/// How long the threads are waited for after that.
const LAST_WORK: Duration = Duration::from_secs(2);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(50);

/// How files are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passthrough where it can be had, else plain.
    Auto,
    /// Every byte through the daemon.
    Plain,
    /// The kernel alone, or no mount.
    Passthrough,
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Where.
    pub point: PathBuf,
    /// May other users than the daemon's use it? The kernel then checks permissions.
    pub allow_other: bool,
    /// How files are read and written.
    pub mode: Mode,
    /// How long the kernel may keep entries and attributes without asking.
    pub ttl: Duration,
    /// Tell the kernel what S3 changes. Without it a change shows when the ttl is over; for tests alone.
    pub notify: bool,
    /// Mount options in the kernel's words, for tests alone.
    pub extra: Vec<String>,
}

/// Why there is no mount.
#[derive(Debug, Error)]
pub enum MountError {
    /// The mount point does not do.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No device.
    #[error(
        "/dev/fuse cannot be opened ({0}): load the module fuse, and let the daemon's user open the device"
    )]
    Device(io::Error),
    /// The kernel, or fusermount3, does not let us.
    #[error("cannot mount on {}: {}", .0.display(), .1)]
    Mount(PathBuf, io::Error),
    /// An ordinary user lacks what mounts for him.
    #[error(
        "an ordinary user mounts through fusermount3, and it cannot be found: install it (Debian: apt-get install fuse3)"
    )]
    NoHelper,
    /// Passthrough was asked for.
    #[error("passthrough was asked for and cannot be had: {0}")]
    NoPassthrough(String),
    /// The tree cannot be looked at.
    #[error("cannot look at the served directory: {0}")]
    Tree(String),
}

/// A mount that stands.
pub struct Mount {
    place: PathBuf,
    unmounter: SessionUnmounter,
    session: JoinHandle<()>,
    invalidation: Option<Invalidation>,
    face: Arc<Face>,
    calls: Arc<Calls>,
    ending: Arc<AtomicBool>,
}

impl Mount {
    /// Mounts a store's buckets.
    ///
    /// # Errors
    /// With a sentence that says what to do.
    pub fn start(store: &Arc<Store>, options: &MountOptions) -> Result<Self, MountError> {
        let served: Vec<_> = store.locations().collect();
        let place = mountpoint::prepare(&options.point, &served)?;
        look_for_device()?;
        let face = Arc::new(face(store, options)?);
        let (offered, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(Calls::default()));
        let adapter = Adapter {
            face: Arc::clone(&face),
            calls: Arc::clone(&calls),
            stack_depth: if store.is_stacked() { 2 } else { 1 },
            offered: Arc::clone(&offered),
        };
        let mut session = Session::new(adapter, &place, &config(options, face.view.is_read_only()))
            .map_err(|e| match e.kind() {
                // The mount point was there just now: it is the helper that is not.
                io::ErrorKind::NotFound => MountError::NoHelper,
                _ => MountError::Mount(place.clone(), e),
            })?;
        let without = choose(&session, options.mode, offered.load(Ordering::Acquire));
        if let (Mode::Passthrough, Some(why)) = (options.mode, &without) {
            return Err(MountError::NoPassthrough(why.clone()));
        }
        face.passthrough.enable(without.is_none());
        tracing::info!(
            on = %place.display(),
            reading_and_writing = if without.is_none() { "passthrough" } else { "plain" },
            because = without.as_deref().unwrap_or("the kernel and our capabilities allow it"),
            inodes = if face.view.holds_by_handle() { "by file handle" } else { "by descriptor" },
            "mounted"
        );
        let invalidation = match options.notify {
            true => Some(Invalidation::start(Arc::clone(&face), session.notifier()))
                .transpose()
                .map_err(|e| MountError::Mount(place.clone(), e))?,
            false => None,
        };
        let unmounter = session.unmount_callable();
        let ending = Arc::new(AtomicBool::new(false));
        let (ends, shown) = (Arc::clone(&ending), place.display().to_string());
        let session = thread::Builder::new()
            .name("mount".to_owned())
            .spawn(move || match session.run() {
                Ok(()) if ends.load(Ordering::Acquire) => {}
                Ok(()) => tracing::warn!("somebody unmounted {shown}; S3 goes on"),
                Err(e) => tracing::error!("the mount on {shown} ended: {e}; S3 goes on"),
            })
            .map_err(|e| MountError::Mount(place.clone(), e))?;
        Ok(Self {
            place,
            unmounter,
            session,
            invalidation,
            face,
            calls,
            ending,
        })
    }

    /// What the kernel asked for so far.
    pub fn calls(&self) -> CallTallies {
        self.calls.tallies()
    }

    /// Why nobody finds the buckets at the mount point; `None`: they are there. Does not wait.
    pub fn trouble(&self) -> Option<String> {
        let place = self.place.display();
        let gone = self.session.is_finished() || !mountpoint::is_ours(&self.place);
        gone.then(|| {
            format!(
                "the mount on {place} is gone: restart to mount it again; S3 goes on without it"
            )
        })
    }

    /// Where it is mounted.
    pub fn place(&self) -> &std::path::Path {
        &self.place
    }

    /// Does the kernel read and write the files itself?
    pub fn is_passthrough(&self) -> bool {
        self.face.passthrough.is_enabled()
    }

    /// What is open in it: files, directories, and nodes that the kernel knows.
    pub fn open(&self) -> (usize, usize, usize) {
        let face = &self.face;
        (
            face.files.count(),
            face.directories.count(),
            face.nodes.count(),
        )
    }

    /// Takes the mount down: at once where nobody uses it, after a grace time lazily else.
    pub fn stop(mut self) {
        self.ending.store(true, Ordering::Release);
        if self.session.is_finished() {
            tracing::debug!("the mount on {} was gone already", self.place.display());
        } else if self.unmounter.unmount().is_err() {
            self.take_off_patiently();
        }
        let until = Instant::now() + LAST_WORK;
        while !self.session.is_finished() && Instant::now() < until {
            thread::sleep(PAUSE);
        }
        drop(self.invalidation.take());
        tracing::info!(
            on = %self.place.display(),
            opened_in_passthrough = self.face.passthrough.opened.load(Ordering::Relaxed),
            nodes = self.face.nodes.count(),
            "unmounted"
        );
    }

    fn take_off_patiently(&self) {
        let until = Instant::now() + GRACE;
        while Instant::now() < until {
            thread::sleep(PAUSE);
            if mountpoint::take_off(&self.place, false).is_ok() {
                return;
            }
        }
        tracing::warn!(
            "{} is in use: it is unmounted lazily, and what is open there fails from now on",
            self.place.display()
        );
        if let Err(e) = mountpoint::take_off(&self.place, true) {
            tracing::error!("{} cannot be unmounted: {e}", self.place.display());
        }
    }
}

/// Sees whether anything can be mounted here at all.
///
/// # Errors
/// With a sentence that says what to do.
pub fn look_for_device() -> Result<(), MountError> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    device.map(drop).map_err(MountError::Device)
}

fn face(store: &Arc<Store>, options: &MountOptions) -> Result<Face, MountError> {
    let view = TreeView::new(Arc::clone(store)).map_err(|e| MountError::Tree(e.to_string()))?;
    // Random enough between two lives of the daemon: an NFS client must not take one's file for the other's.
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let nodes = Nodes::new(&view, since.as_secs()).map_err(|e| MountError::Tree(e.to_string()))?;
    Ok(Face {
        view,
        nodes,
        files: Handles::default(),
        directories: Handles::default(),
        passthrough: Arc::new(Passthrough::default()),
        ttl: options.ttl,
        naming: RwLock::default(),
    })
}

fn config(options: &MountOptions, read_only: bool) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(SOURCE.to_owned()),
        MountOption::CUSTOM(format!("subtype={SOURCE}")),
        MountOption::DefaultPermissions,
    ];
    if read_only {
        config.mount_options.push(MountOption::RO);
    }
    let named = |name: &String| match name.as_str() {
        "suid" => MountOption::Suid,
        "dev" => MountOption::Dev,
        other => MountOption::CUSTOM(other.to_owned()),
    };
    config.mount_options.extend(options.extra.iter().map(named));
    config.acl = match options.allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

/// Tries passthrough with a file of no filesystem of ours. `Some`: why it cannot be had.
fn choose(session: &Session<Adapter>, mode: Mode, offered: bool) -> Option<String> {
    if mode == Mode::Plain {
        return Some("it was asked for".to_owned());
    }
    if !offered {
        return Some("the kernel has no passthrough (Linux 6.9 and later)".to_owned());
    }
    let file = match rustix::fs::memfd_create(c"passthrough", MemfdFlags::CLOEXEC) {
        Ok(file) => file,
        Err(e) => return Some(e.to_string()),
    };
    match BackingId::create_raw(session.as_fd(), file.as_fd()) {
        // The id ends with the mount.
        Ok(_) => None,
        Err(e) => Some(format!("{e} (it needs CAP_SYS_ADMIN)")),
    }
}

//! Telling the kernel what S3 changed, from a thread of its own: never from a handler, never under a lock, or
//! the kernel would wait for us while we wait for it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use twintree_store::{Acknowledgement, Change, ChangeKind, Subscriber, Subscription};

use crate::face::Face;

/// An offset that says: attributes only.
const ATTRIBUTES: i64 = -1;

/// The mount's ear, as the store knows it.
struct Ear(Mutex<Sender<(Change, Acknowledgement)>>);

/// The thread that tells; ends when dropped.
pub struct Invalidation {
    subscription: Option<Subscription>,
    thread: Option<JoinHandle<()>>,
}

impl Subscriber for Ear {
    fn changed(&self, change: &Change, done: Acknowledgement) {
        // Nobody takes them any more while the mount ends: then there is no cache to be told of.
        let _ = self.0.lock().send((change.clone(), done));
    }
}

impl Invalidation {
    /// Starts the thread and subscribes.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn start(face: Arc<Face>, notifier: Notifier) -> io::Result<Self> {
        let (sender, changes) = mpsc::channel();
        let ear = Arc::new(Ear(Mutex::new(sender)));
        let subscription = face.view.changes().subscribe(ear);
        let thread = std::thread::Builder::new()
            .name("mount-notify".to_owned())
            .spawn(move || {
                for (change, done) in changes {
                    tell(&face, &notifier, &change);
                    drop(done);
                }
            })?;
        Ok(Self {
            subscription: Some(subscription),
            thread: Some(thread),
        })
    }
}

impl Drop for Invalidation {
    fn drop(&mut self) {
        self.subscription = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that tells the mount of changes ended in a panic");
        }
    }
}

fn tell(face: &Face, notifier: &Notifier, change: &Change) {
    let said = |what: &str, told: io::Result<()>| {
        if let Err(e) = told {
            tracing::debug!("the kernel was not told of {what}: {e}");
        }
    };
    for parent in face.nodes.ids_of(change.parent).map(INodeNo) {
        if !matches!(change.kind, ChangeKind::Attributes | ChangeKind::Anything) {
            match face.knows(parent.0, &change.name) {
                // Linux: a name that is taken away is gone for whoever is in it: getcwd(2) fails, and what is
                // open says that it was deleted.
                Some(same) => said("a file", notifier.inval_inode(INodeNo(same), ATTRIBUTES, 0)),
                None => {
                    let name = OsStr::from_bytes(&change.name);
                    said("a name", notifier.inval_entry(parent, name));
                }
            }
        }
        // Its mtime, and the names that readdir(3) may have kept.
        said("a directory", notifier.inval_inode(parent, 0, 0));
    }
    let old = change.old.into_iter();
    for old in old.flat_map(|old| face.nodes.ids_of(old)) {
        said("a file", notifier.inval_inode(INodeNo(old), ATTRIBUTES, 0));
    }
}

//! Telling the kernel what S3 changed, from a thread of its own: never from a handler, never under a lock, or
//! the kernel would wait for us while we wait for it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::iter;
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

/// How many changes are told before what is only known to be in a directory: all nodes are looked through for that.
const BATCH: usize = 1000;

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
                while let Ok(first) = changes.recv() {
                    let mut vague = Vec::new();
                    for (change, done) in iter::once(first).chain(changes.try_iter().take(BATCH)) {
                        tell(&face, &notifier, &change);
                        if change.kind == ChangeKind::Anything {
                            vague.push((change, done));
                        }
                    }
                    tell_of_anything(&face, &notifier, &vague);
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

fn said(what: &str, told: io::Result<()>) {
    if let Err(e) = told {
        tracing::debug!("the kernel was not told of {what}: {e}");
    }
}

fn tell(face: &Face, notifier: &Notifier, change: &Change) {
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

/// Anything may have changed in these directories, or below the entry that is named: the kernel is told of every name
/// and file that it may have from there.
fn tell_of_anything(face: &Face, notifier: &Notifier, changes: &[(Change, Acknowledgement)]) {
    let within = |(change, _): &(Change, Acknowledgement)| {
        let parents: Vec<u64> = face.nodes.ids_of(change.parent).collect();
        let name = change.name.clone();
        parents
            .into_iter()
            .map(move |parent| (parent, name.clone()))
    };
    let (wide, deep): (Vec<_>, Vec<_>) = changes
        .iter()
        .flat_map(within)
        .partition(|(_, name)| name.is_empty());
    tell_of_entries(
        face,
        notifier,
        &wide.iter().map(|(parent, _)| *parent).collect(),
    );
    for (parent, name) in deep {
        let entries = face.nodes.found_in(&HashSet::from([parent]));
        let mut level: HashSet<u64> = entries
            .into_iter()
            .filter(|(_, entry, _)| **entry == *name)
            .map(|(_, _, node)| node)
            .collect();
        let mut told = HashSet::new();
        while !level.is_empty() {
            told.extend(level.iter().copied());
            level = tell_of_entries(face, notifier, &level);
            level.retain(|node| !told.contains(node));
        }
    }
}

/// Tells of all files of directories, and of the names that lead elsewhere by now; gives the files.
fn tell_of_entries(face: &Face, notifier: &Notifier, parents: &HashSet<u64>) -> HashSet<u64> {
    if parents.is_empty() {
        return HashSet::new();
    }
    let mut nodes = HashSet::new();
    for (parent, name, node) in face.nodes.found_in(parents) {
        if face.knows(parent, &name) != Some(node) {
            let name = OsStr::from_bytes(&name);
            said("a name", notifier.inval_entry(INodeNo(parent), name));
        }
        said("a file", notifier.inval_inode(INodeNo(node), ATTRIBUTES, 0));
        nodes.insert(node);
    }
    nodes
}

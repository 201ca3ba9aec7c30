//! Passthrough: the kernel reads and writes the backing file itself, where it can and we may ask for it.
//!
//! Linux: all opens of one inode must share one backing id, or be plain together; a mixture fails with EIO.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use fuser::BackingId;
use parking_lot::Mutex;

/// Which files are open how.
#[derive(Default)]
pub struct Passthrough {
    enabled: AtomicBool,
    open: Mutex<HashMap<(u64, u64), Way>>,
    /// Opens so far that the kernel reads and writes by itself.
    pub opened: AtomicU64,
    refused: AtomicBool,
}

enum Way {
    Through(Weak<BackingId>, usize),
    Plain(usize),
}

/// How one open's bytes travel; dropped with it.
pub struct Backed {
    table: Arc<Passthrough>,
    node: (u64, u64),
    id: Option<Arc<BackingId>>,
}

impl Passthrough {
    /// Uses it from now on, or not.
    pub fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }

    /// Is it in use?
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Decides for one open of a node (its number and generation): as the other opens of it.
    pub fn open(
        self: &Arc<Self>,
        node: (u64, u64),
        file: impl AsFd,
        ask: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Backed {
        let backed = |id| Backed {
            table: Arc::clone(self),
            node,
            id,
        };
        if !self.is_enabled() {
            return backed(None);
        }
        let mut open = self.open.lock();
        let id = match open.get_mut(&node) {
            Some(Way::Plain(count)) => {
                *count += 1;
                None
            }
            Some(Way::Through(id, count)) => {
                *count += 1;
                Some(id.upgrade().expect("each open of the node holds it"))
            }
            None => match ask(file.as_fd()) {
                Ok(id) => {
                    let id = Arc::new(id);
                    open.insert(node, Way::Through(Arc::downgrade(&id), 1));
                    Some(id)
                }
                Err(e) => {
                    if !self.refused.swap(true, Ordering::Relaxed) {
                        tracing::warn!("mount: some files are read and written the plain way: {e}");
                    }
                    open.insert(node, Way::Plain(1));
                    None
                }
            },
        };
        if id.is_some() {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        backed(id)
    }
}

impl Backed {
    /// The id to answer with, if the kernel does it by itself.
    pub fn id(&self) -> Option<&BackingId> {
        self.id.as_deref()
    }
}

impl Drop for Backed {
    fn drop(&mut self) {
        let mut open = self.table.open.lock();
        let Some(Way::Through(_, count) | Way::Plain(count)) = open.get_mut(&self.node) else {
            return; // plain, because it is not in use
        };
        *count -= 1;
        if *count == 0 {
            open.remove(&self.node);
        }
        // Under the lock: the next open must find the id alive or its entry gone.
        self.id = None;
    }
}

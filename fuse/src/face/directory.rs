//! Directories in the mount: opened, listed, synced.

use std::ops::ControlFlow;

use parking_lot::Mutex;
use rustix::fs::{self, OFlags};
use rustix::io::Errno;
use twintree_store::Inode;
use twintree_store::posix::{Entry, Role};

use super::{Answer, Face, Found};
use crate::handle::OpenDirectory;
use crate::tree::Node;

impl Face {
    /// OPENDIR.
    pub fn open_directory(&self, id: u64) -> Answer<u64> {
        let node = self.nodes.get(id)?;
        let hold = node.hold();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = self.view.open(hold.pin()?, flags.bits())?;
        Ok(self.directories.add(OpenDirectory {
            dir: Mutex::new(dir),
            node,
        }))
    }

    /// READDIR: `add` answers whether the reply is full.
    pub fn list(
        &self,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(u64, Entry<'_>) -> bool,
    ) -> Answer<()> {
        let open = self.directories.get(handle)?;
        let dir = open.dir.lock();
        let level = self.nodes.level(&open.node)?;
        self.view.entries(&level, &*dir, offset, |entry| {
            match add(self.listed_id(&open.node, &entry), entry) {
                true => ControlFlow::Break(Ok(())),
                false => ControlFlow::Continue(()),
            }
        })
    }

    /// READDIRPLUS: every name with a reference, which is given back where the reply is full. `.` and `..`
    /// come without one. A name that is gone by now is left out; any other failure is answered, never hidden.
    pub fn list_plus(
        &self,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(u64, Entry<'_>, Option<&Found>) -> bool,
    ) -> Answer<()> {
        let open = self.directories.get(handle)?;
        let dir = open.dir.lock();
        let level = self.nodes.level(&open.node)?;
        let mut first = true;
        self.view.entries(&level, &*dir, offset, |entry| {
            let beginning = std::mem::take(&mut first);
            if entry.name == b"." || entry.name == b".." {
                let id = self.listed_id(&open.node, &entry);
                return match add(id, entry, None) {
                    true => ControlFlow::Break(Ok(())),
                    false => ControlFlow::Continue(()),
                };
            }
            let naming = self.naming.read();
            let found = self.nodes.look_up(&self.view, &open.node, entry.name);
            drop(naming);
            let found = match found {
                Ok(found) => found,
                Err(Errno::NOENT) => return ControlFlow::Continue(()),
                // A mapped bucket whose disk is gone: nothing is said of it, and the others are listed.
                Err(_) if entry.device.is_some() => {
                    let id = self.listed_id(&open.node, &entry);
                    return match add(id, entry, None) {
                        true => ControlFlow::Break(Ok(())),
                        false => ControlFlow::Continue(()),
                    };
                }
                // What came before is answered first; the next request begins here, and fails.
                Err(_) if !beginning => return ControlFlow::Break(Ok(())),
                Err(e) => return ControlFlow::Break(Err(e)),
            };
            match add(found.0.id, entry, Some(&found)) {
                true => {
                    self.nodes.forget(found.0.id, 1);
                    ControlFlow::Break(Ok(()))
                }
                false => ControlFlow::Continue(()),
            }
        })
    }

    /// FSYNCDIR.
    pub fn sync_directory(&self, handle: u64) -> Answer<()> {
        let open = self.directories.get(handle)?;
        let dir = open.dir.lock();
        fs::fsync(&*dir)
    }

    /// The number that an entry of a directory is listed with. Above an annex there is the bucket to the kernel, and
    /// not what lies above it on disk.
    fn listed_id(&self, directory: &Node, entry: &Entry<'_>) -> u64 {
        let above = match (directory.role, entry.name) {
            (Role::Native, _) => None,
            (_, b".") => Some(directory.id),
            (_, b"..") => self.nodes.parent_of(directory),
            _ => None,
        };
        let inode = Inode {
            device: entry.device.unwrap_or(directory.inode.device),
            inode: entry.inode,
        };
        above.unwrap_or_else(|| self.nodes.listed_id(inode, entry.role))
    }
}

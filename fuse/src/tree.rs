//! Nodes: which number in the mount is which inode, and how often the kernel holds each.
//!
//! An inode is known by device, number and birth: where a number comes back with another birth while the kernel
//! still has the old file, the new one gets a number of its own, so that neither is taken for the other. So does
//! what is shown in an annex, where nothing is changed, lest a link to it elsewhere be the same node. A node is held
//! by the store's [`Hold`], never by a path.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;
use twintree_store::Inode;
use twintree_store::posix::{Hold, Level, Role, Status, TreeView};

/// The mount's own top.
pub const TOP: u64 = 1;
/// Set in the numbers of all that does not lie on the root's device.
const FOREIGN: u64 = 1 << 63;
/// Inode numbers of this many bits fit into a foreign number beside the device's index.
const INODE_BITS: u32 = 48;
/// The device index of numbers that were dealt one by one.
const DEALT: u64 = (1 << 15) - 1;
/// Levels that an annex has at most: more than a key has bytes.
const ANNEX_DEPTH: usize = 1100;
/// Names that are kept of one node: it may have more, and be renamed unseen.
const MAX_NAMES: usize = 4;
/// How often a name that is being replaced is looked up again.
const MAX_ROUNDS: usize = 100;

/// One inode that the kernel knows.
pub struct Node {
    /// Its number in the mount.
    pub id: u64,
    /// Its number on disk.
    pub inode: Inode,
    /// As what it is shown.
    pub role: Role,
    held: Held,
    generation: u64,
    /// The names that it was last found under, the last one first: the node of the directory, and the name there.
    names: Mutex<Vec<(u64, Box<[u8]>)>>,
    lookups: AtomicU64,
    writers: AtomicUsize,
    /// ctime at the last open of which the kernel may keep pages.
    pages: Mutex<Option<(i64, u32)>>,
}

/// What is held.
struct Held {
    hold: Arc<Hold>,
    born: (i64, u32),
}

/// All nodes.
pub struct Nodes {
    root: Inode,
    table: RwLock<Table>,
    generation: u64,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<u64, Arc<Node>>,
    by_inode: HashMap<(Inode, Role), Arc<Node>>,
    /// Numbers of devices that are not the root's, and of what lies in annexes on a device.
    devices: HashMap<(u64, bool), u64>,
    dealt: u64,
}

/// A writable open of a node: while there is one, its attributes are not kept.
pub struct WriterOf(Arc<Node>);

impl Node {
    /// How it is held.
    pub fn hold(&self) -> Arc<Hold> {
        Arc::clone(&self.held.hold)
    }

    /// Which file of its number it is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn key(&self) -> (Inode, Role) {
        (self.inode, self.role)
    }

    /// The name that it was last found under.
    fn last_name(&self) -> Option<(u64, Box<[u8]>)> {
        self.names.lock().first().cloned()
    }

    fn is_called(&self, parent: u64, name: &[u8]) {
        let mut called = self.names.lock();
        let is_it = |(there, known): &(u64, Box<[u8]>)| *there == parent && **known == *name;
        match called.iter().position(is_it) {
            Some(at) => called[..=at].rotate_right(1),
            None => {
                called.truncate(MAX_NAMES - 1);
                called.insert(0, (parent, name.into()));
            }
        }
    }

    /// Is it open for writing?
    pub fn is_written(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// May the kernel go on keeping what it has read of the file? Not where its ctime, which is now `changed`, moved
    /// since the last open: a direct writer may have written and put mtime back, which is all that the kernel
    /// compares.
    pub fn keeps_pages(&self, changed: (i64, u32)) -> bool {
        self.pages.lock().replace(changed) == Some(changed)
    }

    /// Counts a writable open.
    pub fn writer(self: &Arc<Self>) -> WriterOf {
        self.writers.fetch_add(1, Ordering::AcqRel);
        WriterOf(Arc::clone(self))
    }
}

impl Drop for WriterOf {
    fn drop(&mut self) {
        self.0.writers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Nodes {
    /// With the top alone, which is never forgotten.
    ///
    /// # Errors
    /// The kernel's word of the root.
    pub fn new(view: &TreeView, generation: u64) -> rustix::io::Result<Self> {
        let status = view.status(view.top())?;
        let nodes = Self {
            root: status.inode,
            table: RwLock::default(),
            generation,
        };
        let top = nodes.node(TOP, &status, view.hold(view.top())?);
        let mut table = nodes.table.write();
        table.by_inode.insert(top.key(), Arc::clone(&top));
        table.by_id.insert(TOP, top);
        drop(table);
        Ok(nodes)
    }

    /// A node by its number.
    ///
    /// # Errors
    /// ESTALE where the kernel was never told of it.
    pub fn get(&self, id: u64) -> rustix::io::Result<Arc<Node>> {
        let node = self.table.read().by_id.get(&id).cloned();
        node.ok_or(Errno::STALE)
    }

    /// The numbers of an inode that the kernel knows, in each of its roles.
    pub fn ids_of(&self, inode: Inode) -> impl Iterator<Item = u64> {
        let table = self.table.read();
        let ids = [Role::Native, Role::Annex, Role::Annexed]
            .map(|role| table.by_inode.get(&(inode, role)).map(|node| node.id));
        ids.into_iter().flatten()
    }

    /// Where the names in a node's directory stand.
    ///
    /// # Errors
    /// ESTALE where it lies in no annex any more.
    pub fn level(&self, node: &Node) -> rustix::io::Result<Level> {
        match node.role {
            Role::Native if node.id == TOP => Ok(Level::Top),
            Role::Native => match node.names.lock().first() {
                Some((TOP, _)) => Ok(Level::Bucket),
                Some(_) | None => Ok(Level::Below),
            },
            Role::Annex | Role::Annexed => self.annex_path(node).map(Level::Annex),
        }
    }

    /// The path of a node in its annex; empty for the annex itself.
    ///
    /// # Errors
    /// ESTALE where it lies in none any more.
    pub fn annex_path(&self, node: &Node) -> rustix::io::Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut above = (node.role, node.last_name());
        for _ in 0..ANNEX_DEPTH {
            let (parent, name) = match above {
                (Role::Annex, _) => {
                    names.reverse();
                    return Ok(names.join(&b'/'));
                }
                (Role::Annexed, Some(called)) => called,
                (Role::Native, _) | (_, None) => break,
            };
            names.push(name);
            let parent = self.get(parent)?;
            above = (parent.role, parent.last_name());
        }
        Err(Errno::STALE)
    }

    /// The directory that a node was last found in.
    pub fn parent_of(&self, node: &Node) -> Option<u64> {
        node.names.lock().first().map(|(parent, _)| *parent)
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.table.read().by_id.len()
    }

    /// The number that a name of a directory is listed with: the same that a lookup of it gives.
    pub fn listed_id(&self, inode: Inode, role: Role) -> u64 {
        if let Some(node) = self.table.read().by_inode.get(&(inode, role)) {
            return node.id;
        }
        if role == Role::Native && inode.device == self.root.device {
            return inode.inode;
        }
        let mut table = self.table.write();
        let own = table.own_number((inode, role), self.root.device);
        own.unwrap_or(FOREIGN | inode.inode)
    }

    /// The number of the node that a status is of, where the kernel was told of it last under this very name.
    pub fn known_as(&self, status: &Status, parent: u64, name: &[u8]) -> Option<u64> {
        let node = self
            .table
            .read()
            .by_inode
            .get(&(status.inode, status.role))
            .cloned()?;
        let called = node.names.lock();
        let so =
            matches!(called.first(), Some((there, known)) if *there == parent && **known == *name);
        (so && node.held.born == status.born).then_some(node.id)
    }

    /// One reference to what lies under a name. It must be given back where the kernel does not get it.
    ///
    /// # Errors
    /// ENOENT, EMFILE and the kernel's word.
    pub fn look_up(
        &self,
        view: &TreeView,
        parent: &Node,
        name: &[u8],
    ) -> rustix::io::Result<(Arc<Node>, Status)> {
        let level = self.level(parent)?;
        let hold = parent.hold();
        let dir = hold.pin()?;
        for _ in 0..MAX_ROUNDS {
            let seen = view.status_at(&level, &dir, name)?;
            let node = match self.refer(&seen) {
                Some(node) => node,
                None => match view.hold_at(&level, &dir, name, &seen)? {
                    Some(hold) => self.insert(&seen, hold),
                    None => continue,
                },
            };
            if view.is_contested() && seen.role == Role::Native {
                let Some(entry) = view.open_entry(&level, &dir, name, (seen.inode, seen.born))
                else {
                    self.forget(node.id, 1);
                    continue;
                };
                view.hold_open(&node.hold(), entry);
            }
            node.is_called(parent.id, name);
            return Ok((node, seen));
        }
        Err(Errno::STALE) // replaced in each of the rounds: the kernel asks once more
    }

    /// A node's descriptor (O_PATH) that knows its path. Linux: of a file that was opened by its handle after
    /// the kernel dropped its name, nobody can tell where it lies; so it is opened by the name that it was last
    /// found under, and only where that is another's by now by its handle.
    ///
    /// # Errors
    /// ESTALE where the inode is gone, and the kernel's word.
    pub fn pin_by_name(&self, view: &TreeView, node: &Node) -> rustix::io::Result<OwnedFd> {
        let by_name = || {
            let (parent, name) = node.last_name()?;
            let parent = self.get(parent).ok()?;
            let hold = parent.hold();
            let born = node.held.born;
            let level = self.level(&parent).ok()?;
            view.open_entry(&level, hold.pin().ok()?, &name, (node.inode, born))
        };
        match by_name() {
            Some(file) => Ok(file),
            None => node.hold().pin()?.to_owned(),
        }
    }

    /// A node that the kernel knows is called otherwise now.
    pub fn is_called(&self, now: &Status, parent: u64, name: &[u8]) {
        let key = (now.inode, now.role);
        let node = self.table.read().by_inode.get(&key).cloned();
        if let Some(node) = node {
            node.is_called(parent, name);
        }
    }

    /// The nodes that were found in one of these directories: directory, name there, node.
    pub fn found_in(&self, parents: &HashSet<u64>) -> Vec<(u64, Box<[u8]>, u64)> {
        let table = self.table.read();
        let mut found = Vec::new();
        for node in table.by_id.values() {
            let names = node.names.lock();
            let those = names.iter().filter(|(parent, _)| parents.contains(parent));
            found.extend(those.map(|(parent, name)| (*parent, name.clone(), node.id)));
        }
        found
    }

    /// One reference to what a descriptor is of.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn adopt(
        &self,
        view: &TreeView,
        file: impl std::os::fd::AsFd,
    ) -> rustix::io::Result<(Arc<Node>, Status)> {
        let seen = view.status(&file)?;
        match self.refer(&seen) {
            Some(node) => Ok((node, seen)),
            None => Ok((self.insert(&seen, view.hold(&file)?), seen)),
        }
    }

    /// Gives references back.
    pub fn forget(&self, id: u64, references: u64) {
        if id == TOP {
            return;
        }
        let mut table = self.table.write();
        let Some(node) = table.by_id.get(&id).map(Arc::clone) else {
            return;
        };
        if node.lookups.fetch_sub(references, Ordering::AcqRel) <= references {
            table.by_id.remove(&id);
            // Another file may have the inode's number by now.
            if table
                .by_inode
                .get(&node.key())
                .is_some_and(|now| now.id == id)
            {
                table.by_inode.remove(&node.key());
            }
        }
    }

    /// A reference to a node that is known, and still this very file.
    fn refer(&self, seen: &Status) -> Option<Arc<Node>> {
        let table = self.table.read();
        let node = table.by_inode.get(&(seen.inode, seen.role))?;
        if node.held.born != seen.born {
            return None;
        }
        node.lookups.fetch_add(1, Ordering::AcqRel);
        Some(Arc::clone(node))
    }

    fn insert(&self, seen: &Status, hold: Hold) -> Arc<Node> {
        let mut table = self.table.write();
        let key = (seen.inode, seen.role);
        if let Some(node) = table.by_inode.get(&key)
            && node.held.born == seen.born
        {
            node.lookups.fetch_add(1, Ordering::AcqRel);
            return Arc::clone(node);
        }
        let id = table.number(key, self.root.device);
        let node = self.node(id, seen, hold);
        table.by_inode.insert(key, Arc::clone(&node));
        table.by_id.insert(id, Arc::clone(&node));
        node
    }

    fn node(&self, id: u64, seen: &Status, hold: Hold) -> Arc<Node> {
        Arc::new(Node {
            id,
            inode: seen.inode,
            role: seen.role,
            held: Held {
                hold: Arc::new(hold),
                born: seen.born,
            },
            generation: self.generation,
            names: Mutex::default(),
            lookups: AtomicU64::new(1),
            writers: AtomicUsize::new(0),
            pages: Mutex::new(None),
        })
    }
}

impl Table {
    /// The number of an inode in the mount: its own on the root's device, else one that no other has. Where the
    /// kernel still has an earlier file under it, a number is dealt: were it given again, the kernel would answer
    /// EIO to whoever is at work on the earlier one.
    fn number(&mut self, key: (Inode, Role), root_device: u64) -> u64 {
        match self.own_number(key, root_device) {
            Some(number) if !self.by_id.contains_key(&number) => number,
            _ => {
                self.dealt += 1;
                FOREIGN | DEALT << INODE_BITS | self.dealt
            }
        }
    }

    fn own_number(&mut self, (inode, role): (Inode, Role), root_device: u64) -> Option<u64> {
        let native = role == Role::Native;
        if native && inode.device == root_device && inode.inode != TOP && inode.inode < FOREIGN {
            return Some(inode.inode);
        }
        let next = self.devices.len() as u64;
        let index = *self.devices.entry((inode.device, native)).or_insert(next);
        (inode.inode >> INODE_BITS == 0 && index < DEALT)
            .then_some(FOREIGN | index << INODE_BITS | inode.inode)
    }
}

/// The table of open files and directories, by the number that the kernel was given.
pub struct Handles<T> {
    open: RwLock<HashMap<u64, Arc<T>>>,
    last: Mutex<u64>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self {
            open: RwLock::default(),
            last: Mutex::default(),
        }
    }
}

impl<T> Handles<T> {
    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.read().len()
    }

    /// A number for an open file.
    pub fn add(&self, open: T) -> u64 {
        let mut last = self.last.lock();
        *last += 1;
        self.open.write().insert(*last, Arc::new(open));
        *last
    }

    /// What is open under a number.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&self, number: u64) -> rustix::io::Result<Arc<T>> {
        let found = self.open.read().get(&number).cloned();
        found.ok_or(Errno::BADF)
    }

    /// Takes it away.
    pub fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.open.write().remove(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_their_own_on_the_roots_device_and_nobody_elses_beyond() {
        let mut table = Table::default();
        let shown = |device, inode, role| (Inode { device, inode }, role);
        let at = |device, inode| shown(device, inode, Role::Native);
        assert_eq!(table.number(at(7, 42), 7), 42);
        let numbers = [
            table.number(at(7, TOP), 7),
            table.number(at(8, 42), 7),
            table.number(at(9, 42), 7),
            table.number(at(9, u64::MAX), 7),
            table.number(at(9, 1 << 48), 7),
            table.number(shown(7, 42, Role::Annexed), 7),
            table.number(shown(8, 42, Role::Annexed), 7),
            table.number(shown(7, 43, Role::Annex), 7),
        ];
        for (n, number) in numbers.iter().enumerate() {
            assert!(number & FOREIGN != 0, "{n}");
            assert!(!numbers[..n].contains(number), "{n}");
        }
        assert_eq!(numbers[1], table.number(at(8, 42), 7), "and they stay");
        assert_eq!(
            Some(numbers[2]),
            table.own_number(at(9, 42), 7),
            "as listed"
        );
    }
}

//! Directories whose own entry may not be on disk yet: somebody else, in this process or another, made them a
//! moment ago and has not synced it, or died before. Whoever publishes below one syncs it before the answer.
//!
//! A directory that is older than [`YOUNG`] is on disk whoever made it: no filesystem keeps a change back for that
//! long. Which young ones are is remembered, so that a busy new directory costs nothing more.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, StatxFlags};

use crate::path::DiskPath;
use crate::root::{Tree, system};
use crate::{Bucket, Durability, Result, Timestamp};

/// Linux: what is dirty is written back after 30 s, and looked for every 5 s (vm.dirty_expire_centisecs and
/// vm.dirty_writeback_centisecs); twice that for those who doubled them.
const YOUNG: i64 = 120_000_000_000;
/// How many are remembered at most; beyond it all are forgotten, which costs a sync each.
const CAPACITY: usize = 1 << 16;

/// Young directories that are known to be on disk.
#[derive(Default)]
pub(crate) struct Settled(Mutex<HashSet<Identity>>);

/// A directory as nothing else will ever be: inode numbers come again, with another birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    born: Option<Timestamp>,
}

impl Identity {
    fn of(dir: impl AsFd) -> Result<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let stat = fs::statx(dir, c"", AtFlags::EMPTY_PATH, wanted)
            .map_err(|e| system("a directory", e))?;
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let time = stat.stx_btime;
        Ok(Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: has_birth.then(|| Timestamp::from_parts(time.tv_sec, i64::from(time.tv_nsec))),
        })
    }

    /// One whose birth nobody knows, or that lies in the future, is.
    fn is_young(&self) -> bool {
        self.born
            .is_none_or(|born| Timestamp::now().0.saturating_sub(born.0) < YOUNG)
    }
}

impl Settled {
    fn knows(&self, identity: &Identity) -> bool {
        self.0.lock().contains(identity)
    }

    /// Only those with a birth: others could be taken for a later one.
    fn remember(&self, settled: impl IntoIterator<Item = Identity>) {
        let mut known = self.0.lock();
        if known.len() >= CAPACITY {
            known.clear();
        }
        known.extend(settled.into_iter().filter(|one| one.born.is_some()));
    }
}

impl Bucket {
    /// Makes the way to an object durable that was published in `parent`: that directory's own entry and those of
    /// its ancestors, as far as they are young and not known to be. What is among `synced` was synced since.
    ///
    /// # Errors
    /// As [`Bucket::sync_entries`].
    pub(crate) fn sync_way(
        &self,
        tree: &Tree,
        path: &DiskPath,
        parent: &OwnedFd,
        synced: &[OwnedFd],
    ) -> Result<()> {
        if self.durability() == Durability::Relaxed {
            return Ok(());
        }
        let done = synced
            .iter()
            .map(Identity::of)
            .collect::<Result<Vec<_>>>()?;
        let (mut young, mut grown) = (Vec::new(), Vec::new());
        let mut identity = Identity::of(parent)?;
        for path in std::iter::successors(path.parent(), DiskPath::parent) {
            if !identity.is_young() || self.shared.settled.knows(&identity) {
                break;
            }
            young.push(identity);
            let above = tree.nearest_dir(&path)?;
            identity = Identity::of(&above)?;
            if !done.contains(&identity) {
                grown.push(above);
            }
        }
        self.sync_entries(&grown)?;
        self.shared.settled.remember(young);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn born(ago: i64) -> Identity {
        Identity {
            device: (1, 1),
            inode: 2,
            born: Some(Timestamp(Timestamp::now().0 - ago)),
        }
    }

    #[test]
    fn young_is_what_was_born_just_now_or_later_or_nobody_knows_when() {
        let unknown = Identity {
            born: None,
            ..born(0)
        };
        assert!(born(0).is_young() && born(-YOUNG).is_young() && unknown.is_young());
        assert!(!born(YOUNG).is_young());
    }

    #[test]
    fn only_what_has_a_birth_is_remembered_and_not_for_another() {
        let settled = Settled::default();
        let (one, later) = (born(5), born(1));
        let unknown = Identity { born: None, ..one };
        settled.remember([one, unknown]);
        assert!(settled.knows(&one));
        assert!(!settled.knows(&later) && !settled.knows(&unknown));
    }
}

//! The locks of one upload's directory: on its slots, on its end, and on regions of its assembly.
//!
//! Each is taken in this process first, then against others, in the way that the bucket's filesystem
//! knows. Whoever holds one changes what it guards; the files themselves are `folder.rs`'s.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use parking_lot::MutexGuard;
use rustix::fs::FlockOperation;

use super::super::range;
use super::super::slot::{Decoded, Head, SLOT, Slot};
use super::{ASSEMBLY, Folder, PARTS, PARTS_SIZE, gone, has_document};
use crate::lock::{Kind, LOCK_WAIT, patiently, release_lease, take_lease, try_flock};
use crate::{Result, StoreError};

/// Bytes of `parts` that are locked while slots are read and changed.
const SLOTS_LOCK: (u64, u64) = (0, PARTS_SIZE);
/// The byte of `parts`, behind all slots, that is locked while a Complete or Abort is under way.
const ENDING_LOCK: (u64, u64) = (PARTS_SIZE, 1);
/// Its name where the filesystem has no locks.
const ENDING_LEASE: &str = "ending.lease";
/// How long another Complete or Abort is waited for: it may be gathering a large object.
const ENDING_WAIT: Duration = Duration::from_secs(600);

/// Slots may be read and changed while it lives.
pub(in crate::multipart) struct Slots<'a> {
    folder: &'a Folder,
    // Released last: the other processes' lock comes first.
    _in_process: MutexGuard<'a, ()>,
}

/// No other Complete or Abort is under way while it lives.
pub(in crate::multipart) struct Ending<'a> {
    folder: &'a Folder,
    /// Only where a lease is held among processes.
    in_process: Option<MutexGuard<'a, ()>>,
}

impl Folder {
    /// Waits for the slots: in this process first, then against others.
    pub fn lock_slots(&self) -> Result<Slots<'_>> {
        let in_process = self.bucket.shared.uploads.slots(self.id.as_str());
        self.lock(SLOTS_LOCK)?;
        Ok(Slots {
            folder: self,
            _in_process: in_process,
        })
    }

    /// Waits until no other Complete or Abort is under way, and keeps others out.
    pub fn lock_ending(&self) -> Result<Ending<'_>> {
        // Here first, so that our own threads do not wait for each other by looking at a file.
        let in_process = (self.kind()? == Kind::Lease)
            .then(|| self.bucket.shared.uploads.ending(self.id.as_str()));
        self.lock(ENDING_LOCK)?;
        if in_process.is_some() {
            self.take_ending_lease()?;
        }
        Ok(Ending {
            folder: self,
            in_process,
        })
    }

    /// Slots need none among processes where nothing is locked: every part has a file of its own there.
    fn take_ending_lease(&self) -> Result<()> {
        match take_lease(&self.dir, ENDING_LEASE) {
            // Whoever had it ended the upload, and its directory went with it.
            Err(_) if !has_document(&self.dir)? => Ok(()),
            taken => taken,
        }
    }

    fn kind(&self) -> Result<Kind> {
        if let Some(kind) = self.locks.get() {
            return Ok(*kind);
        }
        let kind = self.bucket.lock_kind()?;
        Ok(*self.locks.get_or_init(|| kind))
    }

    fn lock(&self, (start, length): (u64, u64)) -> Result<()> {
        let slots = start == SLOTS_LOCK.0;
        let time = if slots { LOCK_WAIT } else { ENDING_WAIT };
        let kind = self.kind()?;
        patiently(PARTS, time, || match kind {
            Kind::Ofd => range::try_lock(&self.parts, start, length),
            Kind::Flock => {
                let file = if slots { &self.parts } else { &self.json };
                try_flock(file, FlockOperation::NonBlockingLockExclusive)
            }
            Kind::Lease => Ok(true),
        })
    }

    fn unlock(&self, (start, length): (u64, u64)) {
        let Some(kind) = self.locks.get() else {
            return; // nothing was ever locked
        };
        let unlocked = match kind {
            Kind::Ofd => range::unlock(&self.parts, start, length),
            Kind::Flock if start == SLOTS_LOCK.0 => {
                try_flock(&self.parts, FlockOperation::Unlock).map(drop)
            }
            Kind::Flock => try_flock(&self.json, FlockOperation::Unlock).map(drop),
            Kind::Lease => Ok(()),
        };
        if let Err(e) = unlocked {
            // The lock ends with the descriptor at the latest.
            tracing::warn!("an upload's lock is not released early: {e}");
        }
    }

    /// Locks the region of the assembly from this offset on (0 bytes: all of it), so that whoever writes
    /// into it is known for as long as a descriptor of this opening lives. `false`: somebody else may write.
    pub fn claim(&self, assembly: &File, start: u64, length: u64) -> Result<bool> {
        if self.kind()? != Kind::Ofd {
            return Ok(false);
        }
        range::try_lock(assembly, start, length).map_err(|e| StoreError::from_io(ASSEMBLY, e))
    }

    /// Gives a region free before its descriptor closes.
    pub fn release(&self, assembly: &File, start: u64, length: u64) -> Result<()> {
        range::unlock(assembly, start, length).map_err(|e| StoreError::from_io(ASSEMBLY, e))
    }
}

impl Slots<'_> {
    /// The head as it is now.
    ///
    /// # Errors
    /// `NoSuchUpload` where the upload takes no parts any more.
    pub fn live_head(&self) -> Result<Head> {
        match self.folder.head()? {
            Some(head) if self.folder.is_alive(head)? => Ok(head),
            _ => Err(gone(&self.folder.id)),
        }
    }

    /// Replaces the head.
    pub fn set_head(&self, head: Head) -> Result<()> {
        self.folder.write_head(head)
    }

    /// One slot; a damaged one counts as empty.
    pub fn get(&self, number: u16) -> Result<Option<Slot>> {
        self.folder.slot(number)
    }

    /// Was the slot never written, so that its region in the assembly holds nothing?
    pub fn is_untouched(&self, number: u16) -> Result<bool> {
        Ok(Slot::decode(number, &self.folder.read_slot(number)?) == Decoded::Empty)
    }

    /// Replaces one slot.
    pub fn put(&self, number: u16, slot: &Slot) -> Result<()> {
        self.folder
            .parts
            .write_all_at(&slot.encode(number), u64::from(number) * SLOT as u64)
            .map_err(|e| StoreError::from_io(PARTS, e))
    }
}

impl Drop for Slots<'_> {
    fn drop(&mut self) {
        self.folder.unlock(SLOTS_LOCK);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.folder.unlock(ENDING_LOCK);
        if self.in_process.is_some() {
            release_lease(&self.folder.dir, ENDING_LEASE);
            // Whoever ended the upload could not remove a directory that held our lease.
            if matches!(has_document(&self.folder.dir), Ok(false)) {
                self.folder.remove();
            }
        }
    }
}

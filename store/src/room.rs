//! Room on the disk for a body whose length was announced.
//!
//! It is taken ahead of what has come, never more than twice as much: an announcement costs its sender
//! nothing, and must not take the disk from everybody else. That there is room for all of it is asked
//! before the first byte.

use std::fs::File;
use std::io;

use rustix::fs::{self, FallocateFlags};
use rustix::io::Errno;

/// Bodies from this size on are preallocated: smaller ones gain nothing.
const FROM: u64 = 64 << 10;
/// What is taken at first, in bytes.
const FIRST: u64 = 16 << 20;

/// The room of one body, and how much of it is taken. The default takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    start: u64,
    taken: u64,
    end: u64,
}

/// Room that is to be taken next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    offset: u64,
    length: u64,
}

impl Room {
    /// Takes the first of the room for `length` bytes from `start` on.
    ///
    /// # Errors
    /// ENOSPC where the disk has not room for all of them, and the system's word.
    pub(crate) fn begin(file: &File, start: u64, length: u64) -> io::Result<Self> {
        if length < FROM {
            return Ok(Self::default());
        }
        if length > FIRST && available(file).is_some_and(|free| free < length) {
            return Err(Errno::NOSPC.into());
        }
        let mut room = Self {
            start,
            taken: start,
            end: start.saturating_add(length),
        };
        if let Some(claim) = room.claim(start) {
            claim.take(file)?;
        }
        Ok(room)
    }

    /// What is to be taken before bytes are written up to `until`; `None`: they have their room.
    pub fn claim(&mut self, until: u64) -> Option<Claim> {
        if self.taken >= self.end || (until <= self.taken && self.taken > self.start) {
            return None;
        }
        let come = until.saturating_sub(self.start);
        let ahead = self.start.saturating_add(come.saturating_mul(2).max(FIRST));
        let claim = Claim {
            offset: self.taken,
            length: ahead.min(self.end) - self.taken,
        };
        self.taken += claim.length;
        Some(claim)
    }
}

impl Claim {
    /// Takes the room. The size of the file stays what was written, so that a short body is not taken for a
    /// whole one.
    ///
    /// # Errors
    /// ENOSPC, EDQUOT, and whatever else the system says.
    pub fn take(self, file: &File) -> io::Result<()> {
        match fs::fallocate(file, FallocateFlags::KEEP_SIZE, self.offset, self.length) {
            // Not every filesystem can; then it shows while writing.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// What is free where the file lies; `None` where the filesystem does not say.
fn available(file: &File) -> Option<u64> {
    let facts = fs::fstatvfs(file).ok()?;
    (facts.f_blocks > 0).then(|| facts.f_bfree.saturating_mul(facts.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn an_announcement_takes_little_and_the_bytes_that_come_take_the_rest() {
        let file = tempfile::tempfile().expect("a file");
        let taken = |file: &File| file.metadata().expect("its state").blocks() * 512;
        let length = 100 * FIRST;
        let Ok(mut room) = Room::begin(&file, 0, length) else {
            return; // this disk has not room for so much
        };
        assert!(taken(&file) <= FIRST + (1 << 20), "{}", taken(&file));
        let mut claimed = FIRST;
        for batch in 1..=length / FROM {
            let until = batch * FROM;
            if let Some(claim) = room.claim(until) {
                assert_eq!(claim.offset, claimed);
                claimed += claim.length;
            }
            assert!(
                claimed >= until && claimed <= FIRST.max(2 * until),
                "{until}"
            );
        }
        assert_eq!(claimed, length);
        assert_eq!(room.claim(length), None);
        assert_eq!(file.metadata().expect("its state").len(), 0);
    }

    #[test]
    fn more_than_the_disk_has_is_refused_at_once() {
        let file = tempfile::tempfile().expect("a file");
        let error = Room::begin(&file, 0, 1 << 60).expect_err("no disk is so large");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.metadata().expect("its state").blocks(), 0);
    }
}

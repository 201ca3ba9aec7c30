//! The stamp of a record, judged against what fstat shows of the descriptor that is being read.
//!
//! A record speaks only of the content that it was made of. Size and mtime tell most rewrites; ctime
//! tells those that put them back, but it also moves with chmod and rename, and with setting the
//! record itself: hence a window after the seal, or the exact ctime where this process knows it.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::Stat;

use super::memory::{Memory, Recall};
use super::{BootMark, Record, Unreadable, Xattrs};
use crate::Timestamp;
use crate::etag::Derivation;
use crate::known::{self, Known};
use crate::ready::{PORTRAITS, Portrait};
use crate::{ETag, Result, StoreError};

/// How long after its seal a record may have been published (FORMATS: W).
pub(crate) const WINDOW: i64 = 30_000_000_000;
/// How far the filesystem's clock may lag behind itself: one tick at HZ=100.
const TICK: i64 = 10_000_000;
/// The coarsest clock that a filesystem with ctimes has (vfat's two seconds).
const COARSE: i64 = 2_000_000_000;

/// Quiet files whose xattrs are kept at most: some 16 MiB, unless their metadata are large.
const XATTRS: usize = 3 << 14;

/// What fstat must show for a record to be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Bytes.
    pub(crate) size: u64,
    /// mtime as the filesystem stored it.
    pub(crate) modified: Timestamp,
    /// ctime that the filesystem showed when the record was made.
    pub(crate) seal: Timestamp,
}

/// What fstat shows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    /// Device number.
    pub(crate) device: u64,
    /// Inode number.
    pub(crate) inode: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// mtime.
    pub(crate) modified: Timestamp,
    /// ctime.
    pub(crate) changed: Timestamp,
}

/// Does a record speak of its file?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes.
    Valid(Record),
    /// No: the content was changed. What it says of the object half still holds.
    Stale(Record),
    /// Not known until the content was hashed again; no record where it cannot be read.
    Unverified(Option<Record>),
    /// There is no record.
    None,
}

/// Judges records: the rules, and what this process remembers.
pub(crate) struct Judge {
    /// Remembered ctimes.
    pub(crate) memory: Memory,
    /// What lies in the xattrs of quiet files.
    pub(crate) xattrs: Known<Arc<Xattrs>>,
    /// What such files are.
    pub(crate) portraits: Known<Arc<Portrait>>,
    /// `verify = "mtime"`: equal size and mtime are enough.
    mtime_only: bool,
    /// The boot that this process runs in.
    boot: [u8; 16],
}

impl Stamp {
    /// What a record that is made now would say.
    pub(crate) fn of(state: &FileState) -> Self {
        Self {
            size: state.size,
            modified: state.modified,
            seal: state.changed,
        }
    }

    /// Does the file show this size and mtime?
    pub(crate) fn fits(&self, state: &FileState) -> bool {
        self.size == state.size && self.modified == state.modified
    }
}

impl FileState {
    /// From a `stat` of the descriptor that is being read.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            modified: Timestamp::from_parts(stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: Timestamp::from_parts(stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// Looks at an open file.
    ///
    /// # Errors
    /// What fstat says.
    pub(crate) fn look(file: impl AsFd) -> Result<Self> {
        rustix::fs::fstat(file)
            .map(|stat| Self::of(&stat))
            .map_err(|e| StoreError::from_io("looking at an open file", e.into()))
    }

    /// The ETag while there is no valid record.
    pub(crate) fn derived_etag(&self, stable_inodes: bool) -> ETag {
        self.derivation(stable_inodes).etag()
    }

    /// What that ETag is derived from.
    pub(crate) fn derivation(&self, stable_inodes: bool) -> Derivation {
        Derivation {
            inode: if stable_inodes { self.inode } else { 0 },
            size: self.size,
            modified: self.modified,
            changed: self.changed,
        }
    }

    /// Which file it is.
    pub(crate) fn inode(&self) -> crate::Inode {
        crate::Inode {
            device: self.device,
            inode: self.inode,
        }
    }

    /// Are both its times whole seconds, as a coarse clock shows them?
    pub(crate) fn is_in_whole_seconds(&self) -> bool {
        self.modified.subsec_nanos() == 0 && self.changed.subsec_nanos() == 0
    }

    /// Had the file been quiet at `now` for so long that any later change moves its ctime? Its mtime may say anything.
    pub(crate) fn had_been_quiet(&self, now: Timestamp) -> bool {
        known::had_been_quiet(self.changed, self.changed, now)
    }

    /// Has the content the same size and mtime?
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.size == other.size && self.modified == other.modified
    }
}

impl Verdict {
    /// The entity tag: the recorded one where the record is valid, else the derived one.
    pub(crate) fn etag(&self, state: &FileState, stable_inodes: bool) -> ETag {
        match self {
            Self::Valid(record) => record.etag,
            _ => state.derived_etag(stable_inodes),
        }
    }

    /// The verdict of a file that somebody has open for writing: only the object half is believed.
    pub(crate) fn in_flux(self) -> Self {
        match self {
            Self::Valid(record) | Self::Stale(record) | Self::Unverified(Some(record)) => {
                Self::Stale(record)
            }
            Self::Unverified(None) | Self::None => Self::None,
        }
    }

    /// The record, whatever it is worth.
    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Self::Valid(record) | Self::Stale(record) | Self::Unverified(Some(record)) => {
                Some(record)
            }
            Self::Unverified(None) | Self::None => None,
        }
    }
}

impl Judge {
    /// A judge without memories. `mtime_only`: take equal size and mtime for valid.
    pub(crate) fn new(mtime_only: bool) -> Self {
        Self {
            memory: Memory::default(),
            xattrs: Known::with_capacity(XATTRS),
            portraits: Known::with_capacity(PORTRAITS),
            mtime_only,
            boot: this_boot(),
        }
    }

    /// The boot that this process runs in.
    pub(crate) fn boot(&self) -> [u8; 16] {
        self.boot
    }

    /// The same as records have it.
    pub(crate) fn boot_mark(&self) -> BootMark {
        mark_of(&self.boot)
    }

    /// Judges the bytes of `user.twintree` (`None`: there are none). `synced` tells until when all
    /// that was written in another boot is known to be on disk.
    pub(crate) fn judge(
        &self,
        state: &FileState,
        bytes: Option<&[u8]>,
        synced: impl FnOnce(BootMark) -> Option<Timestamp>,
    ) -> Verdict {
        let Some(bytes) = bytes else {
            return Verdict::None;
        };
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(Unreadable::Short | Unreadable::Version(_)) => return Verdict::Unverified(None),
        };
        let stamp = record.stamp;
        if record.dropped || !stamp.fits(state) {
            return Verdict::Stale(record);
        }
        if record.unsynced && !self.survived(state, &record, synced) {
            return Verdict::Unverified(Some(record));
        }
        if self.mtime_only {
            return Verdict::Valid(record);
        }
        if is_too_young(state, stamp) {
            return Verdict::Unverified(Some(record));
        }
        match self.memory.recall(state, bytes) {
            Recall::Same => Verdict::Valid(record),
            Recall::Moved => Verdict::Unverified(Some(record)),
            Recall::Nothing if in_window(state, stamp) => Verdict::Valid(record),
            Recall::Nothing => Verdict::Unverified(Some(record)),
        }
    }

    /// Is what was written without sync still what was written?
    fn survived(
        &self,
        state: &FileState,
        record: &Record,
        synced: impl FnOnce(BootMark) -> Option<Timestamp>,
    ) -> bool {
        match record.boot {
            Some(boot) if boot == self.boot_mark() => true,
            Some(boot) => synced(boot).is_some_and(|until| latest(state, record.stamp) <= until),
            None => false,
        }
    }
}

/// On a coarse clock: could a write hide within the tick in which the record was made? Not where its mtime
/// is of a second that was over then, as ours are: whatever is written later moves it.
pub(crate) fn is_too_young(state: &FileState, stamp: Stamp) -> bool {
    stamp.modified >= stamp.seal && may_hide(state, stamp)
}

/// On a coarse clock: could a write whose mtime is put back still hide within the tick of the last change?
pub(crate) fn may_hide(state: &FileState, stamp: Stamp) -> bool {
    is_coarse(state, stamp) && !has_age(state, Timestamp::now())
}

/// The clock's granularity need not be probed: the seal is a ctime that the filesystem showed, and
/// one that falls on a whole second beside a ctime that does is no accident.
fn is_coarse(state: &FileState, stamp: Stamp) -> bool {
    stamp.seal.subsec_nanos() == 0 && state.changed.subsec_nanos() == 0
}

/// Can no second write hide within one tick of a coarse clock any more?
fn has_age(state: &FileState, now: Timestamp) -> bool {
    now.0 - state.modified.max(state.changed).0 > 2 * COARSE
}

/// The last moment at which what a stamp speaks of may have been written, for who compares it with the
/// clock of another filesystem.
fn latest(state: &FileState, stamp: Stamp) -> Timestamp {
    if is_coarse(state, stamp) {
        Timestamp(stamp.seal.0.saturating_add(COARSE))
    } else {
        stamp.seal
    }
}

fn in_window(state: &FileState, stamp: Stamp) -> bool {
    let tick = if is_coarse(state, stamp) {
        COARSE
    } else {
        TICK
    };
    let since = i128::from(state.changed.0) - i128::from(stamp.seal.0);
    (-i128::from(tick)..=i128::from(WINDOW)).contains(&since)
}

/// The first half of a boot's id.
pub(crate) fn mark_of(id: &[u8; 16]) -> BootMark {
    *id.first_chunk().expect("an id is longer than its half")
}

/// The boot id of this kernel; a random one where it tells none.
fn this_boot() -> [u8; 16] {
    // An interface of the kernel, not a name below any root.
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(id) if digits.len() == 32 => id.to_be_bytes(),
        // Two processes must not take each other's boot for their own: a random one is nobody's.
        _ => {
            let mut id = [0; 16];
            crate::random::fill(&mut id);
            id
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn state(changed: i64) -> FileState {
        FileState {
            device: 1,
            inode: 2,
            size: 3,
            modified: Timestamp(4),
            changed: Timestamp(changed),
        }
    }

    fn record(seal: i64) -> Record {
        let stamp = Stamp {
            size: 3,
            modified: Timestamp(4),
            seal: Timestamp(seal),
        };
        Record::new(ETag::Md5([1; 16]), 2, stamp)
    }

    fn judge(judge: &Judge, state: &FileState, record: &Record) -> Verdict {
        judge.judge(state, Some(&record.encode()), |_| None)
    }

    #[test]
    fn no_record_is_no_record() {
        assert_eq!(
            Judge::new(false).judge(&state(1), None, |_| None),
            Verdict::None
        );
    }

    #[test]
    fn another_size_or_mtime_is_stale() {
        let (judge_, made) = (Judge::new(true), record(100));
        let longer = FileState {
            size: 4,
            ..state(100)
        };
        let touched = FileState {
            modified: Timestamp(5),
            ..state(100)
        };
        assert_eq!(judge(&judge_, &longer, &made), Verdict::Stale(made.clone()));
        assert_eq!(judge(&judge_, &touched, &made), Verdict::Stale(made));
    }

    #[test]
    fn unknown_ctime_is_valid_within_the_window_only() {
        let seal = 100 * S + 1;
        for (changed, valid) in [
            (seal - TICK - 1, false),
            (seal - TICK, true),
            (seal, true),
            (seal + WINDOW, true),
            (seal + WINDOW + 1, false),
        ] {
            let verdict = judge(&Judge::new(false), &state(changed), &record(seal));
            assert_eq!(matches!(verdict, Verdict::Valid(_)), valid, "at {changed}");
            assert_eq!(
                matches!(verdict, Verdict::Unverified(Some(_))),
                !valid,
                "at {changed}"
            );
        }
    }

    #[test]
    fn remembered_ctime_is_valid_outside_the_window_and_another_is_not_inside_it() {
        let (judge_, made) = (Judge::new(false), record(S + 1));
        judge_.memory.remember(&state(900 * S + 1), &made.encode());
        assert_eq!(
            judge(&judge_, &state(900 * S + 1), &made),
            Verdict::Valid(made.clone())
        );
        assert_eq!(
            judge(&judge_, &state(S + 2), &made),
            Verdict::Unverified(Some(made))
        );
    }

    #[test]
    fn record_of_another_gateway_is_judged_by_the_window_again() {
        let judge_ = Judge::new(false);
        judge_
            .memory
            .remember(&state(S + 1), &record(S + 1).encode());
        let theirs = record(500 * S + 1);
        assert_eq!(
            judge(&judge_, &state(500 * S + 2), &theirs),
            Verdict::Valid(theirs)
        );
    }

    #[test]
    fn verify_mtime_takes_any_ctime() {
        let made = record(S + 1);
        assert_eq!(
            judge(&Judge::new(true), &state(900 * S), &made),
            Verdict::Valid(made)
        );
    }

    #[test]
    fn unknown_version_is_unverified() {
        let mut bytes = record(1).encode();
        bytes[0] = 9;
        let verdict = Judge::new(true).judge(&state(1), Some(&bytes), |_| None);
        assert_eq!(verdict, Verdict::Unverified(None));
    }

    #[test]
    fn unsynced_record_of_another_boot_is_valid_only_up_to_the_last_sync() {
        for mtime_only in [false, true] {
            let judge_ = Judge::new(mtime_only);
            let mut made = record(S + 5);
            made.set_unsynced(Some([7; 8]));
            let bytes = made.encode();
            let at = |until: Option<i64>| {
                judge_.judge(&state(S + 6), Some(&bytes), |boot| {
                    assert_eq!(boot, [7; 8]);
                    until.map(Timestamp)
                })
            };
            assert_eq!(at(None), Verdict::Unverified(Some(made.clone())));
            assert_eq!(at(Some(S + 4)), Verdict::Unverified(Some(made.clone())));
            assert_eq!(at(Some(S + 5)), Verdict::Valid(made.clone()));
        }
    }

    #[test]
    fn unsynced_record_on_a_coarse_clock_may_be_two_seconds_younger_than_its_seal() {
        let judge_ = Judge::new(true);
        let mut made = record(S);
        made.set_unsynced(Some([7; 8]));
        let bytes = made.encode();
        for (until, valid) in [(S + COARSE - 1, false), (S + COARSE, true)] {
            let verdict = judge_.judge(&state(S), Some(&bytes), |_| Some(Timestamp(until)));
            assert_eq!(matches!(verdict, Verdict::Valid(_)), valid, "{until}");
        }
    }

    #[test]
    fn unsynced_record_of_this_boot_is_valid() {
        let judge_ = Judge::new(false);
        let mut made = record(S + 5);
        made.set_unsynced(Some(judge_.boot_mark()));
        assert_eq!(judge(&judge_, &state(S + 6), &made), Verdict::Valid(made));
    }

    #[test]
    fn coarse_clock_needs_age_even_for_a_remembered_ctime_unless_the_mtime_is_of_an_earlier_second()
    {
        let now = Timestamp::now().seconds() * S;
        let judge_ = Judge::new(false);
        for (seal, behind, valid) in [(now, 0, false), (now - 60 * S, 0, true), (now, S, true)] {
            let mut made = record(seal);
            made.stamp.modified = Timestamp(seal - behind);
            let state = FileState {
                modified: made.stamp.modified,
                ..state(seal)
            };
            judge_.memory.remember(&state, &made.encode());
            let verdict = judge(&judge_, &state, &made);
            assert_eq!(matches!(verdict, Verdict::Valid(_)), valid, "{seal}");
            assert_eq!(may_hide(&state, made.stamp), seal == now);
        }
    }
}

//! How a part is stored: begin (claim a place), write, commit (sync, then switch the slot).
//!
//! The place is the part's region of the assembly when its slot was never used, nobody else writes there
//! and its size fits the stride; else a file of its own. A slot switches only after its part was
//! verified and is as durable as the store is set to, so that a failed retry never harms a good part.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Upload;
use super::folder::{Folder, Slots, gone};
use super::slot::{Base, Head, MAX_PART, Slot, Source, State};
use crate::room::Room;
use crate::{
    Algorithm, Checksum, Digester, Digests, ETag, Object, Result, Stage, StoreError, Timestamp,
    random,
};

/// A part other than the first that is smaller than S3 lets any part but the last be (5 MiB) is the
/// last: its size says nothing of the usual part's.
const LEAST_STRIDE: u64 = 5 << 20;
/// How much of a copied part is read at once.
const CHUNK: usize = 1 << 20;
const ASSEMBLY: Base = Base {
    number: 0,
    source: Source::Assembly(0),
};

/// A part that is being received. Dropping it discards it.
pub struct PartStage {
    /// Where the body is written, from [`PartStage::offset`] on and never beyond the announced length.
    /// Whoever keeps a clone keeps the place taken.
    pub file: Arc<File>,
    /// Where the first byte of the body goes.
    pub offset: u64,
    /// Is the file on a filesystem of another machine?
    pub remote: bool,
    /// Room on the disk for an announced length, to be claimed before each write.
    pub room: Room,
    number: u16,
    length: Option<u64>,
    place: Place,
    folder: Arc<Folder>,
}

/// Where a part is being written.
enum Place {
    /// Into the assembly; the region is locked to this length.
    Assembly { stride: u64 },
    /// Into a file of its own.
    Own(Stage),
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReceipt {
    /// Its number.
    pub number: u16,
    /// Its entity tag: the MD5 of its bytes.
    pub etag: ETag,
    /// Its size in bytes.
    pub size: u64,
    /// When it was stored.
    pub modified: Timestamp,
    /// Its checksum, of the upload's algorithm or the one that the client sent.
    pub checksum: Option<Checksum>,
}

/// A page of an upload's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPage {
    /// Parts in order of their numbers.
    pub parts: Vec<PartReceipt>,
    /// Are there more?
    pub truncated: bool,
}

impl Upload {
    /// Begins part `number`; its length, where known, is preallocated, ahead of the bytes (a disk
    /// without room for it shows here). Blocking.
    ///
    /// # Errors
    /// `InvalidRequest` for a number outside 1 to 10,000, `NoSuchUpload` where the upload ended meanwhile,
    /// and what the disk says.
    pub fn begin_part(&self, number: u16, length: Option<u64>) -> Result<PartStage> {
        self.folder.bucket().check_writable()?;
        if !(1..=MAX_PART).contains(&number) {
            return Err(StoreError::InvalidRequest(format!(
                "part number {number} is not in 1 to {MAX_PART}"
            )));
        }
        let slots = self.folder.lock_slots()?;
        let head = slots.live_head()?;
        let claimed = match length {
            Some(length) => self.claim(&slots, head, number, length)?,
            None => None,
        };
        drop(slots);
        let remote = self.folder.bucket().is_remote();
        let folder = Arc::clone(&self.folder);
        let mut stage = match claimed {
            Some((file, stride)) => PartStage {
                file: Arc::new(file),
                offset: u64::from(number - 1) * stride,
                remote,
                room: Room::default(),
                number,
                length,
                place: Place::Assembly { stride },
                folder,
            },
            None => {
                let own = self.folder.new_file()?;
                PartStage {
                    file: Arc::clone(&own.file),
                    offset: 0,
                    remote,
                    room: Room::default(),
                    number,
                    length,
                    place: Place::Own(own),
                    folder,
                }
            }
        };
        stage.preallocate()?;
        Ok(stage)
    }

    /// The part's region of the assembly, if it may be written there: the file, locked, and the stride.
    fn claim(
        &self,
        slots: &Slots<'_>,
        head: Head,
        number: u16,
        length: u64,
    ) -> Result<Option<(File, u64)>> {
        let is_usual = number == 1 || length >= LEAST_STRIDE;
        let stride = match head.stride {
            0 if is_usual => length,
            stride => stride,
        };
        let fits = (1..=stride).contains(&length)
            && u64::from(number)
                .checked_mul(stride)
                .is_some_and(|end| i64::try_from(end).is_ok());
        if head.state != State::Open || !fits || !slots.is_untouched(number)? {
            return Ok(None);
        }
        let Some(assembly) = self.folder.open_base(ASSEMBLY, OFlags::RDWR)? else {
            return Ok(None);
        };
        if !self
            .folder
            .claim(&assembly, u64::from(number - 1) * stride, stride)?
        {
            return Ok(None);
        }
        if head.stride == 0 {
            slots.set_head(Head { stride, ..head })?;
        }
        Ok(Some((assembly, stride)))
    }

    /// Stores a part whose body was received whole and verified. `checksum` is what the client sent; the
    /// upload's own algorithm is taken from `digests` where it sent none. Blocking.
    ///
    /// # Errors
    /// `InvalidRequest` where length or algorithm contradict what was said before, `NoSuchUpload` where
    /// the upload ended meanwhile, and what the disk says. What was stored under the number stays.
    pub fn commit_part(
        &self,
        stage: PartStage,
        digests: &Digests,
        checksum: Option<Checksum>,
    ) -> Result<PartReceipt> {
        if let Some(length) = stage.length.filter(|length| *length != digests.length) {
            let text = format!(
                "part {} has {} bytes where {length} were announced",
                stage.number, digests.length
            );
            return Err(StoreError::InvalidRequest(text));
        }
        let slot = Slot {
            source: Source::Assembly(stage.offset),
            size: digests.length,
            md5: digests.md5.ok_or_else(no_md5)?,
            crc64: digests.crc64,
            checksum: self.part_checksum(digests, checksum)?,
            modified: Timestamp::now(),
            boot: self.folder.bucket().boot_id(),
            unsynced: !self.folder.bucket().syncs_uploads(),
        };
        let number = stage.number;
        let slot = match &stage.place {
            Place::Assembly { .. } => self.commit_in_place(stage, slot)?,
            Place::Own(_) => self.commit_own_file(stage, slot)?,
        };
        Ok(receipt(number, slot))
    }

    /// The checksum that the slot keeps.
    fn part_checksum(&self, digests: &Digests, sent: Option<Checksum>) -> Result<Option<Checksum>> {
        let Some((algorithm, _)) = self.spec().checksum else {
            return Ok(sent);
        };
        match sent {
            Some(sent) if sent.algorithm != algorithm => Err(mismatch(algorithm, sent.algorithm)),
            Some(sent) => Ok(Some(sent)),
            None => digests.checksum(algorithm).map(Some).ok_or_else(|| {
                let name = super::document::algorithm_name(algorithm);
                StoreError::InvalidRequest(format!(
                    "the part has no {name} checksum, which its upload asks for"
                ))
            }),
        }
    }

    fn commit_in_place(&self, stage: PartStage, slot: Slot) -> Result<Slot> {
        self.folder.bucket().sync_uploads(&[&stage.file], &[])?;
        let replaced = self.switch(stage.number, &slot)?;
        if let Place::Assembly { stride } = stage.place {
            // Nobody writes any more: a Complete that comes now finds the assembly quiet.
            self.folder.release(&stage.file, stage.offset, stride)?;
        }
        self.finish(replaced)?;
        Ok(slot)
    }

    fn commit_own_file(&self, mut stage: PartStage, mut slot: Slot) -> Result<Slot> {
        let nonce = random::number();
        let base = Base {
            number: stage.number,
            source: Source::File(nonce),
        };
        slot.source = base.source;
        let Place::Own(own) = &mut stage.place else {
            unreachable!("the caller looked")
        };
        {
            // Abort takes the directory away under this lock: no name comes into it after that.
            let slots = self.folder.lock_slots()?;
            slots.live_head()?;
            self.folder.name_file(own, base)?;
        }
        let stored = self
            .folder
            .bucket()
            .sync_uploads(&[&stage.file], &[&self.folder.dir])
            .and_then(|()| self.switch(stage.number, &slot));
        match stored {
            Ok(replaced) => self.finish(replaced)?,
            Err(e) => {
                self.folder.remove_base(base);
                return Err(e);
            }
        }
        Ok(slot)
    }

    /// Makes the slot refer to the new bytes; gives the file that nothing refers to any more.
    fn switch(&self, number: u16, slot: &Slot) -> Result<Option<Base>> {
        let slots = self.folder.lock_slots()?;
        let head = slots.live_head()?;
        let replaced = slots.get(number)?.map(|slot| slot.source);
        slots.put(number, slot)?;
        let free = replaced
            .filter(|source| matches!(source, Source::File(_)))
            .map(|source| Base { number, source });
        // A Complete is publishing that very file; its absence would say that it did.
        Ok(free.filter(|base| head.state != State::Publishing(*base)))
    }

    /// Makes the switch durable, then frees what it replaced.
    fn finish(&self, free: Option<Base>) -> Result<()> {
        self.folder.sync_slots()?;
        if let Some(base) = free {
            self.folder.remove_base(base);
        }
        Ok(())
    }

    /// Stores a range of an object (`None`: all of it) as a part, by reflink where the filesystem can.
    /// Blocking.
    ///
    /// # Errors
    /// As [`Upload::begin_part`] and [`Upload::commit_part`]; `InvalidRequest` for a range that the source
    /// has not, `Unavailable` where the source changed meanwhile.
    pub fn copy_part(
        &self,
        number: u16,
        source: &Object,
        range: Option<Range<u64>>,
    ) -> Result<PartReceipt> {
        let range = range.unwrap_or(0..source.info.size);
        if range.start > range.end || range.end > source.info.size {
            return Err(StoreError::InvalidRequest(format!(
                "Range specified is not valid for source object of size: {}",
                source.info.size
            )));
        }
        let length = range.end - range.start;
        let stage = self.begin_part(number, Some(length))?;
        if let Some(file) = &source.file {
            copy_range(file, range.start, &stage.file, stage.offset, length)
                .map_err(|e| self.failed(e))?;
        }
        // The digest is of what was stored, not of what was read: a source that changes is then seen below.
        let algorithm = self.spec().checksum.map(|(algorithm, _)| algorithm);
        let digests = digest_range(&stage.file, stage.offset, length, algorithm)
            .map_err(|e| self.failed(e))?;
        if !source.unchanged().map_err(|e| self.failed(e))? {
            return Err(StoreError::Unavailable(
                "the source, which is being changed,".to_owned(),
            ));
        }
        self.commit_part(stage, &digests, None)
    }

    /// Lists parts with numbers above `after`, at most `max`. Blocking.
    ///
    /// # Errors
    /// `NoSuchUpload` where the upload ended meanwhile, and what the disk says.
    pub fn parts(&self, after: u16, max: usize) -> Result<PartPage> {
        let stored = self.folder.stored()?;
        if !self
            .folder
            .head()?
            .is_some_and(|head| self.folder.is_alive(head).unwrap_or(false))
        {
            return Err(gone(&self.folder.id));
        }
        let mut rest = stored.into_iter().filter(|(number, _)| *number > after);
        let parts: Vec<_> = rest
            .by_ref()
            .take(max)
            .map(|(number, slot)| receipt(number, slot))
            .collect();
        Ok(PartPage {
            truncated: max > 0 && rest.next().is_some(),
            parts,
        })
    }

    pub(super) fn failed(&self, e: impl Into<io::Error>) -> StoreError {
        StoreError::from_io(&self.folder.document.key, e.into())
    }
}

impl PartStage {
    /// The length that was announced.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    fn preallocate(&mut self) -> Result<()> {
        let Some(length) = self.length.filter(|length| *length > 0) else {
            return Ok(());
        };
        self.room = Room::begin(&self.file, self.offset, length)
            .map_err(|e| StoreError::from_io(&self.folder.document.key, e))?;
        Ok(())
    }
}

pub(super) fn receipt(number: u16, slot: Slot) -> PartReceipt {
    PartReceipt {
        number,
        etag: ETag::Md5(slot.md5),
        size: slot.size,
        modified: slot.modified,
        checksum: slot.checksum,
    }
}

/// The error of a part whose MD5 nobody computed: the ETag of the whole is made of them.
fn no_md5() -> StoreError {
    StoreError::InvalidRequest("the part has no MD5".to_owned())
}

/// The error of a checksum that is not the upload's.
pub(super) fn mismatch(expected: Algorithm, sent: Algorithm) -> StoreError {
    let name = super::document::algorithm_name;
    StoreError::InvalidRequest(format!(
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
        name(expected).to_ascii_lowercase(),
        name(sent).to_ascii_lowercase(),
    ))
}

/// Copies bytes between files within the kernel, as shared extents where the filesystem can.
pub(super) fn copy_range(
    from: &File,
    mut at: u64,
    to: &File,
    mut target: u64,
    mut left: u64,
) -> io::Result<()> {
    while left > 0 {
        let chunk = usize::try_from(left.min(1 << 30)).expect("1 GiB fits");
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut target), chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => left -= n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return read_and_write(from, at, to, target, left);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn read_and_write(
    from: &File,
    mut at: u64,
    to: &File,
    mut target: u64,
    mut left: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let chunk = &mut buffer[..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
        from.read_exact_at(chunk, at)?;
        to.write_all_at(chunk, target)?;
        at += chunk.len() as u64;
        target += chunk.len() as u64;
        left -= chunk.len() as u64;
    }
    Ok(())
}

/// Reads a range and computes MD5, CRC64NVME and one more.
pub(super) fn digest_range(
    file: &File,
    mut at: u64,
    mut left: u64,
    extra: Option<Algorithm>,
) -> io::Result<Digests> {
    let mut digester = Digester::new(extra.as_slice());
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let chunk = &mut buffer[..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
        file.read_exact_at(chunk, at)?;
        digester.update(chunk);
        at += chunk.len() as u64;
        left -= chunk.len() as u64;
    }
    Ok(digester.finish())
}

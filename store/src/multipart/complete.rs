//! Complete: check the list, make the parts one file, publish it. Idempotent and truthful: what was
//! published is proved by the upload id in the object's record, never by the key's existence.
//!
//! Whatever fails, and wherever the process dies, the upload is still usable or the object is published:
//! the head names the file that is about to be renamed away, and the file's absence is the proof.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::Upload;
use super::folder::gone;
use super::id::UploadId;
use super::part::{copy_range, digest_range};
use super::plan::{Files, Piece, Plan, plan};
use super::slot::{Base, Head, Slot, Source, State};
use super::whole::{Whole, listed_etag};
use crate::publish::{Content, Finished};
use crate::{
    Access, Algorithm, Bucket, Checksum, ChecksumType, ObjectKey, Published, Result, Stage,
    StoreError, WriteConditions, random,
};

/// How often parts may be replaced under a Complete before it gives up.
const MAX_ROUNDS: u32 = 16;
/// Own files up to which the directory is removed before the answer: a few unlinks.
const QUICK: usize = 2;

/// A part as the client lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPart {
    /// Its number.
    pub number: u16,
    /// Its entity tag as sent, with or without quotes.
    pub etag: String,
    /// Its checksums as sent.
    pub checksums: Vec<Checksum>,
}

/// What a Complete asks for and expects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompleteRequest {
    /// The parts, in order.
    pub parts: Vec<ListedPart>,
    /// Tested under the key's lock.
    pub conditions: WriteConditions,
    /// The least size in bytes of every part but the last.
    pub min_part: u64,
    /// The size that the object must have, if the client said one.
    pub size: Option<u64>,
    /// The checksum that the object must have, if the client said one.
    pub checksum: Option<Checksum>,
    /// The checksum type that the upload must have, if the client said one.
    pub checksum_type: Option<ChecksumType>,
}

/// A file that holds the whole object.
struct Assembled {
    stage: Stage,
    /// Its name in the upload's directory; `None`: it lies on another filesystem, the target's.
    base: Option<Base>,
}

/// A round of Complete ended without an object.
enum Again {
    /// This part was replaced meanwhile, or its file is gone.
    PartChanged(u16),
    /// It failed.
    Failed(StoreError),
}

impl From<StoreError> for Again {
    fn from(e: StoreError) -> Self {
        Self::Failed(e)
    }
}

impl Bucket {
    /// Makes an upload's listed parts the object. Blocking; gathering odd parts may take long.
    ///
    /// # Errors
    /// `InvalidPartOrder`, `InvalidPart`, `PartTooSmall`, `InvalidRequest` and `BadDigest` for a request
    /// that contradicts the upload, what [`Bucket::publish`] says, `NoSuchUpload`. A failed Complete
    /// keeps the upload.
    pub fn complete_upload(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        request: &CompleteRequest,
    ) -> Result<Published> {
        self.check_writable()?;
        if !request.parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(StoreError::InvalidPartOrder);
        }
        let Some(upload) = self.find_upload(key, id)? else {
            return self.completed_before(key, id, request);
        };
        let ending = upload.folder.lock_ending()?;
        let head = upload.folder.head()?;
        let alive = match head {
            Some(head) => upload.folder.is_alive(head)?,
            None => false,
        };
        if !alive {
            drop(ending);
            return self.completed_before(key, id, request);
        }
        if head.is_some_and(|head| head.state != State::Open) {
            // A Complete died here. It may have published a copy of the file that the head names.
            if let Ok(published) = self.completed_before(key, id, request) {
                upload.note_published();
                drop(ending);
                upload.clean_up();
                return Ok(published);
            }
        }
        let published = match upload.complete(key, request) {
            // A power cut may have lost the head that says so.
            Err(e @ StoreError::InvalidPart(_)) if !upload.folder.is_movable()? => {
                self.completed_before(key, id, request).or(Err(e))?
            }
            other => other?,
        };
        drop(ending);
        upload.clean_up();
        Ok(published)
    }

    /// The answer that an earlier Complete gave, if the key still holds what it made.
    fn completed_before(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        request: &CompleteRequest,
    ) -> Result<Published> {
        let mut object = match self.open(key, Access::Blocking) {
            Ok(object) => object,
            Err(StoreError::NoSuchKey(_)) => return Err(gone(id)),
            Err(e) => return Err(e),
        };
        // The record of an object that is too young for a coarse clock, or was chmodded since, is believed
        // once the content was read: the retry of a Complete whose answer was lost comes at once.
        let listed = listed_etag(&request.parts);
        if listed.is_some() && object.info.recorded == listed {
            object = self.settle(key, object)?;
        }
        let info = object.info;
        let numbers = || request.parts.iter().map(|part| part.number);
        let same_list =
            info.parts.is_empty() || info.parts.iter().map(|part| part.number).eq(numbers());
        let ours = info.upload_id.as_deref() == Some(id.as_str());
        match info.checksum {
            Some(checksum) if ours && same_list && listed == Some(info.etag) => {
                // Who published it may have died before the directories were synced.
                if let Some(file) = &object.file {
                    self.sync_content(file)?;
                }
                self.sync_ancestors(key)?;
                Ok(Published {
                    etag: info.etag,
                    modified: info.modified,
                    size: info.size,
                    checksum,
                })
            }
            _ => Err(gone(id)),
        }
    }
}

impl Upload {
    /// Checks and publishes, with the ending lock held.
    fn complete(&self, key: &ObjectKey, request: &CompleteRequest) -> Result<Published> {
        let mut missing = 0;
        for _ in 0..MAX_ROUNDS {
            let stored = self.folder.stored()?;
            let listed = self.check_list(request, &stored)?;
            let whole = self.whole(&listed);
            self.check_whole(request, &whole, &listed)?;
            self.check_unsynced(&listed)?;
            match self.assemble(key, &listed, whole.size) {
                Ok(assembled) => {
                    return self.publish(key, assembled, whole, request.conditions.clone());
                }
                Err(Again::PartChanged(number)) => missing = number,
                Err(Again::Failed(e)) => return Err(e),
            }
        }
        Err(StoreError::InvalidPart(missing))
    }

    /// Reads again what another boot wrote without a sync: a power cut may have eaten it.
    fn check_unsynced(&self, listed: &[(u16, Slot)]) -> Result<()> {
        let boot = self.folder.bucket().boot_id();
        for (number, slot) in listed
            .iter()
            .filter(|(_, slot)| slot.unsynced && slot.boot != boot)
        {
            let (base, at) = place(*number, slot.source);
            let Some(file) = self.folder.open_base(base, OFlags::RDONLY)? else {
                return Err(StoreError::InvalidPart(*number));
            };
            let digests = digest_range(&file, at, slot.size, None);
            if !digests.is_ok_and(|digests| digests.crc64 == slot.crc64) {
                return Err(StoreError::InvalidPart(*number));
            }
        }
        Ok(())
    }

    /// Makes the listed parts one file of this size, and the head name it.
    fn assemble(
        &self,
        key: &ObjectKey,
        listed: &[(u16, Slot)],
        size: u64,
    ) -> Result<Assembled, Again> {
        let slots = self.folder.lock_slots()?;
        let head = slots.live_head()?;
        let stored = self.folder.stored()?;
        let now = |number: &u16| {
            stored
                .binary_search_by_key(number, |(n, _)| *n)
                .ok()
                .map(|at| &stored[at].1)
        };
        if let Some((number, _)) = listed
            .iter()
            .find(|(number, slot)| now(number) != Some(slot))
        {
            return Err(Again::PartChanged(*number));
        }
        let (files, assembly) = self.quiet_assembly()?;
        let (base, patches) = match plan(listed, &stored, files) {
            Plan::InPlace { base, patches } => (base, patches),
            Plan::Gather(pieces) => {
                drop((slots, assembly));
                return self.gather(key, &pieces, files, size);
            }
        };
        slots.set_head(Head {
            state: State::Publishing(base),
            ..head
        })?;
        drop(slots);
        let file = match base.source {
            Source::Assembly(_) => assembly,
            Source::File(_) => self.folder.open_base(base, OFlags::RDWR)?,
        };
        let assembled = match file {
            Some(file) => self.patch(file, &patches, base, size),
            None => Err(Again::PartChanged(base.number)),
        };
        if assembled.is_err() {
            self.reopen(base)?;
        }
        assembled
    }

    /// The assembly, locked against every other writer, if nobody writes into it.
    fn quiet_assembly(&self) -> Result<(Files, Option<File>)> {
        let base = Base {
            number: 0,
            source: Source::Assembly(0),
        };
        let Some(file) = self.folder.open_base(base, OFlags::RDWR)? else {
            return Ok((Files::Foreign, None));
        };
        if self.folder.claim(&file, 0, 0)? {
            return Ok((Files::Quiet, Some(file)));
        }
        Ok((Files::Busy, None))
    }

    fn patch(
        &self,
        file: File,
        patches: &[Piece],
        base: Base,
        size: u64,
    ) -> Result<Assembled, Again> {
        self.copy_pieces(patches, &file)?;
        if matches!(base.source, Source::Assembly(_)) {
            file.set_len(size).map_err(|e| self.failed(e))?;
        }
        Ok(Assembled {
            stage: self.folder.staged(file, base)?,
            base: Some(base),
        })
    }

    fn gather(
        &self,
        key: &ObjectKey,
        pieces: &[Piece],
        files: Files,
        size: u64,
    ) -> Result<Assembled, Again> {
        if files == Files::Foreign {
            let stage = self.folder.bucket().stage(key, Some(size))?;
            self.copy_pieces(pieces, &stage.file)?;
            return Ok(Assembled { stage, base: None });
        }
        let mut new = self.folder.new_file()?;
        self.copy_pieces(pieces, &new.file)?;
        let base = Base {
            number: 0,
            source: Source::File(random::number()),
        };
        let slots = self.folder.lock_slots()?;
        let head = slots.live_head()?;
        self.folder.name_file(&mut new, base)?;
        slots.set_head(Head {
            state: State::Publishing(base),
            ..head
        })?;
        drop(slots);
        let file = new.file.try_clone().map_err(|e| self.failed(e))?;
        Ok(Assembled {
            stage: self.folder.staged(file, base)?,
            base: Some(base),
        })
    }

    fn copy_pieces(&self, pieces: &[Piece], to: &File) -> Result<(), Again> {
        let mut open: Option<(Base, File)> = None;
        for piece in pieces {
            let (base, at) = place(piece.number, piece.source);
            if open.as_ref().is_none_or(|(name, _)| *name != base) {
                let file = self
                    .folder
                    .open_base(base, OFlags::RDONLY)?
                    .ok_or(Again::PartChanged(piece.number))?;
                open = Some((base, file));
            }
            let (_, from) = open.as_ref().expect("it was just opened");
            copy_range(from, at, to, piece.target, piece.size).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// Publishes through the one door, and notes in the head what became of it.
    fn publish(
        &self,
        key: &ObjectKey,
        assembled: Assembled,
        whole: Whole,
        conditions: WriteConditions,
    ) -> Result<Published> {
        let Assembled { stage, base } = assembled;
        let finished = Finished {
            content: Content {
                etag: whole.etag,
                size: whole.size,
                crc64: whole.crc64,
                // CRC64NVME is in every record.
                checksum: Some(whole.checksum)
                    .filter(|c| c.checksum.algorithm != Algorithm::Crc64Nvme),
                parts: whole.parts,
                upload_id: Some(self.folder.id.to_string()),
            },
            meta: self.spec().meta.clone(),
            old_json: None,
            conditions,
        };
        // The head must not be older than the rename after a power cut: a retry would publish twice.
        let published = self
            .folder
            .sync_slots()
            .and_then(|()| self.folder.bucket().publish_content(key, stage, &finished));
        match (&published, base) {
            (Ok(_), _) => self.note_published(),
            (Err(_), Some(base)) => self.reopen(base)?,
            (Err(_), None) => {}
        }
        published
    }

    fn note_published(&self) {
        let noted = self.folder.lock_slots().and_then(|slots| {
            let stride = self.folder.head()?.map_or(0, |head| head.stride);
            slots.set_head(Head {
                state: State::Published,
                stride,
            })
        });
        if let Err(e) = noted {
            // The object is there, its record names the upload, and the file is gone: that is proof enough.
            tracing::warn!(
                upload = self.folder.id.as_str(),
                "its completion is not noted: {e}"
            );
        }
    }

    /// The object did not come to be: the upload takes parts as before, unless the file was renamed away.
    fn reopen(&self, base: Base) -> Result<()> {
        let slots = self.folder.lock_slots()?;
        let Ok(head) = slots.live_head() else {
            return Ok(());
        };
        if head.state == State::Publishing(base) {
            slots.set_head(Head {
                state: State::Open,
                ..head
            })?;
        }
        drop(slots);
        if base.number == 0 && matches!(base.source, Source::File(_)) {
            self.folder.remove_base(base); // gathered, not a part
        }
        Ok(())
    }

    /// Removes what is left, after the answer where it takes long.
    fn clean_up(self) {
        let folder = self.folder;
        if folder.own_files() <= QUICK {
            return folder.remove();
        }
        let left = Arc::clone(&folder);
        let spawned = std::thread::Builder::new()
            .name("twintree-unlink".to_owned())
            .spawn(move || left.remove());
        if let Err(e) = spawned {
            tracing::warn!("no thread to remove a completed upload's parts: {e}");
            folder.remove();
        }
    }
}

/// Where a part's bytes lie: the file, and the offset in it.
fn place(number: u16, source: Source) -> (Base, u64) {
    match source {
        Source::Assembly(offset) => (
            Base {
                number: 0,
                source: Source::Assembly(0),
            },
            offset,
        ),
        Source::File(_) => (Base { number, source }, 0),
    }
}

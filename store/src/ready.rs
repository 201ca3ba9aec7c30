//! Objects for who asks for them again and again: what a quiet file is, and the heads of the answers that were made
//! of that, are kept by what stat shows of the file.
//!
//! A portrait is drawn by [`record::describe`] and kept of files whose xattrs are. It is looked at while the file shows
//! the very state that it was drawn of, its record is remembered as true of that state, and nobody has the file open
//! for writing: what is judged anew in every other case would then say the same.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use rustix::fs::Stat;

use crate::object::Claim;
use crate::open::Found;
use crate::record::memory::Recall;
use crate::record::{self, FileState, Xattrs};
use crate::{Access, Bucket, ObjectInfo, ObjectKey};

/// How many portraits are kept at most: some 16 MiB.
pub(crate) const PORTRAITS: usize = 3 << 12;
/// How many kinds of heads a portrait has room for.
pub const HEADS: usize = 2;

/// What is answered about a file in one state.
pub struct Portrait {
    /// As [`Bucket::open`] gives it.
    pub info: ObjectInfo,
    heads: [OnceLock<Box<[u8]>>; HEADS],
    state: FileState,
    /// The bucket's identity, and the key: the name says the Content-Type of what nobody PUT.
    of: ((u64, u64), ObjectKey),
    /// Those of the file, where they are kept.
    xattrs: Option<Arc<Xattrs>>,
}

impl Portrait {
    /// The head of one kind; made once, of what is described here and of nothing else.
    pub fn head(&self, kind: usize, make: impl FnOnce(&ObjectInfo) -> Box<[u8]>) -> &[u8] {
        self.heads[kind].get_or_init(|| make(&self.info))
    }
}

/// An open object that can be answered at once.
pub struct Ready<'a> {
    /// Its bytes.
    pub file: File,
    /// What it is.
    pub portrait: Arc<Portrait>,
    bucket: &'a Bucket,
    /// [`crate::Changes::openings`] before it was looked at.
    openings: u64,
}

impl Bucket {
    /// Opens a file that is an object, without waiting for anything; `None`: only [`Bucket::open`] can tell.
    pub fn open_ready(&self, key: &ObjectKey) -> Option<Ready<'_>> {
        if self.is_remote() {
            return None;
        }
        let openings = self.store.changes.openings();
        let Found::File(file, stat) = self.find(key, Access::Cached).ok()?? else {
            return None;
        };
        if self.is_remote_file(&file, &stat) {
            return None;
        }
        let file = File::from(file);
        let state = FileState::of(&stat);
        let portrait = match self.portrait(key, &state) {
            Some(portrait) => portrait,
            None => self.draw(key, &file, &stat)?,
        };
        Some(Ready {
            file,
            portrait,
            bucket: self,
            openings,
        })
    }

    /// The portrait of a file that shows this, if there is one and it is still like it.
    fn portrait(&self, key: &ObjectKey, state: &FileState) -> Option<Arc<Portrait>> {
        let judge = &self.store.judge;
        let portrait = judge.portraits.get(state)?;
        let record = portrait.xattrs.as_ref().and_then(|kept| kept.record());
        let is_true =
            record.is_none_or(|record| judge.memory.recall(state, record) == Recall::Same);
        let is_open = self.store.changes.in_flux(state.inode()).is_some();
        let (bucket, named) = &portrait.of;
        (is_true && !is_open && *bucket == self.shared.id && named == key).then_some(portrait)
    }

    fn draw(&self, key: &ObjectKey, file: &File, stat: &Stat) -> Option<Arc<Portrait>> {
        let state = FileState::of(stat);
        let judge = &self.store.judge;
        let xattrs = judge.xattrs.get(&state);
        let info = record::describe(self, file, stat, key.as_str(), Access::Cached).ok()?;
        let is_kept = xattrs.is_some() && !info.in_flux;
        let portrait = Arc::new(Portrait {
            info,
            heads: Default::default(),
            state,
            of: (self.shared.id, key.clone()),
            xattrs,
        });
        if is_kept {
            judge.portraits.keep(state, Arc::clone(&portrait));
        }
        Some(portrait)
    }
}

impl Ready<'_> {
    /// As [`crate::Object::unchanged`]: to be asked after reading bytes, and before they are let go.
    ///
    /// # Errors
    /// As there.
    pub fn unchanged(&self) -> std::io::Result<bool> {
        let now = FileState::of(&rustix::fs::fstat(&self.file)?);
        let Portrait { info, state, .. } = &*self.portrait;
        if (now.size, now.modified) != (state.size, state.modified) {
            return Ok(false);
        }
        let changes = &self.bucket.store.changes;
        let is_still = now == *state && !now.is_in_whole_seconds();
        if is_still
            && changes.openings() == self.openings
            && changes.in_flux(state.inode()).is_none()
        {
            return Ok(true);
        }
        match Claim::of(self.bucket, state.inode(), info, self.openings) {
            Some(claim) => claim.holds(&self.file, &now).map_err(std::io::Error::other),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests;

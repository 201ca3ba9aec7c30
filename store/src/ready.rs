//! Objects for who asks for them again and again: what a quiet file is, and the heads of the answers that were made
//! of that, are kept by what stat shows of the file.
//!
//! A portrait is drawn by [`record::describe`] and kept of files whose xattrs are. It is looked at while the file shows
//! the very state that it was drawn of, its record is remembered as true of that state, and nobody has the file open
//! for writing: what is judged anew in every other case would then say the same.
//!
//! Such a file is opened by its whole path ([`Store::open_at_once`]): that path leads through the root and the bucket as
//! they are now, and what it leads to shows itself to be the file of the portrait, so that neither has to be looked at.

use std::ffi::CStr;
use std::fs::File;
use std::sync::{Arc, OnceLock};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::object::{Claim, Watched};
use crate::open::Found;
use crate::record::memory::Recall;
use crate::record::{self, FileState, Xattrs};
use crate::root::kind;
use crate::shared::Held;
use crate::{Access, Bucket, BucketName, ObjectInfo, ObjectKey, Store, path};

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

/// The longest whole path of a file that is opened at once, in bytes.
const MAX_PATH: usize = 512;

/// A file that was opened at once, and may be one of a portrait.
pub struct AtOnce<'a> {
    /// Its bytes, as far as [`AtOnce::portrait`] then knows them.
    pub file: File,
    store: &'a Store,
    /// The bucket's directory.
    held: Arc<Held>,
    key: &'a ObjectKey,
    /// What it showed when it was looked at last.
    stat: Option<Stat>,
    /// [`crate::Changes::openings`] before it was opened.
    openings: u64,
}

impl Store {
    /// Opens what lies at a key's own path, in one call that waits for nothing. `None`: there is no such file, or only
    /// [`Bucket::open_ready`] or [`Bucket::open`] can tell.
    pub fn open_at_once<'a>(
        &'a self,
        bucket: &BucketName,
        key: &'a ObjectKey,
    ) -> Option<AtOnce<'a>> {
        let openings = self.changes.openings();
        let held = match self.mapped.get(bucket) {
            Some(mapped) => Some(Arc::new(self.hold_mapped(bucket, mapped))),
            // A root before may have a bucket of this name by now.
            None => self
                .buckets
                .held(bucket.as_str())
                .filter(|held| held.root == 0),
        };
        let held = held?;
        if held.shared.facts.remote || self.hide.hides(bucket.as_str().as_bytes()) {
            return None;
        }
        held.tree.check_hidden(key).ok()?;
        let native = path::native(key).filter(|native| !native.trailing_slash)?;
        let mut whole = [0; MAX_PATH];
        let (bucket, native) = (held.path.to_bytes(), native.as_bytes());
        let end = bucket.len() + 1 + native.len();
        whole.get_mut(..bucket.len())?.copy_from_slice(bucket);
        *whole.get_mut(bucket.len())? = b'/';
        // At least one zero is left behind it.
        let place = whole.get_mut(bucket.len() + 1..end + 1)?;
        place[..native.len()].copy_from_slice(native);
        let whole = CStr::from_bytes_with_nul(&whole[..=end]).ok()?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let resolve =
            ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
        let open = |flags| fs::openat2(fs::CWD, whole, flags, Mode::empty(), resolve);
        let file = match open(flags | OFlags::NOATIME) {
            // Linux: O_NOATIME is for the owner only (open(2), EPERM).
            Err(Errno::PERM) => open(flags).ok()?,
            file => file.ok()?,
        };
        Some(AtOnce {
            file: File::from(file),
            store: self,
            held,
            key,
            stat: None,
            openings,
        })
    }

    /// The portrait of a file that shows this, if there is one and it is still like it.
    fn portrait(
        &self,
        bucket: (u64, u64),
        key: &ObjectKey,
        state: &FileState,
    ) -> Option<Arc<Portrait>> {
        let judge = &self.judge;
        let portrait = judge.portraits.get(state)?;
        let record = portrait.xattrs.as_ref().and_then(|kept| kept.record());
        let is_true =
            record.is_none_or(|record| judge.memory.recall(state, record) == Recall::Same);
        let is_open = self.changes.in_flux(state.inode()).is_some();
        let (of, named) = &portrait.of;
        (is_true && !is_open && *of == bucket && named == key).then_some(portrait)
    }
}

impl AtOnce<'_> {
    /// What the file is, if it shows the state of a portrait: then bytes that were read of it before are bytes of that
    /// state, for every change since it was drawn would show.
    pub fn portrait(&mut self) -> Option<Arc<Portrait>> {
        let stat = *self.stat.insert(fs::fstat(&self.file).ok()?);
        let state = FileState::of(&stat);
        if stat.st_dev != self.held.shared.id.0 || state.is_in_whole_seconds() {
            return None;
        }
        let portrait = self.store.portrait(self.held.shared.id, self.key, &state)?;
        (self.store.changes.openings() == self.openings).then_some(portrait)
    }

    /// The file of a portrait, to be sent at leisure; `None` beside a mount, where somebody may write in place after it
    /// was asked whether it is what it was.
    pub fn watched(self, portrait: &Portrait) -> Option<Watched> {
        if self.store.changes.is_heard() {
            return None;
        }
        let Portrait { info, state, .. } = portrait;
        let inode = state.inode();
        Some(Watched {
            claim: Claim::beneath(&self.held.tree, self.store, inode, info, self.openings),
            file: Arc::new(self.file),
            stamp: (info.size, info.modified),
        })
    }
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
        self.ready(key, File::from(file), &stat, openings)
    }

    /// As [`Bucket::open_ready`], of what was opened at once, and had no portrait.
    pub fn ready_of(&self, opened: AtOnce<'_>) -> Option<Ready<'_>> {
        let stat = opened.stat?;
        let is_file = kind(&stat) == FileType::RegularFile;
        // Its bucket may be another by now.
        (is_file && self.shared.id == opened.held.shared.id)
            .then(|| self.ready(opened.key, opened.file, &stat, opened.openings))?
    }

    fn ready(&self, key: &ObjectKey, file: File, stat: &Stat, openings: u64) -> Option<Ready<'_>> {
        if self.is_remote_file(&file, stat) {
            return None;
        }
        let portrait = match self
            .store
            .portrait(self.shared.id, key, &FileState::of(stat))
        {
            Some(portrait) => portrait,
            None => self.draw(key, &file, stat)?,
        };
        Some(Ready {
            file,
            portrait,
            bucket: self,
            openings,
        })
    }

    fn draw(&self, key: &ObjectKey, file: &File, stat: &Stat) -> Option<Arc<Portrait>> {
        let state = FileState::of(stat);
        let judge = &self.store.judge;
        let info = record::describe(self, file, stat, key.as_str(), Access::Cached).ok()?;
        let xattrs = judge.xattrs.get(&state);
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

//! Changing what is said of an object without touching its content: tags, and a copy onto itself.
//!
//! The meta half is replaced by one fsetxattr; that moves ctime, so the record is stamped again at
//! once. A reader who comes in between waits for the key's lock and looks again.

use std::os::fd::{AsFd, OwnedFd};

use crate::open::Found;
use crate::record::{Examined, FileState, Record, Verdict, describe_locked, disk, examine, kind};
use crate::{Access, Bucket, Meta, ObjectKey, Result, StoreError, content_type};

impl Bucket {
    /// Replaces the tags of `key` (empty: none) without touching content; re-stamps at once.
    ///
    /// # Errors
    /// `NoSuchKey` and what the disk says.
    pub fn set_tags(&self, key: &ObjectKey, tags: Vec<(String, String)>) -> Result<()> {
        self.check_writable()?;
        let held = self.lock_key(key)?;
        let missing = || StoreError::NoSuchKey(key.to_string());
        match self.find(key, Access::Blocking)?.ok_or_else(missing)? {
            Found::File(file, _) => {
                let (_, info) = describe_locked(self, &file, key.as_str())?;
                self.change_meta(&file, Meta { tags, ..info.meta })?;
                drop(held);
                self.announce_attributes(key, &file);
                self.sync_content(&file)
            }
            Found::Directory(dir, _) => {
                let old = disk::read_meta(&dir, None, &self.tree)?;
                let meta = old.as_deref().and_then(Meta::from_json).unwrap_or_default();
                let json = Meta { tags, ..meta }.to_json(true, old.as_deref());
                disk::set_meta(&dir, json.as_deref())
                    .map_err(|e| crate::root::system(key.as_str(), e))?;
                drop(held);
                self.announce_attributes(key, &dir);
                self.sync_entries([&dir])
            }
        }
    }

    /// Replaces the object half of a file whose key is locked. The content half stays what it is worth.
    pub(crate) fn change_meta(&self, file: &OwnedFd, meta: Meta) -> Result<()> {
        let state = FileState::look(file)?;
        let _held = self.store.changes.record(state.inode());
        // Under the record: a writer in the mount has dropped it by now, or finds what is written here.
        let examined = examine(self, file, FileState::look(file)?)?;
        let record = examined.verdict.record();
        let old = disk::read_meta(file, record, &self.tree)?;
        let put = record.filter(|record| !record.sealed);
        // A file nobody PUT keeps its type by extension: what was resolved for the answer is not written.
        let meta = if put.is_some() {
            meta
        } else {
            Meta {
                content_type: recorded_type(old.as_deref()),
                ..meta
            }
        };
        // The type goes into the JSON, where it wins over the record's code: so both halves change as one.
        let typed = match (&meta.content_type, put) {
            (None, Some(_)) => Meta {
                content_type: Some(content_type::NONE.into()),
                ..meta
            },
            _ => meta,
        };
        let json = typed.to_json(true, old.as_deref());
        match &examined.verdict {
            Verdict::Valid(before) => {
                let mut record = before.clone();
                record.type_code = if put.is_some() {
                    content_type::IN_META
                } else {
                    record.type_code
                };
                record.set_unsynced(self.unsynced_boot());
                let changed =
                    self.restamp_held(file, &examined.state, record, Some(json.as_deref()));
                if changed.is_err() {
                    self.put_back(file, &examined, before, old.as_deref());
                }
                changed.map(|_| ())
            }
            // Nothing is claimed of the content, so there is nothing to stamp.
            _ => disk::write_meta(file, record, json.as_deref(), &self.tree),
        }
    }

    /// The object half of a file as it stands, wherever it lies.
    pub(crate) fn posix_meta(&self, file: &OwnedFd) -> Result<Option<Vec<u8>>> {
        let examined = examine(self, file, FileState::look(file)?)?;
        disk::read_meta(file, examined.verdict.record(), &self.tree)
    }

    /// Replaces the object half of a file by JSON that somebody set in the mount, or removes it. The content
    /// half stays what it is worth.
    pub(crate) fn set_posix_meta(&self, file: &OwnedFd, json: Option<&[u8]>) -> Result<()> {
        let state = FileState::look(file)?;
        let _held = self.store.changes.record(state.inode());
        let examined = examine(self, file, FileState::look(file)?)?;
        let Verdict::Valid(mut record) = examined.verdict else {
            let record = examined.verdict.record();
            return disk::write_meta(file, record, json, &self.tree);
        };
        let meta = json.and_then(Meta::from_json).unwrap_or_default();
        if meta.content_type.is_some() {
            record.type_code = content_type::IN_META;
        }
        self.restamp_held(file, &examined.state, record, Some(json))
            .map(|_| ())
    }

    /// A change of the object half failed on its way: gives the file both halves back that it had, as far as
    /// the disk lets us, and goes on knowing that the content half is true, though its ctime moved.
    fn put_back(&self, file: &OwnedFd, examined: &Examined, before: &Record, json: Option<&[u8]>) {
        if let Err(e) = disk::write(file, before, json, &self.tree) {
            tracing::warn!("what was said of an object cannot be put back: {e}");
        }
        let there = disk::read(file, &self.tree).map(|raw| raw.record.unwrap_or_default());
        if let (Ok(bytes), Ok(now)) = (there, FileState::look(file))
            && now.same_content(&examined.state)
            && Record::decode(&bytes).is_ok_and(|record| record.is_of_same_content(before))
        {
            self.store.judge.memory.remember(&now, &bytes);
        }
    }

    /// Stamps a record again, whose content was true of `state`: first the record as it is, which moves
    /// ctime to now; then with the ctime that this gave. `meta`: the object half to write before.
    /// `false`: the content changed meanwhile, and the record stays as good as it was, which is stale. The
    /// caller holds the record ([`crate::Changes::record`]).
    pub(crate) fn restamp_held(
        &self,
        file: impl AsFd,
        state: &FileState,
        mut record: Record,
        meta: Option<Option<&[u8]>>,
    ) -> Result<bool> {
        match meta {
            Some(json) => {
                disk::write(&file, &record, json, &self.tree)?;
                record.has_meta = json.is_some();
                // Where the meta lies may have changed with it.
                if let Some(there) = disk::read(&file, &self.tree)?
                    .record
                    .and_then(|b| Record::decode(&b).ok())
                {
                    record.drop_field(kind::META_OVERFLOW);
                    record.fields.extend(
                        there
                            .fields
                            .into_iter()
                            .filter(|(k, _)| *k == kind::META_OVERFLOW),
                    );
                }
            }
            None => {
                disk::write_record(&file, &record, &self.tree)?;
            }
        }
        let now = FileState::look(&file)?;
        if !now.same_content(state) {
            return Ok(false);
        }
        record.stamp.seal = now.changed;
        let bytes = disk::write_record(&file, &record, &self.tree)?;
        let last = FileState::look(&file)?;
        if last.same_content(state) {
            self.store.judge.memory.remember(&last, &bytes);
        }
        Ok(last.same_content(state))
    }
}

fn recorded_type(old: Option<&[u8]>) -> Option<Vec<u8>> {
    old.and_then(Meta::from_json)?.content_type
}

//! Publishing: the one function by which a file becomes an object. In both durabilities the order is
//! `sync the file -> name it, under the key's lock -> sync every directory that got a name -> answer`;
//! relaxed leaves the syncs out and says so in the record.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Gid, Timespec, Timestamps};
use rustix::io::Errno;

use crate::change::ChangeKind;
use crate::copy::copy_bytes;
use crate::dirmark::{self, DirMark};
use crate::inherit::Inheritance;
use crate::notes::{self, Making};
use crate::path::DiskPath;
use crate::place::{FilePlace, Place, open_directory};
use crate::record::stamp::WINDOW;
use crate::record::{BootMark, FileState, Record, Stamp, disk};
use crate::root::{Parents, named, text};
use crate::stage::{Linked, Stage};
use crate::{
    Bucket, Checksum, ChecksumType, Digests, Durability, ETag, ETagKind, Inode, Meta,
    ObjectChecksum, ObjectKey, PartInfo, Published, Result, StoreError, Timestamp, WriteConditions,
    content_type,
};

/// How often a place that changes under us is looked for again.
const MAX_ROUNDS: u32 = 64;
/// How long the removal of a directory is given before its name is looked for again.
const REMOVAL: Duration = Duration::from_micros(200);
/// After so many rounds a change of what is inherited is no longer waited out.
const PATIENCE: u32 = 8;

/// What the bytes of a staged file are.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Its entity tag: [`ETag::Md5`], [`ETag::Multipart`] or [`ETag::Opaque`].
    pub(crate) etag: ETag,
    /// Bytes.
    pub(crate) size: u64,
    /// CRC64NVME of all bytes.
    pub(crate) crc64: u64,
    /// The checksum to keep and answer with, if a client named one.
    pub(crate) checksum: Option<ObjectChecksum>,
    /// The parts of a multipart object.
    pub(crate) parts: Vec<PartInfo>,
    /// The upload that made it.
    pub(crate) upload_id: Option<String>,
}

/// Everything that becomes visible with a staged file.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// Of the staged bytes.
    pub(crate) content: Content,
    /// The object half.
    pub(crate) meta: Meta,
    /// A meta JSON whose unknown fields go along.
    pub(crate) old_json: Option<Vec<u8>>,
    /// Tested under the key's lock.
    pub(crate) conditions: WriteConditions,
}

/// A staged file that needs only its name (and, where it is to be durable, its sync before that).
pub(crate) struct Ready {
    pub(crate) inherited: Inheritance,
    /// Where it lies.
    pub(crate) device: u64,
    record: Vec<u8>,
    stamp: Stamp,
    /// When the filesystem showed the stamp.
    since: Instant,
}

/// How an attempt to make a file visible ended.
pub(crate) enum Naming {
    /// It is; so it shows now.
    Done(FileState),
    /// Look for its place again.
    Again,
    /// Its place is on another filesystem: the bytes must be copied there first.
    Elsewhere,
}

/// The directory of an object `dir/`.
struct Directory {
    dir: OwnedFd,
    /// Did we just make it?
    made: bool,
    parents: Parents,
}

impl Ready {
    /// Must it be stamped anew to be published within the window?
    pub(crate) fn is_old(&self) -> bool {
        self.since.elapsed() > Duration::from_nanos(WINDOW as u64 / 2)
    }
}

impl Bucket {
    /// Publishes a staged file under `key` in one step, durable as the store is set to. Blocking.
    ///
    /// # Errors
    /// As [`Bucket::publish`]. The old object stays; a staged file that lay under a name of its own
    /// still lies there.
    pub(crate) fn publish_content(
        &self,
        key: &ObjectKey,
        stage: Stage,
        finished: &Finished,
    ) -> Result<Published> {
        self.publish_ready(key, stage, finished, None)
    }

    /// The same of a staged file that is `ready`, and synced where it is to be durable.
    ///
    /// # Errors
    /// As [`Bucket::publish_content`].
    pub(crate) fn publish_ready(
        &self,
        key: &ObjectKey,
        stage: Stage,
        finished: &Finished,
        ready: Option<Ready>,
    ) -> Result<Published> {
        self.check_writable()?;
        if !finished.conditions.is_empty() {
            // What fails now need not be synced first, and has made nothing.
            self.verify_ahead(key, &finished.conditions);
            let _held = self.lock_key(key)?;
            self.check(key, &finished.conditions)?;
        }
        let mut making = Making::of(self);
        let published = self.try_publish(key, stage, finished, ready, &mut making);
        if published.is_err() {
            // Parents that were made for it, and hold nothing.
            self.prune_above(key);
        }
        published
    }

    fn try_publish(
        &self,
        key: &ObjectKey,
        mut stage: Stage,
        finished: &Finished,
        mut ready: Option<Ready>,
        making: &mut Making<'_>,
    ) -> Result<Published> {
        let size = finished.content.size;
        let mut grown = Vec::new();
        let mut marks = true;
        for round in 0..MAX_ROUNDS {
            let as_directory = size == 0 && marks;
            // Where nothing is synced nobody waits long for the lock: one look, under it, is enough.
            let held = match self.durability() {
                Durability::Relaxed => Some(self.lock_key(key)?),
                Durability::Strict => None,
            };
            let place = match self.locate(key, as_directory)? {
                Place::File(place) => place,
                Place::Directory(path) => {
                    drop(held);
                    check_size(&path, &FileState::look(&stage.file)?, finished)?;
                    match self.publish_directory(key, &path, finished, making)? {
                        Some(published) => return Ok(published),
                        // No marks on this filesystem, or no directory any more.
                        None => {
                            marks = false;
                            continue;
                        }
                    }
                }
            };
            let inherited = Inheritance::of(&place);
            let now = match ready.take() {
                Some(same) if same.inherited == inherited && !same.is_old() => same,
                _ => {
                    let now = self.prepare(&stage, &place, finished, inherited)?;
                    self.sync_ready(&stage.file, &now)?;
                    now
                }
            };
            let now = ready.insert(now);

            let (held, place) = match held {
                Some(held) => (held, place),
                None => {
                    let held = self.lock_key(key)?;
                    let Place::File(place) = self.locate(key, as_directory)? else {
                        continue;
                    };
                    let is_patient = round < PATIENCE;
                    if now.is_old() || (is_patient && Inheritance::of(&place) != now.inherited) {
                        continue;
                    }
                    (held, place)
                }
            };
            self.check(key, &finished.conditions)?;
            let Some(place) = make_parent(place, &mut grown, making)? else {
                continue;
            };
            let state = match self.make_visible(&mut stage, &place, now)? {
                Naming::Done(state) => state,
                Naming::Again => {
                    drop(held);
                    // A directory that is being removed can be opened until its rmdir is through.
                    std::thread::sleep(REMOVAL);
                    continue;
                }
                Naming::Elsewhere => {
                    drop(held);
                    stage = self.restage(&stage, &place, size)?;
                    ready = None;
                    continue;
                }
            };
            drop(held);
            // Told before it is synced: it is there, and the kernel is told meanwhile.
            let mut announcement = self.announcement();
            announcement.add(self.published_at(&place, !grown.is_empty()));
            let parent = place.parent.as_deref();
            self.sync_entries(parent.into_iter().chain(&grown).chain(&place.shadow))?;
            if let Some(parent) = &place.parent {
                self.sync_way(&place.tree, &place.path, parent, &grown)?;
            }
            announcement.wait();
            return Ok(finished.published(state.modified));
        }
        Err(StoreError::Unavailable(format!(
            "the place of {key}, which is being changed,"
        )))
    }

    /// Makes a staged file all that it will be but durable and visible.
    pub(crate) fn prepare(
        &self,
        stage: &Stage,
        place: &FilePlace,
        finished: &Finished,
        inherited: Inheritance,
    ) -> Result<Ready> {
        let file = &stage.file;
        if inherited == Inheritance::Fresh && stage.has_name() {
            self.adopt_group(file, place);
        }
        inherited.apply(file);
        let since = Instant::now();
        let state = set_own_mtime(file).map_err(|e| named(&place.path, e))?;
        check_size(&place.path, &state, finished)?;
        let stamp = Stamp {
            size: state.size,
            modified: state.modified,
            seal: state.changed,
        };
        let mut record = finished.record(stamp);
        record.set_unsynced(self.unsynced_boot());
        let with_type = record.type_code == content_type::IN_META;
        let json = finished
            .meta
            .to_json(with_type, finished.old_json.as_deref());
        let record = disk::write_first(file, &record, json.as_deref(), &self.tree)?;
        inherited.give(file);
        Ok(Ready {
            inherited,
            device: state.device,
            record,
            stamp,
            since,
        })
    }

    /// Names a file that is ready, under its key's lock, and remembers its record.
    pub(crate) fn make_visible(
        &self,
        stage: &mut Stage,
        place: &FilePlace,
        ready: &Ready,
    ) -> Result<Naming> {
        match self.name_it(stage, place)? {
            Linked::Done => {}
            Linked::Again => return Ok(Naming::Again),
            Linked::Elsewhere => return Ok(Naming::Elsewhere),
        }
        if let Some(dir) = &place.shadow {
            unmark(dir).map_err(|e| named(&place.path, e))?;
        }
        let state = FileState::look(&stage.file)?;
        if state.size == ready.stamp.size && state.modified == ready.stamp.modified {
            self.store.judge.memory.remember(&state, &ready.record);
        }
        Ok(Naming::Done(state))
    }

    /// The one system call that makes a file visible.
    fn name_it(&self, stage: &mut Stage, place: &FilePlace) -> Result<Linked> {
        let dir = place.parent.as_ref().expect("the caller made the parent");
        if place.entry.is_none() {
            return stage.link_new(dir, &place.path);
        }
        self.keeping_other_names(dir, place.path.name(), place.entry.as_deref(), || {
            stage.replace(dir, &place.path, || {
                let find = || match place.in_annex {
                    true => self.own_stage_dir(),
                    false => place.tree.stage_dir(&place.path, dir.as_fd()),
                };
                match &place.stages {
                    Some(stages) => stages.dir(find),
                    None => find().map(Arc::new),
                }
            })
        })
    }

    /// A file that was not made in its directory gets the group that the directory would have given it.
    fn adopt_group(&self, file: impl AsFd, place: &FilePlace) {
        let Ok(dir) = place.tree.nearest_dir(&place.path) else {
            return;
        };
        if let Ok(stat) = fs::fstat(&dir)
            && stat.st_mode & libc::S_ISGID != 0
            && let Err(e) = fs::fchown(file, None, Some(Gid::from_raw(stat.st_gid)))
        {
            tracing::debug!("a directory's group cannot be given to a new file: {e}");
        }
    }

    /// Copies a staged file to the filesystem of its place.
    fn restage(&self, stage: &Stage, place: &FilePlace, size: u64) -> Result<Stage> {
        let new = self.open_stage((!place.in_annex).then_some(&place.path))?;
        copy_bytes(&stage.file, &new.file, size)?;
        Ok(new)
    }

    /// Publishes an empty body as the object `dir/`. `None`: the directory cannot be marked, or is none.
    fn publish_directory(
        &self,
        key: &ObjectKey,
        path: &DiskPath,
        finished: &Finished,
        making: &mut Making<'_>,
    ) -> Result<Option<Published>> {
        let held = self.lock_key(key)?;
        if !matches!(self.locate(key, true)?, Place::Directory(_)) {
            return Ok(None);
        }
        self.check(key, &finished.conditions)?;
        // Nothing is made where nothing can be marked: those directories would stay for ever.
        if !dirmark::is_possible(self.tree.nearest_dir(path)?) {
            return Ok(None);
        }
        let Some(Directory {
            dir,
            made,
            parents: Parents { dir: parent, grown },
        }) = self.make_directory(path, making)?
        else {
            return Ok(None);
        };
        let modified = Timestamp::now();
        let mark = DirMark {
            created: made || dirmark::read(&dir).created,
            object: Some(modified),
        };
        let json = finished.meta.to_json(true, finished.old_json.as_deref());
        match disk::set_meta(&dir, json.as_deref()).and_then(|()| dirmark::write(&dir, mark)) {
            Ok(()) => {}
            Err(e) => {
                // A directory that we just made and cannot mark would never be pruned.
                if made && fs::unlinkat(&parent, path.name(), AtFlags::REMOVEDIR).is_err() {
                    tracing::debug!("a directory that cannot be marked is left behind");
                }
                if disk::is_unsupported(e) {
                    return Ok(None);
                }
                return Err(named(path, e));
            }
        }
        drop(held);
        let mut announcement = self.announcement();
        if !grown.is_empty() {
            announcement.add(self.parents_of(&self.tree, path));
        }
        announcement.add(match made {
            true => self.change(&parent, path.name(), None, ChangeKind::DirectoryMade),
            false => self.attributes_of(&dir),
        });
        self.sync_entries([&dir, &parent].into_iter().chain(&grown))?;
        self.sync_way(&self.tree, path, &parent, &grown)?;
        announcement.wait();
        // A mark has no room for an ETag: it is always that of the empty body.
        Ok(Some(Published {
            etag: ETag::EMPTY,
            ..finished.published(modified)
        }))
    }

    /// The directory at a path, made where it is missing. `None`: something else stands in the way.
    fn make_directory(
        &self,
        path: &DiskPath,
        making: &mut Making<'_>,
    ) -> Result<Option<Directory>> {
        let mut grown = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let parents = match self.tree.make_parents(path, Some(&mut *making)) {
                Err(StoreError::KeyBlocked { .. }) => return Ok(None),
                other => other?,
            };
            grown.extend(parents.grown);
            let there = open_directory(&parents.dir, path.name()).map_err(|e| named(path, e))?;
            let (dir, made) = match there {
                Some(dir) => (Some(dir), false),
                None => {
                    making.begin(path, 1)?;
                    match notes::make_folder(&parents.dir, path.name(), true) {
                        Ok(dir) => (Some(dir), true),
                        // Somebody was faster, or something else stands there.
                        Err(Errno::EXIST) => {
                            let there = open_directory(&parents.dir, path.name());
                            (there.map_err(|e| named(path, e))?, false)
                        }
                        // The parent is being pruned; its name can be opened until the rmdir is through.
                        Err(Errno::NOENT) => {
                            std::thread::sleep(REMOVAL);
                            continue;
                        }
                        Err(e) => return Err(named(path, e)),
                    }
                }
            };
            let parents = Parents {
                dir: parents.dir,
                grown,
            };
            return Ok(dir.map(|dir| Directory { dir, made, parents }));
        }
        Err(named(path, Errno::NOENT))
    }

    /// The boot to record where nothing is synced; `None`: it is.
    pub(crate) fn unsynced_boot(&self) -> Option<BootMark> {
        match self.durability() {
            Durability::Strict => None,
            Durability::Relaxed => Some(self.store.judge.boot_mark()),
        }
    }

    /// Makes a file's bytes, size and record durable, or notes that they are not.
    ///
    /// # Errors
    /// What fsync says; it is never tried again.
    pub(crate) fn sync_content(&self, file: impl AsFd) -> Result<()> {
        if self.durability() == Durability::Relaxed {
            self.note_unsynced();
            return Ok(());
        }
        let device = FileState::look(&file)?.device;
        let synced = self.store.syncers.of(device).sync_file(file);
        synced.map_err(not_synced)
    }

    /// The same of a file that is ready, whose device is known.
    fn sync_ready(&self, file: &File, ready: &Ready) -> Result<()> {
        if self.durability() == Durability::Relaxed {
            self.note_unsynced();
            return Ok(());
        }
        let syncer = self.store.syncers.of(ready.device);
        syncer.sync_file(file).map_err(not_synced)
    }

    /// Notes that something was written without a sync.
    pub(crate) fn note_unsynced(&self) {
        self.store.unsynced.note(self.name());
    }

    /// Makes the entries of directories durable.
    ///
    /// # Errors
    /// What fsync says; it is never tried again.
    pub(crate) fn sync_entries<'a>(
        &self,
        dirs: impl IntoIterator<Item = &'a OwnedFd>,
    ) -> Result<()> {
        if self.durability() == Durability::Relaxed {
            return Ok(());
        }
        for dir in dirs {
            let Inode { device, inode } = FileState::look(dir)?.inode();
            let synced = self.store.syncers.of(device).sync_dir(dir, inode);
            synced.map_err(entries_not_synced)?;
        }
        Ok(())
    }
}

impl Bucket {
    /// Makes the entries durable that lead to an object, from its own to the first below the bucket.
    ///
    /// # Errors
    /// As [`Bucket::sync_entries`].
    pub(crate) fn sync_ancestors(&self, key: &ObjectKey) -> Result<()> {
        if let Place::File(place) = self.locate(key, false)? {
            let dirs = std::iter::successors(Some(place.path.clone()), DiskPath::parent)
                .map(|path| place.tree.nearest_dir(&path))
                .collect::<Result<Vec<_>>>()?;
            self.sync_entries(&dirs)?;
        }
        Ok(())
    }
}

impl Content {
    /// What a body is that was received (or hashed) in one piece.
    pub(crate) fn of_body(
        kind: ETagKind,
        digests: &Digests,
        checksum: Option<ObjectChecksum>,
    ) -> Self {
        Self {
            etag: kind.of_body(digests),
            size: digests.length,
            crc64: digests.crc64,
            checksum,
            parts: Vec::new(),
            upload_id: None,
        }
    }
}

impl Finished {
    pub(crate) fn record(&self, stamp: Stamp) -> Record {
        let content = &self.content;
        let mut record = Record::new(content.etag, content.crc64, stamp);
        record.type_code = content_type::code(self.meta.content_type.as_deref());
        record.set_checksum(content.checksum.as_ref());
        record.set_parts(&content.parts);
        if let Some(id) = &content.upload_id {
            record.set_upload_id(id);
        }
        record
    }

    /// What the answer says.
    pub(crate) fn published(&self, modified: Timestamp) -> Published {
        let crc64 = || ObjectChecksum {
            checksum: Checksum::crc64(self.content.crc64),
            kind: ChecksumType::FullObject,
        };
        Published {
            etag: self.content.etag,
            modified,
            size: self.content.size,
            checksum: self.content.checksum.clone().unwrap_or_else(crc64),
        }
    }
}

/// A file could not be made durable.
pub(crate) fn not_synced(e: std::io::Error) -> StoreError {
    StoreError::from_io("syncing an object", e)
}

/// A directory could not.
pub(crate) fn entries_not_synced(e: std::io::Error) -> StoreError {
    StoreError::from_io("syncing a directory", e)
}

/// Makes the parents of a place that has none. `None`: something stands in the way since.
fn make_parent(
    mut place: FilePlace,
    grown: &mut Vec<OwnedFd>,
    making: &mut Making<'_>,
) -> Result<Option<FilePlace>> {
    if place.parent.is_none() {
        let noted = (!place.in_annex).then_some(making);
        match place.tree.make_parents(&place.path, noted) {
            Ok(parents) => {
                grown.extend(parents.grown);
                place.parent = Some(Arc::new(parents.dir));
            }
            Err(StoreError::KeyBlocked { .. }) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(Some(place))
}

/// The object `dir/` ends; the directory stays for what is in it.
pub(crate) fn unmark(dir: &OwnedFd) -> rustix::io::Result<()> {
    let created = dirmark::read(dir).created;
    dirmark::write(
        dir,
        DirMark {
            created,
            object: None,
        },
    )?;
    disk::set_meta(dir, None)
}

/// Are there as many bytes as the digests are of?
fn check_size(path: &DiskPath, state: &FileState, finished: &Finished) -> Result<()> {
    if state.size == finished.content.size {
        return Ok(());
    }
    let e = std::io::Error::other("the staged file has another size than its digests");
    Err(StoreError::from_io(text(path), e))
}

/// Gives a file an mtime that no later write gives it: the time in nanoseconds, which no clock of a kernel
/// equals; where a filesystem keeps whole seconds only, a second that is over by its own clock.
fn set_own_mtime(file: impl AsFd) -> rustix::io::Result<FileState> {
    set_modified(&file, Timestamp::now())?;
    let state = FileState::of(&fs::fstat(&file)?);
    if !state.is_in_whole_seconds() {
        return Ok(state);
    }
    set_modified(&file, state.changed.a_second_before())?;
    Ok(FileState::of(&fs::fstat(&file)?))
}

fn set_modified(file: impl AsFd, modified: Timestamp) -> rustix::io::Result<()> {
    let time = Timespec {
        tv_sec: modified.seconds(),
        tv_nsec: modified.subsec_nanos().into(),
    };
    let keep = Timespec {
        tv_sec: 0,
        tv_nsec: fs::UTIME_OMIT,
    };
    fs::futimens(
        file,
        &Timestamps {
            last_access: keep,
            last_modification: time,
        },
    )
}

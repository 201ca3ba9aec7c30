//! Several small objects stored at once, on one thread: what each of them would pay for alone is paid once.
//!
//! Where nothing is synced they follow one another. Else all go through each phase together, so that for each object the
//! order is what it is for one alone: sync the file, name it under its key's lock, sync the directory, answer.
//!
//! Nobody in a batch waits for somebody outside of it: an object that would have to (its key is locked, its folder is
//! to be made, what stands at its name changed meanwhile) is given back, to be published on a thread of its own.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::change::Announcement;
use crate::inherit::Inheritance;
use crate::path::{self, DiskPath};
use crate::place::{FilePlace, Folder, Folders, Look};
use crate::publish::{Content, Finished, Naming, Ready, entries_not_synced, not_synced};
use crate::record::FileState;
use crate::sync::{DirToSync, same};
use crate::{Bucket, Durability, ObjectKey, Published, Put, Result, Stage, StoreError};

/// One small object to be stored: its body is complete and verified.
pub struct Small<B> {
    /// Where it goes.
    pub bucket: Bucket,
    /// Its key.
    pub key: ObjectKey,
    /// All of its bytes.
    pub body: B,
    /// What becomes visible with them.
    pub put: Put,
}

/// What became of one of them.
pub enum Stored {
    /// It is as durable as its bucket is set to, or it failed and the old object stays.
    Now(Result<Published>),
    /// It would have to wait for others: [`Deferred::publish`] does.
    Deferred(Box<Deferred>),
}

/// An object whose bytes are staged and which is still to be published.
pub struct Deferred {
    bucket: Bucket,
    key: ObjectKey,
    stage: Stage,
    finished: Finished,
    /// It needs only its name.
    ready: Option<Ready>,
}

impl Deferred {
    /// Publishes it, as [`Bucket::publish`] does. Blocking, for as long as somebody else holds its key.
    ///
    /// # Errors
    /// As [`Bucket::publish`].
    pub fn publish(self) -> Result<Published> {
        self.bucket
            .publish_ready(&self.key, self.stage, &self.finished, self.ready)
    }
}

/// What is known of an object before anything is done for it.
struct Task {
    index: usize,
    bucket: Bucket,
    key: ObjectKey,
    /// Where it would lie in the common case, and has no conditions.
    path: Option<DiskPath>,
    finished: Finished,
}

/// An object that is on its way.
struct Member<'a> {
    task: &'a Task,
    stage: Stage,
    ready: Option<Ready>,
    /// What the look under the key's lock is to ask.
    look: Look,
}

/// One that is visible, and told of.
struct Visible<'a> {
    task: &'a Task,
    folder: Folder,
    place: FilePlace,
    state: FileState,
    announcement: Announcement<'a>,
}

/// Who is told what became of each.
type Done<'d> = dyn FnMut(usize, Stored) + 'd;

/// Stores several small objects, each all or nothing; `done` is told of each, by its index, as soon as it is as durable
/// as its bucket is set to, has failed, or is deferred. Of several with one key the last stays. Blocking, but for
/// nobody's lock.
pub fn store_together<B: AsRef<[u8]>>(smalls: Vec<Small<B>>, mut done: impl FnMut(usize, Stored)) {
    let mut bodies = Vec::with_capacity(smalls.len());
    let mut tasks = Vec::with_capacity(smalls.len());
    for (index, small) in smalls.into_iter().enumerate() {
        bodies.push(Some(small.body));
        tasks.push(Task::new(index, small.bucket, small.key, small.put));
    }
    let mut folders = Folders::default();
    // Those of one key go one after the other.
    let mut waves: Vec<Vec<&Task>> = Vec::new();
    let mut met = HashMap::new();
    for task in &tasks {
        if task.bucket.durability() == Durability::Relaxed {
            let body = bodies[task.index].take().expect("each is taken once");
            relaxed(task, body.as_ref(), &mut folders, &mut done);
            continue;
        }
        let before: &mut usize = met.entry((task.bucket.name(), &task.key)).or_default();
        if waves.len() == *before {
            waves.push(Vec::new());
        }
        waves[*before].push(task);
        *before += 1;
    }
    for wave in waves {
        let of = |task: &Task| bodies[task.index].take().expect("each is taken once");
        strict(wave, of, &mut done);
    }
}

/// Stores one of which nothing is synced.
fn relaxed<'a>(task: &'a Task, body: &[u8], folders: &mut Folders<'a>, done: &mut Done<'_>) {
    let (mut member, folder) = match Member::stage(task, body, folders) {
        Ok(begun) => begun,
        Err(e) => return done(task.index, Stored::Now(Err(e))),
    };
    let named = match &folder {
        Some(folder) => member.name_in(folder),
        None => Ok(None),
    };
    match named {
        Ok(Some((place, state))) => {
            let mut announcement = task.bucket.announcement();
            announcement.add(task.bucket.published_at(&place, false));
            announcement.wait();
            let published = task.finished.published(state.modified);
            done(task.index, Stored::Now(Ok(published)));
        }
        Ok(None) => member.defer(done),
        Err(e) => task.fail(e, done),
    }
}

/// Stores those that are synced, all of them through each phase.
fn strict<B: AsRef<[u8]>>(
    wave: Vec<&Task>,
    mut body_of: impl FnMut(&Task) -> B,
    done: &mut Done<'_>,
) {
    let mut folders = Folders::default();
    let mut members = Vec::with_capacity(wave.len());
    for task in wave {
        let (mut member, folder) = match Member::stage(task, body_of(task).as_ref(), &mut folders) {
            Ok(begun) => begun,
            Err(e) => {
                done(task.index, Stored::Now(Err(e)));
                continue;
            }
        };
        let is_ready = match &folder {
            Some(folder) => member.prepare(folder),
            None => Ok(false),
        };
        match is_ready {
            Ok(true) => members.push(member),
            Ok(false) => member.defer(done),
            Err(e) => task.fail(e, done),
        }
    }
    let members = synced(members, done);
    // Anew: since then somebody may have been told of what he did to a folder.
    let mut folders = Folders::default();
    let mut visible = Vec::with_capacity(members.len());
    for mut member in members {
        let task = member.task;
        match member.name(&mut folders) {
            Ok(Some((folder, place, state))) => {
                // Told before it is synced: it is there, and the kernel is told meanwhile.
                let mut announcement = task.bucket.announcement();
                announcement.add(task.bucket.published_at(&place, false));
                visible.push(Visible {
                    task,
                    folder,
                    place,
                    state,
                    announcement,
                });
            }
            Ok(None) => member.defer(done),
            Err(e) => task.fail(e, done),
        }
    }
    answer(visible, done);
}

/// Syncs the files of those that are ready; gives those of which that went well.
fn synced<'a>(members: Vec<Member<'a>>, done: &mut Done<'_>) -> Vec<Member<'a>> {
    let mut by_device: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, member) in members.iter().enumerate() {
        let ready = member.ready.as_ref().expect("only those that are ready");
        by_device.entry(ready.device).or_default().push(at);
    }
    let mut results: Vec<io::Result<()>> = members.iter().map(|_| Ok(())).collect();
    for (device, all) in by_device {
        let syncer = members[all[0]].task.bucket.store.syncers.of(device);
        let files: Vec<&File> = all.iter().map(|at| &*members[*at].stage.file).collect();
        for (at, result) in all.iter().zip(syncer.sync_files(&files)) {
            results[*at] = result;
        }
    }
    let mut synced = Vec::with_capacity(members.len());
    for (member, result) in members.into_iter().zip(results) {
        match result {
            Ok(()) => synced.push(member),
            Err(e) => member.task.fail(not_synced(e), done),
        }
    }
    synced
}

/// Makes the names durable, each folder's once, and answers.
fn answer(visible: Vec<Visible<'_>>, done: &mut Done<'_>) {
    let entries = sync_folders(&visible);
    let mut ways: HashMap<_, Option<String>> = HashMap::new();
    for one in visible {
        let Visible {
            task,
            folder,
            place,
            state,
            announcement,
        } = one;
        if let Err(e) = &entries[&folder.id] {
            task.fail(entries_not_synced(same(e)), done);
            continue;
        }
        let way = ways.entry((task.bucket.shared.id, folder.id));
        let failed = way.or_insert_with(|| {
            let bucket = &task.bucket;
            let synced = bucket.sync_way(&place.tree, &place.path, &folder.dir, &[]);
            synced.err().map(|e| e.to_string())
        });
        if let Some(why) = failed {
            let e = io::Error::from_raw_os_error(libc::EIO);
            task.fail(StoreError::from_io(&**why, e), done);
            continue;
        }
        announcement.wait();
        let published = task.finished.published(state.modified);
        done(task.index, Stored::Now(Ok(published)));
    }
}

/// Syncs each folder that got a name, and says of each what became of it.
fn sync_folders(visible: &[Visible<'_>]) -> HashMap<(u64, u64), io::Result<()>> {
    let mut by_device: BTreeMap<u64, BTreeMap<u64, DirToSync<'_>>> = BTreeMap::new();
    for one in visible {
        let (device, inode) = one.folder.id;
        let dirs = by_device.entry(device).or_default();
        let dir = dirs.entry(inode).or_insert(DirToSync {
            dir: &one.folder.dir,
            inode,
            entries: 0,
        });
        dir.entries += 1;
    }
    let mut results = HashMap::new();
    for (device, dirs) in by_device {
        let dirs: Vec<DirToSync<'_>> = dirs.into_values().collect();
        let syncer = visible[0].task.bucket.store.syncers.of(device);
        let ids = dirs.iter().map(|dir| (device, dir.inode));
        results.extend(ids.zip(syncer.sync_dirs(&dirs)));
    }
    results
}

impl Task {
    fn new(index: usize, bucket: Bucket, key: ObjectKey, put: Put) -> Self {
        let is_common = put.conditions.is_empty();
        let path = path::native(&key).filter(|path| is_common && !path.trailing_slash);
        let content = Content::of_body(bucket.etag_kind(), &put.digests, put.checksum);
        Self {
            index,
            key,
            path,
            finished: Finished {
                content,
                meta: put.meta,
                old_json: None,
                conditions: put.conditions,
            },
            bucket,
        }
    }

    /// It failed after it was staged.
    fn fail(&self, e: StoreError, done: &mut Done<'_>) {
        // Of folders nothing was made for it; one that was emptied meanwhile goes.
        self.bucket.prune_above(&self.key);
        done(self.index, Stored::Now(Err(e)));
    }
}

impl<'a> Member<'a> {
    /// Stages all bytes; in the folder where the object will be, where there is one in the common case.
    fn stage(
        task: &'a Task,
        body: &[u8],
        folders: &mut Folders<'a>,
    ) -> Result<(Self, Option<Folder>)> {
        let (bucket, key, length) = (&task.bucket, &task.key, body.len() as u64);
        bucket.check_writable()?;
        bucket.tree.check_hidden(key)?;
        let folder = match &task.path {
            Some(path) => folders.of(bucket, path)?,
            None => None,
        };
        let staged = match &folder {
            Some(folder) => bucket.stage_in(folder, key, length)?,
            None => None,
        };
        let stage = match staged {
            Some(stage) => stage,
            None => bucket.stage(key, Some(length))?,
        };
        let written = stage.file.write_all_at(body, 0);
        written.map_err(|e| StoreError::from_io(key.as_str(), e))?;
        let member = Self {
            task,
            stage,
            ready: None,
            look: Look::Whole,
        };
        Ok((member, folder))
    }

    /// Looks ahead at the place and makes the file all that it will be but durable and visible. `false`: not here.
    fn prepare(&mut self, folder: &Folder) -> Result<bool> {
        let Some(place) = self.look(folder, Look::Ahead)? else {
            return Ok(false);
        };
        if place.entry.is_none() {
            self.look = Look::OfFree;
        }
        let inherited = Inheritance::of(&place);
        self.ready = Some(self.make_ready(&place, inherited)?);
        Ok(true)
    }

    /// Names it, if its folder is there. `None`: not here.
    fn name(
        &mut self,
        folders: &mut Folders<'a>,
    ) -> Result<Option<(Folder, FilePlace, FileState)>> {
        let task = self.task;
        let path = task.path.as_ref().expect("it was looked at");
        let Some(folder) = folders.of(&task.bucket, path)? else {
            return Ok(None);
        };
        let named = self.name_in(&folder)?;
        Ok(named.map(|(place, state)| (folder, place, state)))
    }

    /// Names it in a folder, under its key's lock; makes it ready first where it need not be synced. `None`: not here,
    /// not now, or not as it is.
    fn name_in(&mut self, folder: &Folder) -> Result<Option<(FilePlace, FileState)>> {
        let bucket = &self.task.bucket;
        let Some(_held) = bucket.try_lock_key(&self.task.key)? else {
            return Ok(None);
        };
        let Some(place) = self.look(folder, self.look)? else {
            return Ok(None);
        };
        let inherited = Inheritance::of(&place);
        let ready = match self.ready.take() {
            Some(ready) => ready,
            None => {
                let ready = self.make_ready(&place, inherited.clone())?;
                bucket.note_unsynced();
                ready
            }
        };
        let ready = self.ready.insert(ready);
        if ready.is_old() || ready.inherited != inherited {
            return Ok(None);
        }
        match bucket.make_visible(&mut self.stage, &place, ready)? {
            Naming::Done(state) => Ok(Some((place, state))),
            Naming::Again | Naming::Elsewhere => Ok(None),
        }
    }

    fn look(&self, folder: &Folder, asked: Look) -> Result<Option<FilePlace>> {
        let Some(path) = &self.task.path else {
            return Ok(None);
        };
        let bucket = &self.task.bucket;
        bucket.locate_in(folder, &self.task.key, path, asked)
    }

    fn make_ready(&self, place: &FilePlace, inherited: Inheritance) -> Result<Ready> {
        let Task {
            bucket, finished, ..
        } = self.task;
        bucket.prepare(&self.stage, place, finished, inherited)
    }

    /// Gives it back.
    fn defer(self, done: &mut Done<'_>) {
        let task = self.task;
        let deferred = Deferred {
            bucket: task.bucket.clone(),
            key: task.key.clone(),
            stage: self.stage,
            finished: task.finished.clone(),
            ready: self.ready,
        };
        done(task.index, Stored::Deferred(Box::new(deferred)));
    }
}

#[cfg(test)]
mod tests;

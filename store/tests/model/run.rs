//! A run: the store and the model side by side, and every step done to both.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tempfile::TempDir;
use twintree_store::{
    Access, Bucket, BucketName, BucketSettings, CopyRequest, Digester, Durability, ETagList,
    KeyPolicy, Meta, ObjectKey, Put, Store, StoreError, StoreOptions, WriteConditions,
};

use crate::reference::{Body, Dir, Model, is_native, parents};

/// How a step or a comparison ends.
pub type Outcome<T = ()> = Result<T, TestCaseError>;

/// Which object or path a step is about: one that is there, or one that may not be.
#[derive(Clone, Debug)]
pub enum Target {
    Some(prop::sample::Index),
    Named(String),
}

impl Target {
    fn among(&self, names: &[String]) -> Option<String> {
        match self {
            Self::Some(_) if names.is_empty() => None,
            Self::Some(index) => Some(index.get(names).clone()),
            Self::Named(name) => Some(name.clone()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum When {
    Always,
    IfAbsent,
    IfThere,
    IfCurrent,
    IfFormer,
    IfRecorded,
}

#[derive(Clone, Debug)]
pub enum Step {
    Nothing,
    Put(Target, Vec<u8>, When),
    Delete(Target, When),
    Copy(Target, String),
    Restart,
    Write(Target, Vec<u8>),
    Replace(Target, Vec<u8>),
    SameSize(Target, bool),
    Append(Target),
    Truncate(Target),
    Chmod(Target),
    Unlink(Target),
    FileToDir(Target),
    Mkdir(String),
    RemoveDir(Target),
    RenameFile(Target, String),
    RenameDir(Target, String),
}

/// Hard states reached.
#[derive(Default, Debug)]
pub struct Reached {
    pub annex_hits: Cell<u64>,
    pub files_turned_directories: Cell<u64>,
    pub pages_ending_inside_a_prefix: Cell<u64>,
    pub overwrites_of_equal_size: Cell<u64>,
    pub conditions_refused: Cell<u64>,
    pub steps: Cell<u64>,
    /// Objects, summed over all steps.
    pub objects: Cell<u64>,
}

pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// A run: the store, the model, and the tags that each key had before.
pub struct Run<'a> {
    pub root: TempDir,
    pub bucket: Bucket,
    pub model: Model,
    pub former: BTreeMap<String, String>,
    pub reached: &'a Reached,
    /// Do two changes after a look always show two ctimes here? (Linux 6.13 and later, local filesystems.)
    pub fine: bool,
}

pub fn open(root: &TempDir) -> Bucket {
    let options = StoreOptions {
        root: root.path().to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    };
    let store: Arc<Store> = Store::open(options).expect("opened");
    let name = BucketName::parse("bucket").expect("a name");
    match store.create_bucket(&name, BucketSettings::default()) {
        Ok(()) | Err(StoreError::BucketExists(_)) => {}
        Err(e) => panic!("the bucket cannot be made: {e}"),
    }
    store.bucket(&name).expect("the bucket")
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a legal key")
}

impl<'a> Run<'a> {
    pub fn new(reached: &'a Reached, fine: bool, unmarked: bool) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let bucket = open(&root);
        Self {
            root,
            bucket,
            model: Model {
                unmarked,
                ..Model::default()
            },
            former: BTreeMap::new(),
            reached,
            fine,
        }
    }

    pub fn disk(&self, path: &str) -> PathBuf {
        self.root.path().join("bucket").join(path)
    }

    fn file(&self, target: &Target) -> Option<String> {
        let names: Vec<String> = self.model.files.keys().cloned().collect();
        target
            .among(&names)
            .filter(|path| is_native(path) && !path.ends_with('/'))
    }

    fn there(&self, target: &Target) -> Option<String> {
        self.file(target)
            .filter(|path| self.model.files.contains_key(path))
    }

    fn object(&self, target: &Target) -> Option<String> {
        let names: Vec<String> = self.model.objects().into_keys().collect();
        target.among(&names)
    }

    fn dir(&self, target: &Target) -> Option<String> {
        let names: Vec<String> = self.model.dirs.keys().cloned().collect();
        target
            .among(&names)
            .filter(|path| self.model.dirs.contains_key(path))
    }

    /// The conditions of a write, and whether they hold by the model.
    fn conditions(&self, key: &str, when: When) -> (WriteConditions, Option<&'static str>) {
        let body = self.model.get(key);
        let any = ETagList::Any;
        let matching = |tag: Option<String>| {
            let tag = tag.unwrap_or_else(|| "0".repeat(32));
            let holds = body.is_some_and(|body| body.is_tagged(&tag));
            let conditions = WriteConditions {
                if_match: Some(ETagList::Tags(vec![tag])),
                ..WriteConditions::default()
            };
            (conditions, (!holds).then_some("If-Match"))
        };
        match when {
            When::Always => (WriteConditions::default(), None),
            When::IfAbsent => (
                WriteConditions {
                    if_none_match: Some(any),
                    ..WriteConditions::default()
                },
                body.map(|_| "If-None-Match"),
            ),
            When::IfThere => (
                WriteConditions {
                    if_match: Some(any),
                    ..WriteConditions::default()
                },
                body.is_none().then_some("If-Match"),
            ),
            When::IfCurrent => matching(body.and_then(|body| body.seen.clone())),
            When::IfFormer => matching(self.former.get(key).cloned()),
            When::IfRecorded => matching(body.map(Body::md5)),
        }
    }

    /// Does the store's answer to a conditional write agree with the model? `true`: it went through.
    fn agreed<T>(
        &self,
        key: &str,
        refusal: Option<&'static str>,
        answer: Result<T, StoreError>,
    ) -> Outcome<Option<T>> {
        match (refusal, answer) {
            (None, Ok(value)) => Ok(Some(value)),
            (Some(name), Err(StoreError::PreconditionFailed(said))) => {
                prop_assert_eq!(name, said);
                prop_assert!(self.model.get(key).is_some());
                count(&self.reached.conditions_refused);
                Ok(None)
            }
            (Some("If-Match"), Err(StoreError::NoSuchKey(_))) => {
                prop_assert!(self.model.get(key).is_none());
                Ok(None)
            }
            (refusal, Ok(_)) => Err(TestCaseError::fail(format!(
                "{key:?} was written against {refusal:?}"
            ))),
            (refusal, Err(e)) => Err(TestCaseError::fail(format!(
                "{key:?} with {refusal:?}: {e}"
            ))),
        }
    }

    pub fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Nothing => {}
            Step::Put(target, bytes, when) => {
                let Some(key) = self.object(target) else {
                    return Ok(());
                };
                self.put(&key, bytes, *when)?;
            }
            Step::Delete(target, when) => {
                let Some(name) = self.object(target) else {
                    return Ok(());
                };
                let (conditions, refusal) = self.conditions(&name, *when);
                let answer = self.bucket.delete(&key(&name), &conditions);
                if let Some(deleted) = self.agreed(&name, refusal, answer)? {
                    prop_assert_eq!(deleted, self.model.delete(&name), "{:?}", name);
                }
            }
            Step::Copy(target, to) => {
                let Some(from) = self.object(target).filter(|from| from != to) else {
                    return Ok(());
                };
                let Some(bytes) = self.model.get(&from).map(|body| body.bytes.clone()) else {
                    return Ok(());
                };
                let source = self
                    .bucket
                    .open(&key(&from), Access::Blocking)
                    .map_err(failed)?;
                self.bucket
                    .copy(&source, &key(to), CopyRequest::default())
                    .map_err(failed)?;
                self.model.put(to, &bytes);
            }
            Step::Restart => self.restart(),
            other => self.direct(other),
        }
        Ok(())
    }

    fn put(&mut self, name: &str, bytes: &[u8], when: When) -> Outcome {
        let (conditions, refusal) = self.conditions(name, when);
        let stage = self
            .bucket
            .stage(&key(name), Some(bytes.len() as u64))
            .map_err(failed)?;
        (&*stage.file).write_all(bytes).expect("staged");
        let mut digester = Digester::new(&[]);
        digester.update(bytes);
        let put = Put {
            digests: digester.finish(),
            meta: Meta::default(),
            checksum: None,
            conditions,
        };
        let answer = self.bucket.publish(&key(name), stage, put);
        if let Some(published) = self.agreed(name, refusal, answer)? {
            self.model.put(name, bytes);
            prop_assert_eq!(published.etag.to_string(), Body::put(bytes).md5());
        }
        Ok(())
    }

    /// Another process: nothing is remembered.
    fn restart(&mut self) {
        // An mtime put back within the window of a record deceives a process that remembers nothing (FORMATS,
        // *Judging it*); that is no accident, so it is not what is tried here.
        let disguised = self
            .model
            .files
            .iter_mut()
            .filter(|(_, body)| body.disguised);
        for (path, body) in disguised {
            let file = fs::File::open(self.root.path().join("bucket").join(path))
                .expect("the file is there");
            file.set_modified(std::time::SystemTime::now())
                .expect("set");
            body.rewritten();
        }
        self.bucket = open(&self.root);
    }

    /// What a direct writer does; where the tree does not allow it, the model says so as the kernel does.
    fn direct(&mut self, step: &Step) {
        match step {
            Step::Write(target, bytes) | Step::Replace(target, bytes) => {
                let Some(path) = self.file(target) else {
                    return;
                };
                let in_place = matches!(step, Step::Write(..));
                let done = self.write_directly(&path, bytes, in_place);
                assert_eq!(done, self.model.free_for_file(&path), "{step:?} {path:?}");
                if done {
                    self.model.make_dirs(&path, false);
                    let body = self
                        .model
                        .files
                        .entry(path)
                        .or_insert_with(|| Body::direct(bytes));
                    body.bytes = bytes.clone();
                    body.rewritten();
                }
            }
            Step::SameSize(target, disguise) => {
                let Some(path) = self.there(target) else {
                    return;
                };
                let disk = self.disk(&path);
                let body = self.model.files.get_mut(&path).expect("it is there");
                let Some(first) = body.bytes.first_mut() else {
                    return;
                };
                *first = first.wrapping_add(1);
                if *disguise && !self.fine {
                    next_tick(self.root.path(), &disk);
                }
                let file = fs::File::options().write(true).open(disk).expect("opened");
                let before = file
                    .metadata()
                    .and_then(|stat| stat.modified())
                    .expect("a time");
                file.write_all_at(&[*first], 0).expect("written");
                body.rewritten();
                if *disguise {
                    file.set_modified(before).expect("set");
                    body.disguised = true;
                }
                count(&self.reached.overwrites_of_equal_size);
            }
            Step::Append(target) | Step::Truncate(target) => {
                let Some(path) = self.there(target) else {
                    return;
                };
                let disk = self.disk(&path);
                let body = self.model.files.get_mut(&path).expect("it is there");
                if matches!(step, Step::Append(_)) {
                    let mut file = fs::File::options().append(true).open(disk).expect("opened");
                    file.write_all(b"+").expect("written");
                    body.bytes.push(b'+');
                } else if body.bytes.pop().is_some() {
                    let file = fs::File::options().write(true).open(disk).expect("opened");
                    file.set_len(body.bytes.len() as u64).expect("cut");
                } else {
                    return;
                }
                body.rewritten();
            }
            Step::Chmod(target) => {
                let Some(path) = self.there(target) else {
                    return;
                };
                let disk = self.disk(&path);
                let mode = fs::metadata(&disk).expect("there").permissions().mode() ^ 0o010;
                fs::set_permissions(&disk, fs::Permissions::from_mode(mode)).expect("set");
                self.model
                    .files
                    .get_mut(&path)
                    .expect("it is there")
                    .touched();
            }
            Step::Unlink(target) => {
                let Some(path) = self.there(target) else {
                    return;
                };
                fs::remove_file(self.disk(&path)).expect("removed");
                self.model.files.remove(&path);
            }
            Step::FileToDir(target) => {
                let Some(path) = self.there(target) else {
                    return;
                };
                fs::remove_file(self.disk(&path)).expect("removed");
                fs::create_dir(self.disk(&path)).expect("made");
                fs::write(self.disk(&path).join("a"), b"inside").expect("written");
                self.model.files.remove(&path);
                self.model.dirs.insert(path.clone(), Dir::default());
                self.model
                    .files
                    .insert(format!("{path}/a"), Body::direct(b"inside"));
                count(&self.reached.files_turned_directories);
            }
            other => self.direct_on_dirs(other),
        }
    }

    fn direct_on_dirs(&mut self, step: &Step) {
        match step {
            Step::Mkdir(path) => {
                let free =
                    !self.model.blocked_by_file(path) && !self.model.files.contains_key(path);
                let made = fs::create_dir_all(self.disk(path)).is_ok();
                assert_eq!(made, free, "{path:?}");
                if free {
                    self.model.make_dirs(&format!("{path}/"), false);
                }
            }
            Step::RemoveDir(target) => {
                let Some(path) = self.dir(target) else { return };
                fs::remove_dir_all(self.disk(&path)).expect("removed");
                let below = format!("{path}/");
                self.model.files.retain(|name, _| !name.starts_with(&below));
                self.model
                    .dirs
                    .retain(|name, _| *name != path && !name.starts_with(&below));
            }
            Step::RenameFile(target, to) => {
                let Some(from) = self.there(target).filter(|from| from != to) else {
                    return;
                };
                let ready = self.parent_is_there(to) && self.model.free_for_file(to);
                let renamed = fs::rename(self.disk(&from), self.disk(to)).is_ok();
                assert_eq!(renamed, ready, "{from:?} to {to:?}");
                if renamed {
                    let mut body = self.model.files.remove(&from).expect("it is there");
                    body.touched();
                    self.model.files.insert(to.clone(), body);
                }
            }
            Step::RenameDir(target, to) => {
                let Some(from) = self.dir(target) else { return };
                let taken = self.model.files.contains_key(to) || self.model.dirs.contains_key(to);
                let inside = format!("{to}/").starts_with(&format!("{from}/"));
                if !taken && !inside && self.parent_is_there(to) {
                    fs::rename(self.disk(&from), self.disk(to)).expect("renamed");
                    self.model.move_tree(&from, to);
                }
            }
            other => unreachable!("{other:?} is no direct edit of a directory"),
        }
    }

    fn parent_is_there(&self, path: &str) -> bool {
        parents(path).all(|parent| self.model.dirs.contains_key(parent))
    }

    fn write_directly(&self, path: &str, bytes: &[u8], in_place: bool) -> bool {
        let disk = self.disk(path);
        let parent = disk.parent().expect("below the bucket");
        if fs::create_dir_all(parent).is_err() {
            return false;
        }
        if in_place {
            return fs::write(&disk, bytes).is_ok();
        }
        let new = self.root.path().join("new");
        fs::write(&new, bytes).expect("written");
        fs::rename(&new, &disk).is_ok()
    }
}

pub fn failed(e: StoreError) -> TestCaseError {
    TestCaseError::fail(e.to_string())
}

/// Waits until the clock has left the tick in which a file changed last: on a coarse clock, what puts the
/// mtime back within that tick leaves no trace at all.
fn next_tick(beside: &Path, file: &Path) {
    let probe = beside.join(".probe");
    let changed = |path: &Path| {
        let stat = fs::metadata(path).expect("there");
        (stat.ctime(), stat.ctime_nsec())
    };
    let last = changed(file);
    loop {
        fs::write(&probe, b"x").expect("written");
        if changed(&probe) > last {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

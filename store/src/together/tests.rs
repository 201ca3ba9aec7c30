use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use super::*;
use crate::{Digester, Meta, Store, StoreOptions, WriteConditions, testing};

const BOTH: [Durability; 2] = [Durability::Strict, Durability::Relaxed];

/// A store with one bucket.
struct Room {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    bucket: Bucket,
}

impl Room {
    fn new(durability: Durability) -> Self {
        let dir = tempfile::tempdir().expect("a root");
        let options = StoreOptions {
            durability,
            ..testing::options(dir.path())
        };
        let store = Store::open(options).expect("a store");
        let bucket = testing::bucket_of(&store);
        std::fs::create_dir(dir.path().join("bucket/d")).expect("a folder");
        Self { dir, store, bucket }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("bucket").join(key)
    }

    fn read(&self, key: &str) -> Option<String> {
        std::fs::read_to_string(self.path(key)).ok()
    }

    fn small(&self, key: &str, body: &str) -> Small<Vec<u8>> {
        let mut digester = Digester::new(&[]);
        digester.update(body.as_bytes());
        Small {
            bucket: self.bucket.clone(),
            key: self::key(key),
            body: body.as_bytes().to_vec(),
            put: Put {
                digests: digester.finish(),
                meta: Meta::default(),
                checksum: None,
                conditions: WriteConditions::default(),
            },
        }
    }

    fn smalls(&self, keys: &[&str]) -> Vec<Small<Vec<u8>>> {
        keys.iter().map(|key| self.small(key, key)).collect()
    }

    fn tasks(&self, keys: &[&str]) -> Vec<Task> {
        let smalls = self.smalls(keys).into_iter().enumerate();
        smalls
            .map(|(index, one)| Task::new(index, one.bucket, one.key, one.put))
            .collect()
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

/// What became of each, in the order in which it was told.
fn stored(smalls: Vec<Small<Vec<u8>>>) -> Vec<(usize, Stored)> {
    let mut all = Vec::new();
    store_together(smalls, |index, stored| all.push((index, stored)));
    all
}

/// `o` where it was stored, `x` where it failed, `d` where it was deferred; by index, each told of once.
fn outcomes(mut all: Vec<(usize, Stored)>) -> String {
    all.sort_by_key(|(index, _)| *index);
    assert!(all.iter().map(|(index, _)| *index).eq(0..all.len()));
    let letter = |(_, stored): &(usize, Stored)| match stored {
        Stored::Now(Ok(_)) => 'o',
        Stored::Now(Err(_)) => 'x',
        Stored::Deferred(_) => 'd',
    };
    all.iter().map(letter).collect()
}

fn publish_deferred(all: Vec<(usize, Stored)>) {
    for (_, stored) in all {
        if let Stored::Deferred(deferred) = stored {
            deferred.publish().expect("published by itself");
        }
    }
}

/// Staged and ready, as strict ones are before they are synced.
fn ready<'a>(tasks: &'a [Task]) -> Vec<Member<'a>> {
    let mut folders = Folders::default();
    let member = |task: &'a Task| {
        let body = task.key.as_str().as_bytes();
        let (mut member, folder) = Member::stage(task, body, &mut folders).expect("staged");
        assert!(
            member
                .prepare(&folder.expect("a folder"))
                .expect("prepared")
        );
        member
    };
    tasks.iter().map(member).collect()
}

/// A file of which every sync fails.
fn unsyncable() -> OwnedFd {
    std::io::pipe().expect("a pipe").0.into()
}

#[test]
fn each_is_stored_with_its_record_and_told_of() {
    for durability in BOTH {
        let room = Room::new(durability);
        let keys = ["a", "d/b", "d/c", "e"];
        let all = stored(room.smalls(&keys));
        assert!(all.iter().map(|(index, _)| *index).eq(0..4));
        assert_eq!(outcomes(all), "oooo");
        for key in keys {
            assert_eq!(room.read(key).as_deref(), Some(key));
            let object = room.object(key);
            let of_body = room
                .bucket
                .etag_kind()
                .of_body(&room.small(key, key).put.digests);
            // Where there are no xattrs a record need not be this file's.
            let folder = File::open(room.path("d")).expect("opened");
            assert!(object.info.etag == of_body || !crate::dirmark::is_possible(folder));
        }
    }
}

#[test]
fn what_fails_fails_alone_and_the_old_object_stays() {
    for durability in BOTH {
        let room = Room::new(durability);
        std::fs::write(room.path("d/b"), "old").expect("an object");
        std::os::unix::fs::symlink("d", room.path("link")).expect("linked");
        let mut smalls = room.smalls(&["a", "d/b", "d/c", "link/e"]);
        // Fewer bytes than its digests are of.
        smalls[1].body.pop();
        assert_eq!(outcomes(stored(smalls)), "oxox");
        assert_eq!(room.read("d/b").as_deref(), Some("old"));
        assert_eq!(room.read("d/c").as_deref(), Some("d/c"));
    }
}

#[test]
fn of_one_key_the_last_stays_and_nobody_is_deferred() {
    for durability in BOTH {
        let room = Room::new(durability);
        let bodies = ["1", "2", "3"];
        let smalls = bodies.iter().map(|body| room.small("d/k", body)).collect();
        assert_eq!(outcomes(stored(smalls)), "ooo");
        assert_eq!(room.read("d/k").as_deref(), Some("3"));
    }
}

#[test]
fn a_locked_key_holds_up_nobody_else() {
    for durability in BOTH {
        for in_this_process in [true, false] {
            let room = Room::new(durability);
            // The locks are there.
            assert_eq!(outcomes(stored(room.smalls(&["first"]))), "o");
            let gateway = match in_this_process {
                true => room.bucket.clone(),
                false => testing::bucket(room.dir.path()),
            };
            let (locked, is_locked) = mpsc::channel();
            let (release, released) = mpsc::channel::<()>();
            std::thread::scope(|scope| {
                let release = release; // gone with a panic, so that the lock is not held for ever
                scope.spawn(move || {
                    let held = gateway.lock_key(&key("d/b")).expect("locked");
                    locked.send(()).expect("somebody waits for it");
                    let _ = released.recv(); // or the test has failed
                    drop(held);
                });
                is_locked.recv().expect("locked");
                let all = stored(room.smalls(&["a", "d/b", "d/c"]));
                assert_eq!(room.read("d/b"), None);
                release.send(()).expect("held until now");
                let deferred = all.into_iter().map(|(index, stored)| match stored {
                    Stored::Deferred(deferred) => (index, Stored::Now(deferred.publish())),
                    Stored::Now(Err(e)) => panic!("{e}"),
                    now @ Stored::Now(Ok(_)) => (index + 10, now),
                });
                let mut indices: Vec<usize> = deferred.map(|(index, _)| index).collect();
                indices.sort_unstable();
                assert_eq!(indices, [1, 10, 12]);
            });
            for key in ["a", "d/b", "d/c"] {
                assert_eq!(room.read(key).as_deref(), Some(key));
            }
        }
    }
}

#[test]
fn what_is_not_the_common_case_is_deferred_and_then_published() {
    for durability in BOTH {
        let room = Room::new(durability);
        // It lives in the annex, though its path is free now.
        std::fs::write(room.path("f"), "a file").expect("a file");
        testing::put(&room.bucket, &key("f/in-annex"), b"old", Meta::default());
        std::fs::remove_file(room.path("f")).expect("removed");
        std::fs::create_dir(room.path("f")).expect("a folder");
        let keys = ["d/a", "new/folder/k", "f/in-annex", "a//b", "d", "d/z"];
        let mut smalls = room.smalls(&keys);
        smalls.push(room.small("d/e/", ""));
        smalls.push(room.small("if", "absent"));
        smalls.last_mut().expect("one").put.conditions.if_none_match = Some(crate::ETagList::Any);
        let all = stored(smalls);
        let told: String = all
            .iter()
            .map(|(_, stored)| match stored {
                Stored::Now(_) => 'o',
                Stored::Deferred(_) => 'd',
            })
            .collect();
        publish_deferred(all);
        assert_eq!(told.matches('o').count(), 2, "{told}");
        assert_eq!(room.read("new/folder/k").as_deref(), Some("new/folder/k"));
        assert_eq!(room.read("f/in-annex"), None);
        for key in keys.iter().chain(&["d/e/", "if"]) {
            room.object(key);
        }
    }
}

#[test]
fn what_changed_since_the_first_look_is_deferred_and_not_lost() {
    let room = Room::new(Durability::Strict);
    std::fs::create_dir(room.path("gone")).expect("a folder");
    std::fs::write(room.path("d/closed"), "for all").expect("written");
    let tasks = room.tasks(&["d/same", "d/replaced", "gone/k", "d/closed"]);
    let members = ready(&tasks);
    std::fs::write(room.path("d/replaced"), "by a person").expect("written");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(room.path("d/closed"), mode).expect("its mode");
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(room.path("d/replaced"), mode).expect("its mode");
    std::fs::remove_dir(room.path("gone")).expect("removed");
    let mut folders = Folders::default();
    let mut all = Vec::new();
    let mut named = Vec::new();
    for mut member in members {
        match member.name(&mut folders).expect("no error") {
            Some(_) => named.push(member.task.index),
            None => member.defer(&mut |index, stored| all.push((index, stored))),
        }
    }
    assert_eq!(named, [0]);
    assert_eq!(room.read("d/replaced").as_deref(), Some("by a person"));
    publish_deferred(all);
    for key in ["d/same", "d/replaced", "gone/k", "d/closed"] {
        assert_eq!(room.read(key).as_deref(), Some(key));
    }
    for (key, mode) in [("d/replaced", 0o640), ("d/closed", 0o600)] {
        let now = room.path(key).metadata().expect("there");
        assert_eq!(now.permissions().mode() & 0o777, mode, "{key}");
    }
}

#[test]
fn a_file_that_cannot_be_synced_is_not_published_and_fails_alone() {
    // By itself, and by one syncfs for all.
    for others in [2, 20] {
        let room = Room::new(Durability::Strict);
        let keys: Vec<String> = (0..=others).map(|n| format!("d/{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let tasks = room.tasks(&keys);
        let mut members = ready(&tasks);
        members[1].stage.file = Arc::new(File::from(unsyncable()));
        let mut told = Vec::new();
        let left = synced(members, &mut |index, stored| told.push((index, stored)));
        assert!(matches!(&told[..], [(1, Stored::Now(Err(_)))]));
        assert!(left.iter().all(|member| member.task.index != 1));
        assert_eq!(left.len(), others);
        assert_eq!(room.read("d/1"), None);
    }
}

#[test]
fn a_folder_that_cannot_be_synced_fails_those_that_went_into_it() {
    let room = Room::new(Durability::Strict);
    std::fs::create_dir(room.path("e")).expect("a folder");
    let tasks = room.tasks(&["d/1", "e/2", "d/3", "e/4"]);
    let mut folders = Folders::default();
    let visible = ready(&tasks).into_iter().map(|mut member| {
        let task = member.task;
        let named = member.name(&mut folders).expect("no error");
        let (mut folder, place, state) = named.expect("named");
        if task.key.as_str().starts_with('e') {
            folder.dir = Arc::new(unsyncable());
        }
        let announcement = task.bucket.announcement();
        Visible {
            task,
            folder,
            place,
            state,
            announcement,
        }
    });
    let visible = visible.collect();
    let mut all = Vec::new();
    answer(visible, &mut |index, stored| all.push((index, stored)));
    assert_eq!(outcomes(all), "oxox");
}

#[test]
fn a_batch_shares_one_sync_of_its_files_and_one_of_its_folder() {
    let room = Room::new(Durability::Strict);
    let keys: Vec<String> = (0..32).map(|n| format!("d/{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    // The way to a folder that is new is synced with its first object.
    assert_eq!(outcomes(stored(room.smalls(&["d/first"]))), "o");
    let before = room.store.commit_tallies();
    assert_eq!(outcomes(stored(room.smalls(&keys))), "o".repeat(32));
    let after = room.store.commit_tallies();
    let calls = |tallies: crate::SyncTallies| tallies.calls.iter().sum::<u64>();
    let both = |of: fn(&crate::CommitTallies) -> crate::SyncTallies| {
        let (before, after) = (of(&before), of(&after));
        (calls(after) - calls(before), after.served - before.served)
    };
    assert_eq!(both(|tallies| tallies.file), (0, 0));
    // Where folders have no birth the way to one is never known to be on disk: one sync more.
    let of_filesystem = both(|tallies| tallies.filesystem);
    assert!(
        [(1, 32), (2, 33)].contains(&of_filesystem),
        "{of_filesystem:?}"
    );
    assert_eq!(both(|tallies| tallies.directory), (1, 32));
}

#[test]
fn nothing_is_synced_that_need_not_be() {
    let room = Room::new(Durability::Relaxed);
    assert_eq!(outcomes(stored(room.smalls(&["d/1", "d/2"]))), "oo");
    assert_eq!(room.store.commit_tallies(), crate::CommitTallies::default());
    assert!(room.is_noted_unsynced());
}

impl Room {
    fn object(&self, text: &str) -> crate::Object {
        let object = self.bucket.open(&key(text), crate::Access::Blocking);
        object.expect(text)
    }

    /// The sync that comes later says until when all is on disk.
    fn is_noted_unsynced(&self) -> bool {
        self.store.sync_unsynced();
        Path::new(&self.path(".twintree/synced")).exists()
    }
}

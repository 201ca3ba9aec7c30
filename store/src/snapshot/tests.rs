//! Snapshots of files that are counted as open for writing. Where the filesystem has no reflinks there are none.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{Access, Store, StoreOptions, Writing, testing};

const LENGTH: u64 = 300_000;

struct Place {
    dir: tempfile::TempDir,
    bucket: Bucket,
}

/// A bucket with the file `f` of [`LENGTH`] bytes `1`.
fn place() -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = testing::bucket(dir.path());
    let place = Place { dir, bucket };
    std::fs::write(place.dir.path().join("bucket/f"), body(b'1', LENGTH)).expect("written");
    place
}

fn body(byte: u8, length: u64) -> Vec<u8> {
    vec![byte; usize::try_from(length).expect("short")]
}

fn key() -> ObjectKey {
    ObjectKey::parse("f").expect("a key")
}

impl Place {
    fn writer(&self) -> (File, Writing) {
        let path = self.dir.path().join("bucket/f");
        let file = File::options().read(true).write(true).open(path);
        let file = file.expect("opened");
        let writing = self.bucket.writing(&file).expect("counted");
        (file, writing)
    }

    fn object(&self) -> Object {
        self.bucket.open(&key(), Access::Blocking).expect("there")
    }

    /// Does the filesystem of this run have reflinks? Asked of cp's own system call.
    fn has_reflinks(&self) -> bool {
        let from = File::open(self.dir.path().join("bucket/f")).expect("opened");
        let to = tempfile::tempfile_in(self.dir.path()).expect("a file");
        fs::ioctl_ficlone(&to, &from).is_ok()
    }

    fn held(&self) -> (usize, u64) {
        let held = self.bucket.store.snapshots.held.lock();
        (held.count, held.bytes)
    }

    /// Waits until no more than so many are held: they are closed by threads of their own.
    fn closes_down_to(&self, count: usize) {
        let begun = std::time::Instant::now();
        while self.held().0 > count {
            assert!(begun.elapsed() < std::time::Duration::from_secs(30));
            std::thread::yield_now();
        }
    }

    /// A snapshot, or `None` where there are no reflinks, and then nothing else.
    fn taken(&self, object: &Object, wanted: Range<u64>) -> Option<Object> {
        match self.bucket.snapshot(&key(), object, wanted) {
            Snapshot::Taken(object) => Some(*object),
            other => {
                assert!(!self.has_reflinks(), "{other:?}");
                assert!(matches!(other, Snapshot::None), "{other:?}");
                assert_eq!(self.held(), (0, 0));
                None
            }
        }
    }
}

fn bytes_of(object: &Object, range: Range<u64>) -> Vec<u8> {
    let mut bytes = body(0, range.end - range.start);
    let file = object.file.as_ref().expect("a file");
    file.read_exact_at(&mut bytes, range.start).expect("read");
    bytes
}

#[test]
fn a_snapshot_keeps_what_was_there_and_the_salted_etag() {
    let place = place();
    let (file, _writing) = place.writer();
    let object = place.object();
    let Some(taken) = place.taken(&object, 0..LENGTH) else {
        return;
    };
    assert_eq!(
        place.object().info.etag,
        object.info.etag,
        "taking it moves nothing"
    );
    file.write_all_at(&body(b'2', LENGTH), 0)
        .expect("rewritten");
    assert!(!object.unchanged().expect("a look"), "the file has moved");
    assert!(taken.unchanged().expect("a look"));
    assert_eq!(taken.info.etag, object.info.etag);
    assert!(taken.info.checksum.is_none() && taken.info.in_flux && !taken.is_claimed());
    assert!(taken.holds(&(0..LENGTH)) && !taken.holds(&(0..LENGTH + 1)));
    assert!(bytes_of(&taken, 0..LENGTH) == body(b'1', LENGTH));
    assert_ne!(place.object().info.etag, taken.info.etag);
}

#[test]
fn a_snapshot_of_a_range_has_that_range_at_its_place() {
    let place = place();
    let (file, _writing) = place.writer();
    for at in 0..LENGTH / 1000 {
        file.write_all_at(at.to_string().as_bytes(), at * 1000)
            .expect("numbered");
    }
    let before = bytes_of(&place.object(), 0..LENGTH);
    for wanted in [
        0..1,
        65_536..131_072,
        70_001..140_003,
        299_999..LENGTH,
        200_000..LENGTH,
    ] {
        let Some(taken) = place.taken(&place.object(), wanted.clone()) else {
            return;
        };
        assert!(taken.holds(&wanted) && taken.info.size == LENGTH);
        let expected = usize::try_from(wanted.start).expect("short")
            ..usize::try_from(wanted.end).expect("short");
        assert!(
            bytes_of(&taken, wanted.clone()) == before[expected],
            "{wanted:?}"
        );
        assert_eq!(
            taken.holds(&(0..LENGTH)),
            wanted.start < ALIGNMENT && wanted.end == LENGTH
        );
    }
}

#[test]
fn what_moved_since_it_was_described_is_described_as_it_is() {
    let place = place();
    let (file, writing) = place.writer();
    let object = place.object();
    file.write_all_at(&body(b'2', LENGTH + 10), 0)
        .expect("grown");
    let Some(taken) = place.taken(&object, 0..LENGTH) else {
        return;
    };
    let now = place.object();
    assert_eq!(
        (taken.info.size, taken.info.etag),
        (now.info.size, now.info.etag)
    );
    assert_eq!(taken.info.modified, now.info.modified);
    assert!(bytes_of(&taken, 0..LENGTH + 10) == body(b'2', LENGTH + 10));
    file.set_len(0).expect("cut");
    let empty = place.taken(&object, 0..LENGTH).expect("as before");
    assert_eq!(empty.info.size, 0);
    drop(writing);
    let closed = place.bucket.snapshot(&key(), &object, 0..LENGTH);
    assert!(matches!(closed, Snapshot::Closed), "{closed:?}");
}

#[test]
fn the_bytes_of_a_snapshot_are_never_older_than_what_describes_it() {
    let place = place();
    let (file, _writing) = place.writer();
    let object = place.object();
    if place.taken(&object, 0..8).is_none() {
        return;
    }
    let stop = AtomicBool::new(false);
    let (written, seen) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = HashMap::new();
            for number in 1_u64.. {
                file.write_all_at(&number.to_le_bytes(), 0)
                    .expect("written");
                let now = FileState::look(&file).expect("a look");
                written.insert(now.modified, number);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            written
        });
        let mut seen = Vec::new();
        for _ in 0..300 {
            if let Snapshot::Taken(taken) = place.bucket.snapshot(&key(), &object, 0..8) {
                let bytes = bytes_of(&taken, 0..8).try_into().expect("eight bytes");
                seen.push((taken.info.modified, u64::from_le_bytes(bytes)));
            }
        }
        stop.store(true, Ordering::Relaxed);
        (writer.join().expect("it wrote"), seen)
    });
    let described = seen
        .iter()
        .filter_map(|(modified, number)| Some((number, written.get(modified)?)));
    let mut met = 0;
    for (number, by_then) in described {
        assert!(number >= by_then, "{number} under the mtime of {by_then}");
        met += 1;
    }
    assert!(
        met > 0,
        "of {} snapshots none was described by a write",
        seen.len()
    );
}

#[test]
fn a_snapshot_has_no_name_and_what_it_held_is_given_back() {
    let place = place();
    let (_file, _writing) = place.writer();
    let object = place.object();
    let Some(taken) = place.taken(&object, 0..LENGTH) else {
        return;
    };
    assert_eq!(place.held(), (1, LENGTH));
    let again = taken.clone();
    let names = std::fs::read_dir(place.dir.path().join("bucket")).expect("a listing");
    let names: Vec<_> = names
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(
        names.iter().all(|name| name == "f" || name == ".twintree"),
        "{names:?}"
    );
    drop(taken);
    assert_eq!(place.held(), (1, LENGTH), "one is left");
    drop(again);
    place.closes_down_to(0);
    assert_eq!(place.held(), (0, 0));
}

#[test]
fn snapshots_are_bounded_in_number_and_length_and_by_what_is_free() {
    let place = place();
    let (file, _writing) = place.writer();
    let object = place.object();
    let mut some: Vec<Object> = Vec::new();
    for _ in 0..MOST {
        let Some(taken) = place.taken(&object, 0..1) else {
            return;
        };
        some.push(taken);
    }
    let none = |object: &Object, wanted| {
        let answer = place.bucket.snapshot(&key(), object, wanted);
        assert!(matches!(answer, Snapshot::None), "{answer:?}");
    };
    none(&object, 0..1);
    drop(some.pop());
    place.closes_down_to(MOST - 1);
    assert!(place.taken(&object, 0..1).is_some());
    place.closes_down_to(MOST - 1);
    file.set_len(4 * LONGEST).expect("grown");
    let long = place.object();
    none(&long, 0..LONGEST + 1);
    let half = (free(&place) / SHARE / 2).min(LONGEST);
    assert!(place.taken(&long, LONGEST..LONGEST + half).is_some());
    let share = |bytes| Share::of(&place.bucket.store.snapshots, &top(&place), bytes);
    let most = free(&place) / SHARE;
    place.bucket.store.snapshots.held.lock().bytes += most;
    assert!(share(LONGEST).is_none(), "its writers would find no room");
    place.bucket.store.snapshots.held.lock().bytes -= most;
}

fn top(place: &Place) -> OwnedFd {
    place
        .bucket
        .tree
        .open_top()
        .expect("the bucket's directory")
}

fn free(place: &Place) -> u64 {
    let facts = fs::fstatvfs(top(place)).expect("facts");
    facts.f_bavail * facts.f_frsize
}

#[test]
fn nothing_is_taken_where_nothing_may_be_written() {
    let place = place();
    let (_file, _writing) = place.writer();
    let store = Store::open(StoreOptions {
        read_only: true,
        ..place.bucket.store.options.clone()
    });
    let bucket = store.expect("a store").bucket(place.bucket.name());
    let bucket = bucket.expect("the bucket");
    let answer = bucket.snapshot(&key(), &place.object(), 0..LENGTH);
    assert!(matches!(answer, Snapshot::None), "{answer:?}");
    assert!(matches!(
        place.bucket.snapshot(&key(), &place.object(), 5..5),
        Snapshot::None
    ));
}

#[test]
fn a_filesystem_without_reflinks_is_tried_once() {
    let snapshots = Snapshots::default();
    for (e, goes_on) in [
        (Errno::NOSPC, true),
        (Errno::INVAL, true),
        (Errno::OPNOTSUPP, false),
    ] {
        snapshots.failed(7, e);
        assert_eq!(snapshots.may_be_on(7), goes_on, "{e:?}");
        assert!(snapshots.may_be_on(8));
    }
}

// A range under the ETag of the first look had the bytes of the write that came after it.
#[test]
fn what_moved_between_two_looks_has_an_etag_that_nothing_else_has() {
    let place = place();
    let (file, _writing) = place.writer();
    let (object, seen) = (place.object(), FileState::look(&file).expect("looked"));
    let etag = |is_of_one_look| {
        let described = place
            .bucket
            .described(&object, seen.inode(), &seen, is_of_one_look);
        described.expect("in flux").info.etag
    };
    assert_eq!(etag(true), object.info.etag);
    let moved = [etag(false), etag(false)];
    assert!(moved[0] != moved[1] && !moved.contains(&object.info.etag));
}

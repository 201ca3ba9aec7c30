//! The procedure, on trees of their own: `processes.rs` has two processes at one file.

mod processes;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use super::lease::{LEASES, Lease};
use super::settle::{Quiet, read_quietly};
use super::*;
use crate::record::{FileState, RECORD_XATTR, Record};
use crate::{
    Access, Bucket, BucketName, BucketSettings, Digester, Durability, ETag, ETagKind, ETagKinds,
    KeyPolicy, Meta, ObjectKey, Put, StoreOptions, WriteConditions,
};

struct Place {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(&dir);
        store
            .create_bucket(&name(), BucketSettings::default())
            .expect("a bucket");
        Self { dir, store }
    }

    fn bucket(&self) -> Bucket {
        self.store.bucket(&name()).expect("the bucket")
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("bucket/f")
    }

    fn put(&self, body: &[u8]) -> ETag {
        let bucket = self.bucket();
        let stage = bucket.stage(&key(), None).expect("staged");
        stage.file.write_all_at(body, 0).expect("written");
        let mut digester = Digester::new(&[]);
        digester.update(body);
        let put = Put {
            digests: digester.finish(),
            meta: Meta {
                content_type: Some(b"text/css".to_vec()),
                ..Meta::default()
            },
            checksum: None,
            conditions: WriteConditions::default(),
        };
        bucket.publish(&key(), stage, put).expect("published").etag
    }

    fn etag(&self) -> ETag {
        self.bucket()
            .open(&key(), Access::Blocking)
            .expect("there")
            .info
            .etag
    }

    fn settle(&self) {
        let once = || at_once(&self.store);
        let begun = std::time::Instant::now();
        // Busy: without leases, and where the clock is coarse, only quiet time tells.
        while matches!(once().expect("no error"), Outcome::Busy(_)) {
            assert!(begun.elapsed() < Duration::from_secs(20), "never quiet");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn chmod(&self, mode: u32) {
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).expect("chmod");
    }

    /// Waits until the clock has left the tick in which the file changed last: where the kernel gives
    /// not each change a stamp of its own, a change within that tick shows in none.
    fn next_tick(&self) {
        let probe = self.dir.path().join("probe");
        let look = |path: &PathBuf| {
            let file = fs::File::open(path).expect("open");
            FileState::look(&file).expect("stat")
        };
        let last = look(&self.path()).changed;
        loop {
            fs::write(&probe, b"x").expect("written");
            if look(&probe).changed > last {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn record(&self) -> Option<Record> {
        let bytes = xattr::get(self.path(), RECORD_XATTR).expect("readable")?;
        Some(Record::decode(&bytes).expect("a record"))
    }
}

/// Settles the file now, however young it is.
fn at_once(store: &Arc<Store>) -> Result<Outcome> {
    let terms = Terms {
        untouched: 0,
        pace: &Pace::new(None),
        stop: &AtomicBool::new(false),
        read: &|_| {},
    };
    settle(store, &name(), "f", &terms)
}

fn open(dir: &tempfile::TempDir) -> Arc<Store> {
    open_with(dir, ETagKind::Md5)
}

fn open_with(dir: &tempfile::TempDir, usual: ETagKind) -> Arc<Store> {
    Store::open(StoreOptions {
        root: dir.path().to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: ETagKinds {
            usual,
            ..ETagKinds::default()
        },
        buckets: Default::default(),
        more_roots: Vec::new(),
    })
    .expect("a store")
}

fn name() -> BucketName {
    BucketName::parse("bucket").expect("a name")
}

fn key() -> ObjectKey {
    ObjectKey::parse("f").expect("a key")
}

#[test]
fn chmod_is_settled_and_the_etag_is_back_for_every_gateway() {
    let place = Place::new();
    let etag = place.put(b"body");
    place.next_tick();
    place.chmod(0o600);
    assert!(matches!(place.etag(), ETag::Derived(..)));
    assert_eq!(
        place.store.seal_queue.pop(Duration::ZERO, Duration::ZERO),
        Some((name(), "f".to_owned()))
    );
    let derived = place.etag();
    place.settle();
    assert_eq!(place.etag(), etag);
    let mine = place
        .bucket()
        .open(&key(), Access::Blocking)
        .expect("there");
    assert!(
        mine.info.is_tagged(&derived.to_string()),
        "who read it before goes on"
    );
    let another = open(&place.dir).bucket(&name()).expect("the bucket");
    let info = another.open(&key(), Access::Blocking).expect("there").info;
    assert_eq!(info.etag, etag);
    assert_eq!(info.meta.content_type.as_deref(), Some(&b"text/css"[..]));
}

#[test]
fn other_content_under_the_old_mtime_gets_a_new_record_and_keeps_the_object_half() {
    let place = Place::new();
    place.put(b"body");
    place.next_tick();
    let before = fs::metadata(place.path())
        .expect("there")
        .modified()
        .expect("a time");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(place.path())
        .expect("opened");
    file.write_all_at(b"BODY", 0).expect("written");
    file.set_modified(before).expect("put back");
    drop(file);
    let derived = place.etag();
    assert!(matches!(derived, ETag::Derived(..)));
    place.settle();
    let info = place
        .bucket()
        .open(&key(), Access::Blocking)
        .expect("there")
        .info;
    let mut digester = Digester::new(&[]);
    digester.update(b"BODY");
    assert_eq!(
        info.etag,
        ETag::Md5(digester.finish().md5.expect("not left out"))
    );
    assert!(
        info.is_tagged(&derived.to_string()),
        "who read it before goes on"
    );
    assert_eq!(info.meta.content_type.as_deref(), Some(&b"text/css"[..]));
}

#[test]
fn where_etags_are_no_md5s_a_file_gets_one_of_its_crc_which_a_later_seal_keeps() {
    let mut place = Place::new();
    place.store = open_with(&place.dir, ETagKind::Crc64);
    fs::write(place.path(), b"body").expect("written");
    let derived = place.etag();
    place.settle();
    let etag = place.etag();
    let mut digester = Digester::without_md5(&[]);
    digester.update(b"body");
    let crc64 = digester.finish().crc64.to_be_bytes();
    assert!(matches!(etag, ETag::Opaque(bytes) if bytes.starts_with(&crc64)));
    let bucket = place.bucket();
    let info = bucket.open(&key(), Access::Blocking).expect("there").info;
    assert!(
        info.is_tagged(&derived.to_string()),
        "who read it before goes on"
    );
    place.next_tick();
    place.chmod(0o600);
    assert!(matches!(place.etag(), ETag::Derived(..)));
    place.settle();
    assert_eq!(place.etag(), etag, "the content is what the CRC says");
}

#[test]
fn unsynced_record_of_another_boot_is_read_and_trusted_again() {
    let place = Place::new();
    let etag = place.put(b"body");
    let mut record = place.record().expect("a record");
    assert!(record.unsynced);
    record.set_unsynced(Some([1; 8]));
    xattr::set(place.path(), RECORD_XATTR, &record.encode()).expect("set");
    assert!(matches!(place.etag(), ETag::Derived(..)));
    place.settle();
    assert_eq!(place.etag(), etag);
    assert!(!place.record().expect("a record").unsynced);
}

#[test]
fn record_of_a_later_version_is_left_alone() {
    let place = Place::new();
    place.put(b"body");
    let mut bytes = xattr::get(place.path(), RECORD_XATTR)
        .expect("readable")
        .expect("there");
    bytes[0] = 2;
    xattr::set(place.path(), RECORD_XATTR, &bytes).expect("set");
    place.settle();
    assert_eq!(
        xattr::get(place.path(), RECORD_XATTR).expect("readable"),
        Some(bytes)
    );
}

#[test]
fn file_that_a_writer_holds_open_waits_its_turn() {
    let place = Place::new();
    if !LEASES.contains(&place.bucket().shared.facts.name) {
        return; // there only quiet time tells, and a test does not wait for it
    }
    let etag = place.put(b"body");
    let writer = fs::OpenOptions::new()
        .append(true)
        .open(place.path())
        .expect("opened");
    place.next_tick();
    place.chmod(0o600);
    let busy = at_once(&place.store).expect("no error");
    assert!(matches!(busy, Outcome::Busy(_)));
    assert!(matches!(place.etag(), ETag::Derived(..)));
    drop(writer);
    place.settle();
    assert_eq!(place.etag(), etag);
}

#[test]
fn etag_never_flaps_while_two_gateways_tag_and_settle() {
    let place = Place::new();
    let etag = place.put(b"body");
    let other = Place {
        dir: tempfile::tempdir().expect("a directory"),
        store: open(&place.dir),
    };
    std::thread::scope(|scope| {
        for gateway in [&place, &other] {
            scope.spawn(move || {
                for n in 0..1000 {
                    let tags = vec![("n".to_owned(), n.to_string())];
                    gateway.bucket().set_tags(&key(), tags).expect("tagged");
                }
            });
            scope.spawn(move || {
                for _ in 0..1000 {
                    assert_eq!(gateway.etag(), etag);
                    // Settled or busy: either is right while the other gateway tags.
                    at_once(&gateway.store).expect("no error");
                }
            });
        }
    });
}

#[test]
fn a_file_that_is_open_for_writing_is_left_alone_and_a_writer_who_comes_stops_the_reading() {
    let place = Place::new();
    place.put(b"body");
    fs::write(place.path(), b"else").expect("written");
    let bucket = place.bucket();
    // Not opened for writing in fact: no lease tells.
    let file = fs::File::open(place.path()).expect("opened");
    let writing = bucket.writing(&file).expect("counted");
    let settled = at_once(&place.store).expect("no error");
    assert_eq!(settled, Outcome::Busy(Busy::Counted));
    let file = OwnedFd::from(file);
    let quiet = Quiet {
        bucket: &bucket,
        file: &file,
        inode: writing.inode(),
        size: 4,
        lease: Lease { file: None },
        terms: &Terms {
            untouched: 0,
            pace: &Pace::new(None),
            stop: &AtomicBool::new(false),
            read: &|_| {},
        },
    };
    assert!(!read_quietly(&quiet, |_| ()).expect("read"));
    drop(writing);
    assert!(matches!(place.etag(), ETag::Derived(..)), "not sealed");
    assert!(read_quietly(&quiet, |_| ()).expect("read"));
}

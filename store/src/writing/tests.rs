//! What a writable open of the mount does to records, to readers who are under way, and to the sealer.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::{
    Access, BucketName, BucketSettings, CopyRequest, Digester, Durability, ETag, ETagList,
    KeyPolicy, ListQuery, Meta, Object, Put, Store, StoreOptions, WriteConditions,
};

const OLD: &[u8] = b"what was there";
const NEW: &[u8] = b"what is there!";
/// A bound for what surely comes.
const LONG: Duration = Duration::from_secs(30);

struct Place {
    dir: Arc<tempfile::TempDir>,
    bucket: Bucket,
}

fn place() -> Place {
    opened(false)
}

/// `mtime_only`: size and mtime are all that is judged by, so that only a dropped record is not believed.
fn opened(mtime_only: bool) -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    opened_in(Arc::new(dir), mtime_only)
}

fn opened_in(dir: Arc<tempfile::TempDir>, mtime_only: bool) -> Place {
    let store = Store::open(StoreOptions {
        root: dir.path().to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: mtime_only,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    })
    .expect("a store");
    let name = BucketName::parse("bucket").expect("a name");
    match store.create_bucket(&name, BucketSettings::default()) {
        Ok(()) | Err(StoreError::BucketExists(_)) => {}
        Err(e) => panic!("{e}"),
    }
    let bucket = store.bucket(&name).expect("the bucket");
    Place { dir, bucket }
}

impl Place {
    fn put(&self, key_: &str, body: &[u8]) -> ETag {
        self.put_if(key_, body, WriteConditions::default())
            .expect("published")
    }

    fn put_if(&self, key_: &str, body: &[u8], conditions: WriteConditions) -> Result<ETag> {
        let stage = self.bucket.stage(&key(key_), None)?;
        (&*stage.file).write_all(body).expect("staged");
        let mut digester = Digester::new(&[]);
        digester.update(body);
        let put = Put {
            digests: digester.finish(),
            meta: meta(),
            checksum: None,
            conditions,
        };
        Ok(self.bucket.publish(&key(key_), stage, put)?.etag)
    }

    fn object(&self, key_: &str) -> Object {
        self.bucket
            .open(&key(key_), Access::Blocking)
            .expect("there")
    }

    fn etag(&self, key_: &str) -> ETag {
        self.object(key_).info.etag
    }

    fn listed(&self, key_: &str) -> ETag {
        let page = self
            .bucket
            .list(&ListQuery {
                max_keys: 1000,
                ..ListQuery::default()
            })
            .expect("listed");
        let entry = page.objects().find(|entry| entry.key == key_);
        entry.expect("in the list").etag
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("bucket").join(name)
    }

    /// As the mount opens it for an application.
    fn writable(&self, name: &str) -> fs::File {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        options.open(self.path(name)).expect("opened")
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

fn meta() -> Meta {
    Meta {
        content_type: Some(b"text/x-odd".to_vec()),
        tags: vec![("colour".to_owned(), "red".to_owned())],
        ..Meta::default()
    }
}

fn md5(body: &[u8]) -> ETag {
    let mut digester = Digester::new(&[]);
    digester.update(body);
    ETag::Md5(digester.finish().md5.expect("not left out"))
}

fn mtime(file: &fs::File) -> SystemTime {
    file.metadata().expect("stat").modified().expect("mtime")
}

fn overwrite(file: &fs::File, body: &[u8]) {
    file.write_all_at(body, 0).expect("written");
}

#[test]
fn while_it_is_open_for_writing_nothing_is_claimed_and_get_head_and_list_say_so_alike() {
    let place = place();
    place.put("f", OLD);
    assert_eq!(place.listed("f"), md5(OLD));
    let file = place.writable("f");
    let first = place.bucket.writing(&file).expect("counted");
    let object = place.object("f");
    assert!(object.info.in_flux && object.info.checksum.is_none());
    let etag = object.info.etag;
    assert!(etag.to_string().ends_with("-1"));
    assert_eq!((place.etag("f"), place.listed("f")), (etag, etag), "stable");
    assert_eq!(object.info.meta, meta(), "the object half is believed");
    let second = place.bucket.writing(&file).expect("counted");
    let under_another = place.etag("f");
    assert_ne!(under_another, etag);
    assert_eq!(place.listed("f"), under_another);
    drop(first);
    assert!(place.object("f").info.in_flux, "one is left");
    second.finish(&file, Some(&key("f"))).expect("finished");
    assert_eq!(
        (place.etag("f"), place.listed("f")),
        (md5(OLD), md5(OLD)),
        "nobody wrote"
    );
}

#[test]
fn a_file_that_pages_know_is_listed_as_open_while_it_is_open_for_writing() {
    let place = place();
    place.put("f", OLD);
    let file = place.writable("f");
    let state = FileState::look(&file).expect("stat");
    let known = &place.bucket.store.names.known;
    // Of files without xattrs nothing is kept; the rest holds there as well.
    let mut none: [u8; 0] = [];
    let has_xattrs = rustix::fs::fgetxattr(&file, "user.twintree", &mut none)
        .err()
        .is_none_or(|e| !disk::is_unsupported(e));
    let since = Instant::now();
    while has_xattrs && known.get(&state).is_none() {
        assert_eq!(place.listed("f"), md5(OLD));
        assert!(since.elapsed() < LONG, "it becomes quiet and known");
    }
    let open = place.bucket.writing(&file).expect("counted");
    assert_eq!(place.listed("f"), place.etag("f"));
    assert_ne!(place.listed("f"), md5(OLD));
    open.finish(&file, Some(&key("f"))).expect("finished");
    assert_eq!(place.listed("f"), md5(OLD));
}

#[test]
fn what_is_changed_after_a_touch_is_never_answered_by_the_old_record_even_with_its_mtime() {
    for mtime_only in [false, true] {
        let place = opened(mtime_only);
        for key_ in ["f", "x//y"] {
            place.put(key_, OLD);
            let name = if key_ == "f" {
                "f"
            } else {
                ".twintree/annex/x=d/%=d/y=f"
            };
            let file = place.writable(name);
            let before = mtime(&file);
            let writing = place.bucket.writing(&file).expect("counted");
            writing.touched(&file).expect("dropped");
            overwrite(&file, NEW);
            file.set_modified(before).expect("put back");
            writing.finish(&file, None).expect("finished");
            for place in [&place, &opened_again(&place, mtime_only)] {
                let info = place.object(key_).info;
                assert_ne!(info.etag, md5(OLD), "{key_}");
                assert!(info.checksum.is_none() && info.etag.to_string().ends_with("-1"));
                assert_eq!(info.meta, meta(), "{key_}: the object half stays");
                assert_eq!(place.listed(key_), info.etag);
            }
        }
    }
}

/// Another process on the same tree.
fn opened_again(place: &Place, mtime_only: bool) -> Place {
    opened_in(Arc::clone(&place.dir), mtime_only)
}

#[test]
fn what_a_flush_finds_changed_is_dropped_before_it_returns() {
    let place = opened(true);
    place.put("f", OLD);
    let file = place.writable("f");
    let before = mtime(&file);
    let writing = place.bucket.writing(&file).expect("counted");
    assert!(!writing.compare(&file).expect("compared"));
    // As passthrough shows it: not at all.
    overwrite(&file, NEW);
    assert!(writing.compare(&file).expect("compared"));
    file.set_modified(before).expect("put back");
    drop(writing);
    assert!(matches!(place.etag("f"), ETag::Derived(..)));
}

#[test]
fn tags_that_are_set_while_it_is_open_bring_no_content_half_back() {
    let place = opened(true);
    place.put("f", OLD);
    let file = place.writable("f");
    let before = mtime(&file);
    let writing = place.bucket.writing(&file).expect("counted");
    let tags = vec![("colour".to_owned(), "blue".to_owned())];
    writing.touched(&file).expect("dropped");
    place
        .bucket
        .set_tags(&key("f"), tags.clone())
        .expect("tagged");
    overwrite(&file, NEW);
    file.set_modified(before).expect("put back");
    writing.finish(&file, None).expect("finished");
    let info = place.object("f").info;
    assert!(matches!(info.etag, ETag::Derived(..)));
    assert_eq!(info.meta, Meta { tags, ..meta() });
}

#[test]
fn a_conditional_write_fails_while_it_is_open_and_a_plain_one_replaces_it() {
    let place = place();
    place.put("f", OLD);
    let file = place.writable("f");
    let writing = place.bucket.writing(&file).expect("counted");
    let tagged = |etag: ETag| ETagList::Tags(vec![etag.to_string()]);
    for list in [tagged(md5(OLD)), tagged(place.etag("f")), ETagList::Any] {
        let conditions = WriteConditions {
            if_match: Some(list),
            ..WriteConditions::default()
        };
        let put = place.put_if("f", NEW, conditions.clone());
        assert!(matches!(
            put,
            Err(StoreError::PreconditionFailed("If-Match"))
        ));
        let deleted = place.bucket.delete(&key("f"), &conditions);
        assert!(matches!(
            deleted,
            Err(StoreError::PreconditionFailed("If-Match"))
        ));
    }
    let absent = WriteConditions {
        if_none_match: Some(tagged(md5(NEW))),
        ..WriteConditions::default()
    };
    let put = place.put_if("f", NEW, absent);
    assert!(matches!(
        put,
        Err(StoreError::PreconditionFailed("If-None-Match"))
    ));
    place.put("f", NEW);
    assert_eq!(
        place.etag("f"),
        md5(NEW),
        "another file, which nobody has open"
    );
    writing.finish(&file, None).expect("finished");
    assert_eq!(place.etag("f"), md5(NEW));
}

#[test]
fn a_copy_of_what_is_open_has_the_md5_of_the_bytes_that_it_has() {
    let place = place();
    place.put("f", OLD);
    let file = place.writable("f");
    let writing = place.bucket.writing(&file).expect("counted");
    overwrite(&file, NEW);
    let request = CopyRequest::default();
    place
        .bucket
        .copy(&place.object("f"), &key("g"), request)
        .expect("copied");
    assert_eq!(place.etag("g"), md5(NEW));
    writing.finish(&file, None).expect("finished");
}

#[test]
fn a_reader_under_way_is_told_when_somebody_opened_it_for_writing_or_had() {
    let place = opened(true);
    place.put("f", OLD);
    let object = place.object("f");
    assert!(object.is_claimed() && object.unchanged().expect("looked"));
    let file = place.writable("f");
    let before = mtime(&file);
    let writing = place.bucket.writing(&file).expect("counted");
    assert!(
        !object.unchanged().expect("looked"),
        "it is open for writing"
    );
    writing.touched(&file).expect("dropped");
    overwrite(&file, NEW);
    file.set_modified(before).expect("put back");
    writing.finish(&file, None).expect("finished");
    assert!(!object.unchanged().expect("looked"), "it was");
}

#[test]
fn a_reader_under_way_is_left_alone_by_tags_a_chmod_a_new_version_and_a_deletion() {
    let place = place();
    place.put("f", OLD);
    let object = place.object("f");
    let unchanged = || object.unchanged().expect("looked");
    place
        .bucket
        .set_tags(&key("f"), Vec::new())
        .expect("tagged");
    assert!(unchanged(), "tags");
    fs::set_permissions(place.path("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(unchanged(), "chmod");
    fs::hard_link(place.path("f"), place.path("again")).expect("linked");
    place.put("f", NEW);
    assert!(unchanged(), "a new version");
    place
        .bucket
        .delete(&key("again"), &WriteConditions::default())
        .expect("deleted");
    assert!(unchanged(), "a deletion");
    drop(place.bucket.writing(place.writable("f")).expect("counted"));
    assert!(unchanged(), "a writer of another file");
}

#[test]
fn what_moves_ctime_and_keeps_the_content_keeps_the_record() {
    let place = place();
    place.put("f", OLD);
    let path_only = rustix::fs::open(
        place.path("f"),
        OFlags::PATH | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .expect("opened");
    let chmod = || fs::set_permissions(place.path("f"), fs::Permissions::from_mode(0o600));
    place
        .bucket
        .keeping_record(&path_only, Moves::Ctime, chmod)
        .expect("chmod");
    assert_eq!(place.etag("f"), md5(OLD));
    let file = place.writable("f");
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    place
        .bucket
        .keeping_record(&file, Moves::Mtime, || file.set_modified(date))
        .expect("utimens");
    let rename = || fs::rename(place.path("f"), place.path("g"));
    place
        .bucket
        .keeping_record(&file, Moves::Ctime, rename)
        .expect("rename");
    let info = place.object("g").info;
    assert_eq!(
        (info.etag, info.modified.seconds()),
        (md5(OLD), 1_000_000_000)
    );
    assert_eq!(opened_again(&place, false).etag("g"), md5(OLD));
}

// A name that S3 takes from a file moves the ctime that its other names show: their ETag became a derived one.
#[test]
fn the_other_names_of_what_s3_replaces_or_deletes_keep_its_etag() {
    let place = place();
    for other in ["replaced", "deleted"] {
        place.put(other, OLD);
        let name = format!("{other} as well");
        let file = place.writable(other);
        let link = || fs::hard_link(place.path(other), place.path(&name));
        let linked = place.bucket.keeping_record(&file, Moves::Ctime, link);
        linked.expect("linked");
        drop(file);
        match other {
            "replaced" => drop(place.put(other, NEW)),
            _ => drop(
                place
                    .bucket
                    .delete(&key(other), &WriteConditions::default())
                    .expect("deleted"),
            ),
        }
        assert_eq!(place.etag(&name), md5(OLD), "{other}");
        assert_eq!(opened_again(&place, false).etag(&name), md5(OLD), "{other}");
    }
}

// Two of 64 files surely share a lock: a rename that held one after the other waited for itself for ever.
#[test]
fn what_changes_many_files_at_once_keeps_all_their_records_and_waits_for_nobody() {
    let place = place();
    let names: Vec<String> = (0..64).map(|n| format!("{n}.txt")).collect();
    for name in &names {
        place.put(name, OLD);
    }
    let files: Vec<_> = names.iter().map(|name| place.writable(name)).collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let chmod = || -> std::io::Result<()> {
        for file in &files {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    };
    place
        .bucket
        .keeping_records(&fds, Moves::Ctime, chmod)
        .expect("changed");
    for name in &names {
        assert_eq!(place.etag(name), md5(OLD), "{name}");
    }
}

#[test]
fn who_writes_beside_a_chmod_gets_no_old_record() {
    let place = place();
    place.put("f", OLD);
    let file = place.writable("f");
    let chmod = || {
        overwrite(&file, NEW); // somebody else, straight in the directory, of the same size
        file.set_permissions(fs::Permissions::from_mode(0o600))
    };
    place
        .bucket
        .keeping_record(&file, Moves::Ctime, chmod)
        .expect("chmod");
    assert!(matches!(place.etag("f"), ETag::Derived(..)));
}

#[test]
fn an_mtime_that_is_put_back_through_the_mount_brings_no_stale_record_back() {
    let place = opened(true);
    place.put("f", OLD);
    let file = place.writable("f");
    let before = mtime(&file);
    overwrite(&file, NEW); // as a store through a mapping that outlived its open
    place
        .bucket
        .keeping_record(&file, Moves::Mtime, || file.set_modified(before))
        .expect("utimens");
    assert!(matches!(place.etag("f"), ETag::Derived(..)));
}

#[test]
fn what_was_written_and_closed_is_sealed_with_its_own_md5_and_keeps_its_meta() {
    let place = place();
    place.put("put", OLD);
    fs::write(place.path("native"), OLD).expect("written");
    let _sealer = place
        .bucket
        .store
        .start_sealer_after(Duration::ZERO)
        .expect("a thread");
    for name in ["put", "native"] {
        let file = place.writable(name);
        let writing = place.bucket.writing(&file).expect("counted");
        writing.touched(&file).expect("dropped");
        overwrite(&file, NEW);
        writing.finish(&file, Some(&key(name))).expect("finished");
        let derived = place.etag(name);
        drop(file);
        let begun = Instant::now();
        while place.etag(name) != md5(NEW) {
            assert!(begun.elapsed() < LONG, "never sealed: {name}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let info = place.object(name).info;
        assert!(info.checksum.is_some());
        assert!(
            info.is_tagged(&derived.to_string()) || matches!(derived, ETag::Md5(_)),
            "who read it before goes on with his If-Match"
        );
    }
    assert_eq!(place.object("put").info.meta, meta());
}

#[test]
fn what_was_opened_for_writing_and_not_written_is_not_read_to_seal_it() {
    let place = place();
    fs::write(place.path("native"), OLD).expect("written");
    let file = place.writable("native");
    let writing = place.bucket.writing(&file).expect("counted");
    writing
        .finish(&file, Some(&key("native")))
        .expect("finished");
    let waiting = place
        .bucket
        .store
        .seal_queue
        .pop(Duration::ZERO, Duration::ZERO);
    assert!(
        waiting.is_none(),
        "an archive is not read because it was opened"
    );
}

//! Each against what a store wrote, or a person did, in a tree of its own.

use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::{
    Access, Algorithm, Bucket, BucketName, BucketSettings, ChecksumType, CompleteRequest, Digester,
    Durability, KeyPolicy, ListedPart, ObjectChecksum, ObjectKey, PartInfo, Put, Store,
    StoreOptions, Timestamp, UploadId, UploadSpec, WriteConditions,
};

struct Place {
    dir: tempfile::TempDir,
    bucket: Bucket,
}

impl Place {
    fn new(durability: Durability) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store: Arc<Store> = Store::open(StoreOptions {
            root: dir.path().to_owned(),
            durability,
            keys: KeyPolicy::Any,
            read_only: false,
            hide: Vec::new(),
            verify_mtime_only: false,
            etags: Default::default(),
            buckets: Default::default(),
            more_roots: Vec::new(),
        })
        .expect("a store");
        let name = BucketName::parse("b").expect("a name");
        store
            .create_bucket(&name, BucketSettings::default())
            .expect("a bucket");
        let bucket = store.bucket(&name).expect("the bucket");
        Self { dir, bucket }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("b").join(name)
    }

    /// PUTs with a SHA-256 that the client named.
    fn put(&self, name: &str, body: &[u8], meta: Meta) {
        let stage = self.bucket.stage(&key(name), None).expect("staged");
        (&*stage.file).write_all(body).expect("written");
        let mut digester = Digester::new(&[Algorithm::Sha256]);
        digester.update(body);
        let digests = digester.finish();
        let checksum = digests.checksum(Algorithm::Sha256).map(|checksum| {
            let kind = ChecksumType::FullObject;
            ObjectChecksum { checksum, kind }
        });
        let put = Put {
            digests,
            meta,
            checksum,
            conditions: WriteConditions::default(),
        };
        self.bucket.publish(&key(name), stage, put).expect("put");
    }

    /// An object of these parts, with composite SHA-256s.
    fn upload(&self, name: &str, parts: &[(u16, &[u8])]) -> UploadId {
        let spec = UploadSpec {
            checksum: Some((Algorithm::Sha256, ChecksumType::Composite)),
            ..UploadSpec::default()
        };
        let id = self.bucket.create_upload(&key(name), spec).expect("begun");
        let upload = self.bucket.upload(&key(name), &id).expect("the upload");
        let send = |(number, bytes): &(u16, &[u8])| {
            let length = Some(bytes.len() as u64);
            let stage = upload.begin_part(*number, length).expect("begun");
            stage
                .file
                .write_all_at(bytes, stage.offset)
                .expect("written");
            let mut digester = Digester::new(&[Algorithm::Sha256]);
            digester.update(bytes);
            let sent = upload.commit_part(stage, &digester.finish(), None);
            let receipt = sent.expect("committed");
            ListedPart {
                number: receipt.number,
                etag: receipt.etag.to_string(),
                checksums: receipt.checksum.into_iter().collect(),
            }
        };
        let request = CompleteRequest {
            parts: parts.iter().map(send).collect(),
            ..CompleteRequest::default()
        };
        self.bucket
            .complete_upload(&key(name), &id, &request)
            .expect("completed");
        id
    }

    fn said(&self, name: &str) -> String {
        describe(&self.path(name)).expect("described")
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::parse(name).expect("a key")
}

fn typed() -> Meta {
    Meta {
        content_type: Some(b"text/plain".to_vec()),
        headers: vec![("cache-control".to_owned(), b"no-cache".to_vec())],
        user: vec![("colour".to_owned(), b"\x1b[31mred".to_vec())],
        tags: vec![("team".to_owned(), "a b".to_owned())],
    }
}

/// All values of a name.
fn values<'a>(said: &'a str, name: &str) -> Vec<&'a str> {
    said.lines()
        .filter_map(|line| line.split_at_checked(13))
        .filter(|(start, _)| start.trim_end() == name)
        .map(|(_, value)| value)
        .collect()
}

fn value<'a>(said: &'a str, name: &str) -> &'a str {
    match values(said, name)[..] {
        [value] => value,
        _ => panic!("{name} once in:\n{said}"),
    }
}

#[test]
fn an_object_is_told_with_its_dates_checksums_and_metadata() {
    let place = Place::new(Durability::Strict);
    place.put("f", b"hello", typed());
    let told = place.said("f");
    let object = place
        .bucket
        .open(&key("f"), Access::Blocking)
        .expect("there");
    assert_eq!(value(&told, "size"), "5 bytes");
    assert_eq!(
        value(&told, "ETag now"),
        "\"5d41402abc4b2a76b9719d911017c592\", the MD5 of the content"
    );
    assert!(value(&told, "verdict").starts_with("valid"), "{told}");
    assert_eq!(
        value(&told, "mtime then"),
        words::date(object.info.modified)
    );
    assert_eq!(value(&told, "mtime now"), value(&told, "mtime then"));
    // `printf hello | openssl dgst -sha256 -binary | base64`
    assert_eq!(
        value(&told, "checksum"),
        "SHA256 LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=, of the full object"
    );
    assert!(
        value(&told, "beside it").starts_with("CRC64NVME "),
        "{told}"
    );
    assert_eq!(value(&told, "type"), "text/plain");
    assert_eq!(value(&told, "header"), "cache-control: no-cache");
    assert_eq!(value(&told, "metadata"), "colour: \\u{1b}[31mred");
    assert_eq!(value(&told, "tag"), "team = a b");
    assert_eq!(value(&told, "flag"), "meta: it has metadata or tags");
}

#[test]
fn a_multipart_object_is_told_with_its_parts_and_its_upload() {
    let place = Place::new(Durability::Strict);
    let five = vec![7; 5 << 20];
    let id = place.upload("big", &[(1, &five), (2, &five), (9, b"end")]);
    let told = place.said("big");
    assert!(value(&told, "recorded").ends_with("-3\", the MD5 of the MD5s of 3 parts"));
    let checksum = value(&told, "checksum");
    assert!(checksum.starts_with("SHA256 "), "{told}");
    assert!(
        checksum.ends_with(", composite: of the parts' checksums"),
        "{told}"
    );
    assert_eq!(
        value(&told, "parts"),
        "3: 1 to 2 of 5242880 bytes each, 9 of 3 bytes"
    );
    assert_eq!(value(&told, "part 1"), value(&told, "part 2"));
    // `printf end | openssl dgst -sha256 -binary | base64`
    assert_eq!(
        value(&told, "part 9"),
        "SHA256 Nh5I0DCPIOMtul+1Yyi68Y1y7wzLQ7hPXCYtKmofxsg="
    );
    assert_eq!(value(&told, "upload id"), id.as_str());
}

#[test]
fn parts_that_did_not_fit_are_told_where_they_lie() {
    let place = Place::new(Durability::Strict);
    place.put("f", b"x", Meta::default());
    let bytes = xattr::get(place.path("f"), RECORD_XATTR).expect("read");
    let mut record = Record::decode(&bytes.expect("there")).expect("ours");
    record.set_field(kind::OVERFLOW, vec![0xab; 32]);
    record.set_field(kind::META_OVERFLOW, vec![0xcd; 32]);
    record.fields.push((200, vec![1, 2]));
    xattr::set(place.path("f"), RECORD_XATTR, &record.encode()).expect("set");
    let told = place.said("f");
    let at = |byte: &str| format!("in .twintree/records/{} of its bucket", byte.repeat(32));
    assert_eq!(value(&told, "parts"), at("ab"));
    assert_eq!(value(&told, "metadata"), at("cd"));
    assert_eq!(
        value(&told, "kept"),
        "field 200 of a later version, 2 bytes"
    );
}

#[test]
fn each_verdict_says_what_s3_shows_and_why() {
    let place = Place::new(Durability::Strict);
    place.put("f", b"hello", Meta::default());
    let verdict = || value(&place.said("f"), "verdict").to_owned();
    let told = place.said("f");
    assert_eq!(value(&told, "type"), "none was sent: binary/octet-stream");
    assert_eq!(value(&told, "metadata"), "none");

    let bytes = xattr::get(place.path("f"), RECORD_XATTR).expect("read");
    let bytes = bytes.expect("there");
    let mut record = Record::decode(&bytes).expect("ours");
    record.stamp.seal = Timestamp(record.stamp.seal.0 + 60_000_000_000);
    xattr::set(place.path("f"), RECORD_XATTR, &record.encode()).expect("set");
    assert!(verdict().starts_with("unverified: S3 shows a derived ETag"));
    assert!(value(&place.said("f"), "because").contains("chmod"));

    record.set_unsynced(Some([0xb0; 8]));
    xattr::set(place.path("f"), RECORD_XATTR, &record.encode()).expect("set");
    let told = place.said("f");
    assert!(value(&told, "because").contains("another boot"), "{told}");
    let boot = "unsynced: written without sync in the boot whose id begins with b0b0b0b0b0b0b0b0";
    assert_eq!(value(&told, "flag"), boot);

    xattr::set(place.path("f"), RECORD_XATTR, &[&[9], &bytes[1..]].concat()).expect("set");
    assert!(verdict().starts_with("unverified: the record cannot be read"));
    assert_eq!(
        value(&place.said("f"), "because"),
        "the record has version 9"
    );

    xattr::set(place.path("f"), RECORD_XATTR, &bytes).expect("set");
    std::fs::write(place.path("f"), b"longer than it was").expect("written");
    let told = place.said("f");
    assert!(value(&told, "verdict").starts_with("stale"), "{told}");
    assert_eq!(value(&told, "size then"), "5 bytes");
    assert!(value(&told, "ETag now").ends_with("derived from inode, size, mtime and ctime"));

    xattr::remove(place.path("f"), RECORD_XATTR).expect("removed");
    assert!(verdict().starts_with("no record: nobody PUT the file"));
}

#[test]
fn the_etag_that_a_sealed_record_replaced_is_told() {
    let place = Place::new(Durability::Strict);
    place.put("f", b"body", Meta::default());
    let bytes = xattr::get(place.path("f"), RECORD_XATTR).expect("read");
    let mut record = Record::decode(&bytes.expect("there")).expect("ours");
    // As the sealer writes it of a file that nobody PUT.
    (record.sealed, record.replaced) = (true, Some(0x0123));
    xattr::set(place.path("f"), RECORD_XATTR, &record.encode()).expect("set");
    let told = place.said("f");
    assert_eq!(
        value(&told, "replaced"),
        "the derived ETag that began with 0000000000000123: conditions that name it still hold"
    );
    assert_eq!(
        value(&told, "flag"),
        "sealed: nobody PUT it, the sealer read it"
    );
}

#[test]
fn an_unsynced_object_of_this_boot_says_so() {
    let place = Place::new(Durability::Relaxed);
    place.put("f", b"hello", Meta::default());
    let told = place.said("f");
    assert!(value(&told, "verdict").starts_with("valid"), "{told}");
    assert_eq!(
        value(&told, "flag"),
        "unsynced: written without sync in this boot"
    );
}

#[test]
fn a_directory_is_told_by_its_mark() {
    let place = Place::new(Durability::Strict);
    std::fs::create_dir(place.path("theirs")).expect("made");
    place.put("ours/f", b"x", Meta::default());
    let stage = place
        .bucket
        .stage(&key("object/"), Some(0))
        .expect("staged");
    let put = Put {
        digests: Digester::new(&[]).finish(),
        meta: typed(),
        checksum: None,
        conditions: WriteConditions::default(),
    };
    let made = place
        .bucket
        .publish(&key("object/"), stage, put)
        .expect("put");

    let theirs = place.said("theirs");
    assert!(value(&theirs, "object").starts_with("no"), "{theirs}");
    assert!(value(&theirs, "made by").starts_with("somebody else: S3 never removes it"));
    let ours = place.said("ours");
    assert!(value(&ours, "object").starts_with("no"), "{ours}");
    assert!(value(&ours, "made by").starts_with("twintree: it goes when S3 deletes the last"));
    let object = place.said("object");
    assert!(value(&object, "object").starts_with("yes"), "{object}");
    assert_eq!(value(&object, "modified"), words::date(made.modified));
    assert!(value(&object, "ETag now").contains("d41d8cd98f00b204e9800998ecf8427e"));
    assert!(value(&object, "made by").contains("S3 has deleted the object"));
    assert_eq!(value(&object, "tag"), "team = a b");
    assert_eq!(value(&object, "type"), "text/plain");
}

#[test]
fn a_metadata_half_that_is_gone_or_broken_is_told() {
    let place = Place::new(Durability::Strict);
    place.put("f", b"x", typed());
    xattr::set(place.path("f"), META_XATTR, b"[]").expect("set");
    let told = place.said("f");
    assert_eq!(value(&told, "metadata"), "unreadable: no JSON object");
    xattr::remove(place.path("f"), META_XATTR).expect("removed");
    let told = place.said("f");
    assert!(value(&told, "metadata").starts_with("lost"), "{told}");
}

#[test]
fn looking_leaves_no_trace() {
    let place = Place::new(Durability::Strict);
    place.put("f", b"x", typed());
    std::fs::set_permissions(place.path("f"), std::fs::Permissions::from_mode(0o400))
        .expect("chmod");
    let look = || {
        let stat = fs::stat(place.path("f")).expect("there");
        let times = (
            stat.st_atime,
            stat.st_atime_nsec,
            stat.st_ctime,
            stat.st_ctime_nsec,
        );
        (times, stat.st_mtime, stat.st_mtime_nsec)
    };
    let before = look();
    assert_eq!(place.said("f"), place.said("f"));
    assert_eq!(look(), before);
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (nanoseconds, text) in [
        (-1, "1969-12-31 23:59:59.999999999 UTC"),
        (951_782_400_000_000_007, "2000-02-29 00:00:00.000000007 UTC"),
        (
            1_709_210_096_789_000_000,
            "2024-02-29 12:34:56.789000000 UTC",
        ),
    ] {
        assert_eq!(words::date(Timestamp(nanoseconds)), text);
    }
}

#[test]
fn sizes_of_parts_are_runs() {
    let part = |number, size| PartInfo {
        number,
        size,
        checksum: None,
    };
    let parts = [part(1, 8), part(2, 8), part(4, 8), part(5, 3)];
    assert_eq!(
        words::sizes(&parts),
        "1 to 2 of 8 bytes each, 4 of 8 bytes, 5 of 3 bytes"
    );
}

#[test]
fn a_fifo_is_named_and_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fifo");
    fs::mknodat(fs::CWD, &path, FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
    match describe(&path) {
        Err(StoreError::NotAnObject { kind, .. }) => assert_eq!(kind, "FIFO"),
        other => panic!("{other:?}"),
    }
}

//! Claims about multipart uploads, through the store's own door.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use super::slot::{Base, Head, Source, State};
use super::*;
use crate::{
    Access, BucketName, BucketSettings, Checksum, Digester, Digests, ETag, ETagList, KeyPolicy,
    Meta, Object, Published, Store, StoreOptions, WriteConditions,
};

const MIB: usize = 1 << 20;
/// The size of a usual part in these tests: the least that fixes a stride out of order.
const PART: usize = 5 * MIB;

struct Place {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

impl Place {
    fn new() -> Self {
        Self::with(Durability::Relaxed)
    }

    fn with(durability: Durability) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path(), durability);
        let name = BucketName::parse("b").expect("a name");
        store
            .create_bucket(&name, BucketSettings::default())
            .expect("a bucket");
        Self { dir, store }
    }

    fn bucket(&self) -> Bucket {
        bucket_of(&self.store)
    }

    /// As after a restart: nothing of the process is left.
    fn restart(&mut self) {
        self.store = open(self.dir.path(), self.store.options().durability);
    }

    /// Another gateway on the same tree.
    fn neighbour(&self) -> Bucket {
        bucket_of(&open(self.dir.path(), self.store.options().durability))
    }

    fn upload(&self, key: &str) -> (ObjectKey, UploadId) {
        self.upload_with(key, UploadSpec::default())
    }

    fn upload_with(&self, key: &str, spec: UploadSpec) -> (ObjectKey, UploadId) {
        let key = ObjectKey::parse(key).expect("a key");
        let id = self.bucket().create_upload(&key, spec).expect("an upload");
        (key, id)
    }

    fn leftovers(&self) -> usize {
        let uploads = self.dir.path().join("b/.twintree/uploads");
        std::fs::read_dir(uploads).map_or(0, Iterator::count)
    }

    /// Many files are removed behind the answer; the sweep does not wait for that.
    fn leftovers_once_swept(&self) -> usize {
        self.bucket().sweep_uploads(Duration::ZERO).expect("swept");
        self.leftovers()
    }

    fn file_in(&self, id: &UploadId, name: &str) -> std::path::PathBuf {
        self.dir
            .path()
            .join("b/.twintree/uploads")
            .join(id.as_str())
            .join(name)
    }
}

fn open(root: &std::path::Path, durability: Durability) -> Arc<Store> {
    Store::open(StoreOptions {
        root: root.to_owned(),
        state_dir: None,
        durability,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
    })
    .expect("a store")
}

fn bucket_of(store: &Arc<Store>) -> Bucket {
    store
        .bucket(&BucketName::parse("b").expect("a name"))
        .expect("the bucket")
}

/// Bytes that differ from seed to seed and are not zeros.
fn body(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn digests(bytes: &[u8]) -> Digests {
    let mut digester = Digester::new(&Algorithm::ALL);
    digester.update(bytes);
    digester.finish()
}

fn send(upload: &Upload, number: u16, bytes: &[u8]) -> PartReceipt {
    send_announced(upload, number, bytes, Some(bytes.len() as u64))
}

fn send_announced(upload: &Upload, number: u16, bytes: &[u8], length: Option<u64>) -> PartReceipt {
    let stage = upload.begin_part(number, length).expect("begun");
    stage
        .file
        .write_all_at(bytes, stage.offset)
        .expect("written");
    upload
        .commit_part(stage, &digests(bytes), None)
        .expect("committed")
}

fn listed(receipts: &[PartReceipt]) -> Vec<ListedPart> {
    receipts
        .iter()
        .map(|r| ListedPart {
            number: r.number,
            etag: r.etag.to_string(),
            checksums: r.checksum.iter().cloned().collect(),
        })
        .collect()
}

fn request(receipts: &[PartReceipt]) -> CompleteRequest {
    CompleteRequest {
        parts: listed(receipts),
        ..CompleteRequest::default()
    }
}

fn read(bucket: &Bucket, key: &ObjectKey) -> (Object, Vec<u8>) {
    let object = bucket.open(key, Access::Blocking).expect("the object");
    let mut bytes = Vec::new();
    if let Some(file) = &object.file {
        let mut file = file.try_clone().expect("a descriptor");
        std::io::Seek::rewind(&mut file).expect("rewound");
        file.read_to_end(&mut bytes).expect("read");
    }
    (object, bytes)
}

/// Sends parts in the order given, lists them by number, completes, and compares every byte.
fn complete_and_compare(
    place: &Place,
    key: &str,
    parts: &[(u16, Vec<u8>)],
) -> (ObjectKey, Published) {
    let (key, id) = place.upload(key);
    let bucket = place.bucket();
    let upload = bucket.upload(&key, &id).expect("the upload");
    let mut receipts: Vec<PartReceipt> = Vec::new();
    for (number, bytes) in parts {
        let receipt = send(&upload, *number, bytes);
        receipts.retain(|r| r.number != *number);
        receipts.push(receipt);
    }
    receipts.sort_by_key(|r| r.number);
    let published = bucket
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    let newest = |number: u16| {
        parts
            .iter()
            .rev()
            .find(|(n, _)| *n == number)
            .expect("it was sent")
    };
    let expected: Vec<u8> = receipts
        .iter()
        .flat_map(|r| newest(r.number).1.clone())
        .collect();
    let (object, bytes) = read(&bucket, &key);
    assert!(bytes == expected, "the object holds the parts in order");
    assert_eq!(object.info.etag, published.etag);
    assert_eq!(
        object.info.checksum.expect("a checksum").checksum,
        Checksum::crc64(digests(&expected).crc64)
    );
    assert_eq!(object.info.part_count, Some(receipts.len() as u16));
    assert_eq!(object.info.upload_id.as_deref(), Some(id.as_str()));
    (key, published)
}

fn inode(path: impl AsRef<std::path::Path>) -> u64 {
    std::fs::metadata(path).expect("a file").ino()
}

#[test]
fn uniform_parts_become_the_object_without_a_copy() {
    for durability in [Durability::Strict, Durability::Relaxed] {
        let place = Place::with(durability);
        let (key, id) = place.upload("d/k");
        let upload = place.bucket().upload(&key, &id).expect("the upload");
        let parts = [body(1, PART), body(2, PART), body(3, 10)];
        // The order in which ten threads of boto3 may finish.
        let mut receipts = vec![
            send(&upload, 2, &parts[1]),
            send(&upload, 3, &parts[2]),
            send(&upload, 1, &parts[0]),
        ];
        receipts.sort_by_key(|r| r.number);
        let assembly = inode(place.file_in(&id, "assembly"));
        place
            .bucket()
            .complete_upload(&key, &id, &request(&receipts))
            .expect("completed");
        assert_eq!(inode(place.dir.path().join("b/d/k")), assembly);
        assert!(read(&place.bucket(), &key).1 == parts.concat());
        assert_eq!(place.leftovers(), 0);
    }
}

#[test]
fn any_order_and_shape_of_parts_is_right() {
    let place = Place::new();
    let last_first = [(3, body(1, 100)), (1, body(2, PART)), (2, body(3, PART))];
    complete_and_compare(&place, "last-first", &last_first);
    let reverse = [(3, body(1, 200)), (2, body(2, PART)), (1, body(3, PART))];
    complete_and_compare(&place, "reverse", &reverse);
    let two_sizes = [
        (1, body(1, PART)),
        (2, body(2, PART + 1)),
        (3, body(3, PART)),
        (4, body(4, 7)),
    ];
    complete_and_compare(&place, "two-sizes", &two_sizes);
    let larger_last_first = [(2, body(1, PART)), (1, body(2, PART + 9))];
    complete_and_compare(&place, "larger", &larger_last_first);
    let small = [
        (1, body(1, 5)),
        (2, body(2, 5)),
        (3, body(3, 5)),
        (4, body(4, 2)),
    ];
    complete_and_compare(&place, "small", &small);
    complete_and_compare(
        &place,
        "gaps",
        &[(7, body(1, 5)), (9, body(2, 6)), (10_000, body(3, 7))],
    );
    complete_and_compare(&place, "single", &[(5, body(1, 12))]);
    complete_and_compare(&place, "empty", &[(1, Vec::new())]);
    complete_and_compare(
        &place,
        "with-empty",
        &[(1, body(1, 9)), (2, Vec::new()), (3, body(2, 3))],
    );
}

#[test]
fn a_part_sent_again_replaces_the_first_whatever_its_size() {
    let place = Place::new();
    for (name, length) in [("smaller", 3), ("equal", 8), ("larger", 20), ("empty", 0)] {
        let parts = [
            (1, body(1, 8)),
            (2, body(2, 8)),
            (3, body(3, 8)),
            (2, body(4, length)),
        ];
        complete_and_compare(&place, name, &parts);
        let parts = [
            (1, body(1, 8)),
            (2, body(2, 8)),
            (2, body(4, length)),
            (2, body(5, length)),
        ];
        complete_and_compare(&place, &format!("{name}-last"), &parts);
    }
    assert_eq!(place.leftovers(), 0);
}

#[test]
fn a_part_of_unknown_length_is_right() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let parts = [body(1, 100), body(2, 30)];
    let receipts = [
        send_announced(&upload, 1, &parts[0], None),
        send_announced(&upload, 2, &parts[1], None),
    ];
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == parts.concat());
}

#[test]
fn parts_and_their_upload_survive_a_restart() {
    let mut place = Place::with(Durability::Strict);
    let spec = UploadSpec {
        meta: Meta {
            user: vec![("a".to_owned(), b"1".to_vec())],
            ..Meta::default()
        },
        ..UploadSpec::default()
    };
    let (key, id) = place.upload_with("k", spec.clone());
    let parts = [body(1, 50), body(2, 50), body(3, 20)];
    let mut receipts = Vec::new();
    for (number, bytes) in (1..).zip(&parts) {
        let id = UploadId::parse(id.as_str()).expect("the id as text");
        let upload = place.bucket().upload(&key, &id).expect("the upload");
        assert_eq!(upload.spec(), &spec);
        receipts.push(send(&upload, number, bytes));
        place.restart();
    }
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    assert_eq!(upload.parts(0, 1000).expect("parts").parts, receipts);
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    place.restart();
    let (object, bytes) = read(&place.bucket(), &key);
    assert!(bytes == parts.concat());
    assert_eq!(object.info.meta.user, spec.meta.user);
}

#[test]
fn a_failed_retry_leaves_the_good_part() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let good = [body(1, 40), body(2, 40)];
    let receipts = [send(&upload, 1, &good[0]), send(&upload, 2, &good[1])];
    let retry = upload.begin_part(1, Some(40)).expect("begun");
    retry
        .file
        .write_all_at(&body(9, 40), retry.offset)
        .expect("written");
    drop(retry);
    let short = upload.begin_part(2, Some(40)).expect("begun");
    short
        .file
        .write_all_at(&body(9, 10), short.offset)
        .expect("written");
    let refused = upload.commit_part(short, &digests(&body(9, 10)), None);
    assert!(matches!(refused, Err(StoreError::InvalidRequest(_))));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == good.concat());
}

#[test]
fn a_part_given_up_in_place_is_taken_up_in_place() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let first = send(&upload, 1, &body(1, 40));
    let given_up = upload.begin_part(2, Some(40)).expect("begun");
    given_up
        .file
        .write_all_at(&body(8, 40), given_up.offset)
        .expect("written");
    let while_it_lasts = upload.begin_part(2, Some(40)).expect("begun");
    assert_eq!(
        while_it_lasts.offset, 0,
        "two writers of one part never share a place"
    );
    drop(while_it_lasts);
    // A write that is still under way holds the place, though its request is gone.
    let lingering = Arc::clone(&given_up.file);
    drop(given_up);
    assert_eq!(upload.begin_part(2, Some(40)).expect("begun").offset, 0);
    drop(lingering);
    let taken_up = upload.begin_part(2, Some(30)).expect("begun");
    assert_eq!(taken_up.offset, 40);
    taken_up
        .file
        .write_all_at(&body(2, 30), 40)
        .expect("written");
    let second = upload
        .commit_part(taken_up, &digests(&body(2, 30)), None)
        .expect("committed");
    let assembly = inode(place.file_in(&id, "assembly"));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&[first, second]))
        .expect("completed");
    assert_eq!(inode(place.dir.path().join("b/k")), assembly);
    assert!(read(&place.bucket(), &key).1 == [body(1, 40), body(2, 30)].concat());
}

#[test]
fn a_listed_subset_is_right_and_a_failed_complete_keeps_the_rest() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let bucket = place.bucket();
    let upload = bucket.upload(&key, &id).expect("the upload");
    let parts = [body(1, 8), body(2, 8), body(3, 8), body(4, 8)];
    let receipts: Vec<_> = (1..)
        .zip(&parts)
        .map(|(n, bytes)| send(&upload, n, bytes))
        .collect();
    let absent = WriteConditions {
        if_match: Some(ETagList::Any),
        ..WriteConditions::default()
    };
    for subset in [&receipts[..2], &receipts[1..3], &receipts[3..]] {
        let failing = CompleteRequest {
            conditions: absent.clone(),
            ..request(subset)
        };
        assert!(matches!(
            bucket.complete_upload(&key, &id, &failing),
            Err(StoreError::NoSuchKey(_))
        ));
    }
    assert_eq!(upload.parts(0, 1000).expect("parts").parts, receipts);
    bucket
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&bucket, &key).1 == parts.concat());

    let (key, id) = place.upload("l");
    let upload = bucket.upload(&key, &id).expect("the upload");
    let receipts: Vec<_> = (1..)
        .zip(&parts)
        .map(|(n, bytes)| send(&upload, n, bytes))
        .collect();
    bucket
        .complete_upload(&key, &id, &request(&receipts[1..3]))
        .expect("completed");
    assert!(read(&bucket, &key).1 == parts[1..3].concat());
}

#[test]
fn conditions_are_tested_against_the_object_as_it_is() {
    let place = Place::new();
    let bucket = place.bucket();
    std::fs::write(place.dir.path().join("b/k"), "a file nobody PUT").expect("written");
    let (key, id) = place.upload("k");
    let upload = bucket.upload(&key, &id).expect("the upload");
    let receipts = [send(&upload, 1, b"new")];
    let create = WriteConditions {
        if_none_match: Some(ETagList::Any),
        ..WriteConditions::default()
    };
    let refused = bucket.complete_upload(
        &key,
        &id,
        &CompleteRequest {
            conditions: create,
            ..request(&receipts)
        },
    );
    assert!(matches!(
        refused,
        Err(StoreError::PreconditionFailed("If-None-Match"))
    ));
    assert_eq!(read(&bucket, &key).1, b"a file nobody PUT");
    let tag = ETagList::Tags(vec![read(&bucket, &key).0.info.etag.to_string()]);
    let update = WriteConditions {
        if_match: Some(tag),
        ..WriteConditions::default()
    };
    let request = CompleteRequest {
        conditions: update,
        ..request(&receipts)
    };
    let published = bucket
        .complete_upload(&key, &id, &request)
        .expect("completed");
    assert_eq!(read(&bucket, &key).1, b"new");
    // The retry is of what happened, though its condition would not hold any more.
    assert_eq!(
        bucket
            .complete_upload(&key, &id, &request)
            .expect("again")
            .etag,
        published.etag
    );
}

#[test]
fn complete_again_answers_the_same_only_while_the_key_holds_what_it_made() {
    let mut place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [send(&upload, 1, &body(1, 9)), send(&upload, 2, &body(2, 4))];
    let first = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    place.restart();
    let again = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("again");
    assert_eq!(
        (again.etag, again.size, again.checksum),
        (first.etag, first.size, first.checksum)
    );
    let other_list = request(&receipts[..1]);
    assert!(is_gone(place.bucket().complete_upload(
        &key,
        &id,
        &other_list
    )));
    assert!(is_gone(place.bucket().upload(&key, &id).map(|_| ())));

    // Another upload of the same bytes makes an object of the same ETag, which proves nothing of the first.
    let (_, other) = place.upload("k");
    let upload = place.bucket().upload(&key, &other).expect("the upload");
    let same = [send(&upload, 1, &body(1, 9)), send(&upload, 2, &body(2, 4))];
    let second = place
        .bucket()
        .complete_upload(&key, &other, &request(&same))
        .expect("completed");
    assert_eq!(second.etag, first.etag);
    assert!(is_gone(place.bucket().complete_upload(
        &key,
        &id,
        &request(&receipts)
    )));
    place
        .bucket()
        .delete(&key, &WriteConditions::default())
        .expect("deleted");
    assert!(is_gone(place.bucket().complete_upload(
        &key,
        &other,
        &request(&same)
    )));
}

fn is_gone<T>(result: Result<T>) -> bool {
    matches!(result, Err(StoreError::NoSuchUpload(_)))
}

#[test]
fn ids_that_were_invented_aborted_or_of_another_key_name_no_upload() {
    let place = Place::new();
    let bucket = place.bucket();
    let (key, id) = place.upload("k");
    let other = ObjectKey::parse("other").expect("a key");
    let invented = UploadId::new(Timestamp::now());
    assert!(is_gone(bucket.upload(&key, &invented).map(|_| ())));
    assert!(is_gone(bucket.upload(&other, &id).map(|_| ())));
    assert!(is_gone(bucket.complete_upload(&other, &id, &request(&[]))));
    bucket
        .upload(&key, &id)
        .expect("the upload")
        .abort()
        .expect("aborted");
    assert!(is_gone(bucket.upload(&key, &id).map(|_| ())));
    assert!(is_gone(bucket.complete_upload(&key, &id, &request(&[]))));
    assert_eq!(place.leftovers(), 0);
}

#[test]
fn a_part_under_way_does_not_bring_an_aborted_upload_back() {
    let place = Place::new();
    let bucket = place.bucket();
    let (key, id) = place.upload("k");
    let upload = bucket.upload(&key, &id).expect("the upload");
    send(&upload, 1, &body(1, 40));
    let stages = [
        upload.begin_part(2, Some(40)).expect("in place"),
        upload
            .begin_part(1, Some(40))
            .expect("in a file of its own"),
    ];
    bucket
        .upload(&key, &id)
        .expect("the upload")
        .abort()
        .expect("aborted");
    assert!(is_gone(bucket.upload(&key, &id).map(|_| ())));
    for stage in stages {
        stage
            .file
            .write_all_at(&body(2, 40), stage.offset)
            .expect("written");
        assert!(is_gone(upload.commit_part(
            stage,
            &digests(&body(2, 40)),
            None
        )));
    }
    assert!(is_gone(upload.begin_part(3, Some(1)).map(|_| ())));
    assert!(is_gone(upload.parts(0, 10)));
    assert!(is_gone(upload.abort()));
    assert_eq!(place.leftovers(), 0);
    assert!(
        bucket
            .list_uploads(&UploadQuery {
                max: 10,
                ..UploadQuery::default()
            })
            .expect("a page")
            .uploads
            .is_empty()
    );
}

#[test]
fn threads_racing_on_one_part_leave_one_whole_part() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let length = 100_000;
    let first = send(
        &place.bucket().upload(&key, &id).expect("the upload"),
        1,
        &body(100, length),
    );
    for round in 0..10 {
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let (start, key, id, place) = (&start, &key, &id, &place);
                scope.spawn(move || {
                    let bucket = if seed % 2 == 0 {
                        place.bucket()
                    } else {
                        place.neighbour()
                    };
                    let upload = bucket.upload(key, id).expect("the upload");
                    start.wait();
                    send(&upload, 2, &body(round * 8 + seed, length));
                });
            }
        });
    }
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let part = upload.parts(1, 10).expect("parts").parts.remove(0);
    place
        .bucket()
        .complete_upload(&key, &id, &request(&[first, part.clone()]))
        .expect("completed");
    let (_, bytes) = read(&place.bucket(), &key);
    assert_eq!(ETag::Md5(digests(&bytes[length..]).md5), part.etag);
    assert!(
        (72..80).any(|seed| bytes[length..] == body(seed, length)),
        "one of the last round's"
    );
}

#[test]
fn racing_completes_all_succeed_with_one_object() {
    for odd in [false, true] {
        let place = Place::new();
        let (key, id) = place.upload("k");
        let upload = place.bucket().upload(&key, &id).expect("the upload");
        let sizes = if odd {
            [9_000, 11_000, 5]
        } else {
            [9_000, 9_000, 5]
        };
        let parts: Vec<_> = sizes
            .iter()
            .zip(1..)
            .map(|(size, seed)| body(seed, *size))
            .collect();
        let receipts: Vec<_> = (1..)
            .zip(&parts)
            .map(|(n, bytes)| send(&upload, n, bytes))
            .collect();
        let start = Barrier::new(8);
        let request = request(&receipts);
        let all: Vec<Published> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let (start, key, id, request, place) = (&start, &key, &id, &request, &place);
                    scope.spawn(move || {
                        let bucket = if n % 2 == 0 {
                            place.bucket()
                        } else {
                            place.neighbour()
                        };
                        start.wait();
                        bucket.complete_upload(key, id, request).expect("completed")
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert!(
            all.iter()
                .all(|p| p.etag == all[0].etag && p.modified == all[0].modified),
            "one object"
        );
        assert!(read(&place.bucket(), &key).1 == parts.concat());
    }
}

#[test]
fn a_writer_that_outlives_complete_never_reaches_the_object() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [
        send(&upload, 1, &body(1, 40)),
        send(&upload, 2, &body(2, 40)),
    ];
    let writer = upload.begin_part(3, Some(40)).expect("in place");
    assert_eq!(writer.offset, 80);
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    writer
        .file
        .write_all_at(&body(3, 40), writer.offset)
        .expect("written");
    writer.file.write_all_at(&body(3, 40), 0).expect("written");
    assert!(is_gone(upload.commit_part(
        writer,
        &digests(&body(3, 40)),
        None
    )));
    assert!(read(&place.bucket(), &key).1 == [body(1, 40), body(2, 40)].concat());
}

#[test]
fn what_a_list_can_get_wrong_is_refused_and_keeps_the_upload() {
    let place = Place::new();
    let bucket = place.bucket();
    let (key, id) = place.upload("k");
    let upload = bucket.upload(&key, &id).expect("the upload");
    let receipts = [
        send(&upload, 1, &body(1, 10)),
        send(&upload, 2, &body(2, 10)),
        send(&upload, 3, &body(3, 4)),
    ];
    let good = request(&receipts);
    let complete = |change: &dyn Fn(&mut CompleteRequest)| {
        let mut request = good.clone();
        change(&mut request);
        bucket.complete_upload(&key, &id, &request)
    };
    assert!(matches!(
        complete(&|r| r.parts.swap(0, 1)),
        Err(StoreError::InvalidPartOrder)
    ));
    assert!(matches!(
        complete(&|r| r.parts[1].number = 1),
        Err(StoreError::InvalidPartOrder)
    ));
    assert!(matches!(
        complete(&|r| r.parts[2].number = 4),
        Err(StoreError::InvalidPart(4))
    ));
    let other_etag = |r: &mut CompleteRequest| r.parts[1].etag = r.parts[0].etag.clone();
    assert!(matches!(
        complete(&other_etag),
        Err(StoreError::InvalidPart(2))
    ));
    assert!(matches!(
        complete(&|r| r.parts[1].etag = "x".to_owned()),
        Err(StoreError::InvalidPart(2))
    ));
    assert!(matches!(
        complete(&|r| r.parts.clear()),
        Err(StoreError::InvalidRequest(_))
    ));
    match complete(&|r| r.min_part = 11) {
        Err(StoreError::PartTooSmall {
            number: 1,
            size: 10,
            minimum: 11,
            etag,
        }) => {
            assert_eq!(etag, receipts[0].etag.to_string());
        }
        other => panic!("not too small: {other:?}"),
    }
    assert!(matches!(
        complete(&|r| r.size = Some(25)),
        Err(StoreError::InvalidRequest(_))
    ));
    let wrong = |r: &mut CompleteRequest| r.checksum = Some(Checksum::crc64(1));
    assert!(matches!(complete(&wrong), Err(StoreError::BadDigest(_))));
    let composite = |r: &mut CompleteRequest| r.checksum_type = Some(ChecksumType::Composite);
    assert!(matches!(
        complete(&composite),
        Err(StoreError::InvalidRequest(_))
    ));
    complete(&|r| {
        let whole = digests(&[body(1, 10), body(2, 10), body(3, 4)].concat());
        r.parts
            .iter_mut()
            .for_each(|p| p.etag = format!("\"{}\"", p.etag.to_uppercase()));
        r.min_part = 10;
        r.size = Some(24);
        r.checksum = Some(Checksum::crc64(whole.crc64));
        r.checksum_type = Some(ChecksumType::FullObject);
    })
    .expect("quotes, case and the last part's size do not matter");
}

fn base64_of(checksum: &Checksum) -> String {
    // As openssl base64 writes it, for the vectors below.
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in checksum.value.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = DIGITS[(bits >> (18 - 6 * digit) & 63) as usize];
            text.push(if digit > chunk.len() {
                '='
            } else {
                char::from(value)
            });
        }
    }
    text
}

#[test]
fn etag_and_checksums_are_those_that_s3_computes() {
    let vectors = [
        (None, "i+6LR0y3eFo="),
        (
            Some((Algorithm::Crc64Nvme, ChecksumType::FullObject)),
            "i+6LR0y3eFo=",
        ),
        (
            Some((Algorithm::Crc32, ChecksumType::FullObject)),
            "WgDhBQ==",
        ),
        (
            Some((Algorithm::Crc32, ChecksumType::Composite)),
            "Z+ry2Q==",
        ),
        (
            Some((Algorithm::Sha256, ChecksumType::Composite)),
            "uWBwpe1dxI4Vw8Gf0X9ynOdw/SS6VBzfWm9giiv1sf4=",
        ),
    ];
    let place = Place::new();
    for (checksum, value) in vectors {
        let (key, id) = place.upload_with(
            "k",
            UploadSpec {
                checksum,
                ..UploadSpec::default()
            },
        );
        let upload = place.bucket().upload(&key, &id).expect("the upload");
        let receipts: Vec<_> = (1..)
            .zip(*b"ABC")
            .map(|(number, letter)| send(&upload, number, &vec![letter; PART]))
            .collect();
        let request = CompleteRequest {
            min_part: PART as u64,
            ..request(&receipts)
        };
        let published = place
            .bucket()
            .complete_upload(&key, &id, &request)
            .expect("completed");
        assert_eq!(
            published.etag.to_string(),
            "b2add96cc9702bbf4efb0ccdfc6b7747-3"
        );
        assert_eq!(base64_of(&published.checksum.checksum), value);
        let kind = checksum.map_or(ChecksumType::FullObject, |(_, kind)| kind);
        assert_eq!(published.checksum.kind, kind);
        let object = place
            .bucket()
            .open(&key, Access::Blocking)
            .expect("the object");
        assert_eq!(object.info.checksum, Some(published.checksum));
        assert_eq!(object.info.parts.len(), 3);
        assert_eq!(object.info.parts[1].size, PART as u64);
    }
}

#[test]
fn an_algorithm_binds_every_part_and_a_composite_one_the_list() {
    let place = Place::new();
    let bucket = place.bucket();
    let bad = UploadSpec {
        checksum: Some((Algorithm::Sha1, ChecksumType::FullObject)),
        ..UploadSpec::default()
    };
    let key = ObjectKey::parse("k").expect("a key");
    match bucket.create_upload(&key, bad) {
        Err(StoreError::InvalidRequest(text)) => {
            assert_eq!(
                text,
                "The FULL_OBJECT checksum type cannot be used with the sha1 checksum algorithm."
            );
        }
        other => panic!("not refused: {other:?}"),
    }
    let spec = UploadSpec {
        checksum: Some((Algorithm::Crc32c, ChecksumType::Composite)),
        ..UploadSpec::default()
    };
    let (key, id) = place.upload_with("k", spec);
    let upload = bucket.upload(&key, &id).expect("the upload");
    let stage = upload.begin_part(1, Some(3)).expect("begun");
    stage
        .file
        .write_all_at(b"abc", stage.offset)
        .expect("written");
    let other = digests(b"abc").checksum(Algorithm::Sha1);
    assert!(matches!(
        upload.commit_part(stage, &digests(b"abc"), other),
        Err(StoreError::InvalidRequest(_))
    ));
    let receipt = send(&upload, 1, b"abc");
    let right = digests(b"abc")
        .checksum(Algorithm::Crc32c)
        .expect("computed");
    assert_eq!(receipt.checksum, Some(right));
    let mut request = request(&[receipt]);
    let sent = std::mem::take(&mut request.parts[0].checksums);
    assert!(matches!(
        bucket.complete_upload(&key, &id, &request),
        Err(StoreError::InvalidRequest(_))
    ));
    request.parts[0].checksums = vec![Checksum {
        algorithm: Algorithm::Crc32c,
        value: vec![0; 4],
    }];
    assert!(matches!(
        bucket.complete_upload(&key, &id, &request),
        Err(StoreError::InvalidPart(1))
    ));
    request.parts[0].checksums = sent;
    bucket
        .complete_upload(&key, &id, &request)
        .expect("completed");
}

#[test]
fn an_upload_without_algorithm_takes_parts_with_one_and_a_list_without() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let stage = upload.begin_part(1, Some(3)).expect("begun");
    stage
        .file
        .write_all_at(b"abc", stage.offset)
        .expect("written");
    let crc32 = digests(b"abc").checksum(Algorithm::Crc32);
    let receipt = upload
        .commit_part(stage, &digests(b"abc"), crc32.clone())
        .expect("committed");
    assert_eq!(receipt.checksum, crc32);
    let mut request = request(&[receipt]);
    request.parts[0].checksums.clear();
    let published = place
        .bucket()
        .complete_upload(&key, &id, &request)
        .expect("completed");
    assert_eq!(
        published.checksum.checksum,
        Checksum::crc64(digests(b"abc").crc64)
    );
}

#[test]
fn a_complete_that_died_leaves_the_upload_usable_or_the_object_published() {
    let mut place = Place::new();
    let (key, id) = place.upload("k");
    let bytes = [body(1, 20), body(2, 20)];
    let receipts = {
        let upload = place.bucket().upload(&key, &id).expect("the upload");
        [send(&upload, 1, &bytes[0]), send(&upload, 2, &bytes[1])]
    };
    // It died before the rename: the head names the file, and the file is there.
    let base = Base {
        number: 0,
        source: Source::Assembly(0),
    };
    set_state(&place, &key, &id, State::Publishing(base));
    place.restart();
    let upload = place.bucket().upload(&key, &id).expect("still an upload");
    assert_eq!(upload.parts(0, 10).expect("parts").parts, receipts);
    send(&upload, 3, &body(3, 20));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == bytes.concat());

    // It died after the rename: the file is gone, and the object proves what became of it.
    let (key, id) = place.upload("l");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [send(&upload, 1, &bytes[0])];
    let saved = std::fs::read(place.file_in(&id, "upload.json")).expect("the document");
    let parts = std::fs::read(place.file_in(&id, "parts")).expect("the parts");
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    std::fs::create_dir(place.file_in(&id, "")).expect("made");
    std::fs::write(place.file_in(&id, "upload.json"), saved).expect("written");
    std::fs::write(place.file_in(&id, "parts"), parts).expect("written");
    set_state_of(&place, &id, State::Publishing(base));
    place.restart();
    assert!(is_gone(place.bucket().upload(&key, &id).map(|_| ())));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("the same answer");
    place
        .bucket()
        .delete(&key, &WriteConditions::default())
        .expect("deleted");
    assert!(is_gone(place.bucket().complete_upload(
        &key,
        &id,
        &request(&receipts)
    )));
    place
        .bucket()
        .sweep_uploads(Duration::from_secs(3600))
        .expect("swept");
    assert_eq!(place.leftovers(), 0);
}

fn set_state(place: &Place, key: &ObjectKey, id: &UploadId, state: State) {
    let upload = place.bucket().upload(key, id).expect("the upload");
    let slots = upload.folder.lock_slots().expect("locked");
    let head = slots.live_head().expect("alive");
    slots.set_head(Head { state, ..head }).expect("written");
}

fn set_state_of(place: &Place, id: &UploadId, state: State) {
    let parts = File::options()
        .write(true)
        .open(place.file_in(id, "parts"))
        .expect("the parts");
    parts
        .write_all_at(&Head { state, stride: 20 }.encode(), 0)
        .expect("written");
}

#[test]
fn parts_that_a_power_cut_may_have_eaten_are_read_again() {
    let place = Place::with(Durability::Relaxed);
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [
        send(&upload, 1, &body(1, 20)),
        send(&upload, 2, &body(2, 20)),
    ];
    for number in [1, 2] {
        let slots = upload.folder.lock_slots().expect("locked");
        let slot = slots.get(number).expect("read").expect("stored");
        assert!(slot.unsynced);
        slots
            .put(
                number,
                &slot::Slot {
                    boot: [7; 16],
                    ..slot
                },
            )
            .expect("written");
    }
    let assembly = File::options()
        .write(true)
        .open(place.file_in(&id, "assembly"))
        .expect("the assembly");
    assembly.write_all_at(&[0; 20], 20).expect("eaten");
    let refused = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts));
    assert!(matches!(refused, Err(StoreError::InvalidPart(2))));
    assembly.write_all_at(&body(2, 20), 20).expect("restored");
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == [body(1, 20), body(2, 20)].concat());
}

#[test]
fn damaged_slots_are_no_parts() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [
        send(&upload, 1, &body(1, 20)),
        send(&upload, 2, &body(2, 20)),
    ];
    let parts = File::options()
        .write(true)
        .open(place.file_in(&id, "parts"))
        .expect("the parts");
    parts.write_all_at(&[0xff], 2 * 128 + 30).expect("damaged");
    assert_eq!(upload.parts(0, 10).expect("parts").parts, receipts[..1]);
    let refused = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts));
    assert!(matches!(refused, Err(StoreError::InvalidPart(2))));
    assert_eq!(
        upload.begin_part(2, Some(20)).expect("begun").offset,
        0,
        "its region may hold something"
    );
    send(&upload, 2, &body(2, 20));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
}

#[test]
fn ranges_of_objects_become_parts() {
    let place = Place::new();
    std::fs::write(place.dir.path().join("b/source"), body(1, 100_000)).expect("written");
    let source = ObjectKey::parse("source").expect("a key");
    let source = place
        .bucket()
        .open(&source, Access::Blocking)
        .expect("the source");
    let spec = UploadSpec {
        checksum: Some((Algorithm::Sha256, ChecksumType::Composite)),
        ..UploadSpec::default()
    };
    let (key, id) = place.upload_with("k", spec);
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [
        upload
            .copy_part(1, &source, Some(10..50_010))
            .expect("copied"),
        upload.copy_part(2, &source, None).expect("copied"),
        upload.copy_part(3, &source, Some(7..7)).expect("copied"),
    ];
    let first = &body(1, 100_000)[10..50_010];
    assert_eq!(receipts[0].etag, ETag::Md5(digests(first).md5));
    assert_eq!(
        receipts[0].checksum,
        digests(first).checksum(Algorithm::Sha256)
    );
    assert!(matches!(
        upload.copy_part(4, &source, Some(0..100_001)),
        Err(StoreError::InvalidRequest(_))
    ));
    place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == [first, &body(1, 100_000)].concat());
}

#[test]
fn part_numbers_and_pages_of_parts_have_their_bounds() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    for number in [0, 10_001] {
        assert!(matches!(
            upload.begin_part(number, Some(1)),
            Err(StoreError::InvalidRequest(_))
        ));
    }
    for number in [10_000, 1, 5] {
        send(&upload, number, b"x");
    }
    let numbers = |after, max| {
        let page = upload.parts(after, max).expect("parts");
        (
            page.parts.iter().map(|p| p.number).collect::<Vec<_>>(),
            page.truncated,
        )
    };
    assert_eq!(numbers(0, 10), (vec![1, 5, 10_000], false));
    assert_eq!(numbers(0, 2), (vec![1, 5], true));
    assert_eq!(numbers(5, 2), (vec![10_000], false));
    assert_eq!(numbers(0, 0), (vec![], false));
}

#[test]
fn keys_that_no_path_can_hold_are_completed_too() {
    let place = Place::new();
    std::fs::write(place.dir.path().join("b/file"), "in the way").expect("written");
    for key in ["x//y", "file/below", "..", "long/".repeat(200).as_str()] {
        complete_and_compare(&place, key, &[(1, body(1, 30)), (2, body(2, 10))]);
    }
    assert_eq!(place.leftovers(), 0);
}

#[test]
fn uploads_are_listed_until_they_end_and_swept_when_abandoned() {
    let place = Place::new();
    let bucket = place.bucket();
    let (b, first) = place.upload("b");
    let (a, second) = place.upload("a");
    let (_, third) = place.upload("a");
    let keys = |bucket: &Bucket| {
        let page = bucket
            .list_uploads(&UploadQuery {
                max: 10,
                ..UploadQuery::default()
            })
            .expect("a page");
        page.uploads.into_iter().map(|u| u.id).collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&bucket),
        [second.clone(), third.clone(), first.clone()]
    );
    assert_eq!(
        bucket
            .sweep_uploads(Duration::from_secs(3600))
            .expect("swept"),
        0
    );
    let receipt = send(&bucket.upload(&b, &first).expect("the upload"), 1, b"x");
    bucket
        .complete_upload(&b, &first, &request(&[receipt]))
        .expect("completed");
    bucket
        .upload(&a, &second)
        .expect("the upload")
        .abort()
        .expect("aborted");
    assert_eq!(keys(&bucket), [third]);
    assert_eq!(bucket.sweep_uploads(Duration::ZERO).expect("swept"), 1);
    assert_eq!((keys(&bucket), place.leftovers()), (vec![], 0));
}

#[test]
fn what_died_while_it_was_created_is_no_upload_and_is_swept() {
    let place = Place::new();
    let (_, id) = place.upload("k");
    std::fs::remove_file(place.file_in(&id, "upload.json")).expect("removed");
    let page = place.bucket().list_uploads(&UploadQuery {
        max: 10,
        ..UploadQuery::default()
    });
    assert!(page.expect("a page").uploads.is_empty());
    place
        .bucket()
        .sweep_uploads(Duration::from_secs(3600))
        .expect("swept");
    assert_eq!(place.leftovers(), 1, "it may be about to become one");
    place.bucket().sweep_uploads(Duration::ZERO).expect("swept");
    assert_eq!(place.leftovers(), 0);
}

#[test]
fn other_kinds_of_locks_and_a_target_elsewhere_gather_and_are_right() {
    for kind in ["flock", "lease"] {
        let place = Place::new();
        let locks = place.dir.path().join("b/.twintree/locks");
        std::fs::create_dir_all(&locks).expect("made");
        let mode = format!("{{\"version\":1,\"kind\":\"{kind}\",\"stripes\":1024}}\n");
        std::fs::write(locks.join("mode"), mode).expect("written");
        let parts = [
            (2, body(1, 30)),
            (1, body(2, 30)),
            (3, body(3, 5)),
            (1, body(4, 30)),
        ];
        complete_and_compare(&place, "k", &parts);
        assert_eq!(place.leftovers_once_swept(), 0);
    }
    let place = Place::new();
    let (key, id) = place.upload("k");
    // As where the target lies on a filesystem mounted inside the bucket.
    std::fs::remove_file(place.file_in(&id, "assembly")).expect("removed");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let parts = [body(1, 30), body(2, 30), body(3, 5)];
    let receipts: Vec<_> = (1..)
        .zip(&parts)
        .map(|(n, bytes)| send(&upload, n, bytes))
        .collect();
    let first = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == parts.concat());
    let again = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("again");
    assert_eq!(again.modified, first.modified);
    assert_eq!(place.leftovers_once_swept(), 0);
}

#[test]
fn a_part_sent_again_while_its_file_is_published_does_not_take_the_file_away() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    send_announced(&upload, 1, &body(1, 30), None);
    let source = upload
        .folder
        .lock_slots()
        .expect("locked")
        .get(1)
        .expect("read")
        .expect("stored")
        .source;
    assert!(matches!(source, Source::File(_)));
    set_state(
        &place,
        &key,
        &id,
        State::Publishing(Base { number: 1, source }),
    );
    let receipt = send_announced(&upload, 1, &body(2, 40), None);
    place
        .bucket()
        .upload(&key, &id)
        .expect("the file's absence would say that it was published");
    place
        .bucket()
        .complete_upload(&key, &id, &request(&[receipt]))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == body(2, 40));
}

#[test]
fn a_complete_that_died_behind_its_publish_is_not_done_twice() {
    let mut place = Place::new();
    let (key, id) = place.upload("k");
    let upload = place.bucket().upload(&key, &id).expect("the upload");
    let receipts = [send(&upload, 1, &body(1, 20))];
    let names = ["upload.json", "parts", "assembly"];
    let saved = names.map(|name| std::fs::read(place.file_in(&id, name)).expect("a file"));
    let first = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    // A copy was published, because the target was elsewhere: the named file is still there.
    std::fs::create_dir(place.file_in(&id, "")).expect("made");
    for (name, bytes) in names.iter().zip(saved) {
        std::fs::write(place.file_in(&id, name), bytes).expect("written");
    }
    set_state_of(
        &place,
        &id,
        State::Publishing(Base {
            number: 0,
            source: Source::Assembly(0),
        }),
    );
    place.restart();
    let again = place
        .bucket()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("again");
    assert_eq!(again.modified, first.modified, "not published twice");
    assert_eq!(place.leftovers(), 0);
}

#[test]
fn gateways_share_an_upload_and_agree_on_its_stride() {
    let place = Place::new();
    let (key, id) = place.upload("k");
    let parts: Vec<_> = (0..24)
        .map(|seed| body(seed, if seed == 23 { 11 } else { 4_096 }))
        .collect();
    let mut receipts: Vec<PartReceipt> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..)
            .zip(&parts)
            .map(|(number, bytes)| {
                let (key, id, place) = (&key, &id, &place);
                scope.spawn(move || {
                    send(
                        &place.neighbour().upload(key, id).expect("the upload"),
                        number,
                        bytes,
                    )
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    receipts.sort_by_key(|receipt| receipt.number);
    place
        .neighbour()
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    assert!(read(&place.bucket(), &key).1 == parts.concat());
}

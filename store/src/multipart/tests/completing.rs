//! Claims about Complete: without a copy, whole or not at all, once.

use std::sync::Barrier;

use super::*;

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

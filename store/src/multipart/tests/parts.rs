//! Claims about parts: any order, any size, repeated, concurrent, copied.

use std::sync::Barrier;

use super::*;

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
    assert_eq!(
        ETag::Md5(digests(&bytes[length..]).md5.expect("not left out")),
        part.etag
    );
    assert!(
        (72..80).any(|seed| bytes[length..] == body(seed, length)),
        "one of the last round's"
    );
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
    assert_eq!(
        receipts[0].etag,
        ETag::Md5(digests(first).md5.expect("not left out"))
    );
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

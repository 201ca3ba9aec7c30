//! Claims about uploads: ids, Abort, the list, the sweep.

use super::*;

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

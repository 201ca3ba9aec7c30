//! Claims about entity tags and checksums of multipart objects.

use super::*;

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
